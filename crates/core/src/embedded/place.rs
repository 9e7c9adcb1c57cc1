//! Bytes that were found to be there.

use std::{fmt, ops::Range, sync::Arc};

use super::mapping::Mapping;
use crate::{
    backend::MemoryId,
    host::{HostSpan, ServiceView},
};

/// A memory that bytes can lie in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MemorySpace {
    /// The arena.
    Host,
    /// A reservation.
    Device(MemoryId),
}

impl fmt::Display for MemorySpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host memory"),
            Self::Device(MemoryId(number)) => write!(f, "device memory {number:#x}"),
        }
    }
}

/// A range of bytes that was found to be there. It holds the mapping that the bytes lie in.
///
/// # Invariants
/// The range lies in the mapping.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    memory: PlaceMemory,
    at_bytes: u64,
    len_bytes: u64,
}

#[derive(Clone, Debug)]
enum PlaceMemory {
    Host(Arc<ServiceView>),
    Device(MemoryId, Arc<Mapping>),
}

impl Place {
    /// Bytes of the arena. The caller has checked that they lie in the view.
    pub(super) fn on_host(view: Arc<ServiceView>, at_bytes: u64, len_bytes: u64) -> Self {
        Self { memory: PlaceMemory::Host(view), at_bytes, len_bytes }
    }

    /// Bytes of a reservation. The caller has checked that they lie in the mapping.
    pub(super) fn on_device(
        memory: MemoryId,
        mapping: Arc<Mapping>,
        at_bytes: u64,
        len_bytes: u64,
    ) -> Self {
        Self { memory: PlaceMemory::Device(memory, mapping), at_bytes, len_bytes }
    }

    /// The first byte. The pointer is good for [`Place::len_bytes`] while this or a clone of it lives.
    pub(crate) fn pointer(&self) -> *mut u8 {
        let (offset_bytes, len_bytes) = (self.at_bytes, self.len_bytes);
        match &self.memory {
            PlaceMemory::Host(view) => view.pointer(HostSpan { offset_bytes, len_bytes }),
            PlaceMemory::Device(_, mapping) => mapping.pointer(offset_bytes),
        }
    }

    /// How many bytes it is.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Which memory it lies in.
    pub(crate) fn space(&self) -> MemorySpace {
        match &self.memory {
            PlaceMemory::Host(_) => MemorySpace::Host,
            PlaceMemory::Device(memory, _) => MemorySpace::Device(*memory),
        }
    }

    /// Which bytes of that memory.
    pub(crate) fn bytes(&self) -> Range<u64> {
        self.at_bytes..self.at_bytes + self.len_bytes
    }

    /// True when the two share a byte; both are of the same device.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.space() == other.space() && overlap(&self.bytes(), &other.bytes())
    }
}

/// True when two ranges share a byte.
pub(crate) fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}
