//! Making room on a device: blocks give up their memory there.
//!
//! ```text
//! survey: what could go -> what holds nothing, then what was sent home before, then whom the policy names -> evict
//!                          among those whom hints give up first, then among the others, then among those at home here
//! ```
//!
//! Clean blocks go for nothing. Blocks whose only copy is on the device are copied home first; the next round finds them clean, and the
//! ledger remembers them. Victims are only tried, never waited for, so two launches that make room cannot wait for each other; and a launch
//! never picks what it needs itself, but may pick other blocks of the same buffers.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use smallvec::SmallVec;

use super::{
    hinted::Standing,
    leavers::{Holds, Survey, Victim, here, only_here, outside},
    ledger::{Leaving, Told},
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
    units::{BLOCK_BYTES, PageMask},
    vec::{Buffer, BufferState},
};

/// What victims gave.
#[derive(Clone, Copy, Debug, Default)]
struct Given {
    freed_bytes: u64,
    /// Bytes that will be free for the taking once the waits are over.
    coming_bytes: u64,
}

impl Given {
    fn short_of(self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.freed_bytes + self.coming_bytes)
    }

    fn add(&mut self, other: Self) {
        self.freed_bytes += other.freed_bytes;
        self.coming_bytes += other.coming_bytes;
    }
}

impl Inner {
    /// Frees at least the shortfall on the device, or waits for what has to end before that is possible; the caller tries
    /// again either way. The policy is told of launches that it has not heard of.
    ///
    /// # Errors
    /// [`Error::OutOfDeviceMemory`] when nothing can be moved out and nothing is in flight that could change this.
    pub(super) fn make_room(
        &self,
        open: &OpenDevice,
        no_room: NoRoom,
        kept: Kept<'_>,
        told: Told<'_>,
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
        self.release_retired();
        let mut survey = self.survey(open, kept)?;
        let (mut given, mut waits) = (Given::default(), FenceSet::default());
        let victims = self.victims(open, &mut survey, shortfall_bytes, told)?;
        let has_victims = !victims.is_empty();
        for Victim { buffer, blocks } in victims {
            let buffer = &survey.buffers[buffer];
            match buffer.state.try_lock() {
                // Nothing is given where pages were held or mapped since they were looked at.
                Some(mut state) if state.held == 0 => {
                    given.add(self.evict(open, buffer, &mut state, &blocks, &mut waits)?);
                }
                _ => {}
            }
        }
        // Somebody was in between: the next look shows what there is now.
        survey.is_contended |= has_victims && given.freed_bytes + given.coming_bytes == 0;
        if given.freed_bytes >= shortfall_bytes {
            return Ok(());
        }
        // What is in flight on the others: no more of it than is needed, that which ends first.
        let mut lacking_bytes = given.short_of(shortfall_bytes);
        for busy in &survey.busy {
            if lacking_bytes == 0 {
                break;
            }
            waits.extend(busy.fences.iter().copied());
            lacking_bytes = lacking_bytes.saturating_sub(busy.bytes);
        }
        if lacking_bytes > 0 {
            waits.extend(self.retired_fences().as_slice().iter().copied());
        }
        if !waits.is_empty() {
            return self.wait_all(&waits);
        }
        if survey.is_contended {
            // Somebody else has the victim's lock, for the moment that an attempt takes.
            sync::yield_now();
            return Ok(());
        }
        // What others gave back meanwhile, dropped buffers among them, counts as well.
        if given.freed_bytes > 0 || open.budget.gifts() != gifts {
            return Ok(());
        }
        let given = self.make_room_from_peers(open, &survey.mapped, shortfall_bytes, kept)?;
        let given = given || self.await_retired_peers(open.node);
        if given || open.budget.gifts() != gifts { Ok(()) } else { Err(out_of_memory) }
    }

    /// Who leaves.
    fn victims(
        &self,
        open: &OpenDevice,
        survey: &mut Survey,
        enough_bytes: u64,
        mut told: Told<'_>,
    ) -> Result<Vec<Victim>, Error> {
        let ledger = &self.slot(open.id)?.ledger;
        survey.take(enough_bytes, |unit| unit.holds == Holds::Nothing);
        // What was sent home is clean now, unless somebody has written it since, which makes it one of many.
        let mut leaving = ledger.take_leaving();
        leaving.retain(|one| survey.take_left(enough_bytes, one));
        ledger.leave(leaving);
        for standing in Standing::IN_ORDER {
            let short_bytes = enough_bytes.saturating_sub(survey.taken_bytes());
            let (places, leavers, least_bytes) = survey.leavers(standing);
            if short_bytes == 0 || leavers.is_empty() {
                continue;
            }
            let wanted = short_bytes.div_ceil(least_bytes.max(1)).min(leavers.len() as u64);
            let (victims, ignored) = ledger.choose(told.next(), &leavers, wanted as usize);
            self.counters.ignored_victims.fetch_add(ignored, Relaxed);
            survey.take_in_order(enough_bytes, victims.iter().map(|victim| places[*victim]));
        }
        if let Some(coming) = told.coming {
            ledger.note(coming);
        }
        Ok(survey.taken())
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
                let blocks = self.some_blocks(open, victim, &mut state, enough_bytes);
                let given = self.evict(open, victim, &mut state, &blocks, &mut waits)?;
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

    /// Buffers with memory on the device, and what of them could go.
    fn survey(&self, open: &OpenDevice, kept: Kept<'_>) -> Result<Survey, Error> {
        let slot = self.slot(open.id)?;
        let residents: Vec<_> =
            slot.residents.lock().iter().filter_map(std::sync::Weak::upgrade).collect();
        let mut survey = Survey::default();
        for buffer in residents {
            let Some(mut state) = buffer.state.try_lock() else {
                survey.is_contended = true;
                continue;
            };
            let Some(reservation) = state.memory(open.id) else { continue };
            if state.held > 0 {
                continue;
            }
            let mut stays = kept.spans(&buffer);
            let before = stays.len();
            stays.extend(state.mapped_by_peers(open.node));
            if stays.len() > before {
                survey.mapped.push(buffer.clone());
            }
            stays.extend(state.pinned_by_hints());
            self.settle(&mut state, buffer.all());
            let blocks = outside(0..buffer.blocks(), &stays);
            let here = here(open.node, reservation, &buffer, &state, &blocks);
            drop(state);
            survey.add(buffer, here);
        }
        slot.ledger.forget_all_but(&survey.keys);
        survey.busy.sort_by_key(|busy| busy.fences.iter().map(|fence| fence.value).max());
        Ok(survey)
    }

    /// Blocks of a buffer that hold about so many bytes on the device.
    fn some_blocks(
        &self,
        open: &OpenDevice,
        buffer: &Arc<Buffer>,
        state: &mut BufferState,
        enough_bytes: u64,
    ) -> Vec<Range<u32>> {
        let Some(reservation) = state.memory(open.id) else { return Vec::new() };
        self.settle(state, buffer.all());
        let pinned: SmallVec<[PageSpan; 6]> = state.pinned_by_hints().collect();
        let blocks = outside(0..buffer.blocks(), &pinned);
        let here = here(open.node, reservation, buffer, state, &blocks);
        let mut survey = Survey::default();
        survey.add(buffer.clone(), here);
        survey.take(enough_bytes, |_| true);
        // Where all of it is busy, all of it is waited for.
        survey.taken().pop().map_or_else(|| blocks.to_vec(), |victim| victim.blocks)
    }

    /// Takes these blocks of one victim, or sends them home.
    fn evict(
        &self,
        open: &OpenDevice,
        buffer: &Arc<Buffer>,
        state: &mut BufferState,
        blocks: &[Range<u32>],
        waits: &mut FenceSet,
    ) -> Result<Given, Error> {
        let Some(reservation) = state.memory(open.id) else { return Ok(Given::default()) };
        let mut stays: SmallVec<[PageSpan; 6]> = state.mapped_by_peers(open.node).collect();
        stays.extend(state.pinned_by_hints());
        let blocks: Vec<_> =
            blocks.iter().flat_map(|blocks| outside(blocks.clone(), &stays)).collect();
        self.settle(state, buffer.all());
        let here = here(open.node, reservation, buffer, state, &blocks);
        // Work came in between.
        waits.extend(here.busy.iter().flat_map(|busy| busy.fences.iter().copied()));
        let ledger = &self.slot(open.id)?.ledger;
        let pages = state.directory.pages();
        let (mut given, mut steps) = (Given::default(), Vec::new());
        let dirty = || here.units.iter().filter(|unit| unit.holds == Holds::TheOnlyCopy);
        for unit in dirty() {
            given.coming_bytes += unit.bytes;
            state.directory.look(buffer.span_of(&unit.blocks), |blocks, _, run| {
                let only_here = only_here(open.node, run);
                let step = |pages| (0, Step { from: open.node, to: NodeId::HOST, pages });
                steps.extend(spans(blocks, only_here, pages).map(step));
            });
        }
        if !steps.is_empty() {
            let home = self.copy_home(&steps, Cause::Eviction, &[buffer], state)?;
            waits.extend(home.as_slice().iter().copied());
            ledger.leave(dirty().map(|unit| Leaving {
                buffer: Arc::downgrade(buffer),
                blocks: unit.blocks.clone(),
            }));
        }
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for unit in here.units.iter().filter(|unit| unit.holds != Holds::TheOnlyCopy) {
            let span = buffer.span_of(&unit.blocks);
            state.directory.change(span, |_, _, run| run.log.drop_clean(open.node, PageMask::FULL));
            ledger.gone(here.key, unit.number..unit.number + 1);
            given.freed_bytes += unit.bytes;
            self.counters.evicted_blocks.fetch_add(unit.bytes.div_ceil(BLOCK_BYTES), Relaxed);
            let range = buffer.byte_range(&unit.blocks);
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        if !ranges.is_empty() {
            self.unback(open, reservation, state, &ranges);
        }
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
