//! Looks at fences, folds what has ended, and turns what went wrong into something that the next access reports.

use std::{ops::Range, sync::atomic::Ordering};

use crate::{
    directory::{FenceSet, PageSpan},
    error::Error,
    fence::{Failure, FencePoint, FenceState},
    host::Spoiler,
    node::NodeId,
    runtime::Inner,
    units::PAGE_BYTES,
    vec::{Buffer, BufferState, Notice},
};

impl Inner {
    /// How a fence of any of our devices stands.
    pub(crate) fn poll(&self, fence: FencePoint) -> FenceState {
        let device = fence.timeline.device();
        let Some(open) = self.opened(device) else { return FenceState::Lost };
        let state = open.device.poll(fence);
        if state == FenceState::Lost {
            self.mark_lost(device);
        }
        state
    }

    /// Folds what has ended on `span`, and takes note of lost devices.
    pub(crate) fn settle(&self, state: &mut BufferState, span: PageSpan) {
        self.settle_told(state, span, None);
    }

    /// As [`Inner::settle`], where somebody has been told already of what became of one fence.
    pub(super) fn settle_told(
        &self,
        state: &mut BufferState,
        span: PageSpan,
        told: Option<FencePoint>,
    ) {
        let BufferState { directory, .. } = state;
        let mut reports = smallvec::SmallVec::<[_; 2]>::new();
        directory.settle(
            span,
            |fence| self.poll(fence),
            |blocks, settlement| reports.push((blocks, settlement)),
        );
        let something_failed = !reports.is_empty();
        for (blocks, settlement) in reports {
            if settlement.effect.overwrites() == Some(NodeId::HOST) {
                state.host_spoiled = true;
            }
            let never_began = settlement.failure == Some(Failure::Dependency);
            if settlement.effect.overwrites().is_some() && !never_began {
                let by = Spoiler::Work(settlement.fence, settlement.failure);
                state.spoils.add(blocks.clone(), settlement.pages, by);
            }
            if told != Some(settlement.fence) {
                state.note(blocks, settlement);
            }
        }
        if something_failed {
            self.tell_found(state, span);
        }
        // Acquire: pairs with the release in `mark_lost`, so the slots' flags are visible.
        if self.any_lost.load(Ordering::Acquire) {
            self.settle_losses(state, told);
        }
    }

    /// Each lost device's copies stop counting, once in a buffer, after everything pending on it has been withdrawn.
    fn settle_losses(&self, state: &mut BufferState, told: Option<FencePoint>) {
        let whole = PageSpan { first: 0, end: state.directory.pages() };
        for slot in self.slots.iter().filter(|slot| slot.lost.load(Ordering::Relaxed)) {
            if state.losses.contains(&slot.id) {
                continue;
            }
            state.losses.push(slot.id);
            self.settle_told(state, whole, told);
            let node = NodeId::of_device(slot.id);
            let BufferState { directory, spoils, .. } = state;
            directory.change(whole, |blocks, pages, run| {
                let before = run.log.promised().lost();
                run.log.lose_node(node);
                run.backed.remove(node);
                let at_rest = run.log.promised().lost().without(before).and(pages);
                if !at_rest.is_empty() {
                    spoils.add(blocks, at_rest, Spoiler::Device(slot.id));
                }
            });
            if let Some(peers) = &mut state.peers {
                peers.lose(node);
            }
            self.tell_found(state, whole);
        }
    }

    /// What the next access to `span` has to be told, once.
    pub(super) fn take_notice(&self, state: &mut BufferState, span: PageSpan) -> Result<(), Error> {
        let overlaps =
            |notice: &Notice| notice.span.first < span.end && span.first < notice.span.end;
        match state.notice.take_if(|notice| overlaps(notice)) {
            None => Ok(()),
            Some(Notice { fence, failure, span }) => {
                let bytes = Some(bytes_of(span));
                Err(match failure {
                    Some(source) => Error::WorkFailed { fence, bytes, source },
                    None => Error::DeviceLost { device: fence.timeline.device(), bytes },
                })
            }
        }
    }

    /// Every fence that is pending anywhere in a buffer.
    pub(super) fn pending(&self, buffer: &Buffer, state: &mut BufferState) -> FenceSet {
        self.settle(state, buffer.all());
        let mut fences = FenceSet::default();
        for (_, run) in state.directory.runs() {
            let promises = run.log.promises().iter().filter(|promise| promise.is_pending());
            fences.extend(promises.map(|promise| promise.fence));
        }
        fences
    }
}

/// The bytes of a vector that some of its pages hold.
pub(super) fn bytes_of(span: PageSpan) -> Range<u64> {
    span.first * PAGE_BYTES..span.end * PAGE_BYTES
}
