//! What peers without a part in revocation keep where it is, for the errors that this causes.

use std::ops::Range;

use crate::{
    directory::PageSpan,
    peer::Taking,
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
}

impl Inner {
    /// Bytes of a device's memory that peers pin, in whole pages; of vectors that are in use at this moment, none are counted.
    pub(super) fn pinned_on(&self, open: &OpenDevice) -> u64 {
        let Ok(slot) = self.slot(open.id) else { return 0 };
        let residents: Vec<_> =
            slot.residents.lock().iter().filter_map(std::sync::Weak::upgrade).collect();
        let pinned = residents.iter().filter_map(|buffer| {
            let state = buffer.state.try_lock()?;
            let entries = state.peers.as_deref()?.entries().iter();
            let pins = entries.filter(|entry| entry.is_static() && entry.has_memory_on(open.node));
            Some(pins.map(|entry| entry.span.count() * PAGE_BYTES).sum::<u64>())
        });
        pinned.sum()
    }
}
