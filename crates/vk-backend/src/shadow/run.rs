// long file: one machine whose parts (queues, caches, ring) run each other; split when it grows
//! Runs recorded streams over the double's memory, late and in an order of its own.
//!
//! A submission waits in a list until somebody asks for a fence (or by chance is run at once). It **begins**, in the order of its queue, once its semaphore
//! waits have been signalled and, where its stream begins with a barrier, all earlier work of the queue has run. What has begun may run; a seed picks.
//! So a missing wait or barrier changes what runs first.
//! A value ends once every lower value of its timeline has.
#![allow(unsafe_code, reason = "runs kernels' Rust twins")]

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};

use hmmap_core::{
    Access,
    backend::{ArrayArgument, Direction, Zero},
    fence::{Failure, FencePoint, FenceState},
    host::ServiceView,
    kernel::{KernelId, ParamLayout, Source, Twin, TwinArray},
};

use super::{
    caches::{Agent, Caches},
    store::{FIRST, RING, Store},
};
use crate::{
    dependencies::{After, Point, QueueShape, Visible},
    record::{self, Semaphores},
    ring::{Found, pack},
    stream::{Barrier, Command, Dispatch, Stream},
    uses::Uses,
};

/// The timeline of the ring's own submissions.
const RING_TIMELINE: u8 = 3;
/// A slot of the ring.
pub(super) const SLOT_BYTES: u64 = 256 << 10;
/// What a `Write` argument holds before the kernel runs, so that an unkept promise to overwrite it shows.
const UNWRITTEN: u8 = 0xc3;

/// Work that was submitted.
#[derive(Debug)]
pub(super) enum Work {
    /// A stream for a queue.
    Stream(Stream<u32>),
    /// Copies by hand.
    Staged { copies: Vec<Found<u32>>, fills: Vec<(u32, Zero)> },
}

/// A submission that has not run.
#[derive(Debug)]
struct Pending {
    queue: QueueShape,
    value: u64,
    /// What must be signalled first.
    semaphores: Vec<(u8, u64)>,
    /// What the engine named.
    waits: Vec<FencePoint>,
    work: Work,
    /// True when what stands before it has been done.
    begun: bool,
}

/// One timeline.
#[derive(Debug, Default)]
struct Timeline {
    handed_out: u64,
    ended: BTreeMap<u64, FenceState>,
    /// Everything up to here has ended.
    signalled: u64,
    /// And the host knows it up to here.
    seen: u64,
}

/// Kernels and the whole state of a device.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) store: Store,
    caches: Caches,
    pending: Vec<Pending>,
    timelines: [Timeline; 4],
    /// Per queue, what its submissions have made visible.
    visible: [Visible; 4],
    kernels: Vec<(&'static Source, ParamLayout)>,
    random: u64,
    /// Leaves out the n-th barrier from now on, counted from one.
    pub(super) omit_barrier: Option<u64>,
    pub(super) omitted: bool,
}

impl Machine {
    pub(super) fn new(host: Arc<ServiceView>, seed: u64) -> Self {
        Self {
            store: Store::new(host, (4 * SLOT_BYTES) as usize),
            caches: Caches::default(),
            pending: Vec::new(),
            timelines: Default::default(),
            visible: Default::default(),
            kernels: Vec::new(),
            // Neighbouring seeds should not begin alike.
            random: (seed ^ 0x5851_f42d_4c95_7f2d).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            omit_barrier: None,
            omitted: false,
        }
    }

    pub(super) fn prepare(&mut self, source: &'static Source, layout: &ParamLayout) -> KernelId {
        let known = |(known, checked): &(&'static Source, ParamLayout)| {
            std::ptr::eq(*known, source) && checked == layout
        };
        let number = self.kernels.iter().position(known).unwrap_or_else(|| {
            self.kernels.push((source, layout.clone()));
            self.kernels.len() - 1
        });
        KernelId(number as u32)
    }

    pub(super) fn is_prepared(&self, kernel: KernelId, source: &'static Source) -> bool {
        self.kernels.get(kernel.0 as usize).is_some_and(|(known, _)| std::ptr::eq(*known, source))
    }

    pub(super) fn knows(&self, point: FencePoint) -> bool {
        let timeline = self.timelines.get(usize::from(point.timeline.queue()));
        timeline.is_some_and(|timeline| point.value <= timeline.handed_out)
    }

    /// Records a stream for a queue.
    pub(super) fn record(
        &mut self,
        queue: QueueShape,
        waits: &[FencePoint],
        record: impl FnOnce(&mut Stream<u32>, &After<'_>, &mut Visible) -> Semaphores,
    ) -> (Stream<u32>, Semaphores) {
        // What the ring did is known by the staging timeline alone.
        let known = (0..RING_TIMELINE).zip(&self.timelines);
        let ended: Vec<_> = known.map(|(number, timeline)| (number, timeline.seen)).collect();
        let number = usize::from(queue.timeline);
        let value = self.timelines[number].handed_out + 1;
        let after = After { queue, value, waits, ended: &ended };
        let mut stream = Stream::default();
        let semaphores = record(&mut stream, &after, &mut self.visible[number]);
        (stream, semaphores)
    }

    /// Takes a submission, and returns its value.
    pub(super) fn submit(
        &mut self,
        queue: QueueShape,
        semaphores: &[(u8, u64)],
        waits: &[FencePoint],
        work: Work,
    ) -> u64 {
        let work = match work {
            Work::Stream(stream) => Work::Stream(self.thin(stream)),
            staged => staged,
        };
        let timeline = &mut self.timelines[usize::from(queue.timeline)];
        timeline.handed_out += 1;
        let value = timeline.handed_out;
        let (semaphores, waits) = (semaphores.to_vec(), waits.to_vec());
        self.pending.push(Pending { queue, value, semaphores, waits, work, begun: false });
        // By chance some work runs before anybody waits for it.
        if self.roll(4) == 0 {
            self.step();
        }
        value
    }

    /// Takes out the barrier that a test wants left out.
    fn thin(&mut self, mut stream: Stream<u32>) -> Stream<u32> {
        let Some(left) = &mut self.omit_barrier else { return stream };
        for at in 0..stream.commands().len() {
            if !matches!(stream.commands()[at], Command::Barrier(_)) {
                continue;
            }
            *left -= 1;
            if *left == 0 {
                stream.remove(at);
                (self.omit_barrier, self.omitted) = (None, true);
                break;
            }
        }
        stream
    }

    /// How a value stands, for the host, which knows it from then on.
    pub(super) fn look(&mut self, point: FencePoint) -> FenceState {
        let state = self.state(point);
        if let Some(timeline) = self.timelines.get_mut(usize::from(point.timeline.queue()))
            && state.has_ended()
        {
            timeline.seen = timeline.seen.max(point.value);
        }
        state
    }

    fn state(&self, point: FencePoint) -> FenceState {
        let Some(timeline) = self.timelines.get(usize::from(point.timeline.queue())) else {
            return FenceState::Lost;
        };
        if point.value > timeline.signalled {
            return FenceState::Pending;
        }
        timeline.ended.get(&point.value).copied().unwrap_or(FenceState::Ok)
    }

    /// Begins or runs one submission that may; false when there is none.
    pub(super) fn step(&mut self) -> bool {
        let may = |number: &usize| self.pending[*number].begun || self.may_begin(*number);
        let ready: Vec<usize> = (0..self.pending.len()).filter(may).collect();
        let Some(pick) = ready.get(self.roll(ready.len().max(1))).copied() else { return false };
        if self.pending[pick].begun {
            let pending = self.pending.remove(pick);
            self.run(pending);
        } else {
            self.begin(pick);
        }
        true
    }

    fn roll(&mut self, sides: usize) -> usize {
        // xorshift64*: enough to vary an order.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }

    /// What a submission waits for, later submissions of its queue wait for, too: the second scope of a semaphore wait and of a barrier
    /// holds everything that was submitted after it.
    fn may_begin(&self, number: usize) -> bool {
        let pending = &self.pending[number];
        let mut earlier = self.pending[..number]
            .iter()
            .filter(|earlier| earlier.queue.timeline == pending.queue.timeline);
        let held = match &pending.work {
            Work::Stream(stream) if leading(stream).is_some() => earlier.next().is_some(),
            Work::Stream(_) => earlier.any(|earlier| !earlier.begun),
            // The worker takes copies by hand one after the other.
            Work::Staged { .. } => earlier.next().is_some(),
        };
        let signalled =
            |(timeline, value): &Point| self.timelines[usize::from(*timeline)].signalled >= *value;
        !held && pending.semaphores.iter().all(signalled)
    }

    fn begin(&mut self, number: usize) {
        let pending = &mut self.pending[number];
        pending.begun = true;
        if let Work::Stream(stream) = &pending.work {
            let (queue, waits) = (pending.queue, !pending.semaphores.is_empty());
            let barrier = leading(stream);
            self.prologue(queue, waits, barrier);
        }
    }

    fn run(&mut self, pending: Pending) {
        let Pending { queue, value, waits, work, .. } = pending;
        let failed = |wait: &FencePoint| matches!(self.state(*wait), FenceState::Failed(_));
        let state = if waits.iter().any(failed) {
            FenceState::Failed(Failure::Dependency)
        } else {
            match work {
                Work::Stream(stream) => self.body(queue, &stream),
                Work::Staged { copies, fills } => {
                    self.stage(&waits, &copies, &fills);
                    FenceState::Ok
                }
            }
        };
        self.end(queue.timeline, value, state);
    }

    fn end(&mut self, timeline: u8, value: u64, state: FenceState) {
        let timeline = &mut self.timelines[usize::from(timeline)];
        timeline.ended.insert(value, state);
        while timeline.ended.contains_key(&(timeline.signalled + 1)) {
            timeline.signalled += 1;
        }
    }

    /// What stands before a submission: its semaphore waits, and the barrier that its stream begins with.
    fn prologue(&mut self, queue: QueueShape, waits: bool, barrier: Option<Barrier>) {
        if waits {
            self.caches.make_visible(queue.timeline, queue.can);
        }
        if let Some(barrier) = barrier {
            self.barrier(queue, barrier);
        }
    }

    /// One submission to a queue, after its prologue.
    fn body(&mut self, queue: QueueShape, stream: &Stream<u32>) -> FenceState {
        self.store.host_writes_arrive();
        self.caches.see_host_writes(queue.timeline, 0..FIRST);
        let mut state = FenceState::Ok;
        let done = usize::from(leading(stream).is_some());
        for command in stream.commands().iter().skip(done) {
            match command {
                Command::Barrier(barrier) => self.barrier(queue, *barrier),
                Command::Copy { from, to, regions } => {
                    for region in stream.regions(regions) {
                        let bytes = self.load(queue, *from, region.from_bytes, region.len_bytes);
                        let agent = copies_of(queue);
                        self.caches.write(agent, *to, region.to_bytes, &bytes);
                    }
                }
                Command::Fill { buffer, offset_bytes, len_bytes } => {
                    let zeros = vec![0; *len_bytes as usize];
                    self.caches.write(copies_of(queue), *buffer, *offset_bytes, &zeros);
                }
                Command::Dispatch(number) => {
                    if let Some(dispatch) = stream.dispatched(*number) {
                        state = self.dispatch(queue, dispatch);
                    }
                }
                Command::HostFlush(part) => {
                    let start = part.offset_bytes as usize;
                    self.store.flush_ring(start..start + part.len_bytes as usize);
                }
                // After the fence.
                Command::HostInvalidate(_) => {}
            }
        }
        // The signal's first scope is everything that the queue did.
        self.caches.make_available(queue.timeline, queue.can, &mut self.store);
        for part in stream.invalidations() {
            let start = part.offset_bytes as usize;
            self.store.invalidate_ring(start..start + part.len_bytes as usize);
        }
        state
    }

    fn barrier(&mut self, queue: QueueShape, barrier: Barrier) {
        self.caches.make_available(queue.timeline, barrier.from, &mut self.store);
        self.caches.make_visible(queue.timeline, barrier.to);
        if barrier.to.contains(Uses::HOST_READ) {
            self.store.release_to_host();
        }
    }

    fn load(&mut self, queue: QueueShape, buffer: u32, at: u64, len_bytes: u64) -> Vec<u8> {
        let mut bytes = vec![0; len_bytes as usize];
        self.caches.read(copies_of(queue), &mut self.store, buffer, at, &mut bytes);
        bytes
    }

    /// Runs the twin over what the shader cache sees, and keeps what it writes there.
    fn dispatch(&mut self, queue: QueueShape, dispatch: &Dispatch) -> FenceState {
        let Some((source, layout)) = self.kernels.get(dispatch.kernel.0 as usize).cloned() else {
            return FenceState::Failed(Failure::Driver(0));
        };
        let Some(twin) = source.twin else { return FenceState::Failed(Failure::Driver(0)) };
        let agent = Agent { queue: queue.timeline, runs_kernels: true };
        let places: Vec<Option<(u32, u64)>> = dispatch
            .arrays
            .iter()
            .map(|array| self.store.locate(array.address, array.len_bytes).ok())
            .collect();
        let mut arrays: Vec<Vec<u128>> = Vec::new();
        for (array, place) in dispatch.arrays.iter().zip(&places) {
            let mut words = vec![0u128; array.len_bytes.div_ceil(16) as usize];
            let bytes =
                &mut bytemuck::cast_slice_mut::<u128, u8>(&mut words)[..array.len_bytes as usize];
            match (array.access, place) {
                (Access::Write, _) => bytes.fill(UNWRITTEN),
                (_, Some((buffer, at))) => {
                    self.caches.read(agent, &mut self.store, *buffer, *at, bytes);
                }
                (_, None) => {}
            }
            arrays.push(words);
        }
        let of_twin = |(array, words): (&ArrayArgument, &mut Vec<u128>)| TwinArray {
            start: words.as_mut_ptr().cast(),
            len_bytes: array.len_bytes as usize,
            access: array.access,
        };
        let seen: Vec<_> = dispatch.arrays.iter().zip(&mut arrays).map(of_twin).collect();
        // SAFETY: each array is a vector of its own, as long as said, which nobody else touches while the twin runs.
        let view = unsafe { Twin::new(&dispatch.params, &layout, &seen) };
        let ran = std::panic::catch_unwind(AssertUnwindSafe(|| twin(&view)));
        if ran.is_err() {
            return FenceState::Failed(Failure::KernelPanicked);
        }
        for ((array, place), words) in dispatch.arrays.iter().zip(&places).zip(&arrays) {
            if let (true, Some((buffer, at))) = (array.access.writes(), place) {
                let bytes = &bytemuck::cast_slice::<u128, u8>(words)[..array.len_bytes as usize];
                self.caches.write(agent, *buffer, *at, bytes);
            }
        }
        FenceState::Ok
    }

    /// Copies by hand, through the ring, one load after the other.
    fn stage(&mut self, waits: &[FencePoint], copies: &[Found<u32>], fills: &[(u32, Zero)]) {
        let queue = QueueShape::transfer(RING_TIMELINE);
        let loads = pack(copies, SLOT_BYTES);
        // Whoever copies by hand has waited for these.
        for wait in waits {
            self.look(*wait);
        }
        let (first, semaphores) = self.record(queue, waits, |stream, after, visible| {
            record::staged(stream, after, visible, (RING, 0), None, fills.iter().copied())
        });
        self.submit_ring(queue, &semaphores, first);
        for (number, load) in loads.iter().enumerate() {
            let start = number as u64 % 4 * SLOT_BYTES;
            for part in load.parts.iter().filter(|_| load.direction == Direction::HostToDevice) {
                let bytes = self.store.host_bytes(part.copy.host);
                let at = (start + part.slot_offset_bytes) as usize;
                self.store.ring_of_cpu()[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            let (stream, semaphores) = self.record(queue, &[], |stream, after, visible| {
                record::staged(stream, after, visible, (RING, start), Some(load), [])
            });
            self.submit_ring(queue, &semaphores, stream);
            for part in load.parts.iter().filter(|_| load.direction == Direction::DeviceToHost) {
                let at = (start + part.slot_offset_bytes) as usize;
                let len = part.copy.host.len_bytes as usize;
                let bytes = self.store.ring_of_cpu()[at..at + len].to_vec();
                self.store.set_host_bytes(part.copy.host, &bytes);
            }
        }
    }

    /// Runs one of the ring's own submissions, and waits for it.
    fn submit_ring(&mut self, queue: QueueShape, semaphores: &[Point], stream: Stream<u32>) {
        let stream = self.thin(stream);
        let timeline = &mut self.timelines[usize::from(queue.timeline)];
        timeline.handed_out += 1;
        let value = timeline.handed_out;
        self.prologue(queue, !semaphores.is_empty(), leading(&stream));
        let state = self.body(queue, &stream);
        self.end(queue.timeline, value, state);
    }

    /// Forgets what caches hold of a buffer that is gone.
    pub(super) fn forget(&mut self, buffer: u32) {
        self.caches.drop_buffer(buffer);
    }
}

/// The barrier that a stream begins with.
fn leading(stream: &Stream<u32>) -> Option<Barrier> {
    match stream.commands().first() {
        Some(Command::Barrier(barrier)) if barrier.to != Uses::HOST_READ => Some(*barrier),
        _ => None,
    }
}

const fn copies_of(queue: QueueShape) -> Agent {
    Agent { queue: queue.timeline, runs_kernels: false }
}
