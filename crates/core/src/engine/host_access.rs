//! The host's access to a range: the pages come home, and writers leave.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    batch::{Batch, States, conflicts},
    peers::{Marks, Wanted, Why},
    plan::{Request, Step, plan, spans},
    settle::bytes_of,
    user_view,
};
use crate::{
    access::Access,
    coherence::Effect,
    directory::{FenceSet, PageSpan},
    error::Error,
    events::What,
    host::HostError,
    node::NodeId,
    peer::Taking,
    runtime::Inner,
    stats::Cause,
    units::PageMask,
    vec::{Buffer, BufferState},
};

impl Inner {
    /// Makes pages good for the host to read, to read and write, or to overwrite. When this returns, nothing in flight writes the
    /// host's copy, and for a write nothing in flight touches it and it is the only one. No touch of the pages ends with a
    /// signal any more.
    pub(crate) fn host_access(
        &self,
        buffer: &Arc<Buffer>,
        request: Request,
        cause: Cause,
    ) -> Result<(), Error> {
        self.host_access_then(buffer, request, cause, |_| ())
    }

    /// As [`Inner::host_access`]; `then` runs under the lock under which the pages were found to be good.
    pub(super) fn host_access_then<R>(
        &self,
        buffer: &Arc<Buffer>,
        request: Request,
        cause: Cause,
        then: impl FnOnce(&mut BufferState) -> R,
    ) -> Result<R, Error> {
        let Request { access, span, .. } = request;
        if span.is_empty() {
            return Ok(then(&mut buffer.state.lock()));
        }
        let mut marks = Marks::default();
        loop {
            let mut state = buffer.state.lock();
            if let Some(asked) = state.lacking(span, access) {
                drop(state);
                self.obtain(buffer, asked)?;
                continue;
            }
            if is_ready(&state, access) {
                return Ok(then(&mut state));
            }
            self.settle(&mut state, span);
            self.take_notice(&mut state, span)?;
            let taking = Taking::Write(NodeId::HOST);
            if access.writes() && state.is_hindered(span, taking, false) {
                drop(state);
                let wanted = Wanted { buffer: buffer.clone(), span, taking };
                let why = Why { cause, initiator: NodeId::HOST, tolerates_late: false };
                self.take_back(&mut marks, &[wanted], why)?;
                continue;
            }
            let waits = self.attempt_host_access(buffer, &mut state, request, cause)?;
            if waits.is_empty() {
                return Ok(then(&mut state));
            }
            drop(state);
            self.wait_all(&waits)?;
        }
    }

    /// Does what can be done now; returns what has to be waited for before trying again, nothing when done.
    pub(super) fn attempt_host_access(
        &self,
        buffer: &Arc<Buffer>,
        state: &mut BufferState,
        request: Request,
        cause: Cause,
    ) -> Result<FenceSet, Error> {
        let Request { node, access, span, inside } = request;
        debug_assert!(node.is_host());
        let needed = plan(&state.directory, request);
        if let Some(lost) = needed.lost {
            return Err(Error::DataLost { bytes: bytes_of(lost) });
        }
        let steps: SmallVec<[_; 4]> = needed.steps.iter().map(|step| (0, *step)).collect();
        let mut waits = self.copy_home(&steps, cause, &[buffer], state)?;
        if let Some((_, step)) = steps.first() {
            self.comes_home(state, cause);
            self.count_brought(state, step.pages.first);
        }
        let writes = access.writes();
        let effect = if writes { Effect::Write { on: node } } else { Effect::Read { on: node } };
        conflicts(state, effect, span, |promise| waits.insert(promise.fence()));
        if !waits.is_empty() {
            return Ok(waits);
        }
        self.zero_host(buffer, state, &needed.zeros)?;
        if access == Access::Write {
            self.zero_strangers(buffer, state, inside);
        }
        if writes {
            self.count_collapsed(state, span);
            state.directory.change(span, |_, pages, run| run.log.done(effect, pages));
            self.tell_written(state, span, cause);
        }
        state.host_touched = true;
        if let Some(view) = self.user_view() {
            user_view::cure(view, buffer, state, span)
                .map_err(|source| HostError::NotRevoked { source })?;
        }
        debug_assert_eq!(state.directory.check(), Ok(()));
        Ok(waits)
    }

    /// Pages that the host is about to overwrite are seen before that, by whoever does it. What an earlier vector left in them is
    /// not; what this one left may be.
    fn zero_strangers(&self, buffer: &Buffer, state: &mut BufferState, inside: PageSpan) {
        if !state.host_spoiled {
            return;
        }
        let pages = state.directory.pages();
        state.directory.look(inside, |blocks, mask, run| {
            let stale = mask.without(run.log.promised().valid_on(NodeId::HOST));
            for stale in spans(blocks, stale, pages) {
                self.arena.zero(buffer.host_span(stale));
            }
        });
        // From here on every page of the host holds this vector's own bytes, and none counts as empty.
        state.host_spoiled = inside.count() < pages;
    }

    /// Only the host's copy of these pages is current now.
    pub(super) fn tell_written(&self, state: &BufferState, pages: PageSpan, cause: Cause) {
        let (vector, on, fence) = (state.number, NodeId::HOST, None);
        self.recorder.note(|| What::Written { vector, pages, on, cause, fence });
    }

    /// Empty pages of the host become valid ones that read as zero.
    pub(super) fn zero_host(
        &self,
        buffer: &Buffer,
        state: &mut BufferState,
        zeros: &[PageSpan],
    ) -> Result<(), Error> {
        for pages in zeros {
            if state.host_spoiled {
                self.arena.zero(buffer.host_span(*pages));
            }
            let effect = Effect::Zero { on: NodeId::HOST };
            state.directory.change(*pages, |_, mask, run| run.log.done(effect, mask));
            let (vector, on) = (state.number, NodeId::HOST);
            let what = What::Zeroed { vector, pages: *pages, on, cause: None, fence: None };
            self.recorder.note(|| what);
        }
        Ok(())
    }

    /// Submits copies to the host, each device's in one batch; returns the fences to wait for. Nothing is submitted on a device
    /// whose batch has to wait for another device first.
    pub(super) fn copy_home(
        &self,
        steps: &[(usize, Step)],
        cause: Cause,
        buffers: &[&Arc<Buffer>],
        states: &mut (impl States + ?Sized),
    ) -> Result<FenceSet, Error> {
        let mut waits = FenceSet::default();
        for slot in &self.slots {
            let from = NodeId::of_device(slot.id);
            let mut mine = steps.iter().filter(|(_, step)| step.from == from).peekable();
            let (Some(_), Some(open)) = (mine.peek(), self.opened(slot.id)) else { continue };
            let mut batch = Batch::new(open);
            for (number, step) in mine {
                let step = Step { to: NodeId::HOST, ..*step };
                batch.copy(*number, buffers[*number], states.state(*number), step);
            }
            if batch.foreign.is_empty() {
                waits.insert(batch.submit(self, cause, states)?);
            } else {
                waits.extend(batch.foreign.as_slice().iter().copied());
            }
        }
        Ok(waits)
    }
}

/// True when the whole buffer is at rest and the host may access it as it is: the way of a guard with nothing to do.
fn is_ready(state: &BufferState, access: Access) -> bool {
    let Some(run) = state.directory.uniform() else { return false };
    let asks_peers = access.writes() && state.peers.is_some();
    let at_rest = run.log.is_settled() && run.mapped.poisoned.is_empty();
    if !at_rest || state.notice.is_some() || asks_peers {
        return false;
    }
    let settled = run.log.settled();
    match access {
        Access::Read => settled.valid_on(NodeId::HOST) == PageMask::FULL,
        Access::Update | Access::Write => settled.holders() == [(NodeId::HOST, PageMask::FULL)],
    }
}
