//! Making room on a device: the least recently used buffers give up their memory there.
//!
//! Clean blocks go for nothing. Blocks whose only copy is on the device are copied home first; the next round finds them clean. Victims
//! are only tried, never waited for, so two launches that make room cannot wait for each other; and a launch never
//! picks what it needs itself, but may pick other blocks of the same buffers.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use smallvec::SmallVec;

use super::{
    peers::{Marks, Wanted, Why},
    plan::{Step, spans},
    working_set::{Kept, NoRoom},
};
use crate::{
    directory::{FenceSet, PageSpan},
    error::Error,
    node::NodeId,
    peer::Taking,
    runtime::{Inner, OpenDevice},
    stats::Cause,
    sync,
    units::{BLOCK_BYTES, PAGES_PER_BLOCK, PageMask},
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
    /// Frees at least the shortfall on the device, or waits for what has to end before that is possible; the caller tries
    /// again either way.
    ///
    /// # Errors
    /// [`Error::OutOfDeviceMemory`] when nothing can be moved out and nothing is in flight that could change this.
    pub(super) fn make_room(
        &self,
        open: &OpenDevice,
        no_room: NoRoom,
        kept: Kept<'_>,
    ) -> Result<(), Error> {
        let NoRoom { asked_bytes, shortfall_bytes, gifts } = no_room;
        let out_of_memory = Error::OutOfDeviceMemory {
            device: open.id,
            asked_bytes,
            free_bytes: open.budget.free_bytes(),
            limit_bytes: open.budget.limit_bytes(),
            pinned_bytes: self.pinned_on(open),
        };
        if asked_bytes > open.budget.limit_bytes() {
            return Err(out_of_memory);
        }
        let mut waits = self.retired_fences();
        let mut given = Given::default();
        let mut busy = false;
        // Victims that peers keep where they are.
        let mut mapped = Vec::new();
        for victim in self.victims(open, &mut busy) {
            if given.freed_bytes + given.coming_bytes >= shortfall_bytes {
                break;
            }
            match victim.state.try_lock() {
                // Held since it was looked at: no victim any more.
                Some(state) if state.held > 0 => {}
                Some(mut state) => {
                    if state.mapped_by_peers(open.node).next().is_some() {
                        mapped.push(victim.clone());
                    }
                    let enough = shortfall_bytes - given.freed_bytes - given.coming_bytes;
                    let one = self.evict(open, &victim, &mut state, enough, kept, &mut waits)?;
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
            sync::yield_now();
            return Ok(());
        }
        // What others gave back meanwhile, dropped buffers among them, counts as well.
        if given.freed_bytes > 0 || open.budget.gifts() != gifts {
            return Ok(());
        }
        let given = self.make_room_from_peers(open, &mapped, shortfall_bytes, kept)?;
        let given = given || self.await_retired_peers(open.node);
        if given || open.budget.gifts() != gifts { Ok(()) } else { Err(out_of_memory) }
    }

    /// Takes pages of these buffers back from peers to free them: only when nothing else is left. False when peers do not give them; true also when somebody else has
    /// taken them back meanwhile, and it has to be looked again.
    fn make_room_from_peers(
        &self,
        open: &OpenDevice,
        mapped: &[Arc<Buffer>],
        enough_bytes: u64,
        kept: Kept<'_>,
    ) -> Result<bool, Error> {
        let taking = Taking::Free(open.node);
        let why = Why { cause: Cause::Eviction, initiator: open.node, tolerates_late: false };
        for victim in mapped.iter().filter(|victim| kept.spans(victim).is_empty()) {
            let span = victim.all();
            let [by_anybody, by_who_answers] = {
                let state = victim.state.lock();
                [false, true].map(|without_late| state.is_hindered(span, taking, without_late))
            };
            if !by_anybody {
                return Ok(true);
            }
            if !by_who_answers {
                continue;
            }
            let mut marks = Marks::default();
            let wanted = Wanted { buffer: victim.clone(), span, taking };
            match self.take_back(&mut marks, &[wanted], why) {
                Err(Error::Pinned { .. } | Error::PeerLate { .. }) => continue,
                other => other?,
            }
            if marks.is_empty() {
                // It was somebody else's revocation.
                return Ok(true);
            }
            // Again while there is something to wait for: what is only there comes home first, and what was begun before goes on.
            loop {
                let mut waits = FenceSet::default();
                let mut state = victim.state.lock();
                let given = self.evict(open, victim, &mut state, enough_bytes, kept, &mut waits)?;
                drop(state);
                if given.freed_bytes > 0 {
                    return Ok(true);
                }
                if waits.is_empty() {
                    break;
                }
                self.wait_all(&waits)?;
            }
        }
        Ok(false)
    }

    /// Buffers with memory on the device, the least recently used first.
    fn victims(&self, open: &OpenDevice, busy: &mut bool) -> Vec<Arc<Buffer>> {
        let Ok(slot) = self.slot(open.id) else { return Vec::new() };
        let residents: Vec<_> =
            slot.residents.lock().iter().filter_map(std::sync::Weak::upgrade).collect();
        let mut victims: Vec<_> = residents
            .into_iter()
            .filter_map(|buffer| {
                let state = buffer.state.try_lock();
                *busy |= state.is_none();
                let last_use = state.filter(|state| state.held == 0)?.last_use;
                Some((last_use, buffer))
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
        kept: Kept<'_>,
        waits: &mut FenceSet,
    ) -> Result<Given, Error> {
        let Some(reservation) = state.memory(open.id) else { return Ok(Given::default()) };
        let mut kept = kept.spans(buffer);
        kept.extend(state.mapped_by_peers(open.node));
        let whole_only = reservation.backs_whole;
        if whole_only && !kept.is_empty() {
            return Ok(Given::default());
        }
        self.settle(state, buffer.all());
        let enough_bytes = if whole_only { u64::MAX } else { enough_bytes };
        let survey = survey(open.node, buffer, state, enough_bytes, &kept);
        waits.extend(survey.busy.as_slice().iter().copied());
        if !survey.dirty.is_empty() {
            let home = self.copy_home(&survey.dirty, Cause::Eviction, &[buffer], state)?;
            waits.extend(home.as_slice().iter().copied());
        }
        let mut given = Given { freed_bytes: 0, coming_bytes: survey.coming_bytes };
        let stays = whole_only && !(survey.dirty.is_empty() && survey.busy.is_empty());
        if stays || survey.clean.is_empty() {
            return Ok(given);
        }
        let pages = state.directory.pages();
        for span in
            survey.clean.iter().flat_map(|blocks| spans(blocks.clone(), PageMask::FULL, pages))
        {
            state.directory.change(span, |_, _, run| run.log.drop_clean(open.node, PageMask::FULL));
        }
        let ranges: Vec<_> = if whole_only {
            std::iter::once(0..buffer.span.len_bytes).collect()
        } else {
            survey.clean.iter().map(|blocks| byte_range(blocks, buffer)).collect()
        };
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

/// What a victim could give, found without touching anything.
#[derive(Debug, Default)]
struct Survey {
    /// Blocks whose pages are all current elsewhere too, or empty.
    clean: Vec<Range<u32>>,
    /// Copies home that would make the other blocks clean.
    dirty: Vec<(usize, Step)>,
    /// What is in flight on blocks that could go otherwise.
    busy: FenceSet,
    /// Bytes of the blocks that `dirty` makes clean.
    coming_bytes: u64,
}

fn survey(
    node: NodeId,
    buffer: &Buffer,
    state: &BufferState,
    enough_bytes: u64,
    kept: &[PageSpan],
) -> Survey {
    let mut survey = Survey::default();
    let mut found_bytes = 0;
    let pages = state.directory.pages();
    let backed = state.directory.runs().filter(|(_, run)| run.backed.contains(node));
    for (blocks, run) in backed.flat_map(|(blocks, run)| {
        outside(blocks, kept).into_iter().map(move |blocks| (blocks, run))
    }) {
        if found_bytes >= enough_bytes {
            break;
        }
        if !run.log.is_settled() {
            // What is in flight may touch the copy, or may fail and leave it the last good one.
            let pending = run.log.promises().iter().filter(|promise| promise.is_pending());
            survey.busy.extend(pending.map(|promise| promise.fence));
            continue;
        }
        let range = byte_range(&blocks, buffer);
        found_bytes += range.end - range.start;
        let settled = run.log.settled();
        let others = settled.holders().iter().filter(|(holder, _)| *holder != node);
        let elsewhere = others.fold(PageMask::EMPTY, |sum, (_, held)| sum.or(*held));
        let only_here = settled.valid_on(node).without(elsewhere);
        if only_here.is_empty() {
            survey.clean.push(blocks);
        } else {
            let step = |pages| (0, Step { from: node, to: NodeId::HOST, pages });
            survey.dirty.extend(spans(blocks, only_here, pages).map(step));
            survey.coming_bytes += range.end - range.start;
        }
    }
    survey
}

/// The parts of `blocks` that hold no page of `kept`.
fn outside(blocks: Range<u32>, kept: &[PageSpan]) -> SmallVec<[Range<u32>; 2]> {
    let mut parts = SmallVec::from_iter([blocks]);
    for span in kept {
        let first = (span.first / PAGES_PER_BLOCK) as u32;
        let end = span.end.div_ceil(PAGES_PER_BLOCK) as u32;
        let cut =
            |part: Range<u32>| [part.start..part.end.min(first), part.start.max(end)..part.end];
        parts = parts.into_iter().flat_map(cut).filter(|part| !part.is_empty()).collect();
    }
    parts
}

fn byte_range(blocks: &Range<u32>, buffer: &Buffer) -> Range<u64> {
    let end = u64::from(blocks.end) * BLOCK_BYTES;
    u64::from(blocks.start) * BLOCK_BYTES..end.min(buffer.span.len_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_a_launch_needs_are_cut_out() {
        let parts = |blocks, kept: &[(u64, u64)]| {
            let spans = kept.iter().map(|(first, end)| PageSpan { first: *first, end: *end });
            let parts = outside(blocks, &spans.collect::<Vec<_>>());
            parts.iter().map(|part| (part.start, part.end)).collect::<Vec<_>>()
        };
        assert_eq!(parts(2..9, &[]), [(2, 9)]);
        assert_eq!(parts(0..9, &[(33, 34)]), [(0, 1), (2, 9)]);
        assert_eq!(parts(0..9, &[(0, 32), (255, 257)]), [(1, 7)]);
        assert_eq!(parts(4..6, &[(0, 64)]), [(4, 6)]);
        assert_eq!(parts(4..6, &[(100, 300)]), []);
    }
}
