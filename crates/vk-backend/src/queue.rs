//! A queue: recording, submission, and recycling of command buffers by the value that frees them.
//!
//! ```text
//! free slots --begin--> recorded --submit--> busy (value) --value ended--> free slots
//!                           \--deferred to the worker--/
//! ```
//! A **slot** is a command buffer, the stream that is played into it, and what must live until it has ended. One lock per queue makes
//! values and submissions go in the same order.
#![allow(unsafe_code, reason = "records and submits command buffers")]

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ash::vk;
use hmmap_core::{
    backend::DeviceError,
    fence::{Failure, FencePoint},
    kernel::KernelId,
};
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::{
    dependencies::{After, Point, QueueShape, Visible},
    gpu::{Gpu, QueueHandle},
    import::Import,
    play::{Playable, play},
    record::Semaphores,
    stream::Stream,
    sync_files::Binary,
    timeline::Timeline,
};

/// A list that rarely needs memory of its own.
type Few<T> = SmallVec<[T; 4]>;

/// How long the end of a queue waits at a time for its last submission.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A queue of the device with the timeline that its submissions signal.
#[derive(Debug)]
pub(crate) struct Queue {
    gpu: Arc<Gpu>,
    handle: Arc<QueueHandle>,
    timeline: Timeline,
    shape: QueueShape,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pool: vk::CommandPool,
    free: Vec<Slot>,
    busy: VecDeque<(u64, Slot)>,
    /// What submissions so far have made visible.
    visible: Visible,
    /// Submissions whose value is handed out and which wait for the worker.
    deferred: usize,
}

/// One submission in the making or under way.
#[derive(Debug)]
pub(crate) struct Slot {
    commands: vk::CommandBuffer,
    /// What it does.
    pub(crate) stream: Stream<vk::Buffer>,
    /// Imports that it touches.
    pub(crate) keeps: Vec<Arc<Import>>,
    /// Other timelines that it waits for.
    pub(crate) semaphores: Semaphores,
    /// A fence of another driver's that it waits for, or one for others that it signals.
    pub(crate) binary: Option<Binary>,
    /// What is visible on the queue once it is submitted.
    pub(crate) visible: Visible,
}

/// The kernels and the timelines that a submission refers to.
pub(crate) trait Names {
    /// A prepared kernel.
    fn kernel(&self, id: KernelId) -> Option<Playable>;
    /// A timeline by its number.
    fn timeline(&self, number: u8) -> Option<&Timeline>;
    /// Per timeline, the highest value that is known to have ended.
    fn ended(&self) -> SmallVec<[Point; 8]>;
    /// What every submission waits for: memory that is being bound.
    fn pending_binds(&self) -> Option<(vk::Semaphore, u64)>;
}

/// A locked queue, with a slot to record into.
pub(crate) struct Opening<'a> {
    queue: &'a Queue,
    state: MutexGuard<'a, State>,
}

impl Queue {
    /// A queue over a handle.
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        handle: &Arc<QueueHandle>,
        shape: QueueShape,
    ) -> Result<Self, DeviceError> {
        let timeline = Timeline::new(gpu)?;
        let info = vk::CommandPoolCreateInfo::default()
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER)
            .queue_family_index(handle.family);
        // SAFETY: the device is live and has a queue of this family.
        let pool = unsafe { gpu.raw().create_command_pool(&info, None) };
        let pool = gpu.done("vkCreateCommandPool", pool)?;
        let state = State {
            pool,
            free: Vec::new(),
            busy: VecDeque::new(),
            visible: Visible::default(),
            deferred: 0,
        };
        let (gpu, handle) = (Arc::clone(gpu), Arc::clone(handle));
        Ok(Self { gpu, handle, timeline, shape, state: Mutex::new(state) })
    }

    /// What the queue can do, and its timeline's number.
    pub(crate) fn shape(&self) -> QueueShape {
        self.shape
    }

    /// The timeline.
    pub(crate) fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// The handle.
    pub(crate) fn handle(&self) -> &Arc<QueueHandle> {
        &self.handle
    }

    /// Locks the queue for one submission.
    pub(crate) fn open(&self) -> Opening<'_> {
        let mut state = self.state.lock();
        self.reap(&mut state);
        Opening { queue: self, state }
    }

    /// Lets go of what ended submissions kept.
    pub(crate) fn tidy(&self) {
        self.reap(&mut self.state.lock());
    }

    fn reap(&self, state: &mut State) {
        while let Some((value, _)) = state.busy.front() {
            if self.timeline.completed(*value) < *value {
                return;
            }
            if let Some((_, mut slot)) = state.busy.pop_front() {
                slot.clear();
                state.free.push(slot);
            }
        }
    }

    /// Submits a slot whose value was handed out before. When the driver refuses, the value ends failed.
    pub(crate) fn submit_deferred(
        &self,
        slot: Slot,
        value: u64,
        names: &impl Names,
    ) -> Result<(), DeviceError> {
        let mut state = self.state.lock();
        match self.hand_over(&slot, value, names) {
            Ok(()) => {
                state.deferred -= 1;
                state.busy.push_back((value, slot));
                Ok(())
            }
            Err(DeviceError::Lost) => Err(DeviceError::Lost),
            Err(error) => {
                drop(state);
                self.fail_deferred(slot, value, failure_of(&error))
            }
        }
    }

    /// Ends a value that was handed out before without having run its work.
    pub(crate) fn fail_deferred(
        &self,
        mut slot: Slot,
        value: u64,
        failure: Failure,
    ) -> Result<(), DeviceError> {
        // Values end in order. Nothing else is submitted meanwhile: as long as one submission is deferred, all later ones are.
        while !self.timeline.wait(value - 1, PATIENCE).has_ended() {}
        let mut state = self.state.lock();
        state.deferred -= 1;
        slot.clear();
        state.free.push(slot);
        self.timeline.fail(value, failure)
    }

    /// Plays and submits. When that fails the slot is free again and nothing was submitted.
    fn submit(
        &self,
        state: &mut State,
        slot: Slot,
        value: u64,
        names: &impl Names,
    ) -> Result<(), DeviceError> {
        match self.hand_over(&slot, value, names) {
            Ok(()) => {
                state.busy.push_back((value, slot));
                Ok(())
            }
            Err(error) => {
                let mut slot = slot;
                slot.clear();
                state.free.push(slot);
                Err(error)
            }
        }
    }

    fn hand_over(&self, slot: &Slot, value: u64, names: &impl Names) -> Result<(), DeviceError> {
        self.gpu.alive()?;
        let device = self.gpu.raw();
        let begin = vk::CommandBufferBeginInfo::default()
            .flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        // SAFETY: the command buffer is not pending, since slots are free only when their value has ended; the pool is
        // guarded by the queue's lock, which the caller holds.
        let begun = unsafe { device.begin_command_buffer(slot.commands, &begin) };
        self.gpu.done("vkBeginCommandBuffer", begun)?;
        // SAFETY: (1) recording, under the queue's lock; (2) imports are kept by the slot, reservations and kernels live by the
        // contract of `Device` (all work has ended before they are released); (3) streams are recorded for the queue's shape.
        unsafe { play(&self.gpu, slot.commands, &slot.stream, |id| names.kernel(id)) };
        // SAFETY: as above.
        let ended = unsafe { device.end_command_buffer(slot.commands) };
        self.gpu.done("vkEndCommandBuffer", ended)?;

        let (mut waits, mut values) = (Few::new(), Few::new());
        for (number, value) in &slot.semaphores {
            let missing = DeviceError::Misuse { what: "a wait for a timeline unknown here" };
            waits.push(names.timeline(*number).ok_or(missing)?.semaphore());
            values.push(*value);
        }
        if let Some((semaphore, value)) = names.pending_binds() {
            waits.push(semaphore);
            values.push(value);
        }
        // The values of binary semaphores are not looked at.
        let mut signals = Few::from_slice(&[self.timeline.semaphore()]);
        let mut signal_values = Few::from_slice(&[value]);
        match &slot.binary {
            Some(Binary::WaitsFor(semaphore)) => {
                waits.push(semaphore.raw());
                values.push(0);
            }
            Some(Binary::Signals(semaphore)) => {
                signals.push(semaphore.raw());
                signal_values.push(0);
            }
            None => {}
        }
        let stages: Few<_> = waits.iter().map(|_| vk::PipelineStageFlags::ALL_COMMANDS).collect();
        let commands = [slot.commands];
        let mut timelines = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&values)
            .signal_semaphore_values(&signal_values);
        let info = vk::SubmitInfo::default()
            .wait_semaphores(&waits)
            .wait_dst_stage_mask(&stages)
            .command_buffers(&commands)
            .signal_semaphores(&signals)
            .push_next(&mut timelines);
        // Before the call, because another thread may see the value ended before this one returns.
        self.timeline.set_submitted(value);
        let _queue = self.handle.lock.lock();
        // Again under the lock: once lost, nothing is given to the driver any more.
        self.gpu.alive()?;
        // SAFETY: (1) the queue is used under its lock alone, (2) every handle is live and everything `info` points to
        // outlives the call, (3) the value is above every value signalled on this timeline before.
        let submitted = unsafe { device.queue_submit(self.handle.raw, &[info], vk::Fence::null()) };
        self.gpu.done("vkQueueSubmit", submitted)
    }

    fn new_slot(&self, pool: vk::CommandPool) -> Result<Slot, DeviceError> {
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(1);
        // SAFETY: the pool is live and guarded by the queue's lock, which the caller holds.
        let made = unsafe { self.gpu.raw().allocate_command_buffers(&info) };
        let made = self.gpu.done("vkAllocateCommandBuffers", made)?;
        let commands = made.first().copied().unwrap_or_default();
        let (stream, keeps, semaphores) = (Stream::default(), Vec::new(), Semaphores::new());
        let (binary, visible) = (None, Visible::default());
        Ok(Slot { commands, stream, keeps, semaphores, binary, visible })
    }
}

/// How work ends that the driver refused.
pub(crate) fn failure_of(error: &DeviceError) -> Failure {
    match error {
        DeviceError::Driver { code, .. } => Failure::Driver(*code),
        _ => Failure::Driver(vk::Result::ERROR_OUT_OF_DEVICE_MEMORY.as_raw()),
    }
}

impl Opening<'_> {
    /// A slot to record into. Give it to [`Opening::submit`], [`Opening::defer`] or [`Opening::discard`].
    pub(crate) fn slot(&mut self) -> Result<Slot, DeviceError> {
        self.queue.gpu.alive()?;
        let mut slot = match self.state.free.pop() {
            Some(slot) => slot,
            None => self.queue.new_slot(self.state.pool)?,
        };
        slot.visible.clone_from(&self.state.visible);
        Ok(slot)
    }

    /// What a submission comes after that is recorded now.
    pub(crate) fn after<'a>(&self, waits: &'a [FencePoint], ended: &'a [Point]) -> After<'a> {
        let value = self.queue.timeline.handed_out() + 1;
        After { queue: self.queue.shape, value, waits, ended }
    }

    /// True when earlier submissions of the queue still wait for the worker, so that this one must too.
    pub(crate) fn must_defer(&self) -> bool {
        self.state.deferred > 0
    }

    /// Plays and submits, and returns the value that ends with it.
    pub(crate) fn submit(mut self, slot: Slot, names: &impl Names) -> Result<u64, DeviceError> {
        let value = self.queue.timeline.handed_out() + 1;
        let visible = slot.visible.clone();
        self.queue.submit(&mut self.state, slot, value, names)?;
        self.queue.timeline.hand_out(value);
        self.state.visible = visible;
        Ok(value)
    }

    /// Hands a value out and leaves the submission to `later`, while the queue is locked: the worker gets submissions in
    /// the order of their values. What it makes visible is not relied on, because the driver may yet refuse it.
    pub(crate) fn defer(mut self, slot: Slot, later: impl FnOnce(Slot, u64)) -> u64 {
        let value = self.queue.timeline.handed_out() + 1;
        self.queue.timeline.hand_out(value);
        self.state.deferred += 1;
        later(slot, value);
        value
    }

    /// Gives a slot back that is not submitted.
    pub(crate) fn discard(mut self, mut slot: Slot) {
        slot.clear();
        self.state.free.push(slot);
    }
}

impl Slot {
    fn clear(&mut self) {
        self.stream.clear();
        self.keeps.clear();
        self.semaphores.clear();
        self.binary = None;
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let last = state.busy.back().map(|(value, _)| *value);
        if let Some(last) = last {
            // A lost device ends every wait; a living one ends its work.
            while !self.timeline.wait(last, PATIENCE).has_ended() {
                tracing::warn!(?self.shape, last, "still waiting for the last submission of a queue");
            }
        }
        self.gpu.rest();
        // SAFETY: made here, destroyed once; its command buffers have ended, or the device is lost, which counts as ended.
        unsafe { self.gpu.raw().destroy_command_pool(state.pool, None) };
    }
}
