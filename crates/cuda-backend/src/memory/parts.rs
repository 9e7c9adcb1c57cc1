//! Reservations below a block: pages of a chunk that has the size of one. A chunk has memory while any of its parts has.

use std::sync::Arc;

use hmmap_core::{
    backend::DeviceError,
    units::{BLOCK_BYTES, PAGE_BYTES},
};
use parking_lot::Mutex;
use range_alloc::RangeAllocator;

use super::{
    LIMIT_BYTES, OUTSIDE, TWICE,
    handle::{Addresses, Physical},
    imported, map_whole,
    pool::Pool,
};
use crate::driver::Address;

/// The chunks that have, or had, a part.
#[derive(Debug)]
pub(crate) struct Parts {
    pool: Arc<Pool>,
    chunks: Arc<Mutex<Vec<Arc<Chunk>>>>,
}

#[derive(Debug)]
struct Chunk {
    addresses: Addresses,
    free: Mutex<RangeAllocator<u64>>,
    under: Mutex<Under>,
    pool: Arc<Pool>,
}

#[derive(Debug, Default)]
struct Under {
    /// With the allocation's number.
    memory: Option<(Physical, u64)>,
    /// Parts that are backed.
    users: usize,
}

/// Pages of a chunk; given back when dropped.
#[derive(Debug)]
pub(crate) struct Part {
    chunk: Arc<Chunk>,
    first: u64,
    count: u64,
    is_backed: Mutex<bool>,
    chunks: Arc<Mutex<Vec<Arc<Chunk>>>>,
}

impl Parts {
    pub(crate) fn new(pool: &Arc<Pool>) -> Self {
        Self { pool: Arc::clone(pool), chunks: Arc::default() }
    }

    /// Pages for a reservation below a block.
    pub(crate) fn reserve(&self, len_bytes: u64) -> Result<Part, DeviceError> {
        let count = len_bytes.div_ceil(PAGE_BYTES);
        let mut chunks = self.chunks.lock();
        let take = |chunk: &Arc<Chunk>| {
            let taken = chunk.free.lock().allocate_range(count).ok()?;
            Some((Arc::clone(chunk), taken.start))
        };
        let found = chunks.iter().rev().find_map(take);
        let (chunk, first) = match found {
            Some(found) => found,
            None => {
                let chunk = Arc::new(Chunk::new(&self.pool)?);
                chunks.push(Arc::clone(&chunk));
                take(&chunk).ok_or(OUTSIDE)?
            }
        };
        let chunks = Arc::clone(&self.chunks);
        Ok(Part { chunk, first, count, is_backed: Mutex::new(false), chunks })
    }
}

impl Chunk {
    fn new(pool: &Arc<Pool>) -> Result<Self, DeviceError> {
        let current = pool.context().enter()?;
        let addresses = Addresses::reserve(pool.context(), &current, BLOCK_BYTES, LIMIT_BYTES)?;
        let free = RangeAllocator::new(0..BLOCK_BYTES / PAGE_BYTES);
        let (free, under) = (Mutex::new(free), Mutex::default());
        Ok(Self { addresses, free, under, pool: Arc::clone(pool) })
    }

    fn back(&self) -> Result<(), DeviceError> {
        let mut under = self.under.lock();
        if under.memory.is_none() {
            let current = self.pool.context().enter()?;
            let physical = self.pool.take_whole(&current, BLOCK_BYTES)?;
            if let Err(error) = map_whole(&self.addresses, &current, &physical) {
                self.pool.give_whole(physical);
                return Err(error);
            }
            under.memory = Some((physical, imported::next_allocation()));
        }
        under.users += 1;
        Ok(())
    }

    fn unback(&self) -> Result<(), DeviceError> {
        let mut under = self.under.lock();
        under.users = under.users.checked_sub(1).ok_or(OUTSIDE)?;
        if under.users > 0 {
            return Ok(());
        }
        let current = self.pool.context().enter_anyway()?;
        // Where unmapping fails the memory stays, for the next part.
        self.addresses.unmap(&current, 0, BLOCK_BYTES)?;
        if let Some((physical, _)) = under.memory.take() {
            self.pool.give_whole(physical);
        }
        Ok(())
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let Some((physical, _)) = self.under.get_mut().memory.take() else { return };
        if let Ok(current) = self.pool.context().enter_anyway() {
            // An error leaves it mapped; the driver frees it with the context.
            let _ = self.addresses.unmap(&current, 0, BLOCK_BYTES);
        }
        self.pool.give_whole(physical);
    }
}

impl Part {
    /// The first device address.
    pub(crate) fn start(&self) -> Address {
        self.chunk.addresses.start() + self.first * PAGE_BYTES
    }

    pub(crate) fn back(&self) -> Result<(), DeviceError> {
        let mut is_backed = self.is_backed.lock();
        if *is_backed {
            return Err(TWICE);
        }
        self.chunk.back()?;
        *is_backed = true;
        Ok(())
    }

    pub(crate) fn unback(&self) -> Result<(), DeviceError> {
        let mut is_backed = self.is_backed.lock();
        if !*is_backed {
            return Err(OUTSIDE);
        }
        *is_backed = false;
        self.chunk.unback()
    }

    /// Looks at the chunk's memory: addresses, memory, the allocation's number, and where in it the part begins.
    pub(crate) fn with_memory<R>(
        &self,
        look: impl FnOnce(&Addresses, &Physical, u64, u64) -> Result<R, DeviceError>,
    ) -> Result<R, DeviceError> {
        if !*self.is_backed.lock() {
            return Err(OUTSIDE);
        }
        let under = self.chunk.under.lock();
        let (physical, number) = under.memory.as_ref().ok_or(OUTSIDE)?;
        look(&self.chunk.addresses, physical, *number, self.first * PAGE_BYTES)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if std::mem::take(self.is_backed.get_mut())
            && let Err(error) = self.chunk.unback()
            && error != DeviceError::Lost
        {
            tracing::error!(%error, "device memory could not be unmapped");
        }
        // Under the lock of the list, so that nobody takes pages of a chunk that is being let go.
        let mut chunks = self.chunks.lock();
        let mut free = self.chunk.free.lock();
        free.free_range(self.first..self.first + self.count);
        let is_empty = free.is_empty();
        drop(free);
        // The last chunk stays: a vector that comes and goes should not cost two driver calls each time.
        if is_empty && chunks.len() > 1 {
            chunks.retain(|chunk| !Arc::ptr_eq(chunk, &self.chunk));
        }
    }
}
