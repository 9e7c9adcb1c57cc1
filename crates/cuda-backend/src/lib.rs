//! The CUDA driver of this machine: whether there is one, and what it says of itself.
//!
//! This version of hmmap does not drive CUDA devices yet. It only looks, so that a user with an NVIDIA card
//! learns in one sentence what was found and how to use the card today.
//!
//! Looking is less harmless than it sounds. A machine without the driver, one with a toolkit's link-time stub on its
//! library path, and one whose kernel module does not match its library all have something that can be loaded and then fails; so
//! [`detect`] asks step by step and answers with the step that failed:
//!
//! ```text
//! load libcuda -> has cuInit? -> cuInit(0) -> cuDriverGetVersion -> cuDeviceGetCount -> Devices
//!     Absent      Incomplete     Stub, NoDevices, Failed                                 NoDevices
//! ```
//!
//! Result codes stay numbers: a driver may be newer than the bindings and answer a code that they do not list.
#![deny(unsafe_code)]

mod detection;
mod driver;

use std::sync::Arc;

pub use detection::{Detection, DriverVersion, detect};
use hmmap_core::backend::Provider;

/// What looking for CUDA devices came to.
#[derive(Clone, Debug)]
pub struct Discovery {
    /// The devices that can be opened: none yet.
    pub providers: Vec<Arc<dyn Provider>>,
    /// What was found.
    pub detection: Detection,
    /// Why there is no provider.
    pub reason: String,
    /// What would change it.
    pub remedy: &'static str,
}

/// Looks for CUDA devices. Loads the driver's library, and never panics.
pub fn discover() -> Discovery {
    let detection = detect();
    let (reason, remedy) = match detection {
        Detection::Devices { .. } => {
            let reason = format!("not yet: {detection}, which this version does not drive");
            (reason, "the NVIDIA driver brings a Vulkan driver for the same cards, which is used")
        }
        Detection::Absent => {
            (detection.to_string(), "install the NVIDIA driver if there is an NVIDIA card")
        }
        Detection::Incomplete { .. } | Detection::Stub => {
            (detection.to_string(), "take that library off the library path")
        }
        Detection::NoDevices { .. } => {
            (detection.to_string(), "see `nvidia-smi` and CUDA_VISIBLE_DEVICES")
        }
        Detection::Failed { .. } => {
            (detection.to_string(), "see `nvidia-smi`, and whether driver and kernel module match")
        }
    };
    Discovery { providers: Vec::new(), detection, reason, remedy }
}
