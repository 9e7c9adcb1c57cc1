//! What a user of the library can be told instead of a result.

use std::{ops::Range, time::Duration};

use crate::{
    backend::DeviceError,
    fence::{Failure, FencePoint},
    home::HomeError,
    host::HostError,
    kernel::ArgumentFault,
    node::DeviceId,
    peer::PeerError,
};

/// Why the library could not do what it was asked. Nothing that a vector held before the call is gone, unless the variant says so.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Host memory could not be had.
    #[error("no host memory")]
    Host(#[from] HostError),
    /// A device refused.
    #[error("{device} ({name}) refused")]
    Device {
        /// Which device.
        device: DeviceId,
        /// Its name.
        name: String,
        /// What it said.
        source: DeviceError,
    },
    /// There is no device with this number.
    #[error(
        "there is no device {asked}; this runtime has {count}, numbered from 0 (`hmmap info` lists them)"
    )]
    NoSuchDevice {
        /// The number asked for.
        asked: usize,
        /// How many there are.
        count: usize,
    },
    /// More devices than a runtime can have.
    #[error("{count} devices were given, a runtime can have {limit}")]
    TooManyDevices {
        /// How many were given.
        count: usize,
        /// The most it can have.
        limit: usize,
    },
    /// The working set of a launch does not fit the device. All data are where they were, or on the host.
    #[error(
        "out of memory on {device}: the launch needs {asked_bytes} bytes more there, {free_bytes} of its {limit_bytes} are free{}{} \
         and nothing else could be moved out; launch over smaller ranges, drop vectors, or raise `device_memory_limit_bytes`",
        pinned(.pinned_bytes), reserved(.reserved_bytes)
    )]
    OutOfDeviceMemory {
        /// Which device.
        device: DeviceId,
        /// What the launch needs beyond what it has there already.
        asked_bytes: u64,
        /// What was free.
        free_bytes: u64,
        /// The device's limit in this runtime.
        limit_bytes: u64,
        /// What is pinned there, by peers without a part in revocation and by [`Hint::Pin`](crate::Hint::Pin).
        pinned_bytes: u64,
        /// What is reserved there for groups that have no part in the launch.
        reserved_bytes: u64,
    },
    /// The working set of a launch does not fit what its group may have of the device. All data are where they were, or on the host.
    #[error(
        "group `{group}` has no more of {device}: the launch needs {asked_bytes} bytes more for it there, it uses {used_bytes} of its {limit_bytes}{} and nothing of its \
         own could be moved out; launch over smaller ranges, drop vectors of the group, or give it a larger share (`Group::set_share`)",
        pinned(.pinned_bytes)
    )]
    OutOfShare {
        /// Which device.
        device: DeviceId,
        /// The group's name.
        group: String,
        /// What the launch needs for the group beyond what it has there already.
        asked_bytes: u64,
        /// What the group uses there.
        used_bytes: u64,
        /// The group's limit there.
        limit_bytes: u64,
        /// What is pinned on the device, as in [`Error::OutOfDeviceMemory`].
        pinned_bytes: u64,
    },
    /// A device cannot keep so much for a group. The group's share is what it was.
    #[error(
        "{device} cannot keep {reserve_bytes} bytes for group `{group}`: {most_bytes} is the most; ask for less, take from another group, or have what is held \
         in place released"
    )]
    ReserveRefused {
        /// Which device.
        device: DeviceId,
        /// The group's name.
        group: String,
        /// The reserve that was asked for.
        reserve_bytes: u64,
        /// The most that could be kept: the group's own limit, what other groups' reserves leave, or what is not held in place.
        most_bytes: u64,
    },
    /// A device's budget, or a group's limit there, cannot be made as small as was asked for. It is what it was.
    #[error(
        "{used_bytes} bytes on {device}{} cannot be brought down to {asked_bytes}{}{}: the rest is held in place; release what was acquired, or unpin it",
        of_group(.group), pinned(.pinned_bytes), reserved(.reserved_bytes)
    )]
    BudgetInUse {
        /// Which device.
        device: DeviceId,
        /// The group whose limit it is; `None` when it is the device's.
        group: Option<String>,
        /// The limit that was asked for.
        asked_bytes: u64,
        /// What is in use and cannot leave.
        used_bytes: u64,
        /// What peers without a part in revocation, and hints, pin on the device.
        pinned_bytes: u64,
        /// What is reserved there for groups, used or not.
        reserved_bytes: u64,
    },
    /// A vector's length in bytes does not fit 64 bits.
    #[error("a vector of {len} elements of {element_bytes} bytes is longer than memory can be")]
    LengthOverflow {
        /// Elements asked for.
        len: usize,
        /// Bytes in one.
        element_bytes: usize,
    },
    /// A range does not lie inside its vector.
    #[error("the range {start}..{end} does not lie in a vector of {len} elements")]
    OutOfRange {
        /// First element.
        start: usize,
        /// One past the last.
        end: usize,
        /// The vector's length.
        len: usize,
    },
    /// A kernel's arguments cannot be used.
    #[error("the arguments of kernel `{kernel}` cannot be used")]
    Arguments {
        /// The kernel's name.
        kernel: &'static str,
        /// What is wrong.
        source: ArgumentFault,
    },
    /// The grid is larger than the device takes.
    #[error(
        "kernel `{kernel}`: the grid takes more workgroups per axis than the device has; launch over parts"
    )]
    GridTooLarge {
        /// The kernel's name.
        kernel: &'static str,
    },
    /// A vector of another runtime was passed to a launch.
    #[error("kernel `{kernel}`: argument {argument} belongs to another runtime")]
    ForeignVector {
        /// The kernel's name.
        kernel: &'static str,
        /// Which array, counted from 0.
        argument: usize,
    },
    /// Work on the range ended undone. The range holds what it held before that work; this is reported once.
    #[error("work{} failed ({fence}); what it was to write holds what it held before", on(.bytes))]
    WorkFailed {
        /// The work.
        fence: FencePoint,
        /// The bytes of the vector that it was to write, whole pages; `None` when it is the fence that says so.
        bytes: Option<Range<u64>>,
        /// Why it failed.
        source: Failure,
    },
    /// A device was lost while work on the range was in flight. What had a copy elsewhere holds what it held before; reported once.
    #[error("{device} was lost with work{} in flight", on(.bytes))]
    DeviceLost {
        /// Which device.
        device: DeviceId,
        /// The bytes of the vector that the work was to write, whole pages; `None` when it is the fence that says so.
        bytes: Option<Range<u64>>,
    },
    /// The only current copy of the range went with a failure. Reported until the range is overwritten or discarded.
    #[error(
        "bytes {bytes:?} are lost: their only copy went with a failure; overwrite them to use them again"
    )]
    DataLost {
        /// The first stretch of the vector that is lost, whole pages.
        bytes: Range<u64>,
    },
    /// A peer that takes no part in revocation has the range mapped: it stays where it is until that mapping is dropped.
    #[error("bytes {bytes:?} are pinned by peer {peer}; drop its mapping to move them")]
    Pinned {
        /// The peer's name.
        peer: String,
        /// The bytes of the vector that it mapped.
        bytes: Range<u64>,
    },
    /// A peer did not give the range back in time. Nothing was moved.
    #[error(
        "peer {peer} did not give bytes {bytes:?} back in {waited:?} (option peer_deadline); nothing was moved"
    )]
    PeerLate {
        /// The peer's name.
        peer: String,
        /// The bytes of the vector that it mapped.
        bytes: Range<u64>,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A peer does not get addresses.
    #[error("peer {peer} does not get addresses")]
    Peer {
        /// The peer's name.
        peer: String,
        /// Why.
        source: PeerError,
    },
    /// Pages of another process's memory were not granted.
    #[error("pages {pages:?} of another process's memory were not granted")]
    Home {
        /// The pages, of 64 KiB, counted from the file's start.
        pages: Range<usize>,
        /// Why.
        source: HomeError,
    },
    /// A fence of a device did not end in the time that [`crate::Options::own_fence_deadline`] gives it.
    #[error("{fence} did not end in {waited:?} (option own_fence_deadline)")]
    FenceTimedOut {
        /// The fence.
        fence: FencePoint,
        /// How long it was waited for.
        waited: Duration,
    },
}

/// Says what is pinned, where something is.
fn pinned(bytes: &u64) -> String {
    if *bytes == 0 { String::new() } else { format!(", {bytes} are pinned") }
}

/// Says what is reserved, where something is.
fn reserved(bytes: &u64) -> String {
    if *bytes == 0 { String::new() } else { format!(", {bytes} are reserved for groups") }
}

/// Says whose bytes they are, where it is a group's limit that they are beyond.
fn of_group(group: &Option<String>) -> String {
    group.as_ref().map_or_else(String::new, |group| format!(" of group `{group}`"))
}

/// Says which bytes of a vector, where that is known.
fn on(bytes: &Option<Range<u64>>) -> String {
    bytes.as_ref().map_or_else(String::new, |bytes| format!(" on bytes {bytes:?}"))
}
