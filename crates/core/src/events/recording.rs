//! The reader's end of the ring.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use super::{Event, Recorder, VectorId, What, recorder::RING_EVENTS};
use crate::{
    directory::{NodeSet, PageSpan},
    fence::{FencePoint, FenceState, TimelineId},
    kernel::KernelId,
    node::DeviceId,
    runtime::{Inner, Runtime},
    vec::{Buffer, BufferState},
};

/// Events of a runtime from [`Runtime::record`] on, until this is dropped. Whoever reads often loses none: the ring holds 65,536 between
/// two readings. Does not keep the runtime alive; what was left in the ring when it ended can still be read.
#[derive(Debug)]
pub struct Recording {
    recorder: Arc<Recorder>,
    runtime: Weak<Inner>,
    /// Read already, and not handed out yet.
    read: Vec<Event>,
    /// Work that nobody has seen end, in the order of each timeline.
    pending: BTreeMap<TimelineId, Vec<u64>>,
}

/// What a recording knows beside its events.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecordingFacts {
    /// The names of vectors that have one.
    pub vectors: BTreeMap<VectorId, Arc<str>>,
    /// The names of kernels, by device and the device's own numbering.
    pub kernels: BTreeMap<(DeviceId, u32), &'static str>,
    /// Events that found the ring full.
    pub dropped_events: u64,
}

impl Runtime {
    /// Begins to record what happens. `None` when somebody records already.
    ///
    /// The first recording takes 5 MiB for its ring, which the runtime keeps. The recording starts with where each page of each vector is
    /// ([`What::Found`]).
    pub fn record(&self) -> Option<Recording> {
        let inner = self.inner();
        let recorder = &inner.recorder;
        if !recorder.begin() {
            return None;
        }
        let mut recording = Recording {
            recorder: recorder.clone(),
            runtime: Arc::downgrade(inner),
            read: Vec::new(),
            pending: BTreeMap::new(),
        };
        // What an earlier recording left, or was about to push as it ended.
        while recorder.take().is_some() {}
        for buffer in inner.buffers() {
            inner.tell_of(&buffer);
            if recorder.is_filling() {
                recording.pull();
            }
        }
        Some(recording)
    }
}

impl Inner {
    /// Every vector's buffer.
    pub(super) fn buffers(&self) -> Vec<Arc<Buffer>> {
        let placed = self.placed.lock();
        placed.buffers.values().filter_map(Weak::upgrade).collect()
    }

    /// Where the pages are as the recording begins. Events of the buffer's from before are in the ring before this, and are overruled.
    fn tell_of(&self, buffer: &Buffer) {
        let mut state = buffer.state.lock();
        self.settle(&mut state, buffer.all());
        let vector = state.number;
        self.recorder.note(|| What::Made { vector, pages: buffer.pages() });
        self.tell_found(&state, buffer.all());
        let name = state.name.clone();
        drop(state);
        name.into_iter().for_each(|name| self.recorder.name(vector, name));
    }

    /// Tells whoever records where pages are, where what was told before does not say so.
    pub(crate) fn tell_found(&self, state: &BufferState, span: PageSpan) {
        if !self.recorder.is_on() {
            return;
        }
        for run in state.directory.residency(span) {
            let pages = PageSpan { first: run.pages.start, end: run.pages.end };
            let mut nodes = NodeSet::default();
            run.nodes.iter().for_each(|node| nodes.insert(*node));
            self.recorder.note(|| What::Found { vector: state.number, pages, nodes });
        }
    }

    /// How a fence stands, for a reader.
    fn seen(&self, fence: FencePoint) -> FenceState {
        self.opened(fence.timeline.device())
            .map_or(FenceState::Lost, |open| open.device.poll(fence))
    }
}

impl Recording {
    /// Adds everything that happened since the last reading to `events`, oldest first, and then [`What::Ended`] for each timeline on which work
    /// was seen to be over. Waits for nothing.
    pub fn read(&mut self, events: &mut Vec<Event>) {
        self.pull();
        events.append(&mut self.read);
        let runtime = self.runtime.upgrade();
        let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        for (timeline, values) in &mut self.pending {
            let mut last = None;
            values.retain(|value| {
                let fence = FencePoint { timeline: *timeline, value: *value };
                // A runtime that is gone has waited for all of it.
                let state = runtime.as_ref().map_or(FenceState::Ok, |inner| inner.seen(fence));
                match state {
                    FenceState::Pending => return true,
                    FenceState::Ok => last = last.max(Some(*value)),
                    FenceState::Failed(_) | FenceState::Lost => {
                        let what = What::Ended { fence, state };
                        events.push(Event { at_ns: self.recorder.now_ns(), thread, what });
                    }
                }
                false
            });
            if let Some(value) = last {
                let fence = FencePoint { timeline: *timeline, value };
                let what = What::Ended { fence, state: FenceState::Ok };
                events.push(Event { at_ns: self.recorder.now_ns(), thread, what });
            }
        }
        self.pending.retain(|_, values| !values.is_empty());
    }

    /// Names, and how many events were dropped so far.
    pub fn facts(&self) -> RecordingFacts {
        let names = self.recorder.names().clone();
        RecordingFacts {
            vectors: names.vectors,
            kernels: names.kernels,
            dropped_events: self.recorder.dropped(),
        }
    }

    /// Whether the runtime is still there.
    pub fn is_over(&self) -> bool {
        self.runtime.strong_count() == 0
    }

    fn pull(&mut self) {
        // No more than fit at once: whoever pushes may be faster than this.
        for event in std::iter::from_fn(|| self.recorder.take()).take(RING_EVENTS) {
            if let Some(fence) = event.what.fence() {
                let values = self.pending.entry(fence.timeline).or_default();
                if values.last() != Some(&fence.value) {
                    values.push(fence.value);
                }
            }
            self.read.push(event);
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.recorder.end();
    }
}

impl RecordingFacts {
    /// The kernel's name, where it was launched during the recording.
    pub fn kernel(&self, device: DeviceId, kernel: KernelId) -> Option<&'static str> {
        self.kernels.get(&(device, kernel.0)).copied()
    }
}
