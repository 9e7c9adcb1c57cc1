//! Timelines: one timeline semaphore each, and what is known of it without asking the driver.
//!
//! ```text
//! completed <= submitted <= handed out
//!    |            |            a value was returned to the engine
//!    |            given to the driver (or, for work of the CPU, done)
//!    seen to have ended
//! ```
//! A value is handed out before it is submitted only while work waits for the staging worker; see `worker`.
#![allow(unsafe_code, reason = "owns a semaphore")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ash::vk;
use hmmap_core::{
    backend::DeviceError,
    fence::{Failure, FenceState},
};
use parking_lot::Mutex;

use crate::gpu::{Gpu, Owner};

/// The longest wait inside the driver before the device's loss, seen by another thread, is looked at.
const SLICE: Duration = Duration::from_millis(100);
/// A wait looks again and again for this long before it sleeps, and lets others run in between: waking a thread takes longer than a small
/// piece of work (measured on lavapipe, two cores: 28 us instead of 35 for a launch that touches one element).
const AWAKE: Duration = Duration::from_micros(50);

/// A timeline semaphore.
#[derive(Debug)]
pub(crate) struct Timeline {
    semaphore: vk::Semaphore,
    owner: Owner,
    handed_out: AtomicU64,
    submitted: AtomicU64,
    completed: AtomicU64,
    any_failed: AtomicBool,
    failed: Mutex<BTreeMap<u64, Failure>>,
    gpu: Arc<Gpu>,
}

impl Timeline {
    /// A timeline at value zero.
    pub(crate) fn new(gpu: &Arc<Gpu>) -> Result<Self, DeviceError> {
        let mut kind = vk::SemaphoreTypeCreateInfo::default()
            .semaphore_type(vk::SemaphoreType::TIMELINE)
            .initial_value(0);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: the device is live and has timeline semaphores enabled; `info` outlives the call.
        let made = unsafe { gpu.raw().create_semaphore(&info, None) };
        let semaphore = gpu.done("vkCreateSemaphore", made)?;
        Ok(Self::around(gpu, semaphore, Owner::Library, 0))
    }

    /// A timeline that the program signals: its values count as submitted, since the program promises so.
    ///
    /// # Safety
    /// A live timeline semaphore of the device, which the program destroys only after the device's end.
    pub(crate) unsafe fn of_program(gpu: &Arc<Gpu>, semaphore: vk::Semaphore) -> Self {
        Self::around(gpu, semaphore, Owner::Program, u64::MAX)
    }

    fn around(gpu: &Arc<Gpu>, semaphore: vk::Semaphore, owner: Owner, known: u64) -> Self {
        Self {
            semaphore,
            owner,
            handed_out: AtomicU64::new(known),
            submitted: AtomicU64::new(known),
            completed: AtomicU64::new(0),
            any_failed: AtomicBool::new(false),
            failed: Mutex::default(),
            gpu: Arc::clone(gpu),
        }
    }

    /// The handle; it lives as long as the timeline.
    pub(crate) fn semaphore(&self) -> vk::Semaphore {
        self.semaphore
    }

    /// The highest value that was handed out.
    pub(crate) fn handed_out(&self) -> u64 {
        self.handed_out.load(Ordering::Acquire)
    }

    /// Says that `value`, the next, was handed out. Under the lock that orders the timeline's submissions.
    pub(crate) fn hand_out(&self, value: u64) {
        self.handed_out.store(value, Ordering::Release);
    }

    /// The highest value that the driver has been given.
    pub(crate) fn submitted(&self) -> u64 {
        self.submitted.load(Ordering::Acquire)
    }

    /// Says that the driver has been given everything up to `value`.
    pub(crate) fn set_submitted(&self, value: u64) {
        // Release pairs with the Acquire in `submitted`: who sees the value sees the submission made.
        self.submitted.fetch_max(value, Ordering::Release);
    }

    /// The highest value known to have ended, without asking.
    pub(crate) fn known_completed(&self) -> u64 {
        self.completed.load(Ordering::Acquire)
    }

    /// The highest value known to have ended. Asks the driver only when `value` is above what is known.
    pub(crate) fn completed(&self, value: u64) -> u64 {
        // Acquire pairs with the Release below: whoever learns from the cache that work ended sees what the thread that asked the
        // driver saw, and with it the work's writes.
        let known = self.completed.load(Ordering::Acquire);
        if known >= value || self.gpu.is_lost() {
            return known;
        }
        // SAFETY: the semaphore is live.
        let asked = unsafe { self.gpu.raw().get_semaphore_counter_value(self.semaphore) };
        match self.gpu.done("vkGetSemaphoreCounterValue", asked) {
            Ok(counter) => self.note(counter),
            Err(_) => known,
        }
    }

    /// Takes in a counter that the driver gave. A lost device may show any; then none is believed.
    fn note(&self, counter: u64) -> u64 {
        if counter > self.submitted() {
            self.gpu.lose("a semaphore ran ahead of its submissions");
            return self.completed.load(Ordering::Acquire);
        }
        self.completed.fetch_max(counter, Ordering::AcqRel).max(counter)
    }

    /// How a value stands, without blocking.
    pub(crate) fn poll(&self, value: u64) -> FenceState {
        if self.completed(value) >= value {
            return self.ended(value);
        }
        if self.gpu.is_lost() { FenceState::Lost } else { FenceState::Pending }
    }

    /// Waits until a value has ended or the time is over.
    pub(crate) fn wait(&self, value: u64, timeout: Duration) -> FenceState {
        let started = Instant::now();
        let deadline = started.checked_add(timeout);
        let awake = timeout.min(AWAKE);
        loop {
            let state = self.poll(value);
            if state.has_ended() {
                return state;
            }
            if started.elapsed() < awake {
                thread::yield_now();
                continue;
            }
            let left = deadline.map_or(SLICE, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return state;
            }
            let (semaphores, values) = ([self.semaphore], [value]);
            let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
            let nanos = left.min(SLICE).as_nanos() as u64;
            // SAFETY: the semaphore is live, `info` outlives the call.
            match unsafe { self.gpu.raw().wait_semaphores(&info, nanos) } {
                Ok(()) => {
                    self.note(value);
                }
                Err(vk::Result::TIMEOUT) => {}
                Err(error) => {
                    if self.gpu.done("vkWaitSemaphores", Err::<(), _>(error)).is_err()
                        && !self.gpu.is_lost()
                    {
                        // Nothing else would end this loop: a driver that cannot even wait is of no more use.
                        self.gpu.lose("vkWaitSemaphores");
                    }
                }
            }
        }
    }

    /// Ends a value from the CPU. Every value below it has ended.
    pub(crate) fn signal(&self, value: u64) -> Result<(), DeviceError> {
        self.set_submitted(value);
        let info = vk::SemaphoreSignalInfo::default().semaphore(self.semaphore).value(value);
        // SAFETY: (1) the semaphore is live, (2) the value is above the current one and no submission that signals
        // this timeline is pending, since the caller waited for the value before it.
        let signalled = unsafe { self.gpu.raw().signal_semaphore(&info) };
        self.gpu.done("vkSignalSemaphore", signalled)?;
        self.completed.fetch_max(value, Ordering::AcqRel);
        Ok(())
    }

    /// Ends a value from the CPU as failed.
    pub(crate) fn fail(&self, value: u64, failure: Failure) -> Result<(), DeviceError> {
        self.failed.lock().insert(value, failure);
        self.any_failed.store(true, Ordering::Release);
        self.signal(value)
    }

    /// True when a value is known to have failed.
    pub(crate) fn has_failed(&self, value: u64) -> bool {
        self.any_failed.load(Ordering::Acquire) && self.failed.lock().contains_key(&value)
    }

    /// How a value that has ended did.
    fn ended(&self, value: u64) -> FenceState {
        if !self.any_failed.load(Ordering::Acquire) {
            return FenceState::Ok;
        }
        let failed = self.failed.lock().get(&value).copied();
        failed.map_or(FenceState::Ok, FenceState::Failed)
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        if self.owner == Owner::Library {
            self.gpu.rest();
            // SAFETY: made here, destroyed once; queues hold their timeline until their last submission has ended, and are at rest.
            unsafe { self.gpu.raw().destroy_semaphore(self.semaphore, None) };
        }
    }
}
