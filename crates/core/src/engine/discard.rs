//! Pages become empty: nobody holds them, they read as zero everywhere, nothing is copied for it.
//!
//! Only the directory changes, behind whatever is in flight on devices; each node zeroes its copy when somebody there needs it. What is in
//! flight on the host's copy is waited for, since the host zeroes that by itself, without asking a device.

use std::{ops::Range, sync::Arc};

use super::{
    batch::conflicts,
    peers::{Marks, Wanted, Why},
    plan::Request,
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
    units::PAGE_BYTES,
    vec::{Buffer, BufferState},
};

impl Inner {
    /// Makes `inside`, the pages that lie whole in `bytes`, empty, and fills the rest of `bytes` with zeros on the host.
    pub(crate) fn discard(
        &self,
        buffer: &Arc<Buffer>,
        bytes: &Range<u64>,
        inside: PageSpan,
    ) -> Result<(), Error> {
        for rim in rims(bytes, inside) {
            let request = Request::by_host(Access::Update, PageSpan::touching(&rim));
            self.host_access(buffer, request, Cause::Guard)?;
            self.arena.zero(buffer.span.part(rim.start, rim.end - rim.start));
        }
        let mut marks = Marks::default();
        while !inside.is_empty() {
            let mut state = buffer.state.lock();
            self.settle(&mut state, inside);
            self.take_notice(&mut state, inside)?;
            if state.is_hindered(inside, Taking::Discard, false) {
                drop(state);
                let wanted =
                    Wanted { buffer: buffer.clone(), span: inside, taking: Taking::Discard };
                let (cause, initiator) = (Cause::Guard, NodeId::HOST);
                let why = Why { cause, initiator, tolerates_late: false };
                self.take_back(&mut marks, &[wanted], why)?;
                continue;
            }
            let mut waits = FenceSet::default();
            let touches = Effect::Write { on: NodeId::HOST };
            conflicts(&state, touches, inside, |promise| waits.insert(promise.fence()));
            if waits.is_empty() {
                return self.forget(buffer, &mut state, inside);
            }
            drop(state);
            self.wait_all(&waits)?;
        }
        Ok(())
    }

    fn forget(
        &self,
        buffer: &Buffer,
        state: &mut BufferState,
        span: PageSpan,
    ) -> Result<(), Error> {
        if let Some(view) = self.user_view() {
            user_view::leave(view, buffer, state, span, Access::Write)
                .map_err(|source| HostError::NotRevoked { source })?;
        }
        state.directory.change(span, |_, pages, run| run.log.done(Effect::Discard, pages));
        let vector = state.number;
        self.recorder.note(|| What::Discarded { vector, pages: span });
        state.host_spoiled |= state.host_touched;
        debug_assert_eq!(state.directory.check(), Ok(()));
        Ok(())
    }
}

/// The parts of `bytes` before and behind the pages that they cover whole.
fn rims(bytes: &Range<u64>, inside: PageSpan) -> impl Iterator<Item = Range<u64>> {
    let (before, behind) = if inside.is_empty() {
        (bytes.clone(), bytes.end..bytes.end)
    } else {
        let behind = (inside.end * PAGE_BYTES).min(bytes.end);
        (bytes.start..inside.first * PAGE_BYTES, behind..bytes.end)
    };
    [before, behind].into_iter().filter(|rim| !rim.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rims_are_what_whole_pages_leave_over() {
        const P: u64 = PAGE_BYTES;
        let left = |bytes: Range<u64>, len: u64| {
            let inside = PageSpan::inside(&bytes, len);
            rims(&bytes, inside).map(|rim| (rim.start, rim.end)).collect::<Vec<_>>()
        };
        assert_eq!(left(0..0, 9), []);
        assert_eq!(left(3..5, P), [(3, 5)]);
        assert_eq!(left(0..P + 1, P + 1), [], "the last page ends with the vector");
        assert_eq!(left(0..P + 1, P + 2), [(P, P + 1)]);
        assert_eq!(left(1..3 * P, 4 * P), [(1, P)]);
        assert_eq!(left(P - 1..2 * P + 1, 4 * P), [(P - 1, P), (2 * P, 2 * P + 1)]);
        assert_eq!(left(P - 1..P + 1, 4 * P), [(P - 1, P + 1)], "no page is covered whole");
    }
}
