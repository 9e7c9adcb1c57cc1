//! Why there are no Vulkan devices, or why one was left out.

/// Why Vulkan cannot be used at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoverError {
    /// There is no Vulkan loader.
    #[error("no Vulkan loader: {reason}; install libvulkan1, or a GPU driver that brings it")]
    NoLoader {
        /// What the system said.
        reason: String,
    },
    /// The loader knows only versions before 1.2.
    #[error("the Vulkan loader knows version {major}.{minor} only, 1.2 is needed")]
    OldLoader {
        /// Its major version.
        major: u32,
        /// Its minor version.
        minor: u32,
    },
    /// Validation was asked for and the layer is not installed.
    #[error("the Khronos validation layer is not installed (VK_LAYER_PATH names a folder)")]
    NoValidationLayer,
    /// A driver call failed.
    #[error("{call} failed with code {code}")]
    Driver {
        /// The function.
        call: &'static str,
        /// Its result.
        code: i32,
    },
}

/// A physical device that was found and cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The name that the driver gives.
    pub name: String,
    /// Why.
    pub reason: LeftOutReason,
}

/// Why a physical device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeftOutReason {
    /// The driver knows only versions before 1.2.
    #[error("its driver knows Vulkan {major}.{minor} only, 1.2 is needed")]
    OldDriver {
        /// Its major version.
        major: u32,
        /// Its minor version.
        minor: u32,
    },
    /// A feature is missing.
    #[error("it lacks the feature {name}")]
    NoFeature {
        /// The feature's name in Vulkan.
        name: &'static str,
    },
    /// A queue that the program lent cannot do what it is for.
    #[error("the queue for {role:?} cannot do that")]
    WrongQueue {
        /// What it is for.
        role: crate::QueueRole,
    },
    /// No queue runs kernels.
    #[error("it has no queue that runs compute shaders")]
    NoComputeQueue,
}
