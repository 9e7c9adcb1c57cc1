//! The worker: copies through the staging ring, and submissions that must wait for them.
//!
//! Where host memory cannot be imported, bytes pass through a ring that the CPU and the device both see. Somebody must copy them by hand, and
//! `submit_transfer` may not block, so a thread does.
//!
//! **Order.** A launch may wait for a staged copy whose own commands are not submitted yet. It must not be given to the driver: on one queue
//! it would stand before the very copies that it waits for. So it is **deferred**: its value is handed out, and the worker submits it when what it waits for
//! is submitted. All later submissions of that queue are deferred behind it, or values would end out of order. The worker takes everything in one line:
//!
//! ```text
//! stage 7 | launch 3 (waits for stage 7) | launch 4 | stage 8 (waits for launch 4) ...
//! ```
//! A wait names a value that was handed out before, so what a job waits for stands before it in the line or is with the driver:
//! the line always moves.
//!
//! **Failure.** When a staged copy fails, or the driver refuses a deferred submission, the value ends `Failed`, and what waits for it ends
//! `Failed` as a dependency without having run.
#![allow(unsafe_code, reason = "copies bytes between the arena and the ring")]

use std::{
    collections::VecDeque,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use ash::vk;
use hmmap_core::{
    backend::{DeviceError, Direction, Zero},
    fence::{Failure, FencePoint, FenceState},
};
use parking_lot::{Condvar, Mutex};
use smallvec::SmallVec;

use crate::{
    dependencies::QueueShape,
    mapped::Mapped,
    queue::{Names as _, Queue, Slot, failure_of},
    record,
    ring::{self, Found, Load, SLOTS},
    shared::{RING, Shared},
    stream::HostPart,
};

/// How long a wait goes on before it is mentioned.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a job waits for.
pub(crate) type Waits = SmallVec<[FencePoint; 4]>;

/// Copies and fills to be done by hand.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) waits: Waits,
    pub(crate) copies: Vec<Found<vk::Buffer>>,
    pub(crate) fills: Vec<(vk::Buffer, Zero)>,
}

#[derive(Debug)]
enum Job {
    /// Ends a value of the staging timeline.
    Stage { value: u64, staged: Staged },
    /// Ends a value of the timeline of this queue.
    Submit { queue: u8, value: u64, slot: Box<Slot>, waits: Waits },
}

/// The worker's thread; it ends when this is dropped, after the jobs that are in the line.
#[derive(Debug)]
pub(crate) struct Worker {
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Inbox {
    line: Mutex<Line>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Line {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Worker {
    /// Starts the thread, with a ring of `ring_bytes`.
    pub(crate) fn start(shared: &Arc<Shared>, ring_bytes: u64) -> Result<Self, DeviceError> {
        let atom = shared.gpu.physical().limits.atom_bytes;
        let slot_bytes = (ring_bytes / SLOTS).max(1).next_multiple_of(atom.max(4096));
        let copies = shared.copies();
        let hands = Hands {
            ring: Mapped::new(&shared.gpu, slot_bytes * SLOTS)?,
            queue: Queue::new(&shared.gpu, copies.handle(), QueueShape::transfer(RING))?,
            shared: Arc::clone(shared),
            slot_bytes,
        };
        let inbox = Arc::new(Inbox::default());
        let line = Arc::clone(&inbox);
        let thread = thread::Builder::new()
            .name("hmmap vk copy".to_owned())
            .spawn(move || {
                while let Some(job) = line.next() {
                    hands.run(job);
                }
            })
            .map_err(|error| DeviceError::Driver {
                call: "pthread_create",
                code: error.raw_os_error().unwrap_or(0),
            })?;
        Ok(Self { inbox, shared: Arc::clone(shared), thread: Some(thread) })
    }

    /// Puts copies in the line, and returns the value of the staging timeline that ends with them.
    pub(crate) fn stage(&self, staged: Staged) -> u64 {
        let mut line = self.inbox.line.lock();
        let timeline = &self.shared.staging;
        let value = timeline.handed_out() + 1;
        timeline.hand_out(value);
        line.jobs.push_back(Job::Stage { value, staged });
        drop(line);
        self.inbox.wake.notify_one();
        value
    }

    /// Puts a submission in the line whose value was handed out.
    pub(crate) fn submit(&self, queue: u8, slot: Slot, value: u64, waits: &[FencePoint]) {
        let (waits, slot) = (Waits::from_slice(waits), Box::new(slot));
        self.inbox.line.lock().jobs.push_back(Job::Submit { queue, value, slot, waits });
        self.inbox.wake.notify_one();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.inbox.line.lock().closed = true;
        self.inbox.wake.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the staging worker of a Vulkan device panicked");
        }
    }
}

impl Inbox {
    /// The next job; `None` when there is none and none will come.
    fn next(&self) -> Option<Job> {
        let mut line = self.line.lock();
        loop {
            if let Some(job) = line.jobs.pop_front() {
                return Some(job);
            }
            if line.closed {
                return None;
            }
            self.wake.wait(&mut line);
        }
    }
}

/// What the worker works with.
struct Hands {
    /// First: it waits for its work before the ring goes.
    queue: Queue,
    ring: Mapped,
    shared: Arc<Shared>,
    slot_bytes: u64,
}

/// A load on its way through the ring.
struct Underway<'a> {
    sent: Sent,
    load: &'a Load<vk::Buffer>,
    start: u64,
}

/// A submission of the worker, and what the CPU's caches forget after it.
struct Sent {
    value: u64,
    invalidate: SmallVec<[HostPart<vk::Buffer>; 1]>,
}

/// Why work was not done.
enum Undone {
    Lost,
    Failed(Failure),
}

impl From<DeviceError> for Undone {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Lost => Self::Lost,
            other => Self::Failed(failure_of(&other)),
        }
    }
}

impl Hands {
    fn run(&self, job: Job) {
        let told = match job {
            Job::Stage { value, staged } => match self.stage(&staged) {
                Ok(()) => self.shared.staging.signal(value),
                Err(Undone::Failed(failure)) => self.shared.staging.fail(value, failure),
                Err(Undone::Lost) => Err(DeviceError::Lost),
            },
            Job::Submit { queue, value, slot, waits } => self.submit(queue, value, *slot, &waits),
        };
        if let Err(error) = told {
            // A value that cannot be ended would be waited for in vain.
            self.shared.gpu.lose("the staging worker");
            tracing::debug!(%error, "a job of the staging worker ended with its device");
        }
    }

    fn submit(
        &self,
        queue: u8,
        value: u64,
        slot: Slot,
        waits: &[FencePoint],
    ) -> Result<(), DeviceError> {
        let Some(queue) = self.shared.queue(queue) else { return Ok(()) };
        let failed = |wait: &FencePoint| {
            let timeline = self.shared.timeline(wait.timeline.queue());
            timeline.is_some_and(|timeline| timeline.has_failed(wait.value))
        };
        if waits.iter().any(failed) {
            return queue.fail_deferred(slot, value, Failure::Dependency);
        }
        queue.submit_deferred(slot, value, &*self.shared)
    }

    /// Does copies and fills, and returns when they are done.
    fn stage(&self, staged: &Staged) -> Result<(), Undone> {
        self.wait_for(&staged.waits)?;
        let loads = ring::pack(&staged.copies, self.slot_bytes);
        let mut underway: VecDeque<Underway<'_>> = VecDeque::new();
        let mut result = Ok(());
        if loads.is_empty() {
            let done = self.send(None, 0, &staged.waits, &staged.fills);
            return done.and_then(|sent| self.end(sent.value));
        }
        for (number, load) in loads.iter().enumerate() {
            if underway.len() as u64 == SLOTS
                && let Some(oldest) = underway.pop_front()
            {
                result = self.finish(&oldest);
            }
            let start = number as u64 % SLOTS * self.slot_bytes;
            let (waits, fills) = match number {
                0 => (staged.waits.as_slice(), staged.fills.as_slice()),
                _ => (&[][..], &[][..]),
            };
            let sent = result.and_then(|()| self.send(Some(load), start, waits, fills));
            match sent {
                Ok(sent) => {
                    underway.push_back(Underway { sent, load, start });
                    result = Ok(());
                }
                Err(undone) => {
                    result = Err(undone);
                    break;
                }
            }
        }
        // Also after a failure: the next job uses the same slots.
        for load in &underway {
            let finished = self.finish(load);
            result = result.and(finished);
        }
        result
    }

    fn wait_for(&self, waits: &[FencePoint]) -> Result<(), Undone> {
        for wait in waits {
            let Some(timeline) = self.shared.timeline(wait.timeline.queue()) else { continue };
            loop {
                match timeline.wait(wait.value, PATIENCE) {
                    FenceState::Pending => tracing::warn!(?wait, "a staged copy still waits"),
                    FenceState::Ok => break,
                    FenceState::Failed(_) => return Err(Undone::Failed(Failure::Dependency)),
                    FenceState::Lost => return Err(Undone::Lost),
                }
            }
        }
        Ok(())
    }

    /// Fills a slot where the load goes up, and submits the load's copies.
    fn send(
        &self,
        load: Option<&Load<vk::Buffer>>,
        start: u64,
        waits: &[FencePoint],
        fills: &[(vk::Buffer, Zero)],
    ) -> Result<Sent, Undone> {
        for part in load
            .iter()
            .filter(|load| load.direction == Direction::HostToDevice)
            .flat_map(|load| &load.parts)
        {
            let from = self.shared.host.pointer(part.copy.host);
            let at = start + part.slot_offset_bytes;
            // SAFETY: (1) the span lies in the arena, which the engine checked, and what the job waits for has ended, so nobody
            // writes it; (2) the slot is free: its last load has ended.
            unsafe { self.ring.put(at, from, part.copy.host.len_bytes) };
        }
        let mut opening = self.queue.open();
        let mut slot = opening.slot()?;
        let ring = (self.ring.buffer(), start);
        let ended = self.shared.ended();
        let after = opening.after(waits, &ended);
        let fills = fills.iter().copied();
        let Slot { stream, visible, .. } = &mut slot;
        slot.semaphores = record::staged(stream, &after, visible, ring, load, fills);
        for part in slot.stream.flushes() {
            self.ring.flush(part.offset_bytes..part.offset_bytes + part.len_bytes)?;
        }
        let invalidate = slot.stream.invalidations().copied().collect();
        let value = opening.submit(slot, &*self.shared)?;
        Ok(Sent { value, invalidate })
    }

    /// Waits for a load, and empties its slot where it came down.
    fn finish(&self, underway: &Underway<'_>) -> Result<(), Undone> {
        self.end(underway.sent.value)?;
        for part in &underway.sent.invalidate {
            self.ring.invalidate(part.offset_bytes..part.offset_bytes + part.len_bytes)?;
        }
        if underway.load.direction == Direction::DeviceToHost {
            for part in &underway.load.parts {
                let to = self.shared.host.pointer(part.copy.host);
                let at = underway.start + part.slot_offset_bytes;
                // SAFETY: (1) the span lies in the arena and is this job's alone, by the contract of `Device`; (2) the load has
                // ended, so the device does not write the slot any more.
                unsafe { self.ring.get(at, to, part.copy.host.len_bytes) };
            }
        }
        Ok(())
    }

    fn end(&self, value: u64) -> Result<(), Undone> {
        loop {
            match self.queue.timeline().wait(value, PATIENCE) {
                FenceState::Ok => return Ok(()),
                FenceState::Lost => return Err(Undone::Lost),
                FenceState::Failed(failure) => return Err(Undone::Failed(failure)),
                FenceState::Pending => tracing::warn!(value, "a staged copy takes long"),
            }
        }
    }
}
