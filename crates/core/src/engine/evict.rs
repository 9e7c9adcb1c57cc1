//! Making room on a device: the least recently used buffers give up their memory there.
//!
//! Clean blocks go for nothing. Blocks whose only copy is on the device are copied home first; the next round finds them clean. Victims
//! are only tried, never waited for, so two launches that make room cannot wait for each other; and a launch never
//! picks what it needs itself.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::plan::{Step, spans};
use crate::{
    coherence::Effect,
    directory::{FenceSet, PageSpan},
    error::Error,
    runtime::{Inner, OpenDevice},
    stats::Cause,
    units::{BLOCK_BYTES, PageMask},
    vec::{Buffer, BufferState},
};

/// What one victim gave.
#[derive(Debug, Default)]
struct Given {
    freed_bytes: u64,
    /// Bytes that will be free for the taking once the waits are over.
    coming_bytes: u64,
}

impl Inner {
    /// Frees at least `shortfall_bytes` on the device, or waits for what has to end before that is possible; the caller tries
    /// again either way.
    ///
    /// # Errors
    /// [`Error::OutOfDeviceMemory`] when nothing can be moved out and nothing is in flight that could change this.
    pub(super) fn make_room(
        &self,
        open: &OpenDevice,
        asked_bytes: u64,
        shortfall_bytes: u64,
        keep: &[&Arc<Buffer>],
    ) -> Result<(), Error> {
        let out_of_memory = Error::OutOfDeviceMemory {
            device: open.id,
            asked_bytes,
            free_bytes: open.budget.free_bytes(),
            limit_bytes: open.budget.limit_bytes(),
        };
        if asked_bytes > open.budget.limit_bytes() {
            return Err(out_of_memory);
        }
        let mut waits = self.retired_fences();
        let mut given = Given::default();
        let mut busy = false;
        for victim in self.victims(open, keep, &mut busy) {
            if given.freed_bytes + given.coming_bytes >= shortfall_bytes {
                break;
            }
            match victim.state.try_lock() {
                Some(mut state) => {
                    let enough = shortfall_bytes - given.freed_bytes - given.coming_bytes;
                    let one = self.evict(open, &victim, &mut state, enough, &mut waits)?;
                    given.freed_bytes += one.freed_bytes;
                    given.coming_bytes += one.coming_bytes;
                }
                None => busy = true,
            }
        }
        if given.freed_bytes >= shortfall_bytes {
            return Ok(());
        }
        if !waits.is_empty() {
            return self.wait_all(&waits);
        }
        if busy {
            // Somebody else has the victim's lock, for the moment that an attempt takes.
            std::thread::yield_now();
            return Ok(());
        }
        if given.freed_bytes > 0 { Ok(()) } else { Err(out_of_memory) }
    }

    /// Buffers with memory on the device, the least recently used first.
    fn victims(
        &self,
        open: &OpenDevice,
        keep: &[&Arc<Buffer>],
        busy: &mut bool,
    ) -> Vec<Arc<Buffer>> {
        let Ok(slot) = self.slot(open.id) else { return Vec::new() };
        let residents: Vec<_> =
            slot.residents.lock().iter().filter_map(std::sync::Weak::upgrade).collect();
        let mut victims: Vec<_> = residents
            .into_iter()
            .filter(|buffer| !keep.iter().any(|kept| Arc::ptr_eq(kept, buffer)))
            .filter_map(|buffer| {
                let last_use = buffer.state.try_lock().map(|state| state.last_use);
                *busy |= last_use.is_none();
                last_use.map(|last_use| (last_use, buffer))
            })
            .collect();
        victims.sort_by_key(|(last_use, _)| *last_use);
        victims.into_iter().map(|(_, buffer)| buffer).collect()
    }

    /// Takes up to about `enough_bytes` from one victim.
    fn evict(
        &self,
        open: &OpenDevice,
        buffer: &Arc<Buffer>,
        state: &mut BufferState,
        enough_bytes: u64,
        waits: &mut FenceSet,
    ) -> Result<Given, Error> {
        let mut given = Given::default();
        let Some(reservation) = state.memory(open.id) else { return Ok(given) };
        self.settle(state, buffer.all());
        let node = open.node;
        let (mut clean, mut dirty) = (Vec::new(), Vec::new());
        let mut busy = FenceSet::default();
        let pages = state.directory.pages();
        for (blocks, run) in state.directory.runs().filter(|(_, run)| run.backed.contains(node)) {
            let before = busy.as_slice().len();
            // Whatever touches the copy on the device has to end first.
            busy.extend(run.log.waits(Effect::Write { on: node }, PageMask::FULL));
            let held = run.log.promised().valid_on(node);
            let elsewhere = run
                .log
                .promised()
                .holders()
                .iter()
                .filter(|(holder, _)| *holder != node)
                .fold(PageMask::EMPTY, |sum, (_, held)| sum.or(*held));
            let only_here = held.without(elsewhere);
            if busy.as_slice().len() > before {
                continue;
            }
            if only_here.is_empty() {
                clean.push(blocks);
            } else {
                let steps = spans(blocks.clone(), only_here, pages);
                dirty.extend(
                    steps.map(|pages| {
                        (0, Step { from: node, to: crate::node::NodeId::HOST, pages })
                    }),
                );
                given.coming_bytes += bytes(&blocks, buffer);
            }
            let found =
                given.coming_bytes + clean.iter().map(|blocks| bytes(blocks, buffer)).sum::<u64>();
            if found >= enough_bytes && !reservation.backs_whole {
                break;
            }
        }
        waits.extend(busy.as_slice().iter().copied());
        let whole_only = reservation.backs_whole;
        if !dirty.is_empty() {
            waits.extend(
                self.copy_home(&dirty, Cause::Eviction, &[buffer], state)?
                    .as_slice()
                    .iter()
                    .copied(),
            );
        }
        if whole_only && !(dirty.is_empty() && busy.is_empty()) {
            return Ok(given);
        }
        let ranges: Vec<_> = if whole_only && !clean.is_empty() {
            std::iter::once(0..buffer.span.len_bytes).collect()
        } else {
            clean.iter().map(|blocks| byte_range(blocks, buffer)).collect()
        };
        for range in &ranges {
            let first = range.start / crate::units::PAGE_BYTES;
            let span = PageSpan { first, end: range.end.div_ceil(crate::units::PAGE_BYTES) };
            state.directory.change(span, |_, _, run| run.log.drop_clean(node, PageMask::FULL));
        }
        given.freed_bytes = ranges.iter().map(|range| range.end - range.start).sum();
        let blocks: u64 =
            ranges.iter().map(|range| (range.end - range.start).div_ceil(BLOCK_BYTES)).sum();
        self.counters.evicted_blocks.fetch_add(blocks, Relaxed);
        self.unback(open, reservation, state, &ranges);
        Ok(given)
    }

    /// What is in flight on buffers that were dropped; their memory comes back when it has ended.
    fn retired_fences(&self) -> FenceSet {
        self.release_retired();
        let mut fences = FenceSet::default();
        for buffer in self.retired.lock().iter() {
            let pending = self.pending(buffer, &mut buffer.state.lock());
            fences.extend(pending.as_slice().iter().copied());
        }
        fences
    }
}

fn byte_range(blocks: &std::ops::Range<u32>, buffer: &Buffer) -> std::ops::Range<u64> {
    let end = u64::from(blocks.end) * BLOCK_BYTES;
    u64::from(blocks.start) * BLOCK_BYTES..end.min(buffer.span.len_bytes)
}

fn bytes(blocks: &std::ops::Range<u32>, buffer: &Buffer) -> u64 {
    let range = byte_range(blocks, buffer);
    range.end - range.start
}
