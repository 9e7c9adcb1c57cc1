//! What a device is and can do, as its driver says.
#![allow(unsafe_code, reason = "asks the driver")]

use hmmap_core::backend::{DeviceError, DeviceKind, DeviceSummary, PciAddress};

use crate::{
    code,
    detection::DriverVersion,
    driver::Api,
    memory::{Sharing, properties},
};

/// A device's numbers.
#[derive(Clone, Debug)]
pub(crate) struct Physical {
    /// The driver's number of it.
    pub(crate) device: i32,
    pub(crate) summary: DeviceSummary,
    pub(crate) uuid: [u8; 16],
    pub(crate) max_groups: [u32; 3],
    pub(crate) is_integrated: bool,
    /// Copies run beside kernels.
    pub(crate) has_copy_engine: bool,
    pub(crate) can_register: bool,
    pub(crate) has_virtual_memory: bool,
    pub(crate) can_share: bool,
    pub(crate) has_dma_buf: bool,
    /// Device memory comes in multiples of this.
    pub(crate) granularity_bytes: u64,
}

/// Numbers of `CUdevice_attribute`.
mod attribute {
    pub(super) const MAX_GRID_DIM_X: i32 = 5;
    pub(super) const INTEGRATED: i32 = 18;
    pub(super) const ASYNC_ENGINE_COUNT: i32 = 40;
    pub(super) const HOST_REGISTER: i32 = 99;
    pub(super) const VIRTUAL_MEMORY: i32 = 102;
    pub(super) const POSIX_FD: i32 = 103;
    pub(super) const DMA_BUF: i32 = 124;
}

/// Asks one device. The driver was started.
#[derive(Clone, Copy)]
struct Ask<'a> {
    api: &'a Api,
    device: i32,
}

impl Physical {
    /// Everything of device number `ordinal`.
    ///
    /// # Errors
    /// The driver does not say it.
    pub(crate) fn query(api: &Api, ordinal: i32) -> Result<Self, DeviceError> {
        let mut device = 0;
        // SAFETY: the driver was started, the pointer is to a local.
        done("cuDeviceGet", unsafe { (api.cuDeviceGet)(&raw mut device, ordinal) })?;
        Self::of_device(api, device)
    }

    /// The same by the driver's own number.
    pub(crate) fn of_device(api: &Api, device: i32) -> Result<Self, DeviceError> {
        let ask = Ask { api, device };
        let has = |number| ask.attribute(number).is_ok_and(|value| value > 0);
        let mut uuid = [0; 16];
        // SAFETY: the driver was started, the pointer is to a local of 16 bytes.
        done("cuDeviceGetUuid", unsafe { (api.cuDeviceGetUuid_v2)(&raw mut uuid, device) })?;
        let is_integrated = has(attribute::INTEGRATED);
        let most =
            |axis| ask.attribute(attribute::MAX_GRID_DIM_X + axis).map(|most| most.unsigned_abs());
        let kind = if is_integrated { DeviceKind::IntegratedGpu } else { DeviceKind::DiscreteGpu };
        let summary = DeviceSummary {
            name: ask.name()?,
            api: "cuda",
            driver: format!("CUDA driver {}", ask.version()?),
            kind,
            uuid: Some(uuid),
            pci: ask.pci(),
            memory_bytes: ask.memory_bytes()?,
        };
        let has_virtual_memory = has(attribute::VIRTUAL_MEMORY);
        Ok(Self {
            device,
            summary,
            uuid,
            max_groups: [most(0)?, most(1)?, most(2)?],
            is_integrated,
            has_copy_engine: has(attribute::ASYNC_ENGINE_COUNT),
            can_register: has(attribute::HOST_REGISTER),
            has_virtual_memory,
            can_share: has(attribute::POSIX_FD),
            has_dma_buf: has(attribute::DMA_BUF),
            granularity_bytes: if has_virtual_memory { ask.granularity()? } else { 0 },
        })
    }
}

impl Ask<'_> {
    fn attribute(self, number: i32) -> Result<i32, DeviceError> {
        let mut value = 0;
        // SAFETY: the driver was started, the pointer is to a local; an unknown number is answered with an error.
        let code = unsafe { (self.api.cuDeviceGetAttribute)(&raw mut value, number, self.device) };
        done("cuDeviceGetAttribute", code).map(|()| value)
    }

    fn name(self) -> Result<String, DeviceError> {
        let mut text = [0_u8; 256];
        // SAFETY: the driver was started, and writes no more than it is told, an end included.
        let code = unsafe {
            (self.api.cuDeviceGetName)(text.as_mut_ptr().cast(), text.len() as i32, self.device)
        };
        done("cuDeviceGetName", code).map(|()| until_zero(&text))
    }

    /// Where it sits, where that can be known.
    fn pci(self) -> Option<PciAddress> {
        let mut text = [0_u8; 32];
        // SAFETY: as in `name`.
        let code = unsafe {
            (self.api.cuDeviceGetPCIBusId)(text.as_mut_ptr().cast(), text.len() as i32, self.device)
        };
        if code == 0 { pci_of(&until_zero(&text)) } else { None }
    }

    fn version(self) -> Result<DriverVersion, DeviceError> {
        let mut number = 0;
        // SAFETY: the pointer is to a local.
        let code = unsafe { (self.api.cuDriverGetVersion)(&raw mut number) };
        done("cuDriverGetVersion", code).map(|()| DriverVersion::from_number(number))
    }

    fn memory_bytes(self) -> Result<u64, DeviceError> {
        let mut bytes = 0;
        // SAFETY: the driver was started, the pointer is to a local.
        let code = unsafe { (self.api.cuDeviceTotalMem_v2)(&raw mut bytes, self.device) };
        done("cuDeviceTotalMem", code).map(|()| bytes as u64)
    }

    fn granularity(self) -> Result<u64, DeviceError> {
        let mut bytes = 0;
        let asked = properties(self.device, Sharing::No);
        // SAFETY: the driver was started, both pointers are to locals; 0 is the least granularity.
        let code = unsafe {
            (self.api.cuMemGetAllocationGranularity)(&raw mut bytes, &raw const asked, 0)
        };
        done("cuMemGetAllocationGranularity", code).map(|()| bytes as u64)
    }
}

fn done(call: &'static str, code: u32) -> Result<(), DeviceError> {
    if code == 0 { Ok(()) } else { Err(code::meaning(call, code, 0)) }
}

fn until_zero(text: &[u8]) -> String {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    String::from_utf8_lossy(text.get(..end).unwrap_or_default()).into_owned()
}

/// `domain:bus:device.function`, in hexadecimal.
fn pci_of(text: &str) -> Option<PciAddress> {
    let (rest, function) = text.split_once('.')?;
    let mut parts = rest.split(':');
    let mut next = |radix| u32::from_str_radix(parts.next()?, radix).ok();
    let (domain, bus, device) = (next(16)?, next(16)?, next(16)?);
    Some(PciAddress {
        domain,
        bus: u8::try_from(bus).ok()?,
        device: u8::try_from(device).ok()?,
        function: u8::from_str_radix(function, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_as_the_driver_writes_them() {
        let place = PciAddress { domain: 0, bus: 0x65, device: 0, function: 0 };
        assert_eq!(pci_of("0000:65:00.0"), Some(place));
        assert_eq!(pci_of("0000:65:00"), None);
        assert_eq!(pci_of(""), None);
        assert_eq!(until_zero(b"ab\0cd"), "ab");
    }
}
