//! The buffers of a launch under their locks.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{batch::record, peers::Wanted, plan::Request, working_set::Use};
use crate::{
    coherence::Effect,
    events::{Recorder, What},
    fence::FencePoint,
    kernel::BoundArray,
    peer::Taking,
    runtime::OpenDevice,
    stats::Cause,
    sync::MutexGuard,
    vec::{Binding, Buffer, BufferState},
};

/// The buffers of a launch, each once, and their locks, taken in order of address.
pub(super) struct Locked<'a> {
    pub(super) buffers: SmallVec<[&'a Arc<Buffer>; 6]>,
    pub(super) states: SmallVec<[MutexGuard<'a, BufferState>; 6]>,
}

impl<'a> Locked<'a> {
    pub(super) fn new(buffers: &SmallVec<[&'a Arc<Buffer>; 6]>) -> Self {
        let states = buffers.iter().map(|buffer| buffer.state.lock()).collect();
        Self { buffers: buffers.clone(), states }
    }

    /// The place of an array's buffer among the locked ones; `None` when the array is empty.
    pub(super) fn number_of(&self, array: &BoundArray<'_>) -> Option<usize> {
        self.buffers.iter().position(|buffer| Arc::ptr_eq(buffer, array.buffer))
    }

    /// The device address of an array's first byte; 0 when it is empty.
    pub(super) fn address(&self, array: &BoundArray<'_>, uses: &[Use], open: &OpenDevice) -> u64 {
        let number = self.number_of(array);
        let one = uses.iter().find(|one| Some(one.number) == number);
        let binding =
            one.and_then(|one| self.states[one.number].binding(open.id, one.request.node));
        binding.as_ref().map_or(0, |binding| Binding::address(binding) + array.bytes.start)
    }

    /// What peers have to give back before these uses.
    pub(super) fn hindered(&self, uses: &[Use]) -> Vec<Wanted> {
        let writes = uses.iter().filter(|one| one.request.access.writes());
        let hindered = writes.filter_map(|one| {
            let Request { span, node, .. } = one.request;
            let taking = Taking::Write(node);
            let is_hindered = self.states[one.number].is_hindered(span, taking, false);
            let buffer = self.buffers[one.number];
            is_hindered.then(|| Wanted { buffer: buffer.clone(), span, taking })
        });
        hindered.collect()
    }

    /// Keeps the pages in place.
    pub(super) fn hold(&mut self) {
        self.states.iter_mut().for_each(|state| state.held += 1);
    }

    /// The pages may move again, behind whatever was recorded.
    pub(super) fn let_go(&mut self) {
        self.states.iter_mut().for_each(|state| state.held -= 1);
    }

    /// Records what accepted work promises for the arrays that it uses.
    pub(super) fn record(
        &mut self,
        recorder: &Recorder,
        fence: FencePoint,
        uses: &[Use],
        (cause, last_use): (Cause, u64),
    ) {
        for one in uses {
            let state = &mut self.states[one.number];
            state.last_use = last_use;
            let (effect, pages) = (effect(one.request), one.request.span);
            record(state, fence, effect, pages);
            let (vector, on) = (state.number, one.request.node);
            recorder.note(|| match effect {
                Effect::Write { .. } => {
                    What::Written { vector, pages, on, cause, fence: Some(fence) }
                }
                _ => What::Read { vector, pages, on, fence },
            });
        }
    }
}

/// What a use promises.
pub(super) fn effect(request: Request) -> Effect {
    let on = request.node;
    if request.access.writes() { Effect::Write { on } } else { Effect::Read { on } }
}
