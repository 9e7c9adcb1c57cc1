//! Making room on a device: blocks give up their memory there.
//!
//! ```text
//! survey: what could go -> what holds nothing, then what was sent home before, then whom the policy names -> evict
//!                          among those whom hints give up first, then among the others, then among those at home here
//! ```
//!
//! Groups are asked in the order in which they owe: one that would be beyond its own limit gives itself; what the device lacks beyond that comes from whoever is
//! above his reserve ([`Lack`]).
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
    budget::{ByGroup, TooSmall},
    hinted::Standing,
    lack::Lack,
    leavers::{Holds, Survey, Victim, here, only_here, outside},
    ledger::{Leaving, Told},
    peers::{Marks, Wanted, Why},
    plan::{Step, spans},
    working_set::{Kept, NoRoom},
};
use crate::{
    directory::{FenceSet, PageSpan},
    error::Error,
    events::{Gave, What},
    node::NodeId,
    peer::Taking,
    runtime::{Inner, OpenDevice},
    stats::Cause,
    sync,
    units::{BLOCK_BYTES, PageMask},
    vec::{Buffer, BufferState},
};

/// What victims of one buffer gave.
#[derive(Clone, Copy, Debug, Default)]
struct Given {
    freed_bytes: u64,
    /// Bytes that will be free for the taking once the waits are over.
    coming_bytes: u64,
}

impl Inner {
    /// Frees at least what is lacking on the device, or waits for what has to end before that is possible; the caller tries
    /// again either way. The policy is told of launches that it has not heard of.
    ///
    /// # Errors
    /// [`Error::OutOfDeviceMemory`] or [`Error::OutOfShare`] when nothing can be moved out and nothing is in flight that could change this.
    pub(super) fn make_room(
        &self,
        open: &OpenDevice,
        no_room: &NoRoom,
        kept: Kept<'_>,
        told: Told<'_>,
    ) -> Result<(), Error> {
        let NoRoom { asked, gifts, .. } = no_room;
        let gifts = *gifts;
        if let Some(what) = open.budget.is_too_small_for(asked) {
            return Err(self.no_room_for(open, asked, what));
        }
        self.release_retired();
        let mut survey = self.survey(open, kept)?;
        let (mut freed, mut coming) = (ByGroup::default(), ByGroup::default());
        let mut waits = FenceSet::default();
        let mut lack = no_room.lack(open);
        let victims = self.victims(open, &mut survey, lack.clone(), told)?;
        let has_victims = !victims.is_empty();
        for Victim { buffer, blocks } in victims {
            let buffer = &survey.buffers[buffer];
            match buffer.state.try_lock() {
                // Nothing is given where pages were held or mapped since they were looked at.
                Some(mut state) if state.held == 0 => {
                    let gave = self.evict(open, buffer, &mut state, &blocks, &mut waits)?;
                    freed.add(buffer.group_id(), gave.freed_bytes);
                    coming.add(buffer.group_id(), gave.coming_bytes);
                }
                _ => {}
            }
        }
        // Somebody was in between: the next look shows what there is now.
        survey.is_contended |= has_victims && freed.total_bytes() + coming.total_bytes() == 0;
        freed.iter().for_each(|(group, bytes)| lack.take(group, bytes));
        if lack.is_met() {
            return Ok(());
        }
        coming.iter().for_each(|(group, bytes)| lack.take(group, bytes));
        // What is in flight on the others: no more of it than is needed, that which ends first.
        for busy in &survey.busy {
            if lack.wants(busy.group, busy.bytes) {
                waits.extend(busy.fences.iter().copied());
                lack.take(busy.group, busy.bytes);
            }
        }
        if !lack.is_met() {
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
        if freed.total_bytes() > 0 || open.budget.gifts() != gifts {
            return Ok(());
        }
        let given = self.make_room_from_peers(open, &survey.mapped, &lack, kept)?;
        let given = given || self.await_retired_peers(open.node);
        if given || open.budget.gifts() != gifts {
            return Ok(());
        }
        let what = lack.beyond_its_limit().map_or(TooSmall::Device, TooSmall::Group);
        Err(self.no_room_for(open, asked, what))
    }

    /// What the caller is told when so much has no room.
    fn no_room_for(&self, open: &OpenDevice, asked: &ByGroup, what: TooSmall) -> Error {
        let (device, budget, pinned_bytes) = (open.id, &open.budget, self.pinned_on(open));
        match what {
            TooSmall::Device => Error::OutOfDeviceMemory {
                device,
                asked_bytes: asked.total_bytes(),
                free_bytes: budget.free_bytes(),
                limit_bytes: budget.limit_bytes(),
                pinned_bytes,
                reserved_bytes: budget.reserved_beside(asked),
            },
            TooSmall::Group(group) => Error::OutOfShare {
                device,
                group: budget.group_name(group),
                asked_bytes: asked.of(group),
                used_bytes: budget.group_used_bytes(group),
                limit_bytes: budget.share(group).limit_bytes,
                pinned_bytes,
            },
        }
    }

    /// Who leaves.
    fn victims(
        &self,
        open: &OpenDevice,
        survey: &mut Survey,
        mut lack: Lack,
        mut told: Told<'_>,
    ) -> Result<Vec<Victim>, Error> {
        let ledger = &self.slot(open.id)?.ledger;
        survey.take(&mut lack, |unit| unit.holds == Holds::Nothing);
        // What was sent home is clean now, unless somebody has written it since, which makes it one of many.
        let mut leaving = ledger.take_leaving();
        leaving.retain(|one| survey.take_left(&mut lack, one));
        ledger.leave(leaving);
        for standing in Standing::IN_ORDER {
            // Again when a group has come down to its reserve, and others go on alone.
            loop {
                let (places, leavers, least_bytes) = survey.leavers(standing, &lack);
                if leavers.is_empty() {
                    break;
                }
                let wanted = lack.bytes().div_ceil(least_bytes.max(1)).min(leavers.len() as u64);
                let (victims, ignored) = ledger.choose(told.next(), &leavers, wanted as usize);
                self.counters.ignored_victims.fetch_add(ignored, Relaxed);
                if ignored > 0 {
                    self.recorder.note(|| What::Ignored { device: open.id, answers: ignored });
                }
                let victims = victims.iter().map(|victim| places[*victim]);
                if survey.take_in_order(&mut lack, victims) == 0 {
                    break;
                }
            }
        }
        if let Some(coming) = told.coming {
            ledger.note(coming.doing, coming.uses.into_iter());
        }
        Ok(survey.taken())
    }

    /// Takes pages of these buffers back from peers to free them: only when nothing else is left. False when peers do not give them; true also when somebody else has
    /// taken them back meanwhile, and it has to be looked again.
    fn make_room_from_peers(
        &self,
        open: &OpenDevice,
        mapped: &[Arc<Buffer>],
        lack: &Lack,
        kept: Kept<'_>,
    ) -> Result<bool, Error> {
        let taking = Taking::Free(open.node);
        let why = Why { cause: Cause::Eviction, initiator: open.node, tolerates_late: false };
        let may_give = |victim: &&Arc<Buffer>| lack.wants(victim.group_id(), 1);
        for victim in mapped.iter().filter(|victim| kept.spans(victim).is_empty()).filter(may_give)
        {
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
                let blocks = self.some_blocks(open, victim, &mut state, lack.clone());
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

    /// Blocks of a buffer that are of use.
    fn some_blocks(
        &self,
        open: &OpenDevice,
        buffer: &Arc<Buffer>,
        state: &mut BufferState,
        mut lack: Lack,
    ) -> Vec<Range<u32>> {
        let Some(reservation) = state.memory(open.id) else { return Vec::new() };
        self.settle(state, buffer.all());
        let pinned: SmallVec<[PageSpan; 6]> = state.pinned_by_hints().collect();
        let blocks = outside(0..buffer.blocks(), &pinned);
        let here = here(open.node, reservation, buffer, state, &blocks);
        let mut survey = Survey::default();
        survey.add(buffer.clone(), here);
        let is_busy = !survey.busy.is_empty();
        survey.take(&mut lack, |_| true);
        // Where all of it is busy, all of it is waited for.
        let busy = || if is_busy { blocks.to_vec() } else { Vec::new() };
        survey.taken().pop().map_or_else(busy, |victim| victim.blocks)
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
            let gave = if unit.holds == Holds::Nothing { Gave::Nothing } else { Gave::Clean };
            let (vector, from) = (state.number, open.node);
            self.recorder.note(|| What::Evicted { vector, pages: span, from, gave });
            given.freed_bytes += unit.bytes;
            self.counters.evicted_blocks.fetch_add(unit.bytes.div_ceil(BLOCK_BYTES), Relaxed);
            let range = buffer.byte_range(&unit.blocks);
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        if !ranges.is_empty() {
            self.unback(open, reservation, buffer, state, &ranges);
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
