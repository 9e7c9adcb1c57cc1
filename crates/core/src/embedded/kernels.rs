//! The kernels that a device which runs Rust twins was asked to make ready.

use crate::{
    backend::DeviceError,
    kernel::{KernelId, Source, Twin},
};

/// Kernels, numbered in the order in which they were first prepared.
#[derive(Debug, Default)]
pub(crate) struct Kernels {
    sources: Vec<&'static Source>,
}

impl Kernels {
    /// See [`crate::backend::Device::prepare`]. A twin has no parameter layout of its own to compare: it asks
    /// for each parameter by number and type, and a mismatch is a panic inside it.
    pub(crate) fn prepare(&mut self, source: &'static Source) -> Result<KernelId, DeviceError> {
        twin_of(source)?;
        let known = self.sources.iter().position(|known| std::ptr::eq(*known, source));
        let number = known.unwrap_or(self.sources.len());
        let kernel = u32::try_from(number)
            .map_err(|_| DeviceError::Misuse { what: "more kernels than can be numbered" })?;
        if known.is_none() {
            self.sources.push(source);
        }
        Ok(KernelId(kernel))
    }

    /// Checks that a launch names a kernel as it was prepared.
    pub(crate) fn check(
        &self,
        kernel: KernelId,
        source: &'static Source,
    ) -> Result<(), DeviceError> {
        match self.sources.get(kernel.0 as usize) {
            Some(prepared) if std::ptr::eq(*prepared, source) => Ok(()),
            _ => Err(DeviceError::Misuse { what: "a launch of a kernel that was not prepared" }),
        }
    }
}

/// The twin of a kernel.
///
/// # Errors
/// [`DeviceError::NoShader`] when it has none.
pub(crate) fn twin_of(source: &Source) -> Result<fn(&Twin<'_>), DeviceError> {
    source.twin.ok_or(DeviceError::NoShader { kernel: source.name, format: "Rust twin" })
}
