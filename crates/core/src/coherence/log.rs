//! Promises in the order in which they were made, over the state that is settled.

use smallvec::SmallVec;

use super::{BlockState, Effect};
use crate::{
    fence::{Failure, FencePoint, FenceState},
    node::NodeId,
    units::PageMask,
};

/// What one piece of work in flight promised, for the pages of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Promise {
    /// The work's fence.
    pub fence: FencePoint,
    /// The value of the first of several like pieces of work on one timeline that are kept as one promise.
    pub first_value: u64,
    /// What it does.
    pub effect: Effect,
    /// To which pages.
    pub pages: PageMask,
    ended: Option<Ended>,
}

/// How a promise ended, while earlier promises still keep it from being folded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
enum Ended {
    Kept,
    /// It was never begun, so that nothing was touched.
    NotRun,
    /// Nothing of it came true.
    Withdrawn,
    /// Earlier work of the same promise came true, then later work spoiled it.
    Spoiled,
}

impl Promise {
    /// The promise of work that was just accepted.
    pub fn new(fence: FencePoint, effect: Effect, pages: PageMask) -> Self {
        Self { fence, first_value: fence.value, effect, pages, ended: None }
    }

    /// True until its fence was seen to have ended.
    pub fn is_pending(&self) -> bool {
        self.ended.is_none()
    }
}

/// What settling found besides progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settlement {
    /// The fence that did not end Ok.
    pub fence: FencePoint,
    /// Why, `None` when its device was lost.
    pub failure: Option<Failure>,
    /// What was withdrawn.
    pub effect: Effect,
    /// From which pages.
    pub pages: PageMask,
}

/// The state of a block: what is settled, and what is promised on top of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Log {
    settled: BlockState,
    promises: SmallVec<[Promise; 2]>,
}

impl Log {
    /// What is settled. Everything that is not pending is in it.
    pub fn settled(&self) -> &BlockState {
        &self.settled
    }

    /// What has been promised and not folded yet, oldest first.
    pub fn promises(&self) -> &[Promise] {
        &self.promises
    }

    /// True when nothing is in flight.
    pub fn is_settled(&self) -> bool {
        self.promises.is_empty()
    }

    /// Memory used beside the value itself, in bytes: for more holders or promises than fit in it.
    pub fn heap_bytes(&self) -> usize {
        let spilled = if self.promises.spilled() { self.promises.capacity() } else { 0 };
        spilled * size_of::<Promise>() + self.settled.heap_bytes()
    }

    /// The state with every promise applied: what planning goes by.
    pub fn promised(&self) -> BlockState {
        let mut state = self.settled.clone();
        for promise in &self.promises {
            fold(&mut state, promise);
        }
        state
    }

    /// Fences that work with this effect on these pages must wait for.
    pub fn waits(&self, effect: Effect, pages: PageMask) -> impl Iterator<Item = FencePoint> {
        let pending = self.promises.iter().filter(|promise| promise.is_pending());
        pending
            .filter(move |promise| {
                promise.pages.overlaps(pages) && effect.must_follow(promise.effect)
            })
            .map(|promise| promise.fence)
    }

    /// Records what accepted work promises. Like promises on one timeline become one, so the log stays as
    /// short as the number of timelines.
    pub fn promise(&mut self, promise: Promise) {
        let is_read = matches!(promise.effect, Effect::Read { .. });
        let position = self.promises.iter().rposition(|earlier| {
            earlier.is_pending()
                && earlier.fence.timeline == promise.fence.timeline
                && earlier.effect == promise.effect
                && earlier.pages == promise.pages
        });
        // Reads change no state, so any like read can stand for both. A write can only stand for both when nothing was promised
        // between them.
        let mergeable = position.filter(|at| is_read || at + 1 == self.promises.len());
        match mergeable {
            Some(at) => self.promises[at].fence.value = promise.fence.value,
            None => self.promises.push(promise),
        }
    }

    /// Records an effect that needs no fence: what it does has been done.
    pub fn done(&mut self, effect: Effect, pages: PageMask) {
        if self.promises.is_empty() {
            effect.apply(&mut self.settled, pages);
            return;
        }
        // Behind what is still pending, in the order of things.
        let last = self.promises[self.promises.len() - 1];
        let ended = Some(Ended::Kept);
        self.promises.push(Promise { effect, pages, ended, ..last });
        self.fold_ended();
    }

    /// Looks at the fences and folds what has ended, in order. `report` hears of each promise that was not kept.
    pub fn settle(
        &mut self,
        mut poll: impl FnMut(FencePoint) -> FenceState,
        mut report: impl FnMut(Settlement),
    ) {
        for promise in self.promises.iter_mut().filter(|promise| promise.is_pending()) {
            let failure = match poll(promise.fence) {
                FenceState::Pending => continue,
                FenceState::Ok => {
                    promise.ended = Some(Ended::Kept);
                    continue;
                }
                FenceState::Failed(failure) => Some(failure),
                FenceState::Lost => None,
            };
            let first = FencePoint { value: promise.first_value, ..promise.fence };
            // One piece of work that waited for failed work was not run. Of several, one before the last may have been.
            let alone = promise.first_value == promise.fence.value;
            promise.ended = Some(if alone && failure == Some(Failure::Dependency) {
                Ended::NotRun
            } else if poll(first) == FenceState::Ok {
                Ended::Spoiled
            } else {
                Ended::Withdrawn
            });
            report(Settlement {
                fence: promise.fence,
                failure,
                effect: promise.effect,
                pages: promise.pages,
            });
        }
        self.fold_ended();
    }

    /// A node's memory is gone with its device. All work on it has ended.
    pub fn lose_node(&mut self, node: NodeId) {
        self.settled.destroy(node, PageMask::FULL);
    }

    /// A node's clean copies are given up: each page is current elsewhere too, and nothing is pending on them.
    ///
    /// Pages without another copy are left as they are.
    pub fn drop_clean(&mut self, node: NodeId, pages: PageMask) {
        let elsewhere = self.settled.holders().iter().filter(|(holder, _)| *holder != node);
        let clean = elsewhere.fold(PageMask::EMPTY, |sum, (_, held)| sum.or(*held));
        self.settled.remove(node, pages.and(clean));
    }

    /// Takes every promise out of the log up to the first that is still pending; reads, which change nothing, hold nothing up.
    fn fold_ended(&mut self) {
        let mut blocked = false;
        let settled = &mut self.settled;
        self.promises.retain(|promise| {
            if matches!(promise.effect, Effect::Read { .. }) {
                return promise.is_pending();
            }
            blocked |= promise.is_pending();
            if !blocked {
                fold(settled, promise);
            }
            blocked
        });
    }
}

/// Applies one promise as it ended, or as promised while it is pending.
fn fold(state: &mut BlockState, promise: &Promise) {
    match promise.ended {
        None | Some(Ended::Kept) => promise.effect.apply(state, promise.pages),
        Some(Ended::NotRun) => {}
        Some(Ended::Withdrawn) => promise.effect.withdraw(state, promise.pages),
        Some(Ended::Spoiled) => {
            promise.effect.apply(state, promise.pages);
            promise.effect.withdraw(state, promise.pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fence::TimelineId, node::DeviceId};

    /// The host holds the page; a device is to copy it in, write it, and copy it home.
    fn in_flight() -> (Log, NodeId, [FencePoint; 3]) {
        let id = DeviceId::new(0).unwrap();
        let (host, device) = (NodeId::HOST, NodeId::of_device(id));
        let fence = |value| FencePoint { timeline: TimelineId::new(id, 0), value };
        let mut log = Log::default();
        log.done(Effect::Write { on: host }, PageMask::FULL);
        let effects = [
            Effect::Copy { from: host, to: device },
            Effect::Write { on: device },
            Effect::Copy { from: device, to: host },
        ];
        let fences = [1, 2, 3].map(fence);
        for (fence, effect) in fences.into_iter().zip(effects) {
            log.promise(Promise::new(fence, effect, PageMask::FULL));
        }
        (log, device, fences)
    }

    fn settle(log: &mut Log, write: FenceState, home: FenceState) -> usize {
        let mut reports = 0;
        let state = |fence: FencePoint| [FenceState::Ok, write, home][fence.value as usize - 1];
        log.settle(state, |_| reports += 1);
        reports
    }

    #[test]
    fn a_copy_home_that_was_not_run_leaves_the_hosts_page() {
        let (mut log, device, _) = in_flight();
        let panicked = FenceState::Failed(Failure::KernelPanicked);
        assert_eq!(settle(&mut log, panicked, FenceState::Failed(Failure::Dependency)), 2);
        assert!(log.is_settled());
        assert_eq!(log.settled().valid_on(NodeId::HOST), PageMask::FULL);
        assert_eq!(log.settled().valid_on(device), PageMask::EMPTY);
        assert_eq!(log.settled().lost(), PageMask::EMPTY);
    }

    #[test]
    fn a_copy_home_that_broke_off_spoils_the_hosts_page() {
        let (mut log, _, _) = in_flight();
        let panicked = FenceState::Failed(Failure::KernelPanicked);
        settle(&mut log, panicked, FenceState::Failed(Failure::Injected));
        assert_eq!(log.settled().lost(), PageMask::FULL);
    }

    #[test]
    fn of_several_writes_kept_as_one_a_middle_one_may_have_spoiled_the_page() {
        let (_, device, fences) = in_flight();
        let (mut log, write) = (Log::default(), Effect::Write { on: device });
        log.done(write, PageMask::FULL);
        for fence in fences {
            log.promise(Promise::new(fence, write, PageMask::FULL));
        }
        let panicked = FenceState::Failed(Failure::KernelPanicked);
        settle(&mut log, panicked, FenceState::Failed(Failure::Dependency));
        assert_eq!(log.settled().lost(), PageMask::FULL);
    }
}
