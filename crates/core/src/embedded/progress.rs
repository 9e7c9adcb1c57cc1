//! How far a timeline came: values end in order, most of them well, and threads ask or sleep until theirs has.
//!
//! ```text
//! end_next: exception, has_exceptions | ended := value (Release), under `growing` | wake
//! poll:     ended >= value (Acquire)? -> has_exceptions? -> exceptions[value], else Ok
//! wait:     poll under `growing`, else sleep on it
//! ```
//!
//! Two things have to hold in every order of accesses: who sees a value ended sees what its work wrote and how it ended, and nobody
//! sleeps through the end. `tests/loom_progress.rs` includes this file over loom's types and tries the orders.

use std::{collections::BTreeMap, time::Instant};

use crate::{
    fence::FenceState,
    sync::kernel::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering},
};

/// How far a timeline came, for devices whose driver keeps none. One thread does the work and ends the values; any thread asks.
#[derive(Debug)]
pub struct Progress {
    /// Every value up to this one has ended. Stored with `Release` after the work's writes and after the exceptions, read
    /// with `Acquire`: who sees a value ended sees what the work wrote and how it ended.
    ended: AtomicU64,
    /// True when there are exceptions. Ordered by `ended`.
    has_exceptions: AtomicBool,
    /// The values that did not end Ok.
    exceptions: Mutex<BTreeMap<u64, FenceState>>,
    /// Held while `ended` grows, so that nobody falls asleep between looking and waiting.
    growing: Mutex<()>,
    grew: Condvar,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// Nothing has ended: the first value is 1.
    pub fn new() -> Self {
        Self {
            ended: AtomicU64::new(0),
            has_exceptions: AtomicBool::new(false),
            exceptions: Mutex::new(BTreeMap::new()),
            growing: Mutex::new(()),
            grew: Condvar::new(),
        }
    }

    /// True when the value has ended.
    pub fn has_ended(&self, value: u64) -> bool {
        value <= self.ended.load(Ordering::Acquire)
    }

    /// How a value stands.
    pub fn poll(&self, value: u64) -> FenceState {
        if !self.has_ended(value) {
            return FenceState::Pending;
        }
        // Relaxed: the store came before the value ended, which was just seen.
        if !self.has_exceptions.load(Ordering::Relaxed) {
            return FenceState::Ok;
        }
        self.exceptions.lock().get(&value).copied().unwrap_or(FenceState::Ok)
    }

    /// Waits until a value has ended or the time is over; `None`: as long as it takes.
    pub fn wait(&self, value: u64, until: Option<Instant>) -> FenceState {
        let mut growing = self.growing.lock();
        loop {
            let state = self.poll(value);
            if state.has_ended() {
                return state;
            }
            match until {
                None => self.grew.wait(&mut growing),
                Some(until) => {
                    if self.grew.wait_until(&mut growing, until).timed_out() {
                        return self.poll(value);
                    }
                }
            }
        }
    }

    /// Ends the next value. One thread at a time, the one that did the work.
    pub fn end_next(&self, state: FenceState) {
        // Relaxed: only the worker stores it.
        let value = self.ended.load(Ordering::Relaxed) + 1;
        if state != FenceState::Ok {
            self.exceptions.lock().insert(value, state);
            self.has_exceptions.store(true, Ordering::Relaxed);
        }
        let growing = self.growing.lock();
        self.ended.store(value, Ordering::Release);
        drop(growing);
        self.grew.notify_all();
    }
}
