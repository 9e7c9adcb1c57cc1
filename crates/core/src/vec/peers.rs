//! A vector's peers: mapping it for one, and who has it mapped.

use std::{
    ops::{Range, RangeBounds},
    sync::{Arc, Weak},
};

use bytemuck::Pod;

use super::{Buffer, Hinge, SharedVec};
use crate::{
    access::Access,
    directory::{PageSpan, Residency},
    error::Error,
    peer::{Entry, Participation, Peer, PeerError, PeerMapping, Stage},
    runtime::Inner,
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
    /// [`Error::OutOfRange`]; [`Error::Peer`] with what keeps the peer from it ([`PeerError::PinQuota`] for a static one); what happened to the range before, as
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
        let bytes = Self::bytes(&self.resolve(range)?);
        let inner = self.runtime.inner();
        // Where touches do not fault, and where they cannot be refused, the host asks before it writes.
        if inner.user_view().is_none() || peer.participation() == Participation::Static {
            Hinge::shared(&self.gate).close();
        }
        map(inner, &self.buffer, peer, bytes, access)
    }

    /// The way to map the vector for peers that are not there yet: whoever answers for them keeps it and borrows nothing.
    ///
    /// Where the host's writes do not fault ([`Runtime::host_faults`](crate::Runtime::host_faults)), plain indexing asks once and is free after that, until a launch, or
    /// [`SharedVec::map_peer`], uses the vector: what is indexed in between is written unseen by a peer that maps again meanwhile. [`SharedVec::host_mut`] always asks.
    pub fn mappable(&self) -> Mappable {
        self.mappable_for(Access::Read)
    }

    pub(super) fn mappable_for(&self, access: Access) -> Mappable {
        let inner = self.runtime.inner();
        if inner.user_view().is_none() {
            Hinge::shared(&self.gate).close();
        }
        let (inner, buffer) = (Arc::downgrade(inner), Arc::downgrade(&self.buffer));
        Mappable { inner, buffer, len_bytes: (self.len * Self::ELEMENT_BYTES) as u64, access }
    }
}

/// The way to map a vector for peers without borrowing it: [`SharedVec::mappable`], [`Lent::mappable`]. Keeps neither vector nor runtime.
///
/// [`Lent::mappable`]: super::Lent::mappable
#[derive(Clone, Debug)]
pub struct Mappable {
    inner: Weak<Inner>,
    buffer: Weak<Buffer>,
    len_bytes: u64,
    access: Access,
}

impl Mappable {
    /// How long the vector is, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The vector was dropped, or has moved.
    pub fn is_gone(&self) -> bool {
        self.buffer.strong_count() == 0
    }

    /// What peers may do with it: [`Access::Read`], or [`Access::Update`] of a vector that is lent.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Gives a dynamic peer addresses of these bytes: [`SharedVec::map_peer`].
    ///
    /// # Errors
    /// As there; [`PeerError::Released`] when the vector is gone; [`PeerError::IsStatic`] of a static peer, whose pins need a borrow.
    pub fn map_peer(&self, peer: Arc<dyn Peer>, bytes: Range<u64>) -> Result<PeerMapping, Error> {
        let refused =
            |peer: &Arc<dyn Peer>, source| Error::Peer { peer: peer.name().to_owned(), source };
        let (Some(inner), Some(buffer)) = (self.inner.upgrade(), self.buffer.upgrade()) else {
            return Err(refused(&peer, PeerError::Released));
        };
        if peer.participation() == Participation::Static {
            return Err(refused(&peer, PeerError::IsStatic));
        }
        let end = bytes.end.min(self.len_bytes);
        map(&inner, &buffer, peer, bytes.start.min(end)..end, self.access)
    }
}

fn map(
    inner: &Arc<Inner>,
    buffer: &Arc<Buffer>,
    peer: Arc<dyn Peer>,
    bytes: Range<u64>,
    access: Access,
) -> Result<PeerMapping, Error> {
    let span = PageSpan::touching(&bytes);
    let is_static = peer.participation() == Participation::Static;
    let pin = is_static.then(|| inner.pins.pin((span.end - span.first) * PAGE_BYTES));
    let refused = |source| Error::Peer { peer: peer.name().to_owned(), source };
    let pin = pin.transpose().map_err(refused)?;
    let (id, stamp) = {
        let mut state = buffer.state.lock();
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
            lost_on: None,
        })
    };
    let (inner, buffer) = (inner.clone(), buffer.clone());
    let mapping = PeerMapping { inner, buffer, peer, id, stamp, bytes, access };
    mapping.segments()?;
    Ok(mapping)
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
