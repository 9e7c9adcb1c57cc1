//! hmmap: heterogeneous memory management for applications.
//!
//! [`SharedVec<T>`](SharedVec) is a vector to the CPU and a device pointer to a compute kernel. Its 64 KiB pages live where they were last
//! needed: in host memory, in a device's memory, or in both while nobody writes.
//!
//! ```
//! use hmmap::{Hmmap, SharedVec, kernels::Saxpy};
//!
//! # fn main() -> Result<(), hmmap::Error> {
//! let mem = Hmmap::new()?; // finds every device; the best is the default
//! let x = SharedVec::from_fn(&mem, 1000, |i| i as f32)?;
//! let mut y = SharedVec::<f32>::new(&mem, 1000)?; // reads as zeros, costs nothing yet
//! mem.launch(1000, Saxpy { a: 2.0, x: x.read(), y: y.update() })?; // asynchronous
//! assert_eq!(y[42], 84.0); // waits, and brings one page home
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

mod discovery;
#[allow(unsafe_code, reason = "each shipped kernel vouches for its code by `unsafe impl Kernel`")]
pub mod kernels;

pub use discovery::{Absent, Builder, Choice, Hmmap};
pub use hmmap_core::{
    self as core, Access, Cause, CustomEviction, DeviceId, Error, Eviction, Fence, Grid, Group,
    Hint, Imported, Kernel, Lent, MemoryModel, NodeId, Options, Read, Runtime, Share, SharedVec,
    Source, Stats, Update, WithoutRoom, Write,
};
#[cfg(feature = "cuda")]
pub use hmmap_cuda as cuda;
#[cfg(feature = "share")]
pub use hmmap_share as share;
#[cfg(feature = "vfio")]
pub use hmmap_vfio as vfio;
#[cfg(feature = "vulkan")]
pub use hmmap_vulkan as vulkan;
#[cfg(feature = "watch")]
pub use hmmap_watch as watch;

pub use hmmap_core::hints;

/// The host's touches of pages that are elsewhere, and what host memory is made of.
pub mod host_faults {
    pub use hmmap_core::host::{HostFaultFacts, HostFaults, HostPages, HugePool, report_sigbus};
}
