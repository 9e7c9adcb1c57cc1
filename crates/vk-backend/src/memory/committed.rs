//! Committed backing: a reservation is a part of a plain buffer.
//!
//! Vulkan gives a plain buffer its address only once memory is bound, so the driver's memory is allocated with the reservation. Small reservations
//! are pages of a shared chunk; large ones have a buffer of their own. Where the driver's memory is the process's own (lavapipe), pages cost
//! nothing until they are touched, and are emptied when the reservation is unbacked; elsewhere memory goes back when it is released.
#![allow(unsafe_code, reason = "binds memory to buffers")]

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

use ash::vk;
use hmmap_core::{backend::DeviceError, units::PAGE_BYTES};
use parking_lot::Mutex;
use range_alloc::RangeAllocator;

use super::source::{Memory, MemorySource};
use crate::{
    buffer::{Buffer, USAGE},
    gpu::Gpu,
};

/// A chunk that small reservations share.
const CHUNK_BYTES: u64 = 16 << 20;
/// Reservations of this size and more have a buffer of their own.
const LARGE_FROM_BYTES: u64 = CHUNK_BYTES / 2;

/// A plain buffer, its memory, and where in it the first page boundary is.
#[derive(Debug)]
pub(crate) struct Plain {
    /// First: the buffer goes before its memory.
    buffer: Buffer,
    memory: Memory,
    /// Bytes before the first address that is a multiple of the page size.
    skew_bytes: u64,
    address: u64,
}

/// Pages of a chunk, given back when dropped.
#[derive(Debug)]
pub(crate) struct Pages {
    chunk: Arc<Chunk>,
    first: u64,
    count: u64,
    chunks: Weak<Chunks>,
}

#[derive(Debug)]
struct Chunk {
    plain: Plain,
    free: Mutex<RangeAllocator<u64>>,
}

/// The chunks that have or had a free page.
#[derive(Debug)]
pub(crate) struct Chunks {
    all: Mutex<Vec<Arc<Chunk>>>,
    /// Set once a buffer came at an address that is no multiple of the page size: then all get a page more.
    skewed: AtomicBool,
    gpu: Arc<Gpu>,
    source: Arc<MemorySource>,
}

/// A committed reservation.
#[derive(Debug)]
pub(crate) enum Committed {
    /// A buffer of its own.
    Own(Plain),
    /// A part of a chunk.
    Part(Pages),
}

impl Chunks {
    pub(crate) fn new(gpu: &Arc<Gpu>, source: &Arc<MemorySource>) -> Self {
        let (gpu, source) = (Arc::clone(gpu), Arc::clone(source));
        Self { all: Mutex::default(), skewed: AtomicBool::new(false), gpu, source }
    }

    /// Makes a reservation of `len_bytes`, a multiple of the page size.
    pub(crate) fn reserve(self: &Arc<Self>, len_bytes: u64) -> Result<Committed, DeviceError> {
        if len_bytes >= LARGE_FROM_BYTES {
            return self.plain(len_bytes).map(Committed::Own);
        }
        let count = len_bytes / PAGE_BYTES;
        let mut all = self.all.lock();
        // The youngest chunk is the likeliest to have room.
        if let Some(pages) = all.iter().rev().find_map(|chunk| self.take(chunk, count)) {
            return Ok(Committed::Part(pages));
        }
        let plain = self.plain(CHUNK_BYTES)?;
        let free = Mutex::new(RangeAllocator::new(0..CHUNK_BYTES / PAGE_BYTES));
        let chunk = Arc::new(Chunk { plain, free });
        let pages =
            self.take(&chunk, count).ok_or(DeviceError::OutOfMemory { asked_bytes: len_bytes });
        all.push(chunk);
        pages.map(Committed::Part)
    }

    fn take(self: &Arc<Self>, chunk: &Arc<Chunk>, count: u64) -> Option<Pages> {
        let taken = chunk.free.lock().allocate_range(count).ok()?;
        let (chunk, chunks) = (Arc::clone(chunk), Arc::downgrade(self));
        Some(Pages { chunk, first: taken.start, count, chunks })
    }

    fn plain(&self, len_bytes: u64) -> Result<Plain, DeviceError> {
        // Relaxed: a hint that saves one retry.
        let skewed = self.skewed.load(Ordering::Relaxed);
        let plain =
            Plain::new(&self.gpu, &self.source, len_bytes, if skewed { PAGE_BYTES } else { 0 })?;
        if skewed || plain.skew_bytes == 0 {
            return Ok(plain);
        }
        self.skewed.store(true, Ordering::Relaxed);
        drop(plain);
        Plain::new(&self.gpu, &self.source, len_bytes, PAGE_BYTES)
    }
}

impl Plain {
    fn new(
        gpu: &Arc<Gpu>,
        source: &Arc<MemorySource>,
        len_bytes: u64,
        spare_bytes: u64,
    ) -> Result<Self, DeviceError> {
        let limits = gpu.physical().limits;
        let limit_bytes =
            limits.buffer_bytes.min(limits.allocation_bytes).saturating_sub(spare_bytes);
        if len_bytes > limit_bytes {
            return Err(DeviceError::OutOfAddresses { asked_bytes: len_bytes, limit_bytes });
        }
        let buffer = Buffer::plain(gpu, len_bytes + spare_bytes, USAGE)?;
        let memory = source.allocate(buffer.requirements())?;
        let (handle, offset_bytes) = memory.place();
        // SAFETY: the memory was allocated for this buffer's requirements, is bound once, and goes after the buffer (field order).
        unsafe { buffer.bind(handle, offset_bytes)? };
        let base = buffer.address();
        let address = base.next_multiple_of(PAGE_BYTES);
        Ok(Self { buffer, memory, skew_bytes: address - base, address })
    }
}

impl Committed {
    /// The device address of byte 0.
    pub(crate) fn address(&self) -> u64 {
        match self {
            Self::Own(plain) => plain.address,
            Self::Part(pages) => pages.chunk.plain.address + pages.first * PAGE_BYTES,
        }
    }

    /// The buffer, and where in it byte 0 is.
    pub(crate) fn place(&self) -> (vk::Buffer, u64) {
        match self {
            Self::Own(plain) => (plain.buffer.raw(), plain.skew_bytes),
            Self::Part(pages) => {
                let plain = &pages.chunk.plain;
                (plain.buffer.raw(), plain.skew_bytes + pages.first * PAGE_BYTES)
            }
        }
    }

    /// Gives the pages back to the system where that is possible.
    pub(crate) fn empty(&self, len_bytes: u64) {
        let (_, start) = self.place();
        match self {
            Self::Own(plain) => plain.memory.empty(start..start + len_bytes),
            Self::Part(pages) => pages.chunk.plain.memory.empty(start..start + len_bytes),
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let Some(chunks) = self.chunks.upgrade() else { return };
        // Under the lock of the list, so that nobody takes pages of a chunk that is being let go.
        let mut all = chunks.all.lock();
        let mut free = self.chunk.free.lock();
        free.free_range(self.first..self.first + self.count);
        // The last chunk stays: a vector that comes and goes should not cost two driver calls each time.
        if free.is_empty() && all.len() > 1 {
            drop(free);
            all.retain(|chunk| !Arc::ptr_eq(chunk, &self.chunk));
        }
    }
}
