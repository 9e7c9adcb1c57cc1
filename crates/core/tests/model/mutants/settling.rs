//! Wrong conclusions from how work ended.

use hmmap_core::{
    coherence::{Effect, Log, Promise, Settlement},
    fence::{Failure, FencePoint, FenceState},
    node::NodeId,
    units::PageMask,
};

use super::effects::log_of;
use crate::rules::Rules;

type Poll<'a> = &'a mut dyn FnMut(FencePoint) -> FenceState;
type Report<'a> = &'a mut dyn FnMut(Settlement);

/// Whatever has ended has ended well.
pub(crate) struct FailureIsSuccess;

impl Rules for FailureIsSuccess {
    fn settle(&self, log: &mut Log, poll: Poll<'_>, report: Report<'_>) {
        let poll = |fence| match poll(fence) {
            FenceState::Failed(_) => FenceState::Ok,
            state => state,
        };
        log.settle(poll, report);
    }
}

/// Work that went with its device has ended well.
pub(crate) struct LossIsSuccess;

impl Rules for LossIsSuccess {
    fn settle(&self, log: &mut Log, poll: Poll<'_>, report: Report<'_>) {
        let poll = |fence| match poll(fence) {
            FenceState::Lost => FenceState::Ok,
            state => state,
        };
        log.settle(poll, report);
    }
}

/// What another device copied out of memory that was lost meanwhile is taken for good.
pub(crate) struct LostSourceCounts;

impl Rules for LostSourceCounts {
    fn settle(&self, log: &mut Log, poll: Poll<'_>, report: Report<'_>) {
        let poll = |fence: FencePoint| match fence == FencePoint::never(fence.timeline.device()) {
            true => FenceState::Pending,
            false => poll(fence),
        };
        log.settle(poll, report);
    }
}

/// Nobody hears of failures.
pub(crate) struct FailureIsNotReported;

impl Rules for FailureIsNotReported {
    fn settle(&self, log: &mut Log, poll: Poll<'_>, _report: Report<'_>) {
        log.settle(poll, |_| {});
    }
}

/// Work that failed left its copy alone.
pub(crate) struct HalfWrittenIsKept;

impl Rules for HalfWrittenIsKept {
    fn settle(&self, log: &mut Log, poll: Poll<'_>, report: Report<'_>) {
        let poll = |fence| match poll(fence) {
            FenceState::Failed(_) => FenceState::Failed(Failure::Dependency),
            state => state,
        };
        log.settle(poll, report);
    }
}

/// Work that failed takes the host's copy with it, too.
pub(crate) struct FailureSpoilsEveryCopy;

impl Rules for FailureSpoilsEveryCopy {
    fn settle(&self, log: &mut Log, poll: Poll<'_>, report: Report<'_>) {
        let mut failed = false;
        log.settle(poll, |settlement| {
            failed = true;
            report(settlement);
        });
        if failed {
            log.lose_node(NodeId::HOST);
        }
    }
}

/// Work that never began has torn its copy.
pub(crate) struct NeverBegunIsTorn;

impl Rules for NeverBegunIsTorn {
    fn settle(&self, log: &mut Log, poll: Poll<'_>, report: Report<'_>) {
        let poll = |fence| match poll(fence) {
            FenceState::Failed(_) => FenceState::Failed(Failure::Injected),
            state => state,
        };
        log.settle(poll, report);
    }
}

/// Of like work kept as one promise only the last counts when it fails.
pub(crate) struct EarlierSuccessIsForgotten;

impl Rules for EarlierSuccessIsForgotten {
    fn settle(&self, log: &mut Log, poll: Poll<'_>, report: Report<'_>) {
        let last: Vec<FencePoint> = log.promises().iter().map(|promise| promise.fence).collect();
        let poll = |fence| match poll(fence) {
            FenceState::Ok if !last.contains(&fence) => FenceState::Failed(Failure::Injected),
            state => state,
        };
        log.settle(poll, report);
    }
}

/// What has ended is folded before what has not, whatever came first.
pub(crate) struct LaterWorkFirst;

impl Rules for LaterWorkFirst {
    fn settle(&self, log: &mut Log, poll: Poll<'_>, report: Report<'_>) {
        let promises = log.promises().iter().filter(|promise| promise.is_pending());
        let (ended, pending): (Vec<&Promise>, Vec<&Promise>) =
            promises.partition(|promise| poll(promise.fence) == FenceState::Ok);
        let settled = log.settled();
        let mut sorted = log_of(settled.holders(), settled.lost());
        let all_known = log.promises().len() == ended.len() + pending.len();
        if all_known && !ended.is_empty() {
            ended.into_iter().for_each(|promise| sorted.done(promise.effect, promise.pages));
            pending.into_iter().for_each(|promise| sorted.promise(*promise));
            *log = sorted;
        }
        log.settle(poll, report);
    }
}

/// A lost device's copies still count.
pub(crate) struct LostCopiesStay;

impl Rules for LostCopiesStay {
    fn lose_node(&self, _log: &mut Log, _node: NodeId) {}
}

/// A lost device's copies stop counting where they are settled, and come back from behind slower work.
pub(crate) struct OnlySettledCopiesAreLost;

impl Rules for OnlySettledCopiesAreLost {
    fn lose_node(&self, log: &mut Log, node: NodeId) {
        if log.is_settled() {
            log.lose_node(node);
        }
    }
}

/// Memory is given back and the directory keeps what was in it.
pub(crate) struct EvictedCopyCounts;

impl Rules for EvictedCopyCounts {
    fn drop_clean(&self, _log: &mut Log, _node: NodeId, _pages: PageMask) {}
}

/// A page that was evicted is as good as one never written.
pub(crate) struct LastCopyIsEvicted;

impl Rules for LastCopyIsEvicted {
    fn drop_clean(&self, log: &mut Log, _node: NodeId, _pages: PageMask) {
        *log = Log::default();
    }

    fn done(&self, log: &mut Log, effect: Effect, pages: PageMask) {
        log.done(effect, pages);
    }
}
