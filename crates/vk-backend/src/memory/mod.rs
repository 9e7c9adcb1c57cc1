//! Device memory: reservations, and what puts memory under them.
//!
//! ```text
//! reserve --> Region: address, buffer + offset          committed: a part of a plain buffer, backed whole
//!   back / unback                                       sparse: blocks out of a pool, bound one by one
//! release --> gone
//! import --> Region over another device's memory        external
//! ```
//! Bytes are accounted against a limit of our own, see [`budget`].

mod binder;
mod budget;
mod committed;
mod pieces;
mod pool;
mod source;
mod sparse;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use ash::vk;
use hmmap_core::{
    backend::{DeviceError, Exported, Imported, MemoryId, Reservation},
    p2p::HandleKinds,
    units::BLOCK_BYTES,
};
use parking_lot::RwLock;

use self::{
    budget::Budget,
    committed::{Chunks, Committed},
    source::MemorySource,
    sparse::{KeptPages, Sparse, SparseSpace},
};
use crate::{
    external::{Taken, TakenIn},
    features::Features,
    gpu::{Gpu, QueueHandle},
    options::Backing,
    physical::Physical,
};

/// Every reservation of one device.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    regions: RwLock<HashMap<MemoryId, Arc<Region>>>,
    next: AtomicU64,
    chunks: Arc<Chunks>,
    sparse: Option<Arc<SparseSpace>>,
    source: Arc<MemorySource>,
    taken: TakenIn,
    gpu: Arc<Gpu>,
    backing: Backing,
    /// Set when binding was tried and worked.
    sparse_proved: AtomicBool,
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
    Committed {
        memory: Committed,
        backed: AtomicBool,
    },
    Sparse(Sparse),
    /// A part of another device's allocation.
    Taken {
        taken: Arc<Taken>,
        offset_bytes: u64,
    },
}

const UNKNOWN: DeviceError = DeviceError::Misuse { what: "memory that is not reserved" };
const NOT_WHOLE: DeviceError =
    DeviceError::Misuse { what: "a part of a reservation that is backed whole" };
const FOREIGN: DeviceError = DeviceError::Misuse { what: "memory of another device" };
const TWICE: DeviceError = DeviceError::Misuse { what: "memory that is backed already" };

impl DeviceMemory {
    /// `bind` is the queue that binds sparse memory, where there is one; `limit_bytes` what may be used.
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        bind: Option<&Arc<QueueHandle>>,
        backing: Backing,
        limit_bytes: u64,
    ) -> Result<Self, DeviceError> {
        let source = Arc::new(MemorySource::new(gpu)?);
        let wanted = Features::SPARSE.with(Features::SPARSE_RESIDENCY);
        let bind = bind.filter(|_| gpu.physical().features.contains(wanted));
        let limits = sparse_limits(gpu.physical(), gpu.instance().is_watched());
        let space = bind.map(|queue| SparseSpace::new(gpu, &source, queue, limits).map(Arc::new));
        Ok(Self {
            regions: RwLock::default(),
            next: AtomicU64::new(1),
            chunks: Arc::new(Chunks::new(gpu, &source)),
            sparse: space.transpose()?,
            taken: TakenIn::default(),
            gpu: Arc::clone(gpu),
            backing,
            sparse_proved: AtomicBool::new(false),
            budget: Budget::new(limit_bytes),
            lazy: source.is_lazy(),
            source,
        })
    }

    /// Says that sparse binding was tried and worked.
    pub(crate) fn set_sparse_proved(&self) {
        self.sparse_proved.store(true, Ordering::Release);
    }

    /// Says that giving memory out was tried and worked.
    pub(crate) fn set_sharing_proved(&self) {
        self.source.share();
    }

    /// Gives out the memory of a reservation.
    pub(crate) fn export(
        &self,
        memory: MemoryId,
        kinds: HandleKinds,
    ) -> Result<Exported, DeviceError> {
        let region = self.region(memory)?;
        match &region.kind {
            Kind::Committed { memory, .. } => memory.export(kinds, region.len_bytes),
            Kind::Sparse(_) => Err(DeviceError::Unsupported {
                what: "giving out memory that is bound block by block",
            }),
            Kind::Taken { .. } => {
                Err(DeviceError::Unsupported { what: "giving out memory of another device" })
            }
        }
    }

    /// Takes in what another device gave out.
    pub(crate) fn import(&self, exported: &Exported) -> Result<Imported, DeviceError> {
        let taken = self.taken.get(&self.gpu, exported)?;
        let address = taken.address() + exported.offset_bytes;
        let kind = Kind::Taken { taken, offset_bytes: exported.offset_bytes };
        Ok(Imported { memory: self.add(exported.len_bytes, kind), address })
    }

    /// Reserves addresses.
    pub(crate) fn reserve(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        let proved = self.sparse_proved.load(Ordering::Acquire);
        match self.backing {
            Backing::Committed => self.reserve_committed(len_bytes),
            Backing::Sparse if proved => self.reserve_sparse(len_bytes),
            Backing::Sparse => Err(DeviceError::Unsupported { what: "sparse binding" }),
            Backing::Auto if proved && len_bytes >= BLOCK_BYTES => {
                match self.reserve_sparse(len_bytes) {
                    Err(DeviceError::OutOfAddresses { .. }) => self.reserve_committed(len_bytes),
                    other => other,
                }
            }
            Backing::Auto => self.reserve_committed(len_bytes),
        }
    }

    /// Reserves addresses with memory under the whole.
    pub(crate) fn reserve_committed(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        self.commit(len_bytes, || self.chunks.reserve(len_bytes))
    }

    /// Reserves addresses with memory under the whole that can be given out, proved or not.
    pub(crate) fn reserve_shared(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        self.commit(len_bytes, || self.chunks.reserve_shared(len_bytes))
    }

    fn commit(
        &self,
        len_bytes: u64,
        reserve: impl FnOnce() -> Result<Committed, DeviceError>,
    ) -> Result<Reservation, DeviceError> {
        if !self.lazy {
            self.budget.take(len_bytes)?;
        }
        let memory = reserve().inspect_err(|_| {
            if !self.lazy {
                self.budget.give(len_bytes);
            }
        })?;
        let address = memory.address();
        let kind = Kind::Committed { memory, backed: AtomicBool::new(false) };
        Ok(Reservation { memory: self.add(len_bytes, kind), address, backs_whole: true })
    }

    /// Reserves addresses for single blocks, proved or not.
    pub(crate) fn reserve_sparse(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        let space =
            self.sparse.as_ref().ok_or(DeviceError::Unsupported { what: "sparse binding" })?;
        let sparse = space.reserve(len_bytes)?;
        let address = sparse.address();
        let memory = self.add(len_bytes, Kind::Sparse(sparse));
        Ok(Reservation { memory, address, backs_whole: false })
    }

    fn add(&self, len_bytes: u64, kind: Kind) -> MemoryId {
        // Relaxed: only that numbers differ matters.
        let memory = MemoryId(self.next.fetch_add(1, Ordering::Relaxed));
        self.regions.write().insert(memory, Arc::new(Region { len_bytes, kind }));
        memory
    }

    /// Puts memory under ranges, all or none. Pages that it has kept are returned where somebody should read them before they are written.
    pub(crate) fn back(
        &self,
        memory: MemoryId,
        ranges: &[Range<u64>],
    ) -> Result<KeptPages, DeviceError> {
        let region = self.region(memory)?;
        if ranges.iter().any(|range| range.start > range.end || range.end > region.len_bytes) {
            return Err(DeviceError::Misuse { what: "a range outside of its reservation" });
        }
        let len_bytes = ranges.iter().map(|range| range.end - range.start).sum();
        match &region.kind {
            Kind::Committed { backed, .. } => {
                if !region.is_whole(ranges) {
                    return Err(NOT_WHOLE);
                }
                if backed.swap(true, Ordering::AcqRel) {
                    return Err(TWICE);
                }
                let taken = if self.lazy { self.budget.take(len_bytes) } else { Ok(()) };
                taken.inspect_err(|_| backed.store(false, Ordering::Release))?;
                Ok(KeptPages::new())
            }
            Kind::Sparse(sparse) => {
                self.budget.take(len_bytes)?;
                sparse.back(ranges).inspect_err(|_| self.budget.give(len_bytes))
            }
            Kind::Taken { .. } => Err(FOREIGN),
        }
    }

    /// Takes the memory from under ranges.
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
            Kind::Sparse(sparse) => ranges.iter().try_for_each(|range| {
                sparse.unback(range)?;
                self.budget.give(range.end - range.start);
                Ok(())
            }),
            Kind::Taken { .. } => Err(FOREIGN),
        }
    }

    /// Gives a reservation back.
    pub(crate) fn release(&self, memory: MemoryId) -> Result<(), DeviceError> {
        let region = self.regions.write().remove(&memory).ok_or(UNKNOWN)?;
        match &region.kind {
            // Pages of chunks are kept or emptied as they are dropped, and so is memory of a buffer of its own.
            Kind::Committed { backed, .. } => {
                if !self.lazy || backed.load(Ordering::Acquire) {
                    self.budget.give(region.len_bytes);
                }
            }
            Kind::Sparse(sparse) => self.budget.give(sparse.backed_bytes(region.len_bytes)),
            Kind::Taken { .. } => {}
        }
        Ok(())
    }

    /// A reservation.
    pub(crate) fn region(&self, memory: MemoryId) -> Result<Arc<Region>, DeviceError> {
        self.regions.read().get(&memory).cloned().ok_or(UNKNOWN)
    }

    /// The buffer that an address lies in, and the offset in it.
    pub(crate) fn buffer_at(&self, address: u64) -> Option<(vk::Buffer, u64)> {
        self.regions.read().values().find_map(|region| {
            let within = address.checked_sub(region.address())?;
            region.place(within, 1).ok()
        })
    }

    /// What whoever uses memory that was backed until now has to wait for.
    pub(crate) fn pending_binds(&self) -> Option<(vk::Semaphore, u64)> {
        self.sparse.as_ref()?.pending()
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

    fn address(&self) -> u64 {
        match &self.kind {
            Kind::Committed { memory, .. } => memory.address(),
            Kind::Sparse(sparse) => sparse.address(),
            Kind::Taken { taken, offset_bytes } => taken.address() + offset_bytes,
        }
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
            Kind::Sparse(sparse) => sparse.place(),
            Kind::Taken { taken, offset_bytes } => (taken.buffer(), *offset_bytes),
        };
        Ok((buffer, start + offset_bytes))
    }
}

/// The most bytes of one sparse buffer and of all together.
fn sparse_limits(physical: &Physical, watched: bool) -> (u64, u64) {
    let limits = physical.limits;
    // lavapipe reports 2 GiB for all and takes any number of buffers below 4 GiB (measured, Mesa 25.0). The validation layer
    // goes by what is reported.
    let all = if physical.is_llvmpipe() && !watched { u64::MAX } else { limits.sparse_bytes };
    (limits.buffer_bytes.min(all), all)
}
