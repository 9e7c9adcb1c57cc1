//! The end of a buffer: its memory goes back once nothing in flight touches it, but for a little that the next buffers take over.

use std::{sync::Arc, time::Instant};

use super::user_view;
use crate::{
    host::{Evicted, HostError, HostSpan, MemoryFile, Taken},
    node::NodeId,
    peer::{Confirmation, PeerFence, PeerTable, Stage},
    runtime::{Inner, Runtime},
    sync::about_to_run_user_code,
    vec::{Binding, Buffer},
};

/// How much host memory of dropped vectors is kept unless [`crate::Options::max_kept_bytes`] says otherwise.
const MAX_KEPT_BYTES: u64 = 64 << 20;

impl Inner {
    /// Takes back a buffer whose vector was dropped: now, or when the work in flight on it has ended.
    pub(crate) fn retire(&self, buffer: Arc<Buffer>) {
        self.leave_arena(&buffer);
        self.release_retired();
        let is_free = self.release_peers(&buffer);
        if !is_free || !self.release(&buffer) {
            self.retired.lock().push(buffer);
        }
    }

    /// Takes back what was retired and has come to rest since.
    pub(crate) fn release_retired(&self) {
        self.forgive_retired();
        if let Some(mut retired) = self.retired.try_lock()
            && !retired.is_empty()
        {
            retired.retain(|buffer| !self.release(buffer));
        }
    }

    /// Peers of vectors that are gone may have given back what they had. Their code runs here, so no lock is held.
    fn forgive_retired(&self) {
        let of_peers = |buffer: &&Arc<Buffer>| buffer.state.lock().peers.is_some();
        let buffers: Vec<Arc<Buffer>> = match self.retired.try_lock() {
            Some(retired) if !retired.is_empty() => {
                retired.iter().filter(of_peers).cloned().collect()
            }
            _ => return,
        };
        buffers.iter().for_each(|buffer| self.forgive(buffer));
    }

    /// Waits for peers that have memory of dropped vectors on this node: they were told, and have their deadline. False when there are none, or none that answers.
    pub(super) fn await_retired_peers(&self, node: NodeId) -> bool {
        type Told = (Instant, Arc<Confirmation>, Vec<Arc<dyn PeerFence>>);
        let told: Vec<Told> = self
            .retired
            .lock()
            .iter()
            .flat_map(|buffer| {
                let state = buffer.state.lock();
                let entries = state.peers.as_deref().map(PeerTable::entries).unwrap_or_default();
                let late = entries.iter().filter_map(|entry| match entry.stage {
                    Stage::Late { since } if entry.has_memory_on(node) => {
                        Some((since, entry.confirmation.clone(), entry.fences.clone()))
                    }
                    _ => None,
                });
                late.collect::<Vec<_>>()
            })
            .collect();
        about_to_run_user_code();
        let has_answered = told.iter().any(|(deadline, told, fences)| {
            let left = || deadline.saturating_duration_since(Instant::now());
            let mut fences = fences.iter();
            told.wait_until(*deadline)
                && (told.has_ended() || fences.all(|fence| fence.wait(left())))
        });
        self.release_retired();
        has_answered
    }

    /// At the end of the runtime: waits for what is in flight.
    pub(crate) fn release_retired_at_end(&self) {
        let retired = std::mem::take(&mut *self.retired.lock());
        for buffer in retired {
            let fences = self.pending(&buffer, &mut buffer.state.lock());
            if self.wait_all(&fences).is_err() || !self.release(&buffer) {
                // The option bounds the wait and the device is still at it: its memory stays with the device.
                tracing::warn!(?fences, "work in flight outlived the runtime");
            }
        }
    }

    /// Gives everything back, unless something is in flight.
    fn release(&self, buffer: &Arc<Buffer>) -> bool {
        let mut state = buffer.state.lock();
        if state.peers.as_deref().is_some_and(PeerTable::any_out) {
            return false;
        }
        let settled = state.directory.uniform().is_none_or(|run| run.log.is_settled());
        let settled = settled && state.directory.run_count() <= 1;
        if !settled && !self.pending(buffer, &mut state).is_empty() {
            return false;
        }
        state.is_gone = true;
        self.let_go_of_imports(&mut state);
        for binding in std::mem::take(&mut state.bindings) {
            let Some(open) = self.opened(binding.device()) else { continue };
            match binding {
                Binding::Memory { reservation, .. } => {
                    let backed_bytes = self.backed_bytes(open.node, buffer, &state);
                    open.device.release(reservation.memory);
                    open.budget.give(buffer.group_id(), backed_bytes);
                }
                Binding::Window { window, .. } => open.device.close_window(window.window),
                // Never kept among them: it was let go of with the imports.
                Binding::Neighbour { .. } => {}
            }
        }
        if let Some(view) = self.user_view()
            && let Err(error) = user_view::leave_for_good(view, buffer, &mut state)
        {
            // The next vector here must not be seen through old entries, so the span is never dealt out again.
            drop(state);
            tracing::warn!(span = ?buffer.span, %error, "could not take host pages out of the user view");
            return true;
        }
        let touched = state.host_touched.then_some(buffer.span);
        drop(state);
        if buffer.file.is_some() {
            // Others may have it mapped for as long as they like: it is never another vector's.
            self.forget_imports(buffer.span);
            self.arena.unmap_file(self.user_view(), buffer.span);
            return true;
        }
        match touched {
            Some(touched) => {
                let limit_bytes = self.options.max_kept_bytes.unwrap_or(MAX_KEPT_BYTES);
                self.give_back(self.arena.keep(touched, limit_bytes));
            }
            // Without faults nobody hears of a read of zeros, which takes memory too.
            None if buffer.span.len_bytes > 0 && self.user_view().is_none() => {
                self.give_back(Evicted::from_slice(&[buffer.span]));
            }
            None if buffer.span.len_bytes > 0 => self.arena.free(buffer.span, None),
            None => {}
        }
        true
    }

    /// Gives the memory of spans that nobody uses back to the system.
    fn give_back(&self, spans: Evicted) {
        for span in spans {
            self.forget_imports(span);
            self.arena.free(span, Some(span));
        }
    }

    /// No device keeps memory of a span imported when this returns, but for what is in flight elsewhere around it.
    fn forget_imports(&self, span: HostSpan) {
        let opened = self.slots.iter().filter_map(|slot| self.opened(slot.id));
        opened.for_each(|open| open.device.host_released(span));
    }

    /// Maps a file over a new span of the arena; kept spans make room when the window is full.
    pub(crate) fn take_file_span(&self, file: &MemoryFile) -> Result<Taken, HostError> {
        let map = || self.arena.map_file(self.user_view(), file);
        let span = map().or_else(|error| {
            if !matches!(error, HostError::WindowFull { .. }) {
                return Err(error);
            }
            self.give_back(self.arena.take_kept());
            map()
        })?;
        // A slab that was imported before shows what lay there then.
        self.forget_imports(span);
        Ok(Taken { span, is_used: false })
    }

    /// A span for a new buffer; kept ones make room when the window is full.
    pub(crate) fn take_span(&self, len_bytes: u64) -> Result<Taken, HostError> {
        self.arena.take(len_bytes).or_else(|_| {
            self.give_back(self.arena.take_kept());
            self.arena.take(len_bytes)
        })
    }
}

impl Runtime {
    /// Gives the host memory that is kept for the next vectors back to the system; see [`crate::Options::max_kept_bytes`]. Nothing that is in use
    /// changes.
    pub fn trim(&self) {
        let inner = self.inner();
        inner.release_retired();
        inner.give_back(inner.arena.take_kept());
    }
}
