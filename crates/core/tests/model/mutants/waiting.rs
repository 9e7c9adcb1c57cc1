//! Wrong answers to "what must have ended first?".

use hmmap_core::{
    coherence::{Effect, Log},
    directory::FenceSet,
    fence::FencePoint,
    node::NodeId,
    units::PageMask,
};

use crate::rules::Rules;

fn waits_when(log: &Log, pages: PageMask, into: &mut FenceSet, follows: impl Fn(Effect) -> bool) {
    let pending = log.promises().iter().filter(|promise| promise.is_pending());
    let conflicts = pending.filter(|p| p.pages.overlaps(pages) && follows(p.effect));
    into.extend(conflicts.map(|promise| promise.fence));
}

fn same(one: Option<NodeId>, other: Option<NodeId>) -> bool {
    one.is_some() && one == other
}

/// Whoever overwrites a copy does not wait for its readers.
pub(crate) struct WritesDoNotWaitForReads;

impl Rules for WritesDoNotWaitForReads {
    fn waits(&self, log: &Log, effect: Effect, pages: PageMask, into: &mut FenceSet) {
        waits_when(log, pages, into, |earlier| {
            same(effect.overwrites(), earlier.overwrites())
                || same(effect.reads(), earlier.overwrites())
        });
    }
}

/// Whoever reads a copy does not wait for who writes it.
pub(crate) struct ReadsDoNotWaitForWrites;

impl Rules for ReadsDoNotWaitForWrites {
    fn waits(&self, log: &Log, effect: Effect, pages: PageMask, into: &mut FenceSet) {
        waits_when(log, pages, into, |earlier| {
            same(effect.overwrites(), earlier.overwrites())
                || same(effect.overwrites(), earlier.reads())
        });
    }
}

/// Whoever overwrites a copy does not wait for who else does.
pub(crate) struct WritesDoNotWaitForWrites;

impl Rules for WritesDoNotWaitForWrites {
    fn waits(&self, log: &Log, effect: Effect, pages: PageMask, into: &mut FenceSet) {
        waits_when(log, pages, into, |earlier| {
            let overwritten_twice = same(effect.overwrites(), earlier.overwrites());
            effect.must_follow(earlier) && !overwritten_twice
        });
    }
}

/// The host uses its copy at once.
pub(crate) struct HostWaitsForNobody;

impl Rules for HostWaitsForNobody {
    fn waits(&self, log: &Log, effect: Effect, pages: PageMask, into: &mut FenceSet) {
        let by_host = matches!(
            effect,
            Effect::Read { on } | Effect::Write { on } | Effect::Zero { on } if on.is_host()
        );
        if !by_host {
            into.extend(log.waits(effect, pages));
        }
    }
}

/// A submission waits only for what its own device can wait for.
pub(crate) struct ForeignFencesAreIgnored;

impl Rules for ForeignFencesAreIgnored {
    fn waits_for_foreign_fences(&self) -> bool {
        false
    }
}

/// One fence of each timeline is waited for: the one that `stands` chooses of two.
fn one_each(
    log: &Log,
    effect: Effect,
    pages: PageMask,
    into: &mut FenceSet,
    stands: fn(FencePoint, FencePoint) -> FencePoint,
) {
    let mut all = into.clone();
    all.extend(log.waits(effect, pages));
    let mut kept: Vec<FencePoint> = Vec::new();
    for fence in all.as_slice() {
        match kept.iter_mut().find(|known| known.timeline == fence.timeline) {
            Some(known) => *known = stands(*known, *fence),
            None => kept.push(*fence),
        }
    }
    into.clear();
    into.extend(kept);
}

/// The last fence of a timeline is waited for, since values end in order.
pub(crate) struct LaterFenceStandsForEarlier;

impl Rules for LaterFenceStandsForEarlier {
    fn waits(&self, log: &Log, effect: Effect, pages: PageMask, into: &mut FenceSet) {
        one_each(log, effect, pages, into, FencePoint::max);
    }
}

/// The first fence of a timeline is waited for.
pub(crate) struct EarlierFenceStandsForLater;

impl Rules for EarlierFenceStandsForLater {
    fn waits(&self, log: &Log, effect: Effect, pages: PageMask, into: &mut FenceSet) {
        one_each(log, effect, pages, into, FencePoint::min);
    }
}

/// A device begins work although something that it waited for has failed.
pub(crate) struct RunsAfterFailedWait;

impl Rules for RunsAfterFailedWait {
    fn runs_after_a_failed_wait(&self) -> bool {
        true
    }
}

/// A kernel follows a copy out of another device's memory on its own device, and nobody looks whether that one lived through it.
pub(crate) struct CopiesBetweenDevicesAreFollowed;

impl Rules for CopiesBetweenDevicesAreFollowed {
    fn waits_for_copies_between_devices(&self) -> bool {
        false
    }
}
