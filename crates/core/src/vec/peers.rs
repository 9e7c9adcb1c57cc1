//! A vector's peers: mapping it for one, and who has it mapped.

use std::{ops::RangeBounds, sync::Arc};

use bytemuck::Pod;

use super::{Hinge, SharedVec};
use crate::{
    access::Access,
    directory::Residency,
    error::Error,
    peer::{Entry, Participation, Peer, PeerMapping, Stage},
    units::PAGE_BYTES,
};

impl<T: Pod> SharedVec<T> {
    /// Gives a peer addresses of a range, for reading. What the peer does not reach where it is comes home to the host. The mapping does not
    /// borrow the vector: whoever writes the range, the host included, takes it back first ([`crate::peer`] has the rules).
    ///
    /// A static peer's range is pinned until its mapping is dropped: launches that would move it are refused with
    /// [`Error::Pinned`], and so is the host's writing where it is pinned on a device. What is written where it is, the peer sees.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Peer`] with what keeps the peer from it ([`PeerError::PinQuota`](crate::peer::PeerError::PinQuota) for a static one); what happened to the range before, as
    /// [`SharedVec::host`].
    pub fn map_peer(
        &self,
        peer: Arc<dyn Peer>,
        range: impl RangeBounds<usize>,
    ) -> Result<PeerMapping, Error> {
        self.map_for(peer, range, Access::Read)
    }

    /// For reading, or, of a lent vector, for writing.
    pub(super) fn map_for(
        &self,
        peer: Arc<dyn Peer>,
        range: impl RangeBounds<usize>,
        access: Access,
    ) -> Result<PeerMapping, Error> {
        let elements = self.resolve(range)?;
        let bytes = Self::bytes(&elements);
        let span = self.pages(&elements);
        let is_static = peer.participation() == Participation::Static;
        let inner = self.runtime.inner();
        let pin = is_static.then(|| inner.pins.pin((span.end - span.first) * PAGE_BYTES));
        let refused = |source| Error::Peer { peer: peer.name().to_owned(), source };
        let pin = pin.transpose().map_err(refused)?;
        // Where touches do not fault, and where they cannot be refused, the host asks before it writes.
        if is_static || inner.user_view().is_none() {
            Hinge::shared(&self.gate).close();
        }
        let (id, stamp) = {
            let mut state = self.buffer.state.lock();
            state.peers.get_or_insert_default().insert(span, |id, stamp| Entry {
                id,
                peer: peer.clone(),
                pin,
                writes: access.writes(),
                bytes: bytes.clone(),
                span,
                stamp,
                stage: Stage::Unmapped,
                placed: Vec::new(),
                addresses: Vec::new(),
                fences: Vec::new(),
                confirmation: Arc::default(),
                over: Arc::default(),
            })
        };
        let (inner, buffer) = (inner.clone(), self.buffer.clone());
        let mapping = PeerMapping { inner, buffer, peer, id, stamp, bytes, access };
        mapping.segments()?;
        Ok(mapping)
    }
}

/// Adds to what the directory knows who else has addresses.
pub(super) fn add_peers(residency: Vec<Residency>, entries: &[Entry]) -> Vec<Residency> {
    let mut runs = residency;
    for entry in entries.iter().filter(|entry| entry.stage != Stage::Unmapped) {
        let mut cut = Vec::with_capacity(runs.len() + 2);
        for run in runs {
            let first = entry.span.first.clamp(run.pages.start, run.pages.end);
            let end = entry.span.end.clamp(first, run.pages.end);
            let inside = Residency {
                pages: first..end,
                peers: run.peers + 1,
                pinned: run.pinned || entry.is_static(),
                ..run.clone()
            };
            let before = Residency { pages: run.pages.start..first, ..run.clone() };
            let after = Residency { pages: end..run.pages.end, ..run };
            cut.extend([before, inside, after].into_iter().filter(|run| !run.pages.is_empty()));
        }
        runs = cut;
    }
    runs
}
