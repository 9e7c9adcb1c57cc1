//! The CUDA device of hmmap, on the driver API alone, which cudarc loads at run time.
//!
//! ```text
//! discover -> CudaProvider -> open: probe, then CudaDevice: Device
//!
//! reserve / back        addresses once; memory under them by block, whole, or as pages of a chunk      memory
//! submit_transfer       a stream per direction, from and to registered slabs of the arena              work, slabs
//!                       or by hand through a ring, in the order of the stream                          staging
//! submit_launch         the committed PTX; parameters are those of the Vulkan code                     kernels, ptx
//! fences                one event for each submission, in the order of its stream                      timeline
//! ```
//! No managed memory: what moves is decided by the engine, and memory by handles can be given out, shared, and evicted clean.
//!
//! **Detection** is less harmless than it sounds. A machine without the driver, one with a toolkit's link-time stub on its library path, and one whose
//! kernel module does not match its library all have something that can be loaded and then fails; so [`detect`] asks step by step and answers with the
//! step that failed:
//!
//! ```text
//! load libcuda -> has cuInit? -> cuInit(0) -> cuDriverGetVersion -> cuDeviceGetCount -> Devices -> all functions that are needed?
//!     Absent      Incomplete     Stub, NoDevices, NoPermission, Failed                 NoDevices     TooOld
//! ```
//! No function is called that was not found first, and result codes stay numbers: a driver may be newer than the bindings and answer a code that they do not list.
//!
//! **Loss.** Whichever call finds the context broken or destroyed, from then on every pending and later fence is `Lost` and every call answers
//! [`hmmap_core::backend::DeviceError::Lost`] without reaching the driver, but for those that give back.
//!
//! **Tests** run on `fixture/`, a test double of the driver. Nothing here has run on an NVIDIA device yet.
#![deny(unsafe_code)]

mod code;
mod context;
mod detection;
mod device;
mod discover;
mod driver;
mod existing;
mod kernels;
mod memory;
mod options;
mod physical;
mod probe;
mod ptx;
mod slabs;
mod staging;
mod timeline;
mod work;

pub use detection::{Detection, DriverVersion, detect};
pub use device::CudaDevice;
pub use discover::{CudaProvider, Discovery, LeftOut, LeftOutReason, discover};
pub use existing::ExistingContext;
pub use options::{Backing, HostCopies, Options};
