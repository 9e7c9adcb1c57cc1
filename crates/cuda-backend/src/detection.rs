//! What the machine has for a CUDA driver.

use std::fmt;

use crate::driver::{Api, CallError, Driver};

/// `CUDA_ERROR_STUB_LIBRARY`.
const STUB_LIBRARY: u32 = 34;
/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: u32 = 100;

/// `CUDA_ERROR_OPERATING_SYSTEM`: what a driver says whose device files cannot be opened.
const OS_REFUSED: u32 = 304;
/// `CUDA_ERROR_NOT_PERMITTED`.
const NOT_PERMITTED: u32 = 800;

/// What looking for the driver found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Detection {
    /// There is no library of the driver.
    #[error("there is no CUDA driver library")]
    Absent,
    /// A library of that name was loaded, but it is not the driver.
    #[error("the library that answers to the CUDA driver's name has no `{missing}`")]
    Incomplete {
        /// The function that it lacks.
        missing: &'static str,
    },
    /// The driver works and has devices, and lacks a function that this library needs: it is too old.
    #[error(
        "the CUDA driver is too old: it has no `{missing}`, which CUDA 11.4 brought at the latest"
    )]
    TooOld {
        /// The function that it lacks.
        missing: &'static str,
    },
    /// The library is the toolkit's stub, which programs are linked with and which does nothing.
    #[error("the CUDA driver library on the library path is the toolkit's stub")]
    Stub,
    /// The driver works and has no device.
    #[error("the CUDA driver has no device")]
    NoDevices {
        /// The driver's version, where it said it.
        version: Option<DriverVersion>,
    },
    /// The system does not let this process use the driver.
    #[error("this process may not use the CUDA driver ({call} failed with code {code})")]
    NoPermission {
        /// Which function said so.
        call: &'static str,
        /// Its result.
        code: u32,
    },
    /// A function of the driver failed.
    #[error("{call} of the CUDA driver failed with code {code}")]
    Failed {
        /// Which.
        call: &'static str,
        /// Its result.
        code: u32,
    },
    /// The driver works and has devices.
    #[error("the CUDA driver {version} has {count} device{}", if *.count == 1 { "" } else { "s" })]
    Devices {
        /// How many.
        count: u32,
        /// The driver's version.
        version: DriverVersion,
    },
}

/// The newest CUDA version that the driver supports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct DriverVersion {
    /// 12 in 12.8.
    pub major: u32,
    /// 8 in 12.8.
    pub minor: u32,
}

impl DriverVersion {
    /// From the driver's own number: 12080 is 12.8.
    pub(crate) fn from_number(number: i32) -> Self {
        let number = number.unsigned_abs();
        Self { major: number / 1000, minor: number % 1000 / 10 }
    }
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Detection {
    /// What would change it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Absent => "install the NVIDIA driver if there is an NVIDIA card",
            Self::Incomplete { .. } | Self::Stub => "take that library off the library path",
            Self::TooOld { .. } => "install a driver of version 525 or newer",
            Self::NoDevices { .. } => "see `nvidia-smi` and CUDA_VISIBLE_DEVICES",
            Self::NoPermission { .. } => {
                "let this user open /dev/nvidiactl, /dev/nvidia-uvm and /dev/nvidia0"
            }
            Self::Failed { .. } => "see `nvidia-smi`, and whether driver and kernel module match",
            Self::Devices { .. } => "nothing is missing",
        }
    }
}

impl From<CallError> for Detection {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Missing { call } => Self::Incomplete { missing: call },
            CallError::Code { code: STUB_LIBRARY, .. } => Self::Stub,
            CallError::Code { code: NO_DEVICE, .. } => Self::NoDevices { version: None },
            CallError::Code { call, code: code @ (NOT_PERMITTED | OS_REFUSED) } => {
                Self::NoPermission { call, code }
            }
            CallError::Code { call, code } => Self::Failed { call, code },
        }
    }
}

/// Looks for the driver. Loads its library and starts it, and never panics.
pub fn detect() -> Detection {
    match Driver::load() {
        None => Detection::Absent,
        Some(driver) => ask(driver).unwrap_or_else(Detection::from),
    }
}

fn ask(driver: Driver) -> Result<Detection, CallError> {
    driver.init()?;
    let version = DriverVersion::from_number(driver.version()?);
    let count = driver.device_count()?.unsigned_abs();
    Ok(match count {
        0 => Detection::NoDevices { version: Some(version) },
        count => match Api::look_up(driver) {
            Ok(_) => Detection::Devices { count, version },
            // It starts and counts devices, and yet lacks a function: it is older than that.
            Err(CallError::Missing { call }) => Detection::TooOld { missing: call },
            Err(error) => error.into(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(DriverVersion::from_number(12_080).to_string(), "12.8");
        assert_eq!(DriverVersion::from_number(13_010), DriverVersion { major: 13, minor: 1 });
    }

    #[test]
    fn codes_that_no_binding_lists_are_reported_as_numbers() {
        let failed = Detection::from(CallError::Code { call: "cuInit", code: 918 });
        assert_eq!(failed, Detection::Failed { call: "cuInit", code: 918 });
        assert_eq!(failed.to_string(), "cuInit of the CUDA driver failed with code 918");
    }
}
