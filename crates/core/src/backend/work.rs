//! What the engine hands to a device, and the handles that come back.

use crate::{
    access::Access,
    fence::FencePoint,
    host::HostSpan,
    kernel::{KernelId, ParamLayout, Source},
};

/// A reservation of device addresses; the numbering is the backend's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct MemoryId(pub u64);

/// An open window of host memory; the numbering is the backend's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct WindowId(pub u64);

/// Device addresses reserved for one buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// The handle.
    pub memory: MemoryId,
    /// The device address of byte 0, stable for the reservation's life. Aligned to the page size.
    pub address: u64,
    /// True when memory can only be put under the whole reservation at once (one plain buffer);
    /// false when each block can be backed by itself (sparse binding).
    pub backs_whole: bool,
}

/// Host memory reachable at a device address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// The handle.
    pub window: WindowId,
    /// The device address of the span's first byte.
    pub address: u64,
}

/// Which way a copy goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Direction {
    /// From host memory to the device.
    HostToDevice,
    /// From the device to host memory.
    DeviceToHost,
}

/// One contiguous copy between host memory and backed device memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copy {
    /// Which way.
    pub direction: Direction,
    /// The host side, an arena span; its length is the copy's length. A multiple of the page size.
    pub host: HostSpan,
    /// The device side.
    pub memory: MemoryId,
    /// Where in the reservation the device side begins, in bytes.
    pub offset_bytes: u64,
}

/// One contiguous fill with zeros of backed device memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Zero {
    /// The reservation.
    pub memory: MemoryId,
    /// Where in it the fill begins, in bytes.
    pub offset_bytes: u64,
    /// How much is filled, in bytes.
    pub len_bytes: u64,
}

/// A batch of copies and fills that do not overlap each other.
#[derive(Clone, Copy, Debug)]
pub struct TransferWork<'a> {
    /// Fences of the same device that must have ended before the batch begins, in order. If any has not ended Ok, the batch
    /// does not begin. Several may be of one timeline; where work only fails with its device, the highest stands for all.
    pub waits: &'a [FencePoint],
    /// The copies.
    pub copies: &'a [Copy],
    /// The fills.
    pub zeros: &'a [Zero],
}

/// One array that a launch touches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArrayArgument {
    /// The device address of the first element. Zero when the array is empty.
    pub address: u64,
    /// The length in bytes.
    pub len_bytes: u64,
    /// What the kernel does with it.
    pub access: Access,
    /// The most elements of it that the kernel reads, wherever they are, where that is known; else it may read all. For devices that
    /// only count what things would cost.
    pub scattered: Option<u64>,
}

/// One kernel launch.
#[derive(Clone, Copy, Debug)]
pub struct LaunchWork<'a> {
    /// The kernel, as [`super::Device::prepare`] returned it.
    pub kernel: KernelId,
    /// The kernel's source, for devices that run its Rust twin.
    pub source: &'static Source,
    /// Workgroups in x, y, z; each above zero.
    pub groups: [u32; 3],
    /// The parameter block, bit for bit as the shader reads it.
    pub params: &'a [u8],
    /// The layout of `params`.
    pub layout: &'a ParamLayout,
    /// The arrays in the order of the parameters.
    pub arrays: &'a [ArrayArgument],
    /// Fences of the same device that must have ended before the launch begins, as for a [`TransferWork`].
    pub waits: &'a [FencePoint],
}
