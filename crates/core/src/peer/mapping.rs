//! One peer's mapping of one range, as whoever maps it holds it.

use std::{fmt, ops::Range, sync::Arc, time::Instant};

use super::{
    AddressFault, AddressKind, BusSegment, Participation, PeerError, PeerFence, Place, Reach,
    SharedPeer, Stage, Stamp, StampCell, split,
};
use crate::{
    access::Access,
    backend::{DeviceFacts, Reservation},
    directory::PageSpan,
    engine::unmap,
    error::Error,
    node::NodeId,
    p2p::HandleKinds,
    runtime::Inner,
    sync::about_to_run_user_code,
    vec::Buffer,
};

/// Neighbouring bytes of a vector on one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Placed {
    pub(crate) node: NodeId,
    /// Bytes of the vector.
    pub(crate) bytes: Range<u64>,
}

/// Addresses of a range, and the stamp to ask whether they are still good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segments {
    stamp: Stamp,
    list: Vec<BusSegment>,
}

impl Segments {
    pub(crate) fn new(stamp: Stamp, list: Vec<BusSegment>) -> Self {
        Self { stamp, list }
    }

    /// When they were made.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The addresses, in the order of the range. More than one segment is the normal case.
    pub fn list(&self) -> &[BusSegment] {
        &self.list
    }
}

/// How a mapping stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum MappingState {
    /// The peer has no addresses: it never asked, or they were taken back.
    Unmapped,
    /// The peer has addresses.
    Mapped,
    /// They are being taken back.
    Revoking,
    /// The peer was to give them back and has not.
    Late,
    /// The vector is gone.
    Released,
}

/// A peer's mapping of a range of a vector: [`crate::SharedVec::map_peer`]. It does not borrow the vector, and keeps the runtime.
///
/// Dropping it is a confirmation: it waits for attached fences, up to the deadline. Forgetting it ([`std::mem::forget`]) leaves the mapping as it is:
/// a dynamic one is taken back like any other, a static one pins its range until the process ends.
pub struct PeerMapping {
    pub(crate) inner: Arc<Inner>,
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) peer: SharedPeer,
    pub(crate) id: u64,
    pub(crate) stamp: Arc<StampCell>,
    pub(crate) bytes: Range<u64>,
    pub(crate) access: Access,
}

impl PeerMapping {
    /// The bytes of the vector that it covers.
    pub fn bytes(&self) -> Range<u64> {
        self.bytes.clone()
    }

    /// True when the peer can do no more by its addresses than it was given: it may write, or it cannot ([`super::Peer::enforces_reading`]). Where this is false, that
    /// it only reads is its word.
    pub fn is_enforced(&self) -> bool {
        about_to_run_user_code();
        self.access.writes() || self.peer.enforces_reading()
    }

    /// Waits while the range is being taken back, up to the deadline for peers.
    ///
    /// # Errors
    /// [`PeerError::TimedOut`].
    pub fn begin(&self) -> Result<Stamp, Error> {
        let timeout = self.inner.peer_deadline();
        let begun = self.stamp.begin(timeout);
        begun.ok_or_else(|| self.refused(PeerError::TimedOut { waited: timeout }))
    }

    /// True when what was begun with `stamp` has to be done again: the range was taken back since, or is being.
    pub fn retry(&self, stamp: Stamp) -> bool {
        self.stamp.retry(stamp)
    }

    /// Addresses of the range as it is now. What the peer cannot reach where it is comes home to the host first.
    ///
    /// # Errors
    /// [`Error::Peer`] with the reason; what happened to the range before, as [`crate::SharedVec::host`].
    pub fn segments(&self) -> Result<Segments, Error> {
        let deadline = Instant::now() + self.inner.peer_deadline();
        loop {
            if let Some(segments) = self.inner.map_for(self)? {
                return Ok(segments);
            }
            if Instant::now() > deadline {
                let waited = self.inner.peer_deadline();
                return Err(self.refused(PeerError::TimedOut { waited }));
            }
        }
    }

    /// Says that work on addresses of `stamp` was submitted: the range is not moved before the fence has ended. False when the range was taken
    /// back meanwhile; then the peer itself must not confirm before that work has ended.
    pub fn attach(&self, stamp: Stamp, fence: Arc<dyn PeerFence>) -> bool {
        self.forget_ended();
        let mut state = self.buffer.state.lock();
        let peers = state.peers.as_deref_mut();
        peers.is_some_and(|peers| peers.attach(self.id, stamp, fence))
    }

    /// Fences that have ended are not kept for ever.
    fn forget_ended(&self) {
        let mut fences = Vec::new();
        if let Some(entry) =
            self.buffer.state.lock().peers.as_deref_mut().and_then(|peers| peers.entry(self.id))
            && entry.fences.len() >= 8
        {
            fences.clone_from(&entry.fences);
        }
        about_to_run_user_code();
        fences.retain(|fence| fence.wait(std::time::Duration::ZERO));
        if fences.is_empty() {
            return;
        }
        let mut state = self.buffer.state.lock();
        if let Some(entry) = state.peers.as_deref_mut().and_then(|peers| peers.entry(self.id)) {
            entry.fences.retain(|kept| !fences.iter().any(|ended| Arc::ptr_eq(ended, kept)));
        }
    }

    /// How it stands.
    pub fn state(&self) -> MappingState {
        let mut state = self.buffer.state.lock();
        let Some(peers) = state.peers.as_deref_mut() else { return MappingState::Unmapped };
        if peers.is_released {
            return MappingState::Released;
        }
        match peers.entry(self.id).map_or(Stage::Unmapped, |entry| entry.stage) {
            Stage::Unmapped => MappingState::Unmapped,
            Stage::Mapped => MappingState::Mapped,
            Stage::Revoking => MappingState::Revoking,
            Stage::Late { .. } => MappingState::Late,
        }
    }

    pub(crate) fn refused(&self, source: PeerError) -> Error {
        Error::Peer { peer: self.peer.name().to_owned(), source }
    }

    pub(crate) fn span(&self) -> PageSpan {
        PageSpan::touching(&self.bytes)
    }

    pub(crate) fn is_static(&self) -> bool {
        self.peer.participation() == Participation::Static
    }

    /// What the peer says of each node, before any lock is taken.
    pub(crate) fn reaches(&self) -> Vec<(NodeId, Reach)> {
        about_to_run_user_code();
        let exports = HandleKinds::NONE;
        let host = Place { node: NodeId::HOST, device: None, exports };
        let mut reaches = vec![(NodeId::HOST, self.peer.reach(&host))];
        for slot in &self.inner.slots {
            let Some(open) = self.inner.opened(slot.id) else { continue };
            let node = NodeId::of_device(slot.id);
            let facts = open.device.facts();
            let memory = self.buffer.state.lock().memory(slot.id);
            let exports = given_out_as(facts, memory.as_ref());
            let place = Place { node, device: Some((slot.id, facts)), exports };
            reaches.push((node, self.peer.reach(&place)));
        }
        reaches
    }

    pub(crate) fn cut(
        &self,
        stamp: Stamp,
        parts: impl IntoIterator<Item = (u64, u64, AddressKind)>,
    ) -> Result<Segments, Error> {
        let parts =
            parts.into_iter().map(|(addr, len_bytes, kind)| BusSegment { addr, len_bytes, kind });
        let list = split(parts, self.peer.limits())
            .map_err(|fault: AddressFault| self.refused(PeerError::Addresses(fault)))?;
        Ok(Segments::new(stamp, list))
    }
}

/// In which ways a reservation can be given out: whole ones as the device says.
pub(crate) fn given_out_as(facts: &DeviceFacts, memory: Option<&Reservation>) -> HandleKinds {
    let view = facts.external.as_ref().filter(|_| memory.is_some_and(|memory| memory.backs_whole));
    view.map_or(HandleKinds::NONE, |view| view.exports)
}

impl fmt::Debug for PeerMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerMapping")
            .field("peer", &self.peer.name())
            .field("bytes", &self.bytes)
            .field("state", &self.state())
            .finish()
    }
}

impl Drop for PeerMapping {
    fn drop(&mut self) {
        let deadline = Instant::now() + self.inner.peer_deadline();
        let entry = |state: &mut crate::vec::BufferState| {
            let entry = state.peers.as_deref_mut()?.entry(self.id)?;
            Some((entry.fences.clone(), entry.confirmation.clone()))
        };
        let Some((fences, _)) = entry(&mut self.buffer.state.lock()) else { return };
        about_to_run_user_code();
        let left = || deadline.saturating_duration_since(Instant::now());
        if !fences.iter().all(|fence| fence.wait(left())) {
            tracing::warn!(
                peer = self.peer.name(),
                "work on a mapping outlived it: its range stays where it is until the process ends"
            );
            // Nobody may free what that work still uses.
            std::mem::forget((self.inner.clone(), self.buffer.clone()));
            return;
        }
        let mut state = self.buffer.state.lock();
        let mut addresses = Vec::new();
        if let Some(entry) = state.peers.as_deref_mut().and_then(|peers| peers.entry(self.id)) {
            addresses = std::mem::take(&mut entry.addresses);
        }
        drop(state);
        unmap(&self.peer, &addresses);
        let mut state = self.buffer.state.lock();
        let removed = state.peers.as_deref_mut().and_then(|peers| peers.remove(self.id));
        state.forget_empty_table();
        drop(state);
        if let Some(entry) = removed {
            entry.confirmation.confirm();
        }
        self.inner.release_retired();
    }
}
