//! One transfer submission: copies and fills for any number of buffers on one device.

use smallvec::SmallVec;

use super::plan::Step;
use crate::{
    backend::{Across, AcrossWork, Copy, DeviceError, Direction, MemoryId, TransferWork, Zero},
    coherence::{Effect, Promise},
    directory::{FenceSet, PageSpan},
    error::Error,
    events::What,
    fence::FencePoint,
    node::NodeId,
    runtime::{Inner, OpenDevice},
    stats::{Cause, Moved},
    sync::MutexGuard,
    units::PAGE_BYTES,
    vec::{Buffer, BufferState},
};

/// The locked states of the buffers that a batch speaks of, by number.
pub(super) trait States {
    fn state(&mut self, number: usize) -> &mut BufferState;
}

impl States for BufferState {
    fn state(&mut self, _only: usize) -> &mut BufferState {
        self
    }
}

impl States for [MutexGuard<'_, BufferState>] {
    fn state(&mut self, number: usize) -> &mut BufferState {
        &mut self[number]
    }
}

/// Copies and fills that will be submitted together, with what they must wait for.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    open: &'a OpenDevice,
    copies: SmallVec<[Copy; 8]>,
    zeros: SmallVec<[Zero; 4]>,
    across: SmallVec<[Across; 0]>,
    waits: FenceSet,
    /// Fences of other devices, and of copies out of their memory: the host has to wait for them before the batch may be submitted.
    pub(super) foreign: FenceSet,
    /// What to record where once it is accepted. Buffers by the caller's numbering.
    records: SmallVec<[(usize, Effect, PageSpan); 8]>,
    /// The same, of what goes from device to device.
    across_records: SmallVec<[(usize, Effect, PageSpan); 0]>,
    moved: Moved,
}

impl<'a> Batch<'a> {
    pub(super) fn new(open: &'a OpenDevice) -> Self {
        Self {
            open,
            copies: SmallVec::new(),
            zeros: SmallVec::new(),
            across: SmallVec::new(),
            across_records: SmallVec::new(),
            waits: FenceSet::default(),
            foreign: FenceSet::default(),
            records: SmallVec::new(),
            moved: Moved::default(),
        }
    }

    /// True when some of it is copied out of another device's memory.
    pub(super) fn goes_across(&self) -> bool {
        !self.across.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.copies.is_empty() && self.zeros.is_empty() && self.across.is_empty()
    }

    /// Adds a copy between the host and the batch's device, which has memory bound for the buffer.
    pub(super) fn copy(&mut self, number: usize, buffer: &Buffer, state: &BufferState, step: Step) {
        let Some(memory) = state.memory_id(self.open.id) else {
            debug_assert!(false, "a copy for a buffer without memory on the device");
            return;
        };
        let effect = Effect::Copy { from: step.from, to: step.to };
        self.order(state, effect, step.pages);
        let host = buffer.host_span(step.pages);
        let direction = if step.to.is_host() {
            self.moved.to_host_bytes += host.len_bytes;
            Direction::DeviceToHost
        } else {
            self.moved.to_device_bytes += host.len_bytes;
            Direction::HostToDevice
        };
        self.moved.regions += 1;
        let offset_bytes = step.pages.first * PAGE_BYTES;
        self.copies.push(Copy { direction, host, memory, offset_bytes });
        self.records.push((number, effect, step.pages));
    }

    /// Adds a copy out of another device's memory, which the batch's device knows as `from`.
    pub(super) fn across(
        &mut self,
        number: usize,
        state: &BufferState,
        step: Step,
        from: MemoryId,
    ) {
        let Some(to) = state.memory_id(self.open.id) else {
            debug_assert!(false, "a copy for a buffer without memory on the device");
            return;
        };
        let effect = Effect::Copy { from: step.from, to: step.to };
        self.order(state, effect, step.pages);
        let (at, len_bytes) = (step.pages.first * PAGE_BYTES, step.pages.count() * PAGE_BYTES);
        self.moved.between_bytes += len_bytes;
        self.moved.regions += 1;
        self.across.push(Across { from, from_bytes: at, to, to_bytes: at, len_bytes });
        self.across_records.push((number, effect, step.pages));
    }

    /// Adds a fill with zeros on the batch's device.
    pub(super) fn zero(&mut self, number: usize, state: &BufferState, pages: PageSpan) {
        let Some(memory) = state.memory_id(self.open.id) else {
            debug_assert!(false, "a fill for a buffer without memory on the device");
            return;
        };
        let effect = Effect::Zero { on: NodeId::of_device(self.open.id) };
        self.order(state, effect, pages);
        let len_bytes = pages.count() * PAGE_BYTES;
        self.moved.zeroed_bytes += len_bytes;
        self.moved.regions += 1;
        self.zeros.push(Zero { memory, offset_bytes: pages.first * PAGE_BYTES, len_bytes });
        self.records.push((number, effect, pages));
    }

    fn order(&mut self, state: &BufferState, effect: Effect, pages: PageSpan) {
        let (open, waits, foreign) = (self.open, &mut self.waits, &mut self.foreign);
        conflicts(state, effect, pages, |promise| {
            let set = if is_followed_by(open, promise) { &mut *waits } else { &mut *foreign };
            set.insert(promise.fence());
        });
    }

    /// Submits the batch and records what it promises; the fence that is returned ends when all of it has. Nothing of it may conflict with a foreign
    /// fence any more.
    pub(super) fn submit(
        mut self,
        inner: &Inner,
        cause: Cause,
        states: &mut (impl States + ?Sized),
    ) -> Result<FencePoint, Error> {
        debug_assert!(self.foreign.is_empty(), "foreign fences are waited for on the host");
        let device = &self.open.device;
        let refused = |error| inner.refused(self.open, error);
        let between = std::mem::take(&mut self.moved.between_bytes);
        let mut last = None;
        if self.across.is_empty() || !(self.copies.is_empty() && self.zeros.is_empty()) {
            let (copies, zeros) = (&self.copies, &self.zeros);
            let work = TransferWork { waits: self.waits.as_slice(), copies, zeros };
            let fence = device.submit_transfer(&work).map_err(refused)?;
            for (number, effect, pages) in self.records {
                let state = states.state(number);
                state.host_touched |= effect.overwrites() == Some(NodeId::HOST);
                record(state, fence, effect, pages);
                tell(inner, state, cause, fence, effect, pages);
            }
            let regions = self.moved.regions - self.across.len() as u64;
            inner.counters.add(cause, Moved { regions, ..self.moved });
            last = Some(fence);
        }
        if !self.across.is_empty() {
            self.waits.extend(last);
            let (waits, copies) = (self.waits.as_slice(), &*self.across);
            let fence = device.submit_between(&AcrossWork { waits, copies }).map_err(refused)?;
            for (number, effect, pages) in self.across_records {
                let state = states.state(number);
                record(state, fence, effect, pages);
                tell(inner, state, cause, fence, effect, pages);
            }
            let regions = self.across.len() as u64;
            let moved = Moved { between_bytes: between, regions, ..Moved::default() };
            inner.counters.add(cause, moved);
            return Ok(fence);
        }
        last.ok_or_else(|| refused(DeviceError::Misuse { what: "a batch of nothing" }))
    }
}

/// Counts a copy or a fill for its vector, and tells whoever records.
fn tell(
    inner: &Inner,
    state: &mut BufferState,
    cause: Cause,
    fence: FencePoint,
    effect: Effect,
    pages: PageSpan,
) {
    let (vector, bytes) = (state.number, pages.count() * PAGE_BYTES);
    let moved = &mut state.moved;
    moved.regions += 1;
    match effect {
        Effect::Copy { from, to } => {
            match (from.is_host(), to.is_host()) {
                (_, true) => moved.to_host_bytes += bytes,
                (true, false) => moved.to_device_bytes += bytes,
                (false, false) => moved.between_bytes += bytes,
            }
            inner.recorder.note(|| What::Copied { vector, pages, from, to, cause, fence });
        }
        Effect::Zero { on } => {
            moved.zeroed_bytes += bytes;
            let (cause, fence) = (Some(cause), Some(fence));
            inner.recorder.note(|| What::Zeroed { vector, pages, on, cause, fence });
        }
        Effect::Write { .. } | Effect::Read { .. } | Effect::Discard => {
            debug_assert!(false, "a batch of copies and fills");
        }
    }
}

/// Calls `each` for every pending promise that work with this effect must follow.
pub(super) fn conflicts(
    state: &BufferState,
    effect: Effect,
    pages: PageSpan,
    mut each: impl FnMut(&Promise),
) {
    state.directory.look(pages, |_, mask, run| run.log.followed(effect, mask).for_each(&mut each));
}

/// True when work of the device may name the promise's fence and follow it there; else the host waits for it first.
pub(super) fn is_followed_by(open: &OpenDevice, promise: &Promise) -> bool {
    promise.fence().timeline.device() == open.id && promise.source_abroad().is_none()
}

/// Records what accepted work promises.
pub(super) fn record(state: &mut BufferState, fence: FencePoint, effect: Effect, pages: PageSpan) {
    state.directory.change(pages, |_, mask, run| {
        run.log.promise(Promise::new(fence, effect, mask));
    });
    debug_assert_eq!(state.directory.check(), Ok(()));
}
