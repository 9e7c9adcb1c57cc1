//! Where the memory of blocks comes from: handles of one block that nobody uses, else the driver. And the budget.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use hmmap_core::{backend::DeviceError, units::BLOCK_BYTES};
use parking_lot::Mutex;

use super::handle::{Physical, Sharing};
use crate::context::{Context, Current};

/// Handles that stay for the next block: making and giving back one costs the driver more than mapping it.
const MOST_SPARE: usize = 64;

/// The memory of one device.
#[derive(Debug)]
pub(crate) struct Pool {
    context: Arc<Context>,
    spare: Mutex<Vec<Physical>>,
    limit_bytes: u64,
    used_bytes: AtomicU64,
    shares: AtomicBool,
}

impl Pool {
    /// A pool that gives out at most so much.
    pub(crate) fn new(context: &Arc<Context>, limit_bytes: u64) -> Self {
        Self {
            context: Arc::clone(context),
            spare: Mutex::default(),
            limit_bytes,
            used_bytes: AtomicU64::new(0),
            shares: AtomicBool::new(false),
        }
    }

    /// The context.
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Memory that is given out now, in bytes.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// From now on memory of whole reservations can be given out to others.
    pub(crate) fn share(&self) {
        self.shares.store(true, Ordering::Release);
    }

    fn count(&self, len_bytes: u64) -> Result<(), DeviceError> {
        let within = |used: u64| used.checked_add(len_bytes).filter(|sum| *sum <= self.limit_bytes);
        // Relaxed: a plain count, nothing is published through it.
        let taken = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
        taken.map(drop).map_err(|_| DeviceError::OutOfMemory { asked_bytes: len_bytes })
    }

    fn uncount(&self, len_bytes: u64) {
        self.used_bytes.fetch_sub(len_bytes, Ordering::Relaxed);
    }

    /// Memory for `count` blocks. All or none.
    pub(crate) fn take_blocks(
        &self,
        current: &Current<'_>,
        count: usize,
    ) -> Result<Vec<Physical>, DeviceError> {
        let asked_bytes = count as u64 * BLOCK_BYTES;
        self.count(asked_bytes)?;
        let mut spare = self.spare.lock();
        let left = spare.len().saturating_sub(count);
        let mut taken = spare.split_off(left);
        drop(spare);
        while taken.len() < count {
            match Physical::new(&self.context, current, BLOCK_BYTES, Sharing::No) {
                Ok(block) => taken.push(block),
                Err(error) => {
                    let missing = (count - taken.len()) as u64 * BLOCK_BYTES;
                    self.give_blocks(taken);
                    self.uncount(missing);
                    return Err(with_bytes(error, asked_bytes));
                }
            }
        }
        Ok(taken)
    }

    /// Takes blocks back that nothing is mapped to any more.
    pub(crate) fn give_blocks(&self, blocks: Vec<Physical>) {
        self.uncount(blocks.len() as u64 * BLOCK_BYTES);
        let mut spare = self.spare.lock();
        let room = MOST_SPARE.saturating_sub(spare.len());
        let mut blocks = blocks;
        let surplus = blocks.split_off(room.min(blocks.len()));
        spare.append(&mut blocks);
        drop(spare);
        drop(surplus);
    }

    /// Memory of one piece.
    pub(crate) fn take_whole(
        &self,
        current: &Current<'_>,
        len_bytes: u64,
    ) -> Result<Physical, DeviceError> {
        self.count(len_bytes)?;
        let sharing = if self.shares.load(Ordering::Acquire) { Sharing::Fd } else { Sharing::No };
        let new = || Physical::new(&self.context, current, len_bytes, sharing);
        let made = match new() {
            // Spare blocks may be what is in the way.
            Err(DeviceError::OutOfMemory { .. }) if self.trim() => new(),
            made => made,
        };
        made.inspect_err(|_| self.uncount(len_bytes))
    }

    /// Takes such memory back.
    pub(crate) fn give_whole(&self, physical: Physical) {
        self.uncount(physical.len_bytes());
    }

    /// Gives spare blocks back to the driver; false when there were none.
    fn trim(&self) -> bool {
        let spare = std::mem::take(&mut *self.spare.lock());
        !spare.is_empty()
    }
}

fn with_bytes(error: DeviceError, asked_bytes: u64) -> DeviceError {
    match error {
        DeviceError::OutOfMemory { .. } => DeviceError::OutOfMemory { asked_bytes },
        other => other,
    }
}
