//! What stays where it is: by peers without a part in revocation, and by what the caller said; for eviction, and for the errors that this causes.

use std::ops::Range;

use super::plan::spans;
use crate::{
    directory::PageSpan,
    node::NodeId,
    peer::{PeerTable, Taking},
    runtime::{Inner, OpenDevice},
    units::PAGE_BYTES,
    vec::BufferState,
};

impl BufferState {
    /// Who pins some of these pages, if anybody does, and what it mapped.
    pub(crate) fn pinned(&self, span: PageSpan) -> Option<(String, Range<u64>)> {
        let peers = self.peers.as_deref()?;
        let mut hindering = peers.hindering(span, Taking::Discard, false);
        let entry = hindering.find(|entry| entry.is_static())?;
        Some((entry.peer.name().to_owned(), entry.bytes.clone()))
    }

    /// Pages whose memory on devices stays because the caller said so.
    pub(super) fn pinned_by_hints(&self) -> impl Iterator<Item = PageSpan> {
        let all = PageSpan { first: 0, end: self.directory.pages() };
        let some = Some(all).filter(|_| !self.hints.is_empty());
        let runs = some.into_iter().flat_map(|all| self.hints.runs(all));
        runs.filter(|(_, hints)| hints.pinned).map(|(part, _)| part)
    }

    /// How many of these pages have memory on a node.
    fn backed_pages(&self, span: PageSpan, node: NodeId) -> u64 {
        let (mut pages, all) = (0, self.directory.pages());
        self.directory.look(span, |blocks, mask, run| {
            if run.backed.contains(node) {
                pages += spans(blocks, mask, all).map(PageSpan::count).sum::<u64>();
            }
        });
        pages
    }
}

impl Inner {
    /// Bytes of a device's memory that peers and hints pin, in whole pages; of vectors that are in use at this moment, none are counted.
    pub(super) fn pinned_on(&self, open: &OpenDevice) -> u64 {
        let Ok(slot) = self.slot(open.id) else { return 0 };
        let residents: Vec<_> =
            slot.residents.lock().iter().filter_map(std::sync::Weak::upgrade).collect();
        let pinned = residents.iter().filter_map(|buffer| {
            let state = buffer.state.try_lock()?;
            let entries = state.peers.as_deref().map(PeerTable::entries).unwrap_or_default();
            let by_peers = entries
                .iter()
                .filter(|entry| entry.is_static() && entry.has_memory_on(open.node))
                .map(|entry| entry.span.count());
            let by_hints = state.pinned_by_hints().map(|span| state.backed_pages(span, open.node));
            Some(by_peers.chain(by_hints).sum::<u64>() * PAGE_BYTES)
        });
        pinned.sum()
    }
}
