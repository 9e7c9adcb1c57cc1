//! Vectors that peers may write: lending, taking back, and taking pages out of another process's mapping.

use std::{
    slice,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{
    batch::conflicts,
    ledger::Doing,
    peers::{Marks, Wanted, Why},
    plan::Request,
    working_set::{Brought, WorkingSet},
};
use crate::{
    access::Access,
    backend::TransferWork,
    coherence::Effect,
    directory::{FenceSet, PageSpan},
    error::Error,
    host::{HostError, HostSpan, ShareFault},
    kernel::BoundArray,
    node::NodeId,
    peer::Taking,
    runtime::{Inner, OpenDevice},
    stats::Cause,
    units::PAGE_BYTES,
    vec::Buffer,
};

impl Inner {
    /// All pages come to the host and leave every other place; from then on peers may map them for writing. Nothing else uses them until they are
    /// taken back: that is for the caller to see to.
    pub(crate) fn lend(&self, buffer: &Arc<Buffer>) -> Result<(), Error> {
        let request = Request::by_host(Access::Update, buffer.all());
        let lent = self.host_access_then(buffer, request, Cause::Peer, |state| {
            state.lent_on = Some(NodeId::HOST);
        });
        self.tell_losses();
        lent
    }

    /// All pages come to a device's memory, leave every other place, and stay; from then on peers may map them there for writing. As [`Inner::lend`] otherwise.
    /// `array` is the whole vector.
    pub(crate) fn lend_on(&self, open: &OpenDevice, array: &BoundArray<'_>) -> Result<(), Error> {
        if open.node.is_host() || array.bytes.is_empty() {
            return self.lend(array.buffer);
        }
        let (arrays, cause, doing) = (slice::from_ref(array), Cause::Peer, Doing::Acquired);
        let set = WorkingSet { inner: self, open, arrays, cause, doing, queue: &[] };
        let lent = set.bring(|locked, Brought { uses, waits, .. }| {
            // What a peer writes is not told: it counts as written by the device's own work, from here on.
            let nothing = TransferWork { waits: waits.as_slice(), copies: &[], zeros: &[] };
            let fence = open.device.submit_transfer(&nothing);
            let fence = fence.map_err(|error| self.refused(open, error))?;
            let last_use = self.counters.launches.load(Relaxed);
            locked.record(&self.recorder, fence, uses, (Cause::Peer, last_use));
            locked.hold();
            locked.states.iter_mut().for_each(|state| state.lent_on = Some(open.node));
            Ok(())
        });
        self.tell_losses();
        lent
    }

    /// No peer may write any more. Each mapping that may is taken back first; for as long as one is not, the vector stays lent.
    pub(crate) fn end_lending(&self, buffer: &Arc<Buffer>) -> Result<(), Error> {
        let (span, taking) = (buffer.all(), Taking::Return);
        let mut marks = Marks::default();
        loop {
            self.forgive(buffer);
            let mut state = buffer.state.lock();
            if !state.is_hindered(span, taking, false) {
                if state.lent_on.take().is_some_and(|on| !on.is_host()) {
                    state.held -= 1;
                }
                return Ok(());
            }
            drop(state);
            let wanted = Wanted { buffer: buffer.clone(), span, taking };
            let why = Why { cause: Cause::Peer, initiator: NodeId::HOST, tolerates_late: false };
            self.take_back(&mut marks, &[wanted], why)?;
        }
    }

    /// Takes pages of a shareable buffer out of every other process's mapping and keeps what they hold: page by page they are copied out, punched, and put back.
    /// What others write in between is gone.
    pub(crate) fn punch(&self, buffer: &Arc<Buffer>, span: PageSpan) -> Result<(), Error> {
        let refused = |fault| Error::Host(HostError::NotShared(fault));
        let file = buffer.file.as_ref().ok_or(refused(ShareFault::NotShareable))?;
        let mut bytes = vec![0; PAGE_BYTES as usize];
        for page in span.first..span.end.min(buffer.pages()) {
            let pages = PageSpan { first: page, end: page + 1 };
            loop {
                let mut state = buffer.state.lock();
                if state.is_gone {
                    return Ok(());
                }
                // Who pins pages may reach them by other ways than our mapping, and would be left with the old ones.
                if let Some((peer, bytes)) = state.pinned(pages) {
                    return Err(Error::Pinned { peer, bytes });
                }
                self.settle(&mut state, pages);
                let mut waits = FenceSet::default();
                conflicts(&state, Effect::Write { on: NodeId::HOST }, pages, |promise| {
                    waits.insert(promise.fence())
                });
                if !waits.is_empty() {
                    drop(state);
                    self.wait_all(&waits)?;
                    continue;
                }
                // Under the lock: whoever touches the page meanwhile in this process waits for its fault.
                let place: HostSpan = buffer.host_span(pages);
                let view = self.arena.view();
                view.copy_out(place, &mut bytes);
                file.punch(page * PAGE_BYTES, PAGE_BYTES).map_err(refused)?;
                view.copy_in(place, &bytes);
                state.host_touched = true;
                break;
            }
        }
        Ok(())
    }
}
