//! Device memory that another device takes in.
//!
//! **Problem.** A page is in one device's memory and another device is to reach it there, by kernels or by copies. Two drivers agree on
//! memory by handles only, and a handle stands for a whole allocation of the driver.
//!
//! ```text
//! provider.export(memory, kinds) -> Exported {handle, where in the allocation}
//! importer.import(&exported)     -> Imported {memory, address}: kernels of the importer reach it at the address
//! importer.submit_between(work)  copies between what it imported and what it reserved
//! importer.release(memory)       the import goes; the provider's memory stays as it was
//! ```
//!
//! **Who validates.** As in [`super`]: the engine exports backed memory only, and releases every import before the reservation that it shows.
//! An import keeps the driver's memory from being freed, but not its contents: a provider gives pages that nobody uses to whoever asks next.

use std::{any::Any, fmt, os::fd::OwnedFd, sync::Arc};

use super::MemoryId;
use crate::{
    fence::FencePoint,
    p2p::{HandleKinds, Opaque},
};

/// What stands for memory outside of its device.
#[derive(Clone)]
pub enum Handle {
    /// A file descriptor, of a kind that [`Exported::kind`] says. Closed on exec.
    Fd(Arc<OwnedFd>),
    /// Something that only devices of the same backend in this process understand.
    InProcess(Arc<dyn Any + Send + Sync>),
}

/// Device memory that this process has mapped, as what [`Handle::InProcess`] is of [`HandleKinds::MAPPED`]: for whoever puts host addresses behind an IOMMU. It shows the whole
/// allocation, as every handle.
///
/// # Invariants
/// `len_bytes` from `address` on are mapped, readable and writable, for as long as whoever gave the handle out says ([`Exported`]); nobody ever has a reference
/// into them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MappedMemory {
    address: u64,
    len_bytes: u64,
}

impl MappedMemory {
    /// # Safety
    /// The invariants hold: the bytes stay mapped until the reservation that is given out is released, and no reference to them is made.
    #[allow(unsafe_code, reason = "a promise about an address")]
    pub unsafe fn new(address: u64, len_bytes: u64) -> Self {
        Self { address, len_bytes }
    }

    /// Where it begins in this process.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How long it is, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fd(fd) => write!(f, "Fd({fd:?})"),
            Self::InProcess(_) => f.write_str("InProcess"),
        }
    }
}

/// Memory of a device, given out. The handle shows the driver's whole allocation, which other vectors may share: it is for devices of this process.
#[derive(Clone, Debug)]
pub struct Exported {
    /// What stands for the allocation.
    pub handle: Handle,
    /// What the handle is; one kind.
    pub kind: HandleKinds,
    /// The driver's identifier; opaque descriptors go from and to the same driver and device only, but for what `opaque` says.
    pub driver: [u8; 16],
    /// Whether other drivers of the device understand it too.
    pub opaque: Opaque,
    /// The physical device's identifier.
    pub device: [u8; 16],
    /// The allocation's number: the same for two handles of one allocation, and for no others of this process.
    pub allocation: u64,
    /// The type of the memory, as the driver numbers it.
    pub memory_type: u32,
    /// How long the allocation is, in bytes.
    pub allocation_bytes: u64,
    /// Where in the allocation the reservation begins, in bytes.
    pub offset_bytes: u64,
    /// How long the reservation is, in bytes.
    pub len_bytes: u64,
    /// True when nobody else's memory is, or ever will be, in the allocation: it goes back to the driver with the reservation.
    pub is_alone: bool,
}

/// Another device's memory, taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Imported {
    /// The handle, for [`super::Device::submit_between`] and [`super::Device::release`].
    pub memory: MemoryId,
    /// The address of the provider's reservation's byte 0, as this device's kernels reach it.
    pub address: u64,
}

/// One contiguous copy between two memories that a device knows: reserved and backed there, or imported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Across {
    /// What is read.
    pub from: MemoryId,
    /// Where the read begins, in bytes.
    pub from_bytes: u64,
    /// What is written.
    pub to: MemoryId,
    /// Where the write begins, in bytes.
    pub to_bytes: u64,
    /// How much is copied, in bytes; a multiple of the page size.
    pub len_bytes: u64,
}

/// A batch of copies that do not overlap each other.
#[derive(Clone, Copy, Debug)]
pub struct AcrossWork<'a> {
    /// As for [`super::TransferWork`].
    pub waits: &'a [FencePoint],
    /// The copies.
    pub copies: &'a [Across],
}
