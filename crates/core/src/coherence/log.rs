//! Promises in the order in which they were made, over the state that is settled.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::{BlockState, Effect};
use crate::{
    fence::{Failure, FencePoint, FenceState, TimelineId},
    node::{DeviceId, MAX_NODES, NodeId},
    units::PageMask,
};

/// What one piece of work in flight promised, for the pages of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Promise {
    /// The work's fence; of several like pieces of work on one timeline that are kept as one promise, the last one's.
    pub fence: FencePoint,
    /// What it does.
    pub effect: Effect,
    /// To which pages.
    pub pages: PageMask,
    /// Bit `i` stands for the value `fence.value - i`: whose work this promise is, oldest in the highest bit.
    values: u64,
    ended: Option<Ended>,
}

/// How a promise ended: some of its work did what it promised, or some of it stopped half way (after that), or both, or neither.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
struct Ended {
    came_true: bool,
    torn: bool,
}

impl Ended {
    const KEPT: Self = Self { came_true: true, torn: false };
}

/// The fence of what has ended: whose it was does not matter any more, so that blocks in equal state are equal.
const NOBODY: FencePoint = {
    let device = DeviceId::new(0).expect("there can be a device 0");
    FencePoint { timeline: TimelineId::new(device, 0), value: 0 }
};

impl Promise {
    /// The promise of work that was just accepted.
    pub fn new(fence: FencePoint, effect: Effect, pages: PageMask) -> Self {
        Self { fence, effect, pages, values: 1, ended: None }
    }

    /// True until its fence was seen to have ended.
    pub fn is_pending(&self) -> bool {
        self.ended.is_none()
    }

    /// The fences of all the work that it stands for, oldest first.
    pub fn fences(&self) -> impl Iterator<Item = FencePoint> {
        let Self { fence, mut values, .. } = *self;
        std::iter::from_fn(move || {
            let back = values.checked_ilog2()?;
            values &= !(1 << back);
            Some(FencePoint { value: fence.value - u64::from(back), ..fence })
        })
    }

    /// Makes this promise stand for a later, like one too. False when the two are too far apart to be told from each other when one fails.
    fn stands_for(&mut self, later: FencePoint) -> bool {
        let distance = later.value.saturating_sub(self.fence.value);
        if matches!(self.effect, Effect::Read { .. }) {
            // A read changes no state, so nobody asks which of them failed.
            self.fence = later;
            return true;
        }
        if distance == 0 || distance > u64::from(self.values.leading_zeros()) {
            return false;
        }
        self.values = self.values << distance | 1;
        self.fence = later;
        true
    }

    fn end(&mut self, ended: Ended) {
        *self = Self { ended: Some(ended), ..Self::new(NOBODY, self.effect, self.pages) };
    }

    /// Applies it to some of its pages: as it ended, or as promised while it is pending.
    fn fold(&self, state: &mut BlockState, pages: PageMask) {
        let Ended { came_true, torn } = self.ended.unwrap_or(Ended::KEPT);
        if came_true {
            self.effect.apply(state, pages);
        }
        if torn {
            self.effect.withdraw(state, pages);
        }
    }

    /// The fence of the last of its work.
    pub fn fence(&self) -> FencePoint {
        self.fence
    }

    /// The device out of whose memory another device copies. Who follows such a copy waits for it on the host, its own device's work too: it may have
    /// ended well and be worth nothing.
    pub fn source_abroad(&self) -> Option<DeviceId> {
        let source = self.effect.reads().and_then(NodeId::device);
        source.filter(|device| *device != self.fence.timeline.device())
    }

    /// True when the source of a copy between devices is lost: whatever the copying device says, the bytes may be anything.
    fn has_lost_its_source(&self, mut poll: impl FnMut(FencePoint) -> FenceState) -> bool {
        let source = self.source_abroad();
        source.is_some_and(|device| poll(FencePoint::never(device)) == FenceState::Lost)
    }

    /// What became of the work, which has ended.
    fn outcome(&self, mut poll: impl FnMut(FencePoint) -> FenceState) -> Ended {
        let (mut came_true, mut torn) = (false, false);
        let source_lost = self.has_lost_its_source(&mut poll);
        for fence in self.fences() {
            match poll(fence) {
                FenceState::Ok if source_lost => torn = true,
                FenceState::Ok => came_true = true,
                // It never began.
                FenceState::Failed(Failure::Dependency) => {}
                FenceState::Failed(_) | FenceState::Lost | FenceState::Pending => torn = true,
            }
        }
        Ended { came_true, torn }
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
    pub fn promised(&self) -> Cow<'_, BlockState> {
        if self.promises.is_empty() {
            return Cow::Borrowed(&self.settled);
        }
        let mut state = self.settled.clone();
        for promise in &self.promises {
            promise.fold(&mut state, promise.pages);
        }
        Cow::Owned(state)
    }

    /// Fences that work with this effect on these pages must wait for.
    pub fn waits(&self, effect: Effect, pages: PageMask) -> impl Iterator<Item = FencePoint> {
        self.followed(effect, pages).map(|promise| promise.fence)
    }

    /// The promises that work with this effect on these pages must follow.
    pub fn followed(&self, effect: Effect, pages: PageMask) -> impl Iterator<Item = &Promise> {
        let pending = self.promises.iter().filter(|promise| promise.is_pending());
        pending.filter(move |promise| {
            promise.pages.overlaps(pages) && effect.must_follow(promise.effect)
        })
    }

    /// Records what accepted work promises. Like promises on one timeline become one, so the log stays about
    /// as short as the number of timelines.
    pub fn promise(&mut self, promise: Promise) {
        let position = self.promises.iter().rposition(|earlier| {
            earlier.is_pending()
                && earlier.fence.timeline == promise.fence.timeline
                && earlier.effect == promise.effect
                && earlier.pages == promise.pages
        });
        if let Some(at) = position {
            // Reads change no state, so their place does not matter. The others keep their order, page by page.
            let is_read = |one: &Promise| matches!(one.effect, Effect::Read { .. });
            let later = &self.promises[at + 1..];
            let passes = |one: &Promise| is_read(one) || !one.pages.overlaps(promise.pages);
            if (is_read(&promise) || later.iter().all(passes))
                && self.promises[at].stands_for(promise.fence)
            {
                return;
            }
        }
        self.promises.push(promise);
    }

    /// Records an effect that needs no fence: what it does has been done.
    pub fn done(&mut self, effect: Effect, pages: PageMask) {
        if self.promises.is_empty() {
            effect.apply(&mut self.settled, pages);
            return;
        }
        // Behind what is still pending, in the order of things.
        let ended = Some(Ended::KEPT);
        self.promises.push(Promise { ended, ..Promise::new(NOBODY, effect, pages) });
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
                FenceState::Ok if promise.has_lost_its_source(&mut poll) => None,
                FenceState::Ok => {
                    promise.end(Ended::KEPT);
                    continue;
                }
                FenceState::Failed(failure) => Some(failure),
                FenceState::Lost => None,
            };
            let Promise { fence, effect, pages, .. } = *promise;
            promise.end(promise.outcome(&mut poll));
            report(Settlement { fence, failure, effect, pages });
        }
        self.fold_ended();
    }

    /// A node's memory is gone with its device, all of whose work has ended.
    pub fn lose_node(&mut self, node: NodeId) {
        self.settled.destroy(node, PageMask::FULL);
        for promise in self.promises.iter_mut().filter(|p| p.effect.overwrites() == Some(node)) {
            promise.ended = promise.ended.map(|ended| Ended { torn: true, ..ended });
        }
    }

    /// A node's clean copies are given up: each page is current elsewhere too. Pages without another copy are left as they are,
    /// and so is everything while anything is in flight: a copy that is clean now may turn out to be the last good one.
    pub fn drop_clean(&mut self, node: NodeId, pages: PageMask) {
        if !self.is_settled() {
            return;
        }
        let elsewhere = self.settled.holders().iter().filter(|(holder, _)| *holder != node);
        let clean = elsewhere.fold(PageMask::EMPTY, |sum, (_, held)| sum.or(*held));
        self.settled.remove(node, pages.and(clean));
    }

    /// Takes every promise out of the log that nothing earlier holds up: page by page, up to the first that is still pending there.
    /// Reads, which change nothing, hold nothing up.
    fn fold_ended(&mut self) {
        let mut blocked = PageMask::EMPTY;
        let settled = &mut self.settled;
        self.promises.retain(|promise| {
            let is_read = matches!(promise.effect, Effect::Read { .. });
            if promise.is_pending() {
                blocked = if is_read { blocked } else { blocked.or(promise.pages) };
                return true;
            }
            promise.fold(settled, promise.pages.without(blocked));
            promise.pages = promise.pages.and(blocked);
            let matters = promise.ended != Some(Ended::default()) && !promise.pages.is_empty();
            matters && !is_read
        });
        self.forget_superseded();
    }

    /// Drops what is held up and makes no difference any more, so that a block can be used without end behind work that takes its
    /// time: what was written over since, and what happened to a copy before the last thing that happened to it. What came true is
    /// not dropped for what only tore later: without it there would be nothing that could have been lost.
    fn forget_superseded(&mut self) {
        let mut overwritten = PageMask::EMPTY;
        let mut replaced = [PageMask::EMPTY; MAX_NODES];
        let mut torn = [PageMask::EMPTY; MAX_NODES];
        for promise in self.promises.iter_mut().rev() {
            if promise.effect == Effect::Discard {
                promise.pages = promise.pages.without(overwritten);
                overwritten = overwritten.or(promise.pages);
                continue;
            }
            let Some(node) = promise.effect.overwrites() else { continue };
            let Some(ended) = promise.ended else {
                // How it will end is not known, so what came before it may matter.
                let all = replaced.iter_mut().chain(&mut torn);
                all.for_each(|pages| *pages = pages.without(promise.pages));
                continue;
            };
            promise.pages = promise.pages.without(overwritten);
            if ended.came_true && matches!(promise.effect, Effect::Write { .. }) {
                overwritten = overwritten.or(promise.pages);
                continue;
            }
            promise.pages = promise.pages.without(replaced[node.index()]);
            let later = if ended.came_true { &mut replaced } else { &mut torn };
            let later = &mut later[node.index()];
            if !ended.came_true {
                promise.pages = promise.pages.without(*later);
            }
            *later = later.or(promise.pages);
        }
        self.promises.retain(|promise| !promise.pages.is_empty());
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

    #[test]
    fn what_was_copied_out_of_memory_that_was_lost_meanwhile_does_not_count() {
        let [first, second] = [0, 1].map(|index| DeviceId::new(index).unwrap());
        let (from, to) = (NodeId::of_device(first), NodeId::of_device(second));
        let fence = FencePoint { timeline: TimelineId::new(second, 0), value: 1 };
        let copied = |lost_before_it_ended: bool| {
            let mut log = Log::default();
            log.done(Effect::Write { on: from }, PageMask::FULL);
            log.promise(Promise::new(fence, Effect::Copy { from, to }, PageMask::FULL));
            let mut reports = 0;
            let poll = |point| match point == FencePoint::never(first) {
                true if lost_before_it_ended => FenceState::Lost,
                true => FenceState::Pending,
                false => FenceState::Ok,
            };
            log.settle(poll, |_| reports += 1);
            log.lose_node(from);
            (log.settled().valid_on(to), log.settled().lost(), reports)
        };
        assert_eq!(copied(false), (PageMask::FULL, PageMask::EMPTY, 0));
        assert_eq!(copied(true), (PageMask::EMPTY, PageMask::FULL, 1));
    }

    /// Found by the directory's property test: the first zeroing was dropped for the second one's sake, and the page came out as
    /// never written instead of lost.
    #[test]
    fn a_copy_that_was_there_before_it_tore_is_lost_also_behind_pending_work() {
        let (_, device, [earlier, zero, torn]) = in_flight();
        let mut log = Log::default();
        let effect = Effect::Zero { on: device };
        let other =
            FencePoint { timeline: TimelineId::new(DeviceId::new(0).unwrap(), 1), ..earlier };
        log.promise(Promise::new(other, effect, PageMask::FULL));
        log.promise(Promise::new(zero, effect, PageMask::span(4, 8)));
        log.promise(Promise::new(torn, effect, PageMask::span(4, 6)));
        let mut first = FenceState::Pending;
        for _ in 0..2 {
            let state = |fence: FencePoint| match fence {
                fence if fence == other => first,
                fence if fence == zero => FenceState::Ok,
                _ => FenceState::Failed(Failure::Injected),
            };
            log.settle(state, |_| {});
            first = FenceState::Failed(Failure::Dependency);
        }
        assert!(log.is_settled());
        assert_eq!(log.settled().lost(), PageMask::span(4, 6));
        assert_eq!(log.settled().valid_on(device), PageMask::span(6, 8));
    }
}
