//! What a device can answer instead of doing what it was asked.

use crate::kernel::FieldKind;

/// Why a device did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not enough device memory.
    #[error("the device has no memory for {asked_bytes} bytes more")]
    OutOfMemory {
        /// How much was asked for.
        asked_bytes: u64,
    },
    /// The device cannot address a range of this length in one piece.
    #[error("the device cannot address {asked_bytes} bytes in one piece (at most {limit_bytes})")]
    OutOfAddresses {
        /// How much was asked for.
        asked_bytes: u64,
        /// The most it can address in one piece.
        limit_bytes: u64,
    },
    /// The device is lost: what only it held is gone.
    #[error("the device is lost")]
    Lost,
    /// The device, or the driver, does not have this.
    #[error("not supported by this device: {what}")]
    Unsupported {
        /// What is missing.
        what: &'static str,
    },
    /// The kernel has no code for this kind of device.
    #[error("kernel `{kernel}` has no {format} code, which this device needs")]
    NoShader {
        /// The kernel's name.
        kernel: &'static str,
        /// What is missing: `SPIR-V`, `PTX`, or a Rust twin.
        format: &'static str,
    },
    /// The kernel's code is not valid for this device.
    #[error("kernel `{kernel}`: {reason}")]
    BadShader {
        /// The kernel's name.
        kernel: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// The kernel's code expects other parameters than the Rust side passes.
    #[error(
        "kernel `{kernel}`: at byte {offset_bytes} of the parameters the Rust side passes {passed:?}, \
         the {format} code expects {expected:?}; put the fields in the order of the shader's struct"
    )]
    LayoutMismatch {
        /// The kernel's name.
        kernel: &'static str,
        /// Which code.
        format: &'static str,
        /// Where the two differ first.
        offset_bytes: u32,
        /// What the Rust side passes there, `None` past its end.
        passed: Option<FieldKind>,
        /// What the code expects there, `None` past its end.
        expected: Option<FieldKind>,
    },
    /// A driver call failed with a code that has no meaning of its own here.
    #[error("{call} failed with code {code}")]
    Driver {
        /// The driver function.
        call: &'static str,
        /// Its result.
        code: i32,
    },
    /// The engine broke the contract of [`super::Device`]: a defect of this library.
    #[error("a call broke the device contract: {what} (please report this)")]
    Misuse {
        /// Which rule.
        what: &'static str,
    },
    /// A test asked for a failure here.
    #[error("a failure injected by a test")]
    Injected,
}
