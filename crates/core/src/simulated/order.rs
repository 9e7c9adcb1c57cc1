//! Which works are ordered, and which of those that are not touch the same bytes.
//!
//! A [`Clock`] says how far each timeline has come at least. A work's clock is joined from those of its waits, so "A is ordered before B" is
//! "B's clock has reached A's value": a wait chain of any length, over both queues, is one comparison. Since values end in
//! order, a wait for a value orders all values below it on that timeline too.

use std::ops::Range;

use super::record::Violation;
use crate::{
    access::Access,
    embedded::{
        MemorySpace,
        operation::{Operation, Touch},
        place::overlap,
    },
    fence::FencePoint,
};

/// How many timelines the device has at most.
pub(super) const QUEUES: usize = 2;

/// Per timeline a value that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Clock([u64; QUEUES]);

impl Clock {
    /// Takes the later of the two on each timeline.
    pub(super) fn join(&mut self, other: Self) {
        for (ours, theirs) in self.0.iter_mut().zip(other.0) {
            *ours = (*ours).max(theirs);
        }
    }

    /// Comes to a value of a timeline.
    pub(super) fn reach(&mut self, point: FencePoint) {
        let queue = &mut self.0[usize::from(point.timeline.queue())];
        *queue = (*queue).max(point.value);
    }

    /// The value on a timeline.
    pub(super) fn at(&self, queue: usize) -> u64 {
        self.0[queue]
    }
}

/// What one work does to some bytes.
#[derive(Clone, Debug)]
pub(super) struct Touched {
    pub(super) space: MemorySpace,
    pub(super) bytes: Range<u64>,
    access: Access,
}

impl Touched {
    /// Everything that an operation touches.
    pub(super) fn all(operation: &Operation) -> Vec<Self> {
        let touched = |Touch { place, access }: Touch<'_>| Self {
            space: place.space(),
            bytes: place.bytes(),
            access,
        };
        operation.touches().into_iter().map(touched).collect()
    }

    /// True when it shares a byte with the range.
    pub(super) fn lies_in(&self, space: MemorySpace, bytes: &Range<u64>) -> bool {
        self.space == space && overlap(&self.bytes, bytes)
    }

    fn conflicts_with(&self, other: &Self) -> bool {
        (self.access.writes() || other.access.writes()) && self.lies_in(other.space, &other.bytes)
    }
}

/// The first conflict between two unordered works.
pub(super) fn conflict(
    (earlier, before): (FencePoint, &[Touched]),
    (later, after): (FencePoint, &[Touched]),
) -> Option<Violation> {
    before.iter().find_map(|one| {
        let other = after.iter().find(|other| one.conflicts_with(other))?;
        Some(hazard((earlier, one), (later, other)))
    })
}

/// The first conflict between two parts of one batch.
pub(super) fn conflict_within(work: FencePoint, parts: &[Touched]) -> Option<Violation> {
    let mut sorted: Vec<&Touched> = parts.iter().collect();
    sorted.sort_by_key(|part| (part.space, part.bytes.start));
    sorted.iter().enumerate().find_map(|(nth, one)| {
        let behind = sorted[nth + 1..].iter();
        let mut near = behind.take_while(|other| one.lies_in(other.space, &other.bytes));
        let other = near.find(|other| one.conflicts_with(other))?;
        Some(hazard((work, one), (work, other)))
    })
}

fn hazard(
    (earlier, one): (FencePoint, &Touched),
    (later, other): (FencePoint, &Touched),
) -> Violation {
    Violation::Hazard {
        earlier,
        earlier_access: one.access,
        later,
        later_access: other.access,
        space: one.space,
        bytes: one.bytes.start.max(other.bytes.start)..one.bytes.end.min(other.bytes.end),
    }
}
