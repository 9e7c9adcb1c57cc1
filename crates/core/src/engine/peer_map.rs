//! Gives a peer addresses: brings what it cannot reach, and lets it map what it can.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{batch::conflicts, peers::unmap, plan::Request, settle::bytes_of, user_view};
use crate::{
    access::Access,
    coherence::Effect,
    directory::{FenceSet, PageSpan},
    error::Error,
    events::What,
    host::HostError,
    node::{DeviceId, NodeId},
    peer::{
        AddressKind, Confirmation, Entry, PeerAddress, PeerError, PeerMapping, PeerMemory, Placed,
        Reach, Segments, Source, Stage, Stamp, place_of,
    },
    runtime::Inner,
    stats::Cause,
    sync::about_to_run_user_code,
    units::PAGE_BYTES,
    vec::BufferState,
};

/// What the pages of a mapping need before the peer can have them.
enum Placing {
    Placed(Vec<Placed>),
    Wait(FenceSet),
}

impl Inner {
    /// One attempt to give addresses; `None` when something came in between and it has to be made again.
    pub(crate) fn map_for(&self, mapping: &PeerMapping) -> Result<Option<Segments>, Error> {
        self.forgive(&mapping.buffer);
        let stamp = mapping.begin()?;
        let reaches = mapping.reaches();
        let mut state = mapping.buffer.state.lock();
        let refused = |source| Err(mapping.refused(source));
        if mapping.access.writes() && state.lent_on.is_none() {
            return refused(PeerError::NotLent);
        }
        let Some(peers) = state.peers.as_deref_mut() else { return refused(PeerError::Released) };
        if peers.is_released {
            return refused(PeerError::Released);
        }
        let marked = peers.is_marked(mapping.span());
        let Some(entry) = peers.entry(mapping.id) else { return refused(PeerError::Released) };
        match entry.stage {
            Stage::Mapped if entry.addresses.len() == entry.placed.len() => {
                return segments(mapping, stamp, entry).map(Some);
            }
            // Another thread is at it.
            Stage::Mapped | Stage::Revoking => return Ok(None),
            Stage::Late { since } => {
                return refused(PeerError::StillLate { late_by: since.elapsed() });
            }
            Stage::Unmapped if marked || mapping.stamp.retry(stamp) => return Ok(None),
            Stage::Unmapped => {}
        }
        // Of memory that was lost with its device.
        let left = std::mem::take(&mut entry.addresses);
        if !left.is_empty() {
            drop(state);
            unmap(&mapping.peer, &left);
            return Ok(None);
        }
        let placed = match self.place(mapping, &mut state, &reaches)? {
            Placing::Placed(placed) => placed,
            Placing::Wait(fences) => {
                drop(state);
                self.wait_all(&fences)?;
                return Ok(None);
            }
        };
        let memory: Vec<PeerMemory<'_>> =
            placed.iter().map(|placed| self.memory_of(mapping, &state, placed)).collect();
        // Whoever takes the range back meanwhile waits until the peer has mapped it or not.
        let mapped = Arc::new(Confirmation::default());
        if let Some(entry) = state.peers.as_deref_mut().and_then(|peers| peers.entry(mapping.id)) {
            entry.stage = Stage::Mapped;
            entry.placed = placed;
            entry.fences.push(mapped.clone());
        }
        drop(state);
        let result = self.let_map(mapping, stamp, &memory);
        mapped.confirm();
        result
    }

    /// The peer maps memory; what it made of it is kept unless the range was taken back meanwhile.
    fn let_map(
        &self,
        mapping: &PeerMapping,
        stamp: Stamp,
        memory: &[PeerMemory<'_>],
    ) -> Result<Option<Segments>, Error> {
        let peer = &mapping.peer;
        about_to_run_user_code();
        let mut addresses: Vec<PeerAddress> = Vec::with_capacity(memory.len());
        let mut failed = None;
        for part in memory {
            let mapped = catch_unwind(AssertUnwindSafe(|| peer.map(*part)));
            match mapped.unwrap_or_else(|_| Err("it panicked".to_owned())) {
                Ok(address) => addresses.push(address),
                Err(reason) => {
                    failed = Some(PeerError::NotMapped { len_bytes: part.len_bytes, reason });
                    break;
                }
            }
        }
        let mut state = mapping.buffer.state.lock();
        let entry = state.peers.as_deref_mut().and_then(|peers| peers.entry(mapping.id));
        let kept = match entry {
            Some(entry) if entry.stage == Stage::Mapped && !mapping.stamp.retry(stamp) => {
                if failed.is_none() {
                    entry.addresses = std::mem::take(&mut addresses);
                    match segments(mapping, stamp, entry) {
                        Ok(segments) => Some(Ok(segments)),
                        // The peer cannot use them: they are taken from it again.
                        Err(error) => {
                            addresses = entry.give_up();
                            Some(Err(error))
                        }
                    }
                } else {
                    addresses.extend(entry.give_up());
                    None
                }
            }
            _ => None,
        };
        drop(state);
        unmap(peer, &addresses);
        match (kept, failed) {
            (Some(kept), _) => {
                self.counters.peer_maps.fetch_add(1, Relaxed);
                let (vector, pages) = (mapping.buffer.state.lock().number, mapping.span());
                self.recorder.note(|| What::Mapped { vector, pages });
                kept.map(Some)
            }
            (None, Some(source)) => Err(mapping.refused(source)),
            (None, None) => Ok(None),
        }
    }

    /// Chooses where the peer reaches each page, and sends for what it does not reach.
    fn place(
        &self,
        mapping: &PeerMapping,
        state: &mut BufferState,
        reaches: &[(NodeId, Reach)],
    ) -> Result<Placing, Error> {
        let (buffer, span) = (&mapping.buffer, mapping.span());
        self.settle(state, span);
        // Where whoever reads on the host has to own the page, one that is pinned elsewhere could not be read.
        let shares = self.user_view().is_none_or(|view| view.facts().write_protect);
        let hops = |node: NodeId| {
            let is_usable = node.is_host() || shares || !mapping.is_static();
            reaches.iter().filter(|_| is_usable).find_map(|(known, reach)| match reach {
                Reach::Hops(hops) if *known == node => Some(*hops),
                _ => None,
            })
        };
        let mut placed: Vec<Placed> = Vec::new();
        let mut waits = FenceSet::default();
        for run in state.directory.residency(span) {
            let pages = PageSpan { first: run.pages.start, end: run.pages.end };
            if run.lost {
                return Err(Error::DataLost { bytes: bytes_of(pages) });
            }
            // Where it is lent on a device it stays, whoever would rather have it elsewhere.
            let is_fixed = state.lent_on.is_some_and(|on| !on.is_host());
            let reachable = run.nodes.iter().filter_map(|node| Some((hops(*node)?, *node)));
            let nearest = reachable.min().map(|(_, node)| node);
            let node = nearest.unwrap_or(NodeId::HOST);
            if hops(node).is_none() || (is_fixed && nearest.is_none()) {
                let holder = run.nodes.first().copied().unwrap_or(NodeId::HOST);
                let reason = reaches.iter().find_map(|(known, reach)| match reach {
                    Reach::No { reason } if *known == holder => Some(reason.clone()),
                    _ => None,
                });
                let otherwise = if shares || !mapping.is_static() {
                    "nobody asked it"
                } else {
                    "it would pin pages there, which the host could not read then (`Runtime::host_faults`)"
                };
                let reason = reason.unwrap_or_else(|| otherwise.to_owned());
                return Err(mapping.refused(PeerError::Unreachable { node: holder, reason }));
            }
            if node.is_host() {
                let request = Request::by_host(Access::Read, pages);
                let brought = self.attempt_host_access(buffer, state, request, Cause::Peer)?;
                waits.extend(brought.as_slice().iter().copied());
            } else {
                conflicts(state, Effect::Read { on: node }, pages, |promise| {
                    waits.insert(promise.fence())
                });
            }
            let bytes = bytes_of(pages);
            let bytes = bytes.start.max(mapping.bytes.start)..bytes.end.min(mapping.bytes.end);
            match placed.last_mut() {
                Some(last) if last.node == node => last.bytes.end = bytes.end,
                _ => placed.push(Placed { node, bytes }),
            }
        }
        if !waits.is_empty() {
            return Ok(Placing::Wait(waits));
        }
        // The host hears before it writes what a peer reads.
        if let Some(view) = self.user_view().filter(|_| !mapping.is_static()) {
            for on_host in placed.iter().filter(|placed| placed.node.is_host()) {
                let pages = PageSpan::touching(&on_host.bytes);
                user_view::leave(view, buffer, state, pages, Access::Read)
                    .map_err(|source| Error::Host(HostError::NotRevoked { source }))?;
            }
        }
        state.host_touched = true;
        Ok(Placing::Placed(placed))
    }

    fn memory_of<'a>(
        &'a self,
        mapping: &PeerMapping,
        state: &BufferState,
        placed: &Placed,
    ) -> PeerMemory<'a> {
        let Placed { node, bytes } = placed;
        let (access, made_for) = (mapping.access, place_of(&*mapping.peer));
        let (node, len_bytes, offset_bytes) = (*node, bytes.end - bytes.start, bytes.start);
        let on_device = node
            .device()
            .and_then(|id: DeviceId| Some((id, &*self.opened(id)?.device, state.memory(id)?)));
        let Some((id, device, reservation)) = on_device else {
            let start = self.arena.view().pointer(mapping.buffer.span).addr() as u64;
            let pages = mapping.buffer.host_span(PageSpan::touching(bytes));
            let (address, kind) = (start + offset_bytes, AddressKind::Process);
            let source = Source::Host { pages, offset_bytes: offset_bytes % PAGE_BYTES };
            return PeerMemory { node, address, kind, len_bytes, access, source, made_for };
        };
        let (address, kind) = (reservation.address + offset_bytes, AddressKind::Device(id));
        let source = Source::Device { device, memory: reservation.memory, offset_bytes };
        PeerMemory { node, address, kind, len_bytes, access, source, made_for }
    }
}

/// The addresses of a mapping, cut to what the peer can use.
fn segments(mapping: &PeerMapping, stamp: Stamp, entry: &Entry) -> Result<Segments, Error> {
    let parts = entry.placed.iter().zip(&entry.addresses);
    let parts = parts.map(|(placed, address)| {
        (address.address, placed.bytes.end - placed.bytes.start, address.kind)
    });
    mapping.cut(stamp, parts)
}
