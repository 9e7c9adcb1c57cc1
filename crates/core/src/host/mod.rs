//! Host memory: one address window per runtime, backed by memory files.
//!
//! [`Arena`] reserves the window and deals out page spans of it. The window's files are mapped twice: [`ServiceView`] is the mapping
//! that the library copies through, always mapped and private to the library; [`UserView`] is the one that the program
//! touches, whose entries come and go. A touch of a page that is not there is a fault, which the fault loop hears of and has
//! answered. Where the system has no such faults ([`HostFaults`]), the program touches the service view, and vectors ask
//! before they hand out a slice.
//!
//! ```text
//! files   |..small spans (pages)..|..large spans (blocks)..|      sparse: a page costs memory once it is touched
//!             ^ ServiceView: base + offset, always there
//!             ^ UserView:    base + offset, there while the host's copy is current
//! ```
//!
//! A vector whose memory is shared with other processes has a file of its own, mapped over its span in both views (`file`).
//!
//! An [`HostSpan`] names bytes by their offset in the window, so that a device, a copy and a window speak of the same
//! byte without sharing pointers.

mod arena;
mod causes;
mod crew;
mod dma_buf;
mod fault_loop;
mod file;
mod files;
mod huge;
mod kept;
mod sigbus;
mod sync_file;
mod udmabuf;
mod user_view;
mod userfault;
mod view;

pub use arena::{Arena, HostError, Taken};
pub(crate) use causes::{Reason, Spoiler};
pub use dma_buf::{DmaBuf, dma_buf_bytes};
pub(crate) use fault_loop::{FaultLoop, Faulted, Resolve, page_of};
pub(crate) use file::MemoryFile;
pub use file::{ShareFault, SharedMemory, Sharing};
pub use huge::{HugePool, SharedHugePages};
pub(crate) use kept::Evicted;
pub use sigbus::report_sigbus;
pub use sync_file::{FenceStatus, HostAccess, SyncFault, SyncFile, add_fence, fences_of};
pub(crate) use udmabuf::create as create_udmabuf;
pub use udmabuf::udmabuf;
pub use user_view::{HostFaultFacts, UserView};
pub use userfault::Reach;
pub use view::{HostSpan, ServiceView};

/// How the host's touches of pages that are elsewhere are noticed. Whatever is chosen, programs mean the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum HostFaults {
    /// The best that the system has.
    #[default]
    Auto,
    /// As on Linux 5.19 to 6.3: no page is mapped for reading alone, so a page that the host reads leaves the devices.
    NoSharing,
    /// As for a process without rights: only the program's own touches fault. A system call on memory that is away fails with `EFAULT`;
    /// [`crate::SharedVec::host`] gives slices that are good for those.
    UserModeOnly,
    /// None. A slice of the whole vector is brought home before it is handed out.
    Off,
}

/// How large the pages of host memory are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum HostPages {
    /// The system's ordinary ones.
    #[default]
    Ordinary,
    /// Huge ones of 2 MiB, for vectors of 1 MiB and more. Such memory is mapped and taken away 500 times as fast; a fault brings 2 MiB at least, a
    /// first write takes as much from the devices, and a vector's length is rounded up to it. The pages come from a pool that an administrator
    /// fills ([`HugePool`]); a vector for which it has too few is refused ([`HostError::TooFewHugePages`]).
    Huge,
}
