//! A stream with the timeline that its submissions signal: one event each.
//!
//! ```text
//! submit: an event from the spare ones, waits, work, record;  value + 1  ->  pending: (value, event, what must live until then)
//! poll:   value <= ended? Ok: ask its event; done -> everything before it is done too, events are spare again
//! ```
//! Within a stream works run in order, so values end in order. One lock per stream makes values and submissions go in the same order.
#![allow(unsafe_code, reason = "owns a stream and its events")]

use std::{
    any::Any,
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hmmap_core::{backend::DeviceError, fence::FenceState};
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::{
    context::{Context, Current, Owner},
    driver::Raw,
};

/// A wait looks again and again for this long before it sleeps.
const AWAKE: Duration = Duration::from_micros(50);
/// Then it sleeps for this part of the time that it has waited already, so that it is late by no more.
const LATE_PART: u32 = 16;
/// The longest it sleeps at a time.
const LONGEST_NAP: Duration = Duration::from_millis(1);

/// `CU_STREAM_NON_BLOCKING`: no order with the legacy stream of the program.
const NON_BLOCKING: u32 = 1;
/// `CU_EVENT_DISABLE_TIMING`: an event that only orders is cheaper.
const NO_TIMING: u32 = 2;

/// What has to live until work has ended.
pub(crate) type Keeps = SmallVec<[Arc<dyn Any + Send + Sync>; 2]>;

/// An event, destroyed when dropped.
#[derive(Debug)]
pub(crate) struct Event {
    raw: Raw,
    context: Arc<Context>,
}

/// A stream and its timeline.
#[derive(Debug)]
pub(crate) struct Timeline {
    stream: Raw,
    owner: Owner,
    handed_out: AtomicU64,
    ended: AtomicU64,
    state: Mutex<State>,
    context: Arc<Context>,
}

#[derive(Debug, Default)]
struct State {
    pending: VecDeque<Pending>,
    spare: Vec<Arc<Event>>,
}

#[derive(Debug)]
struct Pending {
    value: u64,
    event: Arc<Event>,
    keeps: Keeps,
}

impl Event {
    fn new(context: &Arc<Context>, current: &Current<'_>) -> Result<Self, DeviceError> {
        let mut raw = 0;
        // SAFETY: the context is current, the pointer is to a local.
        let code = unsafe { (current.api().cuEventCreate)(&raw mut raw, NO_TIMING) };
        current.done("cuEventCreate", code)?;
        Ok(Self { raw, context: Arc::clone(context) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(current) = self.context.enter_anyway() {
            // SAFETY: made here, destroyed once; a wait that was submitted for it goes on.
            current.given("cuEventDestroy", unsafe { (current.api().cuEventDestroy_v2)(self.raw) });
        }
    }
}

impl Timeline {
    /// A new stream.
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        let current = context.enter()?;
        let mut stream = 0;
        // SAFETY: the context is current, the pointer is to a local.
        let code = unsafe { (current.api().cuStreamCreate)(&raw mut stream, NON_BLOCKING) };
        current.done("cuStreamCreate", code)?;
        Ok(Self::around(context, stream, Owner::Library))
    }

    /// A stream. Where the program owns it, it destroys it after the device.
    pub(crate) fn around(context: &Arc<Context>, stream: Raw, owner: Owner) -> Self {
        Self {
            stream,
            owner,
            handed_out: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            state: Mutex::default(),
            context: Arc::clone(context),
        }
    }

    /// The highest value that was handed out.
    pub(crate) fn handed_out(&self) -> u64 {
        // Acquire pairs with the Release in `submit`: a value is seen after its event is in the list.
        self.handed_out.load(Ordering::Acquire)
    }

    /// Waits on the device for events, does `work` in the stream, and returns the value that ends with it.
    ///
    /// # Errors
    /// The driver refused some of it; then what it had accepted has ended when this returns, and no value was handed out.
    pub(crate) fn submit(
        &self,
        current: &Current<'_>,
        waits: &[Arc<Event>],
        keeps: Keeps,
        work: impl FnOnce(Raw) -> Result<(), DeviceError>,
    ) -> Result<u64, DeviceError> {
        let mut state = self.state.lock();
        let event = self.spare(&mut state, current)?;
        let accepted = self.wait_for(current, waits).and_then(|()| work(self.stream));
        let accepted = accepted.and_then(|()| match self.record(current, &event) {
            // The work is with the driver and nothing tells of its end: so its end is waited for here.
            Err(error) if error != DeviceError::Lost => self.synchronize(current),
            other => other,
        });
        if let Err(error) = accepted {
            if error != DeviceError::Lost {
                self.synchronize(current)?;
            }
            state.spare.push(event);
            return Err(error);
        }
        let value = self.handed_out.load(Ordering::Relaxed) + 1;
        state.pending.push_back(Pending { value, event, keeps });
        // Release: who sees the value finds its event.
        self.handed_out.store(value, Ordering::Release);
        Ok(value)
    }

    /// Lets what follows in the stream wait for events.
    pub(crate) fn wait_for(
        &self,
        current: &Current<'_>,
        waits: &[Arc<Event>],
    ) -> Result<(), DeviceError> {
        for event in waits {
            // SAFETY: the context is current; stream and event are live and of it.
            let code = unsafe { (current.api().cuStreamWaitEvent)(self.stream, event.raw, 0) };
            current.done("cuStreamWaitEvent", code)?;
        }
        Ok(())
    }

    fn record(&self, current: &Current<'_>, event: &Event) -> Result<(), DeviceError> {
        // SAFETY: as in `wait_for`; the event is nobody else's now, since spare ones have no other owner.
        let code = unsafe { (current.api().cuEventRecord)(event.raw, self.stream) };
        current.done("cuEventRecord", code)
    }

    fn synchronize(&self, current: &Current<'_>) -> Result<(), DeviceError> {
        // SAFETY: the context is current, the stream is live and of it.
        let code = unsafe { (current.api().cuStreamSynchronize)(self.stream) };
        if current.done("cuStreamSynchronize", code).is_err() {
            // Work is with the driver of which nothing more can be known.
            self.context.lose("cuStreamSynchronize");
            return Err(DeviceError::Lost);
        }
        Ok(())
    }

    /// An event that nobody waits for.
    fn spare(&self, state: &mut State, current: &Current<'_>) -> Result<Arc<Event>, DeviceError> {
        // Somebody may be about to wait for one that has ended; recorded anew it would mean something else.
        let free = state.spare.iter().position(|event| Arc::strong_count(event) == 1);
        match free {
            Some(at) => Ok(state.spare.swap_remove(at)),
            None => Event::new(&self.context, current).map(Arc::new),
        }
    }

    /// The event with which a value ends; `None` when it has ended.
    pub(crate) fn event_of(&self, value: u64) -> Option<Arc<Event>> {
        if self.has_ended(value) {
            return None;
        }
        let state = self.state.lock();
        let found = state.pending.iter().find(|pending| pending.value >= value);
        found.map(|pending| Arc::clone(&pending.event))
    }

    fn has_ended(&self, value: u64) -> bool {
        // Acquire pairs with the Release in `ask`: who learns that work ended sees what the thread that asked the driver saw.
        self.ended.load(Ordering::Acquire) >= value
    }

    /// How a value stands, without blocking.
    pub(crate) fn poll(&self, value: u64) -> FenceState {
        if self.has_ended(value) {
            return FenceState::Ok;
        }
        match self.ask(value) {
            Ok(true) => FenceState::Ok,
            Ok(false) => FenceState::Pending,
            Err(_) if self.context.is_lost() => FenceState::Lost,
            // A driver that cannot even say how work stands is of no more use.
            Err(_) => {
                self.context.lose("cuEventQuery");
                FenceState::Lost
            }
        }
    }

    /// Asks the driver whether a value has ended.
    fn ask(&self, value: u64) -> Result<bool, DeviceError> {
        let current = self.context.enter()?;
        let mut state = self.state.lock();
        let at = state.pending.partition_point(|pending| pending.value < value);
        let Some(pending) = state.pending.get(at) else {
            // Another thread asked meanwhile, or the value was never handed out.
            return Ok(self.has_ended(value));
        };
        let reached = pending.value;
        // SAFETY: the context is current, the event is live.
        let code = unsafe { (current.api().cuEventQuery)(pending.event.raw) };
        if !current.answered("cuEventQuery", code)? {
            return Ok(false);
        }
        let ended: SmallVec<[Pending; 4]> = state.pending.drain(..=at).collect();
        let mut keeps = SmallVec::<[Keeps; 4]>::new();
        for pending in ended {
            state.spare.push(pending.event);
            keeps.push(pending.keeps);
        }
        self.ended.store(reached, Ordering::Release);
        // What the work kept may call the driver when it goes.
        drop(state);
        drop(keeps);
        Ok(true)
    }

    /// Lets go of what ended work kept.
    pub(crate) fn tidy(&self) {
        let first = self.state.lock().pending.front().map(|pending| pending.value);
        if let Some(first) = first {
            self.poll(first);
        }
    }

    /// Waits until a value has ended or the time is over.
    pub(crate) fn wait(&self, value: u64, timeout: Duration) -> FenceState {
        let started = Instant::now();
        loop {
            let state = self.poll(value);
            if state.has_ended() {
                return state;
            }
            let waited = started.elapsed();
            if waited >= timeout {
                return state;
            }
            if waited < AWAKE {
                thread::yield_now();
            } else {
                thread::sleep((waited / LATE_PART).min(LONGEST_NAP).min(timeout - waited));
            }
        }
    }

    /// Waits for everything that was submitted.
    pub(crate) fn finish(&self) {
        let value = self.handed_out();
        if self.has_ended(value) {
            return;
        }
        // Asking is enough once nothing is left to wait for.
        if let Ok(current) = self.context.enter() {
            let _ = self.synchronize(&current);
        }
        self.wait(value, Duration::MAX);
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        self.finish();
        let Ok(current) = self.context.enter_anyway() else { return };
        if self.owner == Owner::Library {
            // SAFETY: made here, destroyed once; its work has ended, or the device is lost.
            let code = unsafe { (current.api().cuStreamDestroy_v2)(self.stream) };
            current.given("cuStreamDestroy", code);
        }
    }
}
