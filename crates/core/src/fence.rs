//! Fences: a value on a timeline.
//!
//! A **timeline** belongs to one queue of one device and only grows. A **fence** is a value on it, handed out
//! by a submission. Timelines keep these promises:
//!
//! 1. Values are handed out in increasing order, each by exactly one submission that the driver has accepted. A wait
//!    names only a value that was handed out, so no wait can be for something that never comes.
//! 2. Values end in order: when value `v` has ended, every value below it has ended.
//! 3. An ended fence stays as it ended: [`FenceState::Ok`], [`FenceState::Failed`] or [`FenceState::Lost`].
//! 4. After a fence was seen `Ok`, the work's writes are visible: to the host if it wrote host memory, to later work of the
//!    same device that names the fence among its waits in any case.

use std::fmt;

use crate::node::DeviceId;

/// One queue's timeline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId {
    device: DeviceId,
    queue: u8,
}

impl TimelineId {
    /// The timeline of queue number `queue` (the backend's own numbering) of `device`.
    pub const fn new(device: DeviceId, queue: u8) -> Self {
        Self { device, queue }
    }

    /// The device that signals this timeline.
    pub const fn device(self) -> DeviceId {
        self.device
    }

    /// The backend's number of the queue.
    pub const fn queue(self) -> u8 {
        self.queue
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} queue {}", self.device, self.queue)
    }
}

/// A value on a timeline: what a submission returns and a wait names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencePoint {
    /// The timeline.
    pub timeline: TimelineId,
    /// The value that ends with the work.
    pub value: u64,
}

impl FencePoint {
    /// A value that no work is ever given: pending for as long as the device is there, then lost.
    pub const fn never(device: DeviceId) -> Self {
        Self { timeline: TimelineId::new(device, 0), value: u64::MAX }
    }
}

impl fmt::Debug for FencePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} value {}", self.timeline, self.value)
    }
}

impl fmt::Display for FencePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a submission ended without having done its work, while its device lives on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, thiserror::Error)]
pub enum Failure {
    /// A kernel's Rust twin panicked (the panic was caught).
    #[error("the kernel's Rust twin panicked")]
    KernelPanicked,
    /// The driver reported this code for the work.
    #[error("the driver ended the work with code {0}")]
    Driver(i32),
    /// A test asked the simulated device to fail here.
    #[error("a failure injected by a test")]
    Injected,
    /// The work waited for work that failed. It did not begin: what it would have overwritten is as it was.
    #[error("work that it depends on failed")]
    Dependency,
}

/// How a fence stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FenceState {
    /// The work has not ended.
    Pending,
    /// The work is done and its writes are visible.
    Ok,
    /// The work ended undone or half done; the device lives.
    Failed(Failure),
    /// The device is lost, and with it the work.
    Lost,
}

impl FenceState {
    /// True unless [`FenceState::Pending`].
    pub const fn has_ended(self) -> bool {
        !matches!(self, Self::Pending)
    }
}
