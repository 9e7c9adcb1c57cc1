//! Vulkan by hand, as little of it as a careful programmer would write: what hmmap is compared with.
//!
//! Buffers are made before the clock runs; a run records its commands, submits them, and waits on a timeline semaphore (the
//! fastest way to wait that was found). Memory is what the driver says is best for the side: device-local for the
//! device, host-visible, coherent and cached for the host.
//!
//! ```text
//! Device (instance, device, two queues) <- Buffer (memory, address) <- Kernel (pipeline)
//!                                       <- run(queue, record) -> how long
//! ```
//!
//! Everything that is submitted has ended when the call returns (or the device is lost), so nothing is ever destroyed in use. Unsafe
//! code of the benchmarks that calls a driver is in this folder only.

mod batch;
mod buffer;
mod device;
mod kernel;
mod limit;
mod shared;

use ash::vk;

pub use batch::{Array, Batch};
pub use buffer::{Buffer, Side};
pub use device::{Device, Work};
pub use kernel::Kernel;
pub(crate) use limit::RawLimit;
pub use shared::SharedPair;

/// Why Vulkan by hand did not work.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RawError {
    /// There is no Vulkan loader.
    #[error("no Vulkan loader: {reason}")]
    NoLoader {
        /// What the system said.
        reason: String,
    },
    /// No physical device has the name or identifier that was asked for.
    #[error("Vulkan has no device `{asked}`")]
    NoDevice {
        /// Its name.
        asked: String,
    },
    /// The device has no queue or no memory of the kind that is needed.
    #[error("the device has no {what}")]
    Lacks {
        /// What is missing.
        what: &'static str,
    },
    /// A call failed.
    #[error("{call} failed: {code}")]
    Call {
        /// The function.
        call: &'static str,
        /// Its result.
        code: vk::Result,
    },
    /// The shader is no SPIR-V.
    #[error("the shader of `{kernel}` is not SPIR-V")]
    Shader {
        /// The kernel.
        kernel: &'static str,
    },
}

/// For `map_err`: a failed call by its name.
fn failed(call: &'static str) -> impl FnOnce(vk::Result) -> RawError {
    move |code| RawError::Call { call, code }
}

/// The loader's version, `None` without a loader.
pub(crate) fn loader_version() -> Option<String> {
    let entry = device::load().ok()?;
    // SAFETY: the entry was loaded, and the call has no other demands.
    let version = unsafe { entry.try_enumerate_instance_version() }.ok()?;
    let version = version.unwrap_or(vk::API_VERSION_1_0);
    let [major, minor, patch] = [
        vk::api_version_major(version),
        vk::api_version_minor(version),
        vk::api_version_patch(version),
    ];
    Some(format!("{major}.{minor}.{patch}"))
}
