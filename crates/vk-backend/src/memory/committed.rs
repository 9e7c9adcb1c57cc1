//! Committed backing: a reservation is a part of a plain buffer.
//!
//! Vulkan gives a plain buffer its address only once memory is bound, so the driver's memory is allocated with the reservation. Small reservations
//! are pages of a shared chunk; large ones have a buffer of their own. Where the driver's memory is the process's own (lavapipe), pages cost
//! nothing until they are touched, and are emptied when the reservation is unbacked; elsewhere memory goes back when it is released.
//! Where that was proved, the memory can be given out to other devices: it is the only kind of backing of which that is true.
//! Parts of chunks that are released stay as they are for the next reservation of the same length, as far as [`MOST_KEPT_BYTES`] goes: to make
//! pages anew takes the system longer than most kernels of that size run.
#![allow(unsafe_code, reason = "binds memory to buffers")]

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use ash::vk;
use hmmap_core::{
    backend::{DeviceError, Exported},
    p2p::HandleKinds,
    units::PAGE_BYTES,
};
use parking_lot::Mutex;
use range_alloc::RangeAllocator;

use super::source::{Memory, MemorySource, Sharing};
use crate::{buffer::Buffer, gpu::Gpu};

/// A chunk that small reservations share.
const CHUNK_BYTES: u64 = 16 << 20;
/// Reservations of this size and more have a buffer of their own.
const LARGE_FROM_BYTES: u64 = CHUNK_BYTES / 2;
/// Pages that nobody uses any more and that were not given back to the system, in bytes and in parts.
const MOST_KEPT_BYTES: u64 = 16 << 20;
const MOST_KEPT_PARTS: usize = 64;

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
    part: Part,
    chunks: Weak<Chunks>,
}

/// Pages of a chunk that are not free.
#[derive(Clone, Debug)]
struct Part {
    chunk: Arc<Chunk>,
    first: u64,
    count: u64,
}

#[derive(Debug)]
struct Chunk {
    plain: Plain,
    free: Mutex<RangeAllocator<u64>>,
}

/// The chunks, and the parts of them that wait for a reservation of their length.
#[derive(Debug, Default)]
struct Dealt {
    all: Vec<Arc<Chunk>>,
    /// The longest unused first.
    kept: VecDeque<Part>,
}

/// The chunks that have or had a free page.
#[derive(Debug)]
pub(crate) struct Chunks {
    dealt: Mutex<Dealt>,
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
        Self { dealt: Mutex::default(), skewed: AtomicBool::new(false), gpu, source }
    }

    /// Makes a reservation of `len_bytes`, a multiple of the page size.
    pub(crate) fn reserve(self: &Arc<Self>, len_bytes: u64) -> Result<Committed, DeviceError> {
        if len_bytes >= LARGE_FROM_BYTES {
            return self.plain(len_bytes, Sharing::WhereProved).map(Committed::Own);
        }
        let count = len_bytes / PAGE_BYTES;
        let mut dealt = self.dealt.lock();
        let part = match dealt.take(count) {
            Some(part) => part,
            None => {
                let plain = self.plain(CHUNK_BYTES, Sharing::WhereProved)?;
                let free = Mutex::new(RangeAllocator::new(0..CHUNK_BYTES / PAGE_BYTES));
                let chunk = Arc::new(Chunk { plain, free });
                let part = Part::of(&chunk, count);
                dealt.all.push(chunk);
                part.ok_or(DeviceError::OutOfMemory { asked_bytes: len_bytes })?
            }
        };
        Ok(Committed::Part(Pages { part, chunks: Arc::downgrade(self) }))
    }

    /// Makes a reservation whose memory is given out.
    pub(crate) fn reserve_shared(&self, len_bytes: u64) -> Result<Committed, DeviceError> {
        self.plain(len_bytes, Sharing::Asked).map(Committed::Own)
    }

    fn plain(&self, len_bytes: u64, sharing: Sharing) -> Result<Plain, DeviceError> {
        // Relaxed: a hint that saves one retry.
        let skewed = self.skewed.load(Ordering::Relaxed);
        let new =
            |spare_bytes| Plain::new(&self.gpu, &self.source, len_bytes, spare_bytes, sharing);
        let plain = new(if skewed { PAGE_BYTES } else { 0 })?;
        if skewed || plain.skew_bytes == 0 {
            return Ok(plain);
        }
        self.skewed.store(true, Ordering::Relaxed);
        drop(plain);
        new(PAGE_BYTES)
    }
}

impl Dealt {
    fn take(&mut self, count: u64) -> Option<Part> {
        let kept = self.kept.iter().rposition(|part| part.count == count);
        if let Some(part) = kept.and_then(|place| self.kept.remove(place)) {
            return Some(part);
        }
        // The youngest chunk is the likeliest to have room.
        self.all.iter().rev().find_map(|chunk| Part::of(chunk, count))
    }

    /// Keeps a part, and gives back what is too much.
    fn keep(&mut self, part: Part) {
        let len_bytes = |part: &Part| part.count * PAGE_BYTES;
        let mut bytes = self.kept.iter().map(len_bytes).sum::<u64>() + len_bytes(&part);
        self.kept.push_back(part);
        while bytes > MOST_KEPT_BYTES || self.kept.len() > MOST_KEPT_PARTS {
            let Some(oldest) = self.kept.pop_front() else { return };
            bytes -= len_bytes(&oldest);
            oldest.empty(len_bytes(&oldest));
            self.give(&oldest);
        }
    }

    /// Under the lock of the list, so that nobody takes pages of a chunk that is being let go.
    fn give(&mut self, part: &Part) {
        let mut free = part.chunk.free.lock();
        free.free_range(part.first..part.first + part.count);
        // The last chunk stays: a vector that comes and goes should not cost two driver calls each time.
        if free.is_empty() && self.all.len() > 1 {
            drop(free);
            self.all.retain(|chunk| !Arc::ptr_eq(chunk, &part.chunk));
        }
    }
}

impl Part {
    /// Free pages of a chunk.
    fn of(chunk: &Arc<Chunk>, count: u64) -> Option<Self> {
        let taken = chunk.free.lock().allocate_range(count).ok()?;
        Some(Self { chunk: Arc::clone(chunk), first: taken.start, count })
    }

    /// Where in the chunk's buffer its pages begin.
    fn start(&self) -> u64 {
        self.chunk.plain.skew_bytes + self.first * PAGE_BYTES
    }

    fn empty(&self, len_bytes: u64) {
        self.chunk.plain.memory.empty(self.start()..self.start() + len_bytes);
    }
}

impl Plain {
    fn new(
        gpu: &Arc<Gpu>,
        source: &Arc<MemorySource>,
        len_bytes: u64,
        spare_bytes: u64,
        sharing: Sharing,
    ) -> Result<Self, DeviceError> {
        let limits = gpu.physical().limits;
        let limit_bytes =
            limits.buffer_bytes.min(limits.allocation_bytes).saturating_sub(spare_bytes);
        if len_bytes > limit_bytes {
            return Err(DeviceError::OutOfAddresses { asked_bytes: len_bytes, limit_bytes });
        }
        let (buffer, memory) = source.plain(len_bytes + spare_bytes, sharing)?;
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
            Self::Part(Pages { part, .. }) => part.chunk.plain.address + part.first * PAGE_BYTES,
        }
    }

    /// The buffer, and where in it byte 0 is.
    pub(crate) fn place(&self) -> (vk::Buffer, u64) {
        match self {
            Self::Own(plain) => (plain.buffer.raw(), plain.skew_bytes),
            Self::Part(Pages { part, .. }) => (part.chunk.plain.buffer.raw(), part.start()),
        }
    }

    /// Gives the memory of its `len_bytes` out.
    pub(crate) fn export(
        &self,
        kinds: HandleKinds,
        len_bytes: u64,
    ) -> Result<Exported, DeviceError> {
        match self {
            Self::Own(plain) => {
                let exported = plain.memory.export(kinds, plain.skew_bytes, len_bytes)?;
                Ok(Exported { is_alone: true, ..exported })
            }
            Self::Part(Pages { part, .. }) => {
                part.chunk.plain.memory.export(kinds, part.start(), len_bytes)
            }
        }
    }

    /// Gives the pages back to the system where that is possible.
    pub(crate) fn empty(&self, len_bytes: u64) {
        match self {
            Self::Own(plain) => {
                plain.memory.empty(plain.skew_bytes..plain.skew_bytes + len_bytes);
            }
            Self::Part(Pages { part, .. }) => part.empty(len_bytes),
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let Some(chunks) = self.chunks.upgrade() else { return };
        let mut dealt = chunks.dealt.lock();
        if chunks.source.is_lazy() {
            dealt.keep(self.part.clone());
        } else {
            dealt.give(&self.part);
        }
    }
}
