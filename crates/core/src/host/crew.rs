//! Who leads: of the threads that answer faults one takes the next fault, and before it waits for anything another one is to lead.
//!
//! ```text
//! take_lead: while leads: sleep, as idle | leads := true
//! hand_over: leads := false | idle? wake one, else the caller hires one
//! leave:     threads - 1 | wake whoever waits for the end
//! stop:      stopping | wake all: whoever is idle or asks for the lead ends
//! ```
//!
//! Three things have to hold in every order of accesses: no two lead at once; while somebody waits and there is a thread that does not, or one
//! could be hired, somebody leads; and after [`Crew::wait_for_end`] no thread has anything left to do. `tests/loom_crew.rs` includes
//! this file over loom's types and tries the orders.

use std::time::Instant;

use crate::sync::kernel::{Condvar, Mutex};

/// The threads of a fault loop, as numbers.
#[derive(Debug)]
pub(super) struct Crew {
    state: Mutex<State>,
    /// There is nobody who leads, or it is the end.
    vacant: Condvar,
    /// A thread less.
    fewer: Condvar,
}

#[derive(Debug, Default)]
struct State {
    leads: bool,
    threads: usize,
    /// Threads that sleep until they may lead.
    idle: usize,
    stopping: bool,
}

/// What whoever hands the lead over has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// An idle thread leads.
    Woken,
    /// There is none: one has to be hired.
    Hire,
}

impl Crew {
    pub(super) fn new() -> Self {
        let state = State { leads: false, threads: 0, idle: 0, stopping: false };
        Self { state: Mutex::new(state), vacant: Condvar::new(), fewer: Condvar::new() }
    }

    /// A thread more, which is about to start. It calls [`Crew::leave`] at its end.
    pub(super) fn join(&self) {
        self.state.lock().threads += 1;
    }

    /// A thread less.
    pub(super) fn leave(&self) {
        self.state.lock().threads -= 1;
        self.fewer.notify_all();
    }

    /// Waits until nobody leads; the caller does from then on. False when it is to end: at the end of all, or because it was
    /// idle until `until`.
    pub(super) fn take_lead(&self, until: Instant) -> bool {
        let mut state = self.state.lock();
        while state.leads && !state.stopping {
            state.idle += 1;
            let late = self.vacant.wait_until(&mut state, until).timed_out();
            state.idle -= 1;
            // Who is late may have been counted on meanwhile: then the lead is vacant.
            if late && state.leads {
                return false;
            }
        }
        if state.stopping {
            return false;
        }
        state.leads = true;
        true
    }

    /// The caller, who leads, does no longer.
    pub(super) fn hand_over(&self) -> Next {
        let mut state = self.state.lock();
        state.leads = false;
        if state.idle == 0 {
            return Next::Hire;
        }
        drop(state);
        self.vacant.notify_one();
        Next::Woken
    }

    /// Tells all to end.
    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.vacant.notify_all();
    }

    /// Waits until all have left.
    pub(super) fn wait_for_end(&self) {
        let mut state = self.state.lock();
        while state.threads > 0 {
            self.fewer.wait(&mut state);
        }
    }
}
