//! The mappings of one buffer, under its lock.

use std::{ops::Range, sync::Arc, time::Instant};

use super::{
    Confirmation, PeerAddress, PeerEvent, PeerFence, Pin, Placed, Revoked, SharedPeer, Stamp,
    StampCell,
};
use crate::{directory::PageSpan, node::NodeId, stats::Cause};

/// What is about to happen to pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taking {
    /// This node writes them.
    Write(NodeId),
    /// This node's memory for them is given back.
    Free(NodeId),
    /// Their contents go.
    Discard,
    /// They are nobody's to write but their owner's again.
    Return,
}

/// How a mapping stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// The peer has no address.
    Unmapped,
    /// It has, or is about to.
    Mapped,
    /// It is being taken back.
    Revoking,
    /// The peer did not give it back in time, and nothing could be enforced.
    Late {
        /// Its deadline.
        since: Instant,
    },
}

/// One mapping.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) peer: SharedPeer,
    /// What it takes of the quota for pins: a static peer's.
    pub(crate) pin: Option<Pin>,
    /// The peer may write: only while the vector is lent.
    pub(crate) writes: bool,
    pub(crate) bytes: Range<u64>,
    pub(crate) span: PageSpan,
    pub(crate) stamp: Arc<StampCell>,
    pub(crate) stage: Stage,
    /// Where its pages are, while it is not unmapped.
    pub(crate) placed: Vec<Placed>,
    /// What the peer made of them, in the same order.
    pub(crate) addresses: Vec<PeerAddress>,
    /// Work that the peer submitted.
    pub(crate) fences: Vec<Arc<dyn PeerFence>>,
    /// The answer to the last revocation.
    pub(crate) confirmation: Arc<Confirmation>,
    /// Given when the last revocation has done with this mapping.
    pub(crate) over: Arc<Confirmation>,
    /// A lost node on which it had memory, until its peer has been told.
    pub(crate) lost_on: Option<NodeId>,
}

impl Entry {
    /// True when its peer takes no part in revocation.
    pub(crate) fn is_static(&self) -> bool {
        self.pin.is_some()
    }

    /// True when it keeps `taking` from happening.
    fn hinders(&self, taking: Taking) -> bool {
        match (self.stage, taking) {
            (Stage::Unmapped, _) => false,
            // A static peer sees what its own node writes, in place; a dynamic one is told of every writer.
            (_, Taking::Write(on)) => !self.is_static() || !self.is_on(on),
            (_, Taking::Discard) => true,
            (_, Taking::Return) => self.writes,
            (_, Taking::Free(node)) => self.has_memory_on(node),
        }
    }

    /// True when the peer may use some of this node's memory.
    pub(crate) fn has_memory_on(&self, node: NodeId) -> bool {
        self.stage != Stage::Unmapped && self.placed.iter().any(|placed| placed.node == node)
    }

    /// True when all of it is on this node.
    pub(crate) fn is_on(&self, node: NodeId) -> bool {
        self.placed.iter().all(|placed| placed.node == node)
    }

    /// Is being taken back from now on.
    pub(crate) fn start(&mut self) {
        self.stage = Stage::Revoking;
        (self.confirmation, self.over) = (Arc::default(), Arc::default());
    }

    /// What the peer is told.
    pub(crate) fn revoked(
        &self,
        event: PeerEvent,
        cause: Cause,
        initiator: NodeId,
        deadline: Instant,
    ) -> Revoked {
        let (bytes, confirmation) = (self.bytes.clone(), self.confirmation.clone());
        Revoked { bytes, event, cause, initiator, deadline, confirmation }
    }

    /// The peer has no address any more. What it made of them is to be given back to it, without the lock.
    #[must_use]
    pub(crate) fn give_up(&mut self) -> Vec<PeerAddress> {
        self.stage = Stage::Unmapped;
        self.placed.clear();
        self.fences.clear();
        std::mem::take(&mut self.addresses)
    }

    /// True when it still has what it was late with.
    pub(crate) fn is_late(&self) -> bool {
        matches!(self.stage, Stage::Late { .. })
    }
}

/// Pages that are being taken back: nobody may map them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    id: u64,
    span: PageSpan,
}

/// The mappings of a buffer, and what is being taken back.
#[derive(Debug, Default)]
pub(crate) struct PeerTable {
    entries: Vec<Entry>,
    marks: Vec<Mark>,
    next_id: u64,
    /// The vector is gone.
    pub(crate) is_released: bool,
}

impl PeerTable {
    /// Takes up a mapping, whose fields are given by `entry` from its number and its stamp.
    pub(crate) fn insert(
        &mut self,
        span: PageSpan,
        entry: impl FnOnce(u64, Arc<StampCell>) -> Entry,
    ) -> (u64, Arc<StampCell>) {
        let id = self.take_id();
        let stamp = Arc::new(StampCell::new(self.is_marked(span)));
        self.entries.push(entry(id, stamp.clone()));
        (id, stamp)
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<Entry> {
        let place = self.entries.iter().position(|entry| entry.id == id)?;
        Some(self.entries.swap_remove(place))
    }

    pub(crate) fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut()
    }

    /// True when nothing is left of it.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.marks.is_empty()
    }

    /// The mappings that keep pages of `span` from `taking`. Whoever is late is left out where the caller can do without an answer.
    pub(crate) fn hindering(
        &self,
        span: PageSpan,
        taking: Taking,
        tolerates_late: bool,
    ) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| {
            entry.span.overlaps(span)
                && entry.hinders(taking)
                && !(tolerates_late && entry.is_late())
        })
    }

    /// From now on whoever begins on these pages sleeps.
    pub(crate) fn mark(&mut self, span: PageSpan) -> u64 {
        let id = self.take_id();
        for entry in &self.entries {
            if entry.span.overlaps(span) && !self.is_marked(entry.span) {
                entry.stamp.turn();
            }
        }
        self.marks.push(Mark { id, span });
        id
    }

    /// Undoes [`PeerTable::mark`].
    pub(crate) fn unmark(&mut self, id: u64) {
        let Some(place) = self.marks.iter().position(|mark| mark.id == id) else { return };
        let Mark { span, .. } = self.marks.swap_remove(place);
        for entry in &self.entries {
            if entry.span.overlaps(span) && !self.is_marked(entry.span) {
                entry.stamp.turn();
            }
        }
    }

    pub(crate) fn is_marked(&self, span: PageSpan) -> bool {
        self.marks.iter().any(|mark| mark.span.overlaps(span))
    }

    /// The pages of dynamic peers: the host hears before it writes them.
    pub(crate) fn watched(&self) -> impl Iterator<Item = PageSpan> {
        let out = self.entries.iter().filter(|e| !e.is_static() && e.stage == Stage::Mapped);
        out.map(|entry| entry.span)
    }

    /// True when some peer may still use addresses.
    pub(crate) fn any_out(&self) -> bool {
        self.entries.iter().any(|entry| entry.stage != Stage::Unmapped)
    }

    /// A node's memory is gone, and the addresses there with it.
    pub(crate) fn lose(&mut self, node: NodeId) {
        for entry in &mut self.entries {
            if entry.stage == Stage::Mapped && entry.placed.iter().any(|p| p.node == node) {
                entry.stage = Stage::Unmapped;
                entry.placed.clear();
                entry.lost_on = Some(node);
                entry.confirmation = Arc::default();
                if !self.marks.iter().any(|mark| mark.span.overlaps(entry.span)) {
                    entry.stamp.turn();
                    entry.stamp.turn();
                }
            }
        }
    }

    /// Takes up a fence, unless the addresses that its work used were taken back.
    pub(crate) fn attach(&mut self, id: u64, stamp: Stamp, fence: Arc<dyn PeerFence>) -> bool {
        match self.entry(id) {
            Some(entry) if entry.stage == Stage::Mapped && !entry.stamp.retry(stamp) => {
                entry.fences.push(fence);
                true
            }
            _ => false,
        }
    }
}
