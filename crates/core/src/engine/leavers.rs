//! What could leave a device: units, found without touching anything.

use std::{ops::Range, sync::Arc};

use hmmap_eviction::Copies;
use smallvec::SmallVec;

use super::{
    hinted::Standing,
    lack::Lack,
    ledger::{BufferKey, Leaver, Leaving},
};
use crate::{
    backend::Reservation,
    directory::{PageSpan, Run},
    fence::FencePoint,
    group::GroupId,
    node::NodeId,
    units::{PAGES_PER_BLOCK, PageMask},
    vec::{Buffer, BufferState},
};

/// What a unit holds on the device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Holds {
    /// Nothing that is current: it was discarded, or written elsewhere.
    Nothing,
    /// What others have too.
    Clean,
    /// Pages that nobody else has.
    TheOnlyCopy,
}

/// What leaves as a whole: a block, or a buffer that has memory as a whole.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// The buffer's place in the survey.
    pub(super) buffer: usize,
    /// Its number in the buffer, for the ledger.
    pub(super) number: u32,
    pub(super) blocks: Range<u32>,
    pub(super) bytes: u64,
    pub(super) group: GroupId,
    pub(super) holds: Holds,
    standing: Standing,
    is_taken: bool,
}

/// Blocks that something is in flight on.
#[derive(Clone, Debug)]
pub(super) struct Busy {
    pub(super) blocks: Range<u32>,
    pub(super) bytes: u64,
    pub(super) group: GroupId,
    pub(super) fences: SmallVec<[FencePoint; 2]>,
}

/// What one buffer has on the device.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) key: BufferKey,
    pub(super) units: Vec<Unit>,
    pub(super) busy: Vec<Busy>,
}

/// Who leaves of one buffer.
#[derive(Debug)]
pub(super) struct Victim {
    /// The buffer's place in the survey.
    pub(super) buffer: usize,
    pub(super) blocks: Vec<Range<u32>>,
}

/// What could leave, and who was chosen so far.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) buffers: Vec<Arc<Buffer>>,
    pub(super) keys: Vec<BufferKey>,
    units: Vec<Unit>,
    pub(super) busy: Vec<Busy>,
    /// Buffers that peers keep where they are.
    pub(super) mapped: Vec<Arc<Buffer>>,
    /// A buffer's lock was held by somebody else.
    pub(super) is_contended: bool,
}

impl Survey {
    pub(super) fn add(&mut self, buffer: Arc<Buffer>, here: Here) {
        let place = self.buffers.len();
        self.buffers.push(buffer);
        self.keys.push(here.key);
        self.units.extend(here.units.into_iter().map(|unit| Unit { buffer: place, ..unit }));
        self.busy.extend(here.busy);
    }

    /// Takes a unit if it is of use. True when it is.
    fn take_one(&mut self, lack: &mut Lack, place: usize) -> bool {
        let unit = &mut self.units[place];
        let takes = !unit.is_taken && lack.wants(unit.group, unit.bytes);
        if takes {
            unit.is_taken = true;
            lack.take(unit.group, unit.bytes);
        }
        takes
    }

    /// Takes units like this until there are enough.
    pub(super) fn take(&mut self, lack: &mut Lack, is_one: impl Fn(&Unit) -> bool) {
        let places: Vec<_> = (0..self.units.len()).filter(|at| is_one(&self.units[*at])).collect();
        self.take_in_order(lack, places.into_iter());
    }

    /// Takes those of these units that are of use. How many.
    pub(super) fn take_in_order(
        &mut self,
        lack: &mut Lack,
        places: impl Iterator<Item = usize>,
    ) -> usize {
        places.filter(|place| self.take_one(lack, *place)).count()
    }

    /// Takes what was sent home to leave, if it still can. True when it is still to leave: not yet home, or not needed now.
    pub(super) fn take_left(&mut self, lack: &mut Lack, leaving: &Leaving) -> bool {
        let Some(place) = self.buffers.iter().position(|buffer| leaving.is_of(buffer)) else {
            return false;
        };
        // Buffers and their blocks stand in the order in which they were looked at.
        let first = (place, leaving.blocks.start);
        match self.units.binary_search_by_key(&first, |unit| (unit.buffer, unit.blocks.start)).ok()
        {
            Some(at) if self.units[at].holds == Holds::TheOnlyCopy => false,
            Some(at) => !self.take_one(lack, at),
            None => self.busy.iter().any(|busy| busy.blocks.contains(&leaving.blocks.start)),
        }
    }

    /// What is left for the policy to choose from among units that hints say the same of and that are of use: their places, the units as the ledger knows
    /// them, and the bytes of the smallest.
    pub(super) fn leavers(
        &self,
        standing: Standing,
        lack: &Lack,
    ) -> (Vec<usize>, Vec<Leaver>, u64) {
        let left = self.units.iter().enumerate();
        let left = left.filter(|(_, unit)| {
            !unit.is_taken && unit.standing == standing && lack.wants(unit.group, unit.bytes)
        });
        let least_bytes = left.clone().map(|(_, unit)| unit.bytes).min().unwrap_or(0);
        let leaver = |(at, unit): (usize, &Unit)| {
            let is_clean = unit.holds < Holds::TheOnlyCopy;
            let copies = if is_clean { Copies::Clean } else { Copies::Dirty };
            let buffer = self.keys[unit.buffer];
            (at, Leaver { buffer, unit: unit.number, group: unit.group, copies })
        };
        let (places, leavers) = left.map(leaver).unzip();
        (places, leavers, least_bytes)
    }

    /// The blocks of the units that were taken.
    pub(super) fn taken(&self) -> Vec<Victim> {
        let mut taken: Vec<Victim> = Vec::new();
        for unit in self.units.iter().filter(|unit| unit.is_taken) {
            match taken.last_mut() {
                Some(victim) if victim.buffer == unit.buffer => match victim.blocks.last_mut() {
                    Some(last) if last.end == unit.blocks.start => last.end = unit.blocks.end,
                    _ => victim.blocks.push(unit.blocks.clone()),
                },
                _ => taken.push(Victim { buffer: unit.buffer, blocks: vec![unit.blocks.clone()] }),
            }
        }
        taken
    }
}

/// What of these blocks has memory on a node. What has memory as a whole is one unit, if it is asked for whole.
pub(super) fn here(
    node: NodeId,
    reservation: Reservation,
    buffer: &Buffer,
    state: &BufferState,
    blocks: &[Range<u32>],
) -> Here {
    let key = BufferKey::new(reservation, buffer);
    let mut here = Here { key, units: Vec::new(), busy: Vec::new() };
    let (whole_only, group) = (reservation.backs_whole, buffer.group_id());
    let all = 0..buffer.blocks();
    if whole_only && blocks != std::slice::from_ref(&all) {
        return here;
    }
    let unit = |number, blocks: Range<u32>, holds| {
        let bytes = buffer.byte_range(&blocks);
        let bytes = bytes.end - bytes.start;
        let standing = state.standing(buffer.span_of(&blocks), node, holds);
        Unit { buffer: 0, number, blocks, bytes, group, holds, standing, is_taken: false }
    };
    let mut worst = None;
    for blocks in blocks {
        state.directory.look(buffer.span_of(blocks), |blocks, _, run| {
            if !run.backed.contains(node) {
                return;
            }
            if !run.log.is_settled() {
                // What is in flight may touch the copy, or may fail and leave it the last good one.
                let pending = run.log.promises().iter().filter(|promise| promise.is_pending());
                let fences = pending.map(|promise| promise.fence).collect();
                let bytes = buffer.byte_range(&blocks);
                here.busy.push(Busy { blocks, bytes: bytes.end - bytes.start, group, fences });
                return;
            }
            let holds = match (run.log.settled().valid_on(node), only_here(node, run)) {
                (PageMask::EMPTY, _) => Holds::Nothing,
                (_, PageMask::EMPTY) => Holds::Clean,
                _ => Holds::TheOnlyCopy,
            };
            if whole_only {
                worst = worst.max(Some(holds));
            } else {
                here.units.extend(blocks.map(|block| unit(block, block..block + 1, holds)));
            }
        });
    }
    if let Some(holds) = worst.filter(|_| here.busy.is_empty()) {
        here.units.push(unit(0, all, holds));
    }
    here
}

/// The pages of a run that a node alone has.
pub(super) fn only_here(node: NodeId, run: &Run) -> PageMask {
    let settled = run.log.settled();
    let others = settled.holders().iter().filter(|(holder, _)| *holder != node);
    let elsewhere = others.fold(PageMask::EMPTY, |sum, (_, held)| sum.or(*held));
    settled.valid_on(node).without(elsewhere)
}

/// The parts of `blocks` that hold no page of `kept`.
pub(super) fn outside(blocks: Range<u32>, kept: &[PageSpan]) -> SmallVec<[Range<u32>; 2]> {
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
