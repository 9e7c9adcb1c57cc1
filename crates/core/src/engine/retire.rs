//! The end of a buffer: its memory goes back once nothing in flight touches it.

use std::sync::Arc;

use crate::{
    runtime::Inner,
    vec::{Binding, Buffer},
};

impl Inner {
    /// Takes back a buffer whose vector was dropped: now, or when the work in flight on it has ended.
    pub(crate) fn retire(&self, buffer: Arc<Buffer>) {
        self.release_retired();
        if !self.release(&buffer) {
            self.retired.lock().push(buffer);
        }
    }

    /// Takes back what was retired and has come to rest since.
    pub(super) fn release_retired(&self) {
        if let Some(mut retired) = self.retired.try_lock()
            && !retired.is_empty()
        {
            retired.retain(|buffer| !self.release(buffer));
        }
    }

    /// At the end of the runtime: waits for what is in flight.
    pub(crate) fn release_retired_at_end(&self) {
        for buffer in std::mem::take(&mut *self.retired.lock()) {
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
        let settled = state.directory.uniform().is_none_or(|run| run.log.is_settled());
        let settled = settled && state.directory.run_count() <= 1;
        if !settled && !self.pending(buffer, &mut state).is_empty() {
            return false;
        }
        for binding in std::mem::take(&mut state.bindings) {
            let Some(open) = self.opened(binding.device()) else { continue };
            match binding {
                Binding::Memory { reservation, .. } => {
                    let backed_bytes = self.backed_bytes(open.node, buffer, &state);
                    open.device.release(reservation.memory);
                    open.budget.give(backed_bytes);
                }
                Binding::Window { window, .. } => open.device.close_window(window.window),
            }
        }
        let touched = state.host_touched.then_some(buffer.span);
        drop(state);
        if let Some(touched) = touched {
            let opened = self.slots.iter().filter_map(|slot| self.opened(slot.id));
            opened.for_each(|open| open.device.host_released(touched));
        }
        if buffer.span.len_bytes > 0 {
            self.arena.free(buffer.span, touched);
        }
        true
    }
}
