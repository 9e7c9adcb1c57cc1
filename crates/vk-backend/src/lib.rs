//! The Vulkan device of hmmap, on ash and gpu-allocator.
//!
//! ```text
//! discover -> VulkanProvider -> open -> VulkanDevice: Device
//!
//! submit_launch / submit_transfer
//!    record (pure)      declared accesses and waits -> Stream of commands with barriers        dependencies, record, stream
//!    play               Stream -> command buffer -> vkQueueSubmit, signals a timeline          play, queue, timeline
//! reserve / back        parts of plain buffers, or blocks bound one by one                     memory
//! copies                slabs of the arena, imported                                           slabs, import
//! prepare               SPIR-V's own interface against what launches pass (pure)               shader, kernels
//! ```
//!
//! **Unsafe code** is in the modules that own a Vulkan handle or record commands; each says so at its top. What decides anything (streams,
//! dependencies, SPIR-V, queue choice, budgets) is safe code without a driver in sight.
//!
//! **Loss.** Whichever call finds the device lost, from then on every pending and later fence is `Lost` and every call
//! answers [`hmmap_core::backend::DeviceError::Lost`] without reaching the driver.
#![deny(unsafe_code)]

mod buffer;
#[cfg(any(test, feature = "test-doubles"))]
pub mod check;
pub mod dependencies;
mod device;
mod discover;
mod error;
mod existing;
mod external;
mod features;
mod gpu;
mod import;
mod instance;
mod kernels;
mod mapped;
mod memory;
mod messages;
mod options;
mod physical;
mod play;
mod probe;
mod queue;
mod queue_plan;
mod record;
mod ring;
mod shader;
#[cfg(any(test, feature = "test-doubles"))]
pub mod shadow;
mod shared;
mod slabs;
pub mod stream;
mod sync_files;
mod timeline;
pub mod uses;
mod windows;
mod worker;

pub use device::VulkanDevice;
pub use discover::{Discovery, VulkanProvider, discover};
pub use error::{DiscoverError, LeftOut, LeftOutReason};
pub use existing::{Existing, ExistingQueue, QueueGuard, QueueRole};
pub use features::Features;
pub use messages::Messages;
pub use options::{Backing, HostCopies, Options, Validation};
#[cfg(feature = "test-doubles")]
pub use shader::reflect;
