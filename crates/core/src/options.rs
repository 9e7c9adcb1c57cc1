//! How a runtime behaves.

use std::{fmt, sync::Arc, time::Duration};

use hmmap_eviction::{Lru, Policy, Reuse, UvmLike};

use crate::{
    engine::DeviceCopies,
    host::{HostFaults, HostPages},
};

/// Whether pages move to a device or stay where host and device both reach them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum MemoryModel {
    /// [`MemoryModel::Unified`] where the device's memory is host memory and kernels were proved to reach it, else
    /// [`MemoryModel::Migrate`].
    #[default]
    Auto,
    /// Kernels work on host memory in place; nothing moves. Refused where that was not proved.
    Unified,
    /// Pages move to the device's own memory.
    Migrate,
}

/// How a runtime behaves.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Whether pages move to devices.
    pub memory_model: MemoryModel,
    /// The most memory the library takes of one device, in bytes. `None`: nine tenths of what the device reports.
    pub device_memory_limit_bytes: Option<u64>,
    /// The longest wait for a fence of our own devices. `None`: as long as the device lives.
    pub own_fence_deadline: Option<Duration>,
    /// A wait for a fence of our own devices that lasts longer says so in an event, and again each time as long. `None`: 10 s.
    pub own_fence_warning: Option<Duration>,
    /// The most host memory of dropped vectors that is kept for the next vectors of the same length, in bytes; the longest unused goes
    /// back to the system first, and a vector of more than a quarter of this at once. `None`: 64 MiB. Zero: all goes back at
    /// once. [`crate::Runtime::trim`] gives back what is kept.
    pub max_kept_bytes: Option<u64>,
    /// How the host's touches of pages that are elsewhere are noticed.
    pub host_faults: HostFaults,
    /// How large the pages of host memory are.
    pub host_pages: HostPages,
    /// How long a peer has to give a range back before it counts as late. `None`: 1 s.
    pub peer_deadline: Option<Duration>,
    /// The most that peers without a part in revocation may pin at once, in bytes of whole pages; each mapping counts for itself. `None`: no limit.
    pub max_pinned_bytes: Option<u64>,
    /// Whether pages may go from device to device without the host.
    pub device_copies: DeviceCopies,
    /// Which blocks leave a device that is full.
    pub eviction: Eviction,
    /// What becomes of a launch for which no room can be made.
    pub without_room: WithoutRoom,
}

/// When a launch for which there is no room works on vectors where they are in host memory, through the device's host window: the largest first, as
/// many as it must. That is slow on a device behind a bus, and it is counted ([`crate::Stats::windowed`]). A launch that can be split is split first
/// ([`crate::Read::split`]). Where the device has no window, or this does not allow it, the launch is refused:
/// [`crate::Error::OutOfDeviceMemory`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum WithoutRoom {
    /// When it is larger than the device's budget, so that no eviction helps.
    #[default]
    WindowIfTooLarge,
    /// Then, and also when others hold so much in place that no room can be made.
    Window,
    /// Never.
    Refuse,
}

/// Which blocks leave a device that is full. Each device has a policy of its own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Eviction {
    /// By the next use that is predicted, from the launches so far ([`hmmap_eviction::Reuse`]).
    #[default]
    Predicted,
    /// The least recently used first ([`hmmap_eviction::Lru`]).
    LeastRecentlyUsed,
    /// Those that came first, as NVIDIA's driver does ([`hmmap_eviction::UvmLike`]).
    FirstCome,
    /// A policy of the program's own.
    Custom(CustomEviction),
}

/// How a policy of the program's own is made, once for each device.
#[derive(Clone)]
pub struct CustomEviction(Arc<dyn Fn() -> Box<dyn Policy + Send> + Send + Sync>);

impl Eviction {
    /// A policy of the program's own, made once for each device. Its answers are advice: what is no candidate, or is named twice, is ignored and
    /// counted ([`crate::Stats::ignored_victims`]), and what is missing is made up by last use. It is asked in the middle of launches, with no lock of
    /// the library held; it may read vectors, and must not launch on its device, which would wait for itself. One that panics takes its launch
    /// with it, and is not asked again: the least recently used go from then on.
    pub fn custom<P: Policy + Send + 'static>(
        make: impl Fn() -> P + Send + Sync + 'static,
    ) -> Self {
        Self::Custom(CustomEviction(Arc::new(move || Box::new(make()))))
    }

    pub(crate) fn policy(&self) -> Box<dyn Policy + Send> {
        match self {
            Self::Predicted => Box::new(Reuse::default()),
            Self::LeastRecentlyUsed => Box::new(Lru),
            Self::FirstCome => Box::new(UvmLike),
            Self::Custom(custom) => custom.0(),
        }
    }
}

impl PartialEq for CustomEviction {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for CustomEviction {}

impl fmt::Debug for CustomEviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomEviction")
    }
}
