//! Sparse backing: device addresses first, memory under single blocks later.
//!
//! Blocks come from chunks of 32 (64 MiB) of plain memory. Memory of any external kind, imported host memory above all, is never bound here:
//! lavapipe answers success and maps file descriptor 0 instead.
#![allow(unsafe_code, reason = "binds memory to blocks of sparse buffers")]

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use ash::vk;
use hmmap_core::{
    backend::DeviceError,
    units::{BLOCK_BYTES, PAGE_BYTES, blocks_for},
};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{
    binder::Binder,
    pieces::Pieces,
    pool::{CHUNK_BLOCKS, Extent, FreeBlocks, Pages},
    source::{Memory, MemorySource},
};
use crate::{
    buffer::Buffer,
    gpu::{Gpu, QueueHandle},
};

/// Mappings that sparse buffers of all devices have beyond one each, where the driver makes one per bind: the limit is the process's.
static MAPPINGS: AtomicI64 = AtomicI64::new(0);

/// Pages that blocks have kept of what was in their memory before: the buffer, and bytes of it.
pub(crate) type KeptPages = SmallVec<[(vk::Buffer, Range<u64>); 4]>;

/// Everything that sparse reservations of one device share.
#[derive(Debug)]
pub(crate) struct SparseSpace {
    gpu: Arc<Gpu>,
    source: Arc<MemorySource>,
    pool: Mutex<Pool>,
    binder: Binder,
    /// The most bytes in one buffer, and in all.
    limits: (u64, u64),
    reserved_bytes: AtomicU64,
    /// The most mappings, where the driver makes one per bind.
    mappings: Option<i64>,
}

#[derive(Debug, Default)]
struct Pool {
    free: FreeBlocks,
    chunks: Vec<Option<Memory>>,
}

/// A sparse reservation.
#[derive(Debug)]
pub(crate) struct Sparse {
    /// First: the buffer goes before the memory that is bound to it.
    buffer: Option<Buffer>,
    /// Bytes before the first address that is a multiple of the page size.
    skew_bytes: u64,
    address: u64,
    reserved_bytes: u64,
    state: Mutex<State>,
    space: Arc<SparseSpace>,
}

#[derive(Debug)]
struct State {
    /// Per block, the chunk and the block in it.
    bound: Vec<Option<(usize, u32)>>,
    /// What the last bind ends with.
    last: u64,
    pieces: Pieces,
}

impl SparseSpace {
    /// Sparse binding on this queue; only where the device has it.
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        source: &Arc<MemorySource>,
        queue: &Arc<QueueHandle>,
        limits: (u64, u64),
    ) -> Result<Self, DeviceError> {
        Ok(Self {
            gpu: Arc::clone(gpu),
            source: Arc::clone(source),
            pool: Mutex::default(),
            binder: Binder::new(gpu, queue)?,
            limits,
            reserved_bytes: AtomicU64::new(0),
            mappings: source.is_lazy().then(mapping_limit),
        })
    }

    /// Reserves addresses; no memory.
    pub(crate) fn reserve(self: &Arc<Self>, len_bytes: u64) -> Result<Sparse, DeviceError> {
        let blocks = blocks_for(len_bytes);
        let mut reserved_bytes = blocks * BLOCK_BYTES;
        let mut buffer = self.buffer(reserved_bytes, len_bytes)?;
        let mut skew_bytes = skew(&buffer);
        if skew_bytes > 0 {
            drop(buffer);
            self.unreserve(reserved_bytes);
            reserved_bytes += PAGE_BYTES;
            buffer = self.buffer(reserved_bytes, len_bytes)?;
            skew_bytes = skew(&buffer);
        }
        let alignment = buffer.requirements().alignment;
        let address = buffer.address() + skew_bytes;
        let pieces = Pieces::new(blocks as usize);
        let state = Mutex::new(State { bound: vec![None; blocks as usize], last: 0, pieces });
        let space = Arc::clone(self);
        let sparse =
            Sparse { buffer: Some(buffer), skew_bytes, address, reserved_bytes, state, space };
        if !BLOCK_BYTES.is_multiple_of(alignment) || !skew_bytes.is_multiple_of(alignment) {
            return Err(DeviceError::Unsupported { what: "sparse binding at the size of a block" });
        }
        Ok(sparse)
    }

    fn buffer(&self, reserve_bytes: u64, asked_bytes: u64) -> Result<Buffer, DeviceError> {
        let (one, all) = self.limits;
        let within = |used: u64| used.checked_add(reserve_bytes).filter(|sum| *sum <= all);
        let too_long = DeviceError::OutOfAddresses { asked_bytes, limit_bytes: one.min(all) };
        if reserve_bytes > one {
            return Err(too_long);
        }
        // Relaxed: a plain count, nothing is published through it.
        let taken = self.reserved_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
        taken.map_err(|_| too_long)?;
        Buffer::sparse(&self.gpu, reserve_bytes).inspect_err(|_| self.unreserve(reserve_bytes))
    }

    fn unreserve(&self, bytes: u64) {
        self.reserved_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes blocks out of the pool, and new chunks from the driver where it has too few. All or none.
    fn take(
        &self,
        count: u64,
        requirements: vk::MemoryRequirements,
    ) -> Result<SmallVec<[Extent; 4]>, DeviceError> {
        let mut pool = self.pool.lock();
        while pool.free.count() < count {
            let memory = self.source.allocate(vk::MemoryRequirements {
                size: u64::from(CHUNK_BLOCKS) * BLOCK_BYTES,
                alignment: requirements.alignment,
                memory_type_bits: requirements.memory_type_bits,
            })?;
            let number = pool.free.add();
            if number == pool.chunks.len() {
                pool.chunks.push(None);
            }
            pool.chunks[number] = Some(memory);
        }
        Ok(pool.free.take(count))
    }

    /// Gives blocks that nothing is bound to any more back; the pages of those that do not keep them to the system where the driver would keep them.
    fn give(&self, extents: impl IntoIterator<Item = Extent>) {
        let mut gone = Vec::new();
        let mut pool = self.pool.lock();
        for mut extent in extents {
            if extent.count > pool.free.may_keep() {
                extent.pages = Pages::Fresh;
            }
            let start = u64::from(extent.first) * BLOCK_BYTES;
            if let (Pages::Fresh, Some(Some(memory))) =
                (extent.pages, pool.chunks.get(extent.chunk))
            {
                memory.empty(start..start + u64::from(extent.count) * BLOCK_BYTES);
            }
            if let Some(number) = pool.free.give(extent) {
                gone.push(pool.chunks.get_mut(number).and_then(Option::take));
            }
        }
        drop(pool);
        if !gone.is_empty() {
            // Some of it may still be in the place of what left it.
            self.binder.wait_for_all();
        }
    }

    /// What whoever uses blocks from now on has to wait for.
    pub(crate) fn pending(&self) -> Option<(vk::Semaphore, u64)> {
        self.binder.pending()
    }

    /// True when there is room for this many mappings more.
    fn can_map(&self, more: usize) -> bool {
        // Relaxed: a plain count, nothing is published through it.
        self.mappings.is_none_or(|limit| MAPPINGS.load(Ordering::Relaxed) + more as i64 <= limit)
    }

    /// Counts what one call maps anew.
    fn mapped(&self, pieces: &mut Pieces, blocks: Range<usize>) {
        if self.mappings.is_some() {
            MAPPINGS.fetch_add(pieces.replace(blocks), Ordering::Relaxed);
        }
    }
}

impl Sparse {
    /// The device address of byte 0.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// The buffer, and where in it byte 0 is.
    pub(crate) fn place(&self) -> (vk::Buffer, u64) {
        (self.buffer.as_ref().map_or(vk::Buffer::null(), Buffer::raw), self.skew_bytes)
    }

    /// Puts memory under blocks.
    pub(crate) fn back(&self, ranges: &[Range<u64>]) -> Result<KeptPages, DeviceError> {
        let Some(buffer) = &self.buffer else { return Ok(KeptPages::new()) };
        let asked_bytes = ranges.iter().map(|range| range.end - range.start).sum();
        let mut state = self.state.lock();
        let spans: SmallVec<[Range<usize>; 4]> = ranges.iter().map(blocks).collect();
        for span in &spans {
            let there = state.bound.get(span.clone());
            let outside = DeviceError::Misuse { what: "a range outside of its reservation" };
            if there.ok_or(outside)?.iter().any(Option::is_some) {
                return Err(super::TWICE);
            }
        }
        let count = spans.iter().map(|span| span.len() as u64).sum();
        let extents = self.space.take(count, buffer.requirements())?;
        let plan = lay_out(&spans, &extents);
        // A call cuts at most one mapping into three.
        if !self.space.can_map(2 * plan.len()) {
            self.space.give(extents);
            return Err(DeviceError::OutOfMemory { asked_bytes });
        }
        let bound = self.bind(&mut state, buffer, &plan, asked_bytes);
        if bound.is_err() {
            // Some may be bound: take them out again, or else keep the memory until the buffer goes.
            let undone =
                spans.into_iter().try_for_each(|span| self.unbind(&mut state, buffer, span));
            if undone.is_ok() {
                self.space.give(extents);
                return bound.map(|()| KeptPages::new());
            }
        }
        record(&mut state.bound, &plan);
        bound.map(|()| self.kept(buffer, &plan))
    }

    /// The pages that blocks have kept, where mapping them takes a fault for each unless somebody reads them first.
    fn kept(&self, buffer: &Buffer, plan: &[(usize, Extent)]) -> KeptPages {
        let kept = plan.iter().filter(|(_, extent)| extent.pages == Pages::Kept);
        let range = |(block, extent): &(usize, Extent)| {
            let start = self.skew_bytes + *block as u64 * BLOCK_BYTES;
            (buffer.raw(), start..start + u64::from(extent.count) * BLOCK_BYTES)
        };
        kept.filter(|_| self.space.mappings.is_some()).map(range).collect()
    }

    fn bind(
        &self,
        state: &mut State,
        buffer: &Buffer,
        plan: &[(usize, Extent)],
        asked_bytes: u64,
    ) -> Result<(), DeviceError> {
        for (block, extent) in plan {
            self.space.mapped(&mut state.pieces, *block..*block + extent.count as usize);
        }
        let pool = self.space.pool.lock();
        let bind = |(block, extent): &(usize, Extent)| {
            let memory = pool.chunks.get(extent.chunk).and_then(Option::as_ref);
            let (memory, start) = memory.map_or((vk::DeviceMemory::null(), 0), Memory::place);
            vk::SparseMemoryBind {
                resource_offset: self.skew_bytes + *block as u64 * BLOCK_BYTES,
                size: u64::from(extent.count) * BLOCK_BYTES,
                memory,
                memory_offset: start + u64::from(extent.first) * BLOCK_BYTES,
                flags: vk::SparseMemoryBindFlags::empty(),
            }
        };
        let binds: SmallVec<[vk::SparseMemoryBind; 8]> = plan.iter().map(bind).collect();
        drop(pool);
        // SAFETY: (1) the buffer is ours, waits for `last` before it goes, and the blocks lie in it, checked by the caller; alignment was checked when it was
        // made. (2) The memory is plain, of the buffer's types, and goes back to the pool only when it is unbound or the buffer is destroyed; `give` waits before it frees.
        // (3) Nothing uses blocks that were not backed, by the contract of `Device`; submissions wait for what is pending.
        state.last = unsafe { self.space.binder.bind(buffer.raw(), &binds, asked_bytes)? };
        Ok(())
    }

    /// Takes the memory from under blocks that have it.
    pub(crate) fn unback(&self, range: &Range<u64>) -> Result<(), DeviceError> {
        let Some(buffer) = &self.buffer else { return Ok(()) };
        let mut state = self.state.lock();
        let span = blocks(range);
        let there = state.bound.get_mut(span.clone());
        let there = there.filter(|bound| bound.iter().all(Option::is_some));
        let Some(there) = there else {
            return Err(DeviceError::Misuse { what: "blocks that are not backed" });
        };
        let freed: SmallVec<[(usize, u32); 8]> =
            there.iter_mut().filter_map(Option::take).collect();
        // Where each call makes a mapping, unbound neighbours are unbound again with these, as one.
        let wide = match self.space.mappings {
            Some(_) => widen(&state.bound, span.clone()),
            None => span.clone(),
        };
        if let Err(error) = self.unbind(&mut state, buffer, wide) {
            // The memory may still be bound, so it must not be dealt out again before the buffer goes.
            for (slot, block) in state.bound.iter_mut().skip(span.start).zip(freed) {
                *slot = Some(block);
            }
            return Err(error);
        }
        self.space.give(freed.into_iter().map(|block| one(block, Pages::Kept)));
        Ok(())
    }

    fn unbind(
        &self,
        state: &mut State,
        buffer: &Buffer,
        span: Range<usize>,
    ) -> Result<(), DeviceError> {
        self.space.mapped(&mut state.pieces, span.clone());
        let bind = vk::SparseMemoryBind {
            resource_offset: self.skew_bytes + span.start as u64 * BLOCK_BYTES,
            size: span.len() as u64 * BLOCK_BYTES,
            ..Default::default()
        };
        // SAFETY: as in `bind`; all work on the blocks has ended, by the contract of `Device`.
        state.last = unsafe { self.space.binder.bind(buffer.raw(), &[bind], bind.size)? };
        Ok(())
    }

    /// Bytes of blocks that have memory.
    pub(crate) fn backed_bytes(&self, len_bytes: u64) -> u64 {
        let state = self.state.lock();
        let backed = state.bound.iter().enumerate().filter(|(_, block)| block.is_some());
        let start = |block: usize| block as u64 * BLOCK_BYTES;
        backed.map(|(block, _)| (start(block) + BLOCK_BYTES).min(len_bytes) - start(block)).sum()
    }
}

impl Drop for Sparse {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        self.space.binder.wait(state.last);
        // Destroying the buffer takes every binding with it.
        self.buffer = None;
        self.space.unreserve(self.reserved_bytes);
        let all = 0..state.bound.len();
        self.space.mapped(&mut state.pieces, all);
        self.space.give(state.bound.drain(..).flatten().map(|block| one(block, Pages::Fresh)));
    }
}

fn one((chunk, first): (usize, u32), pages: Pages) -> Extent {
    Extent { chunk, first, count: 1, pages }
}

fn skew(buffer: &Buffer) -> u64 {
    let base = buffer.address();
    base.next_multiple_of(PAGE_BYTES) - base
}

/// The blocks of a byte range; the last may end with the reservation.
fn blocks(range: &Range<u64>) -> Range<usize> {
    (range.start / BLOCK_BYTES) as usize..blocks_for(range.end) as usize
}

/// Cuts extents of the pool to the places that need them: (first block, what backs it and those after it).
fn lay_out(spans: &[Range<usize>], extents: &[Extent]) -> SmallVec<[(usize, Extent); 8]> {
    let mut plan = SmallVec::new();
    let mut extents = extents.iter().copied();
    let mut left: Option<Extent> = None;
    for span in spans {
        let mut at = span.start;
        while at < span.end {
            let Some(extent) = left.take().or_else(|| extents.next()) else { return plan };
            let count = extent.count.min((span.end - at) as u32);
            plan.push((at, Extent { count, ..extent }));
            at += count as usize;
            if count < extent.count {
                let (first, count) = (extent.first + count, extent.count - count);
                left = Some(Extent { first, count, ..extent });
            }
        }
    }
    plan
}

fn record(bound: &mut [Option<(usize, u32)>], plan: &[(usize, Extent)]) {
    for (block, extent) in plan {
        for step in 0..extent.count {
            if let Some(slot) = bound.get_mut(block + step as usize) {
                *slot = Some((extent.chunk, extent.first + step));
            }
        }
    }
}

/// A range of blocks with the unbound ones around it.
fn widen(bound: &[Option<(usize, u32)>], span: Range<usize>) -> Range<usize> {
    let before = bound.iter().take(span.start).rev().take_while(|block| block.is_none()).count();
    let after = bound.iter().skip(span.end).take_while(|block| block.is_none()).count();
    span.start - before..span.end + after
}

/// How many mappings sparse buffers may add: half of what the process may have.
fn mapping_limit() -> i64 {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    text.trim().parse().unwrap_or(65_530) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_cut_to_the_places_that_need_them() {
        let extent = |chunk, first, count| Extent { chunk, first, count, pages: Pages::Fresh };
        let extents = [extent(0, 4, 3), extent(1, 0, 2)];
        let plan = lay_out(&[0..2, 7..10], &extents);
        let expected = [(0, extent(0, 4, 2)), (7, extent(0, 6, 1)), (8, extent(1, 0, 2))];
        assert_eq!(plan.as_slice(), expected);
        let mut bound = [None; 10];
        record(&mut bound, &plan);
        assert_eq!(bound[7..], [Some((0, 6)), Some((1, 0)), Some((1, 1))]);
        assert_eq!(bound[2..7], [None; 5]);
    }

    #[test]
    fn unbinding_takes_the_unbound_neighbours_along() {
        let bound = [Some((0, 0)), None, None, None, None, Some((0, 1))];
        assert_eq!(widen(&bound, 2..3), 1..5);
        assert_eq!(widen(&[None, None], 0..1), 0..2);
    }

    #[test]
    fn a_range_may_end_with_the_reservation() {
        assert_eq!(blocks(&(BLOCK_BYTES..2 * BLOCK_BYTES + 1)), 1..3);
    }
}
