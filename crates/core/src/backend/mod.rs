//! The seam between the engine and the drivers.
//!
//! A backend implements [`Provider`] (a device that could be opened) and [`Device`] (one that is). The trait is object
//! safe and narrow; work is passed as slices so that the virtual call is paid per batch. Vulkan, CUDA, the embedded CPU
//! device and the simulated device stand behind it side by side in one process.
//!
//! **Who validates.** The engine does: ranges lie inside the reservation or the arena, copies of one batch do
//! not overlap, memory is backed before it is touched and not freed before its last fence. A backend may assume this, and
//! answers [`DeviceError::Misuse`] where it notices otherwise. What only the driver can know is the backend's to report.
//!
//! **Order.** Two submissions are unordered, on one queue too, unless the later one names the earlier one's fence in its
//! `waits`. A backend turns a wait into whatever its API needs (semaphore, barrier, both): after it the earlier work's writes are visible to
//! the later work. Waits name fences of the same device only; the engine waits on the host for others.
//! Work whose fence the host has seen end Ok (by `poll` or `wait`) needs no wait: the engine forgets it, and the backend makes its
//! writes visible to everything submitted from then on, on every queue.
//! Work that waits for a fence which ends Failed is not run; it ends [`crate::fence::Failure::Dependency`]. After a loss every fence that was
//! pending ends Lost.
//!
//! **Blocking.** `submit_*` may block for the time it takes to hand work to the driver, never for the work itself.
//! `poll` never blocks. Every method may be called from any thread at any time.
//!
//! **Nothing is undone.** A method that returns an error has had no effect, except where it says otherwise.

#[cfg(test)]
pub(crate) mod bench;
mod capability;
mod error;
mod external;
pub mod faulty;
mod rates;
mod work;

use std::{fmt, ops::Range, sync::Arc, time::Duration};

pub use capability::{
    Capabilities, Capability, DeviceFacts, DeviceKind, DeviceSummary, PciAddress,
};
pub use error::DeviceError;
pub use external::{Across, AcrossWork, Exported, Handle, Imported, MappedMemory};
pub(crate) use rates::time_ns;
pub use rates::{Rates, RemoteAccess};
pub use work::{
    ArrayArgument, Copy, Direction, LaunchWork, MemoryId, Reservation, TransferWork, Window,
    WindowId, Zero,
};

use crate::{
    fence::{FencePoint, FenceState},
    host::{HostSpan, ServiceView},
    kernel::{KernelId, ParamLayout, Source},
    node::DeviceId,
    p2p::HandleKinds,
};

/// A device that could be opened. Making one is cheap; opening is not.
pub trait Provider: Send + Sync + fmt::Debug {
    /// What is known without opening the device.
    fn summary(&self) -> &DeviceSummary;

    /// Opens the device and probes what it can do.
    ///
    /// # Errors
    /// Whatever the driver answers. A device that is gone answers [`DeviceError::Lost`].
    fn open(&self, context: OpenContext) -> Result<Arc<dyn Device>, DeviceError>;
}

/// What the engine hands to a device when it opens it.
#[derive(Clone, Debug)]
pub struct OpenContext {
    /// The device's number: its timelines are `TimelineId::new(device, queue)`.
    pub device: DeviceId,
    /// The host memory that copies and windows name by offset. It stays mapped while the device holds this.
    pub host: Arc<ServiceView>,
}

/// An open device.
pub trait Device: Send + Sync + fmt::Debug {
    /// What the device is and what was proved about it.
    fn facts(&self) -> &DeviceFacts;

    /// Reserves device addresses for `len_bytes` (a multiple of the page size, above zero). No memory is used yet.
    ///
    /// # Errors
    /// [`DeviceError::OutOfAddresses`] when the range is larger than the device can address in one piece.
    fn reserve(&self, len_bytes: u64) -> Result<Reservation, DeviceError>;

    /// The same, with memory under the whole or none of it, so that it can be given out ([`Device::export`]) where the device gives memory out at all.
    ///
    /// # Errors
    /// As [`Device::reserve`].
    fn reserve_whole(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        self.reserve(len_bytes)
    }

    /// Puts memory under the byte ranges of a reservation. Ranges are whole blocks (the last may end with the reservation),
    /// not backed before; with [`Reservation::backs_whole`] the one range is the whole. Contents are unspecified.
    /// The memory may be used by any submission that follows.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`]; then none of the ranges is backed.
    fn back(&self, memory: MemoryId, ranges: &[Range<u64>]) -> Result<(), DeviceError>;

    /// Takes the memory from under ranges that were backed. All work on them has ended.
    fn unback(&self, memory: MemoryId, ranges: &[Range<u64>]);

    /// Gives a reservation and whatever backs it back. All work on it has ended.
    fn release(&self, memory: MemoryId);

    /// Makes a span of host memory reachable at a device address for as long as the window is open: remote access, nothing moves.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] when the probes did not prove [`Capabilities::host_window`].
    fn open_window(&self, span: HostSpan) -> Result<Window, DeviceError>;

    /// Closes a window. All work on it has ended.
    fn close_window(&self, window: WindowId);

    /// Says that host pages are about to be given back to the system: whatever the device keeps imported
    /// over the span is not valid for later transfers. No work on the span is pending.
    fn host_released(&self, span: HostSpan);

    /// Makes a kernel ready and compares its own parameter layout with `layout`, which is what launches will pass.
    ///
    /// # Errors
    /// [`DeviceError::NoShader`] when the source has no code for this device, [`DeviceError::LayoutMismatch`] when the
    /// code's parameters differ from `layout`; such a kernel never reaches the driver.
    fn prepare(
        &self,
        source: &'static Source,
        layout: &ParamLayout,
    ) -> Result<KernelId, DeviceError>;

    /// Submits copies and zero fills, mutually unordered.
    ///
    /// # Errors
    /// The driver did not accept the batch; nothing of it will run.
    fn submit_transfer(&self, work: &TransferWork<'_>) -> Result<FencePoint, DeviceError>;

    /// Submits one kernel launch.
    ///
    /// # Errors
    /// The driver did not accept the launch; it will not run.
    fn submit_launch(&self, work: &LaunchWork<'_>) -> Result<FencePoint, DeviceError>;

    /// Gives out the memory under a reservation that is backed, in one of these ways: see [`Exported`]. Reservations that are backed whole
    /// ([`Reservation::backs_whole`]) can be given out in the ways that [`DeviceFacts::external`] says.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] when it cannot be given out like this: no way in common, or memory that is bound block by block.
    fn export(&self, _memory: MemoryId, _kinds: HandleKinds) -> Result<Exported, DeviceError> {
        Err(DeviceError::Unsupported { what: "giving memory out to other devices" })
    }

    /// Takes in what another device has given out, until [`Device::release`].
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] when the handle is of a kind, a driver or a device that this one does not understand.
    fn import(&self, _exported: &Exported) -> Result<Imported, DeviceError> {
        Err(DeviceError::Unsupported { what: "taking in memory of other devices" })
    }

    /// Submits copies between memory that was reserved and memory that was imported, mutually unordered. What other devices did to the imported
    /// memory is visible to it, as far as the host has seen it end.
    ///
    /// # Errors
    /// The driver did not accept the batch; nothing of it will run.
    fn submit_between(&self, _work: &AcrossWork<'_>) -> Result<FencePoint, DeviceError> {
        Err(DeviceError::Unsupported { what: "copies from other devices' memory" })
    }

    /// How a fence of this device stands, without blocking. Cheap: a few tens of nanoseconds.
    fn poll(&self, point: FencePoint) -> FenceState;

    /// Waits until a fence of this device has ended or the time is over ([`FenceState::Pending`]).
    fn wait(&self, point: FencePoint, timeout: Duration) -> FenceState;

    /// What found the device lost, where it knows. The event that tells of the loss is the engine's: a device notices it in calls that are
    /// made under locks, under which no subscriber may run.
    fn lost_by(&self) -> Option<&'static str> {
        None
    }
}
