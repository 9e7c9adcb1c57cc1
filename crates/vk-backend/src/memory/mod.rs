//! Device memory: reservations, and what puts memory under them.
//!
//! ```text
//! reserve --> Region: address, buffer + offset          committed: a part of a plain buffer, backed whole
//!   back / unback                                       sparse: blocks out of a pool, bound one by one
//! release --> gone
//! ```
//! Bytes are accounted against a limit of our own, see [`budget`].

mod budget;
mod committed;
mod source;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use ash::vk;
use hmmap_core::backend::{DeviceError, MemoryId, Reservation};
use parking_lot::RwLock;

use self::{
    budget::Budget,
    committed::{Chunks, Committed},
    source::MemorySource,
};
use crate::gpu::Gpu;

/// Every reservation of one device.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    regions: RwLock<HashMap<MemoryId, Arc<Region>>>,
    next: AtomicU64,
    chunks: Arc<Chunks>,
    budget: Budget,
    /// True when driver memory that nobody touched costs nothing, so that bytes count when they are backed.
    lazy: bool,
}

/// One reservation.
#[derive(Debug)]
pub(crate) struct Region {
    len_bytes: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Committed { memory: Committed, backed: AtomicBool },
}

const UNKNOWN: DeviceError = DeviceError::Misuse { what: "memory that is not reserved" };
const NOT_WHOLE: DeviceError =
    DeviceError::Misuse { what: "a part of a reservation that is backed whole" };
const TWICE: DeviceError = DeviceError::Misuse { what: "memory that is backed already" };

impl DeviceMemory {
    pub(crate) fn new(gpu: &Arc<Gpu>, limit_bytes: Option<u64>) -> Result<Self, DeviceError> {
        let source = Arc::new(MemorySource::new(gpu)?);
        let limit_bytes = limit_bytes.unwrap_or(gpu.physical().summary.memory_bytes);
        Ok(Self {
            regions: RwLock::default(),
            next: AtomicU64::new(1),
            chunks: Arc::new(Chunks::new(gpu, &source)),
            budget: Budget::new(limit_bytes),
            lazy: source.is_lazy(),
        })
    }

    pub(crate) fn reserve(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        if !self.lazy {
            self.budget.take(len_bytes)?;
        }
        let memory = self.chunks.reserve(len_bytes).inspect_err(|_| {
            if !self.lazy {
                self.budget.give(len_bytes);
            }
        })?;
        let address = memory.address();
        let kind = Kind::Committed { memory, backed: AtomicBool::new(false) };
        // Relaxed: only that numbers differ matters.
        let memory = MemoryId(self.next.fetch_add(1, Ordering::Relaxed));
        self.regions.write().insert(memory, Arc::new(Region { len_bytes, kind }));
        Ok(Reservation { memory, address, backs_whole: true })
    }

    pub(crate) fn back(&self, memory: MemoryId, ranges: &[Range<u64>]) -> Result<(), DeviceError> {
        let region = self.region(memory)?;
        match &region.kind {
            Kind::Committed { backed, .. } => {
                if !region.is_whole(ranges) {
                    return Err(NOT_WHOLE);
                }
                if backed.swap(true, Ordering::AcqRel) {
                    return Err(TWICE);
                }
                if self.lazy {
                    self.budget.take(region.len_bytes).inspect_err(|_| {
                        backed.store(false, Ordering::Release);
                    })?;
                }
                Ok(())
            }
        }
    }

    pub(crate) fn unback(
        &self,
        memory: MemoryId,
        ranges: &[Range<u64>],
    ) -> Result<(), DeviceError> {
        let region = self.region(memory)?;
        match &region.kind {
            Kind::Committed { .. } if !region.is_whole(ranges) => Err(NOT_WHOLE),
            Kind::Committed { memory, backed } => {
                if backed.swap(false, Ordering::AcqRel) && self.lazy {
                    memory.empty(region.len_bytes);
                    self.budget.give(region.len_bytes);
                }
                Ok(())
            }
        }
    }

    pub(crate) fn release(&self, memory: MemoryId) -> Result<(), DeviceError> {
        let region = self.regions.write().remove(&memory).ok_or(UNKNOWN)?;
        match &region.kind {
            Kind::Committed { memory, backed } => {
                memory.empty(region.len_bytes);
                if !self.lazy || backed.load(Ordering::Acquire) {
                    self.budget.give(region.len_bytes);
                }
            }
        }
        Ok(())
    }

    /// A reservation.
    pub(crate) fn region(&self, memory: MemoryId) -> Result<Arc<Region>, DeviceError> {
        self.regions.read().get(&memory).cloned().ok_or(UNKNOWN)
    }

    /// Bytes that back reservations now.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.budget.used_bytes()
    }
}

impl Region {
    fn is_whole(&self, ranges: &[Range<u64>]) -> bool {
        matches!(ranges, [whole] if *whole == (0..self.len_bytes))
    }

    /// The buffer and the offset in it of a range of the reservation.
    pub(crate) fn place(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<(vk::Buffer, u64), DeviceError> {
        let end = offset_bytes.checked_add(len_bytes);
        if end.is_none_or(|end| end > self.len_bytes) {
            return Err(DeviceError::Misuse { what: "a range outside of its reservation" });
        }
        let (buffer, start) = match &self.kind {
            Kind::Committed { memory, .. } => memory.place(),
        };
        Ok((buffer, start + offset_bytes))
    }
}
