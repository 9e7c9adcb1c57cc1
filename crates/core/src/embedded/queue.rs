//! A queue of the embedded device: jobs in order, and the timeline that says how far it came.
//!
//! ```text
//! submit -> [job v+1][job v+2]...  -> worker: wait for the job's waits, run it, end its value -> poll, wait
//! ```
//!
//! One worker takes the jobs of a queue in order, so values end in order without more ado. A job's waits name only values that
//! were handed out before its own, on either queue; so the oldest job that has not ended never waits, and the queues cannot
//! block each other. A queue that closes ends the jobs it has not begun as lost, so that the other queue does not wait for them either.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use smallvec::SmallVec;

use super::operation::Operation;
use crate::fence::{FencePoint, FenceState, TimelineId};

/// An operation and what must have ended before it begins.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) waits: SmallVec<[FencePoint; 4]>,
    pub(super) operation: Operation,
}

/// One queue and its timeline.
#[derive(Debug)]
pub(super) struct Queue {
    timeline: TimelineId,
    line: Mutex<Line>,
    work_came: Condvar,
    progress: Progress,
}

#[derive(Debug, Default)]
struct Line {
    jobs: VecDeque<Job>,
    last_submitted: u64,
    closing: bool,
}

/// How far a timeline came.
#[derive(Debug, Default)]
struct Progress {
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

impl Queue {
    pub(super) fn new(timeline: TimelineId) -> Self {
        Self {
            timeline,
            line: Mutex::default(),
            work_came: Condvar::new(),
            progress: Progress::default(),
        }
    }

    pub(super) fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// Appends a job and hands out its value.
    pub(super) fn submit(&self, job: Job) -> FencePoint {
        let mut line = self.line.lock();
        line.last_submitted += 1;
        let value = line.last_submitted;
        line.jobs.push_back(job);
        drop(line);
        self.work_came.notify_one();
        FencePoint { timeline: self.timeline, value }
    }

    /// True when the value was handed out.
    pub(super) fn handed_out(&self, value: u64) -> bool {
        value <= self.progress.ended.load(Ordering::Acquire)
            || value <= self.line.lock().last_submitted
    }

    /// How a value stands.
    pub(super) fn poll(&self, value: u64) -> FenceState {
        let progress = &self.progress;
        if progress.ended.load(Ordering::Acquire) < value {
            return FenceState::Pending;
        }
        // Relaxed: the store came before the value ended, which was just seen.
        if !progress.has_exceptions.load(Ordering::Relaxed) {
            return FenceState::Ok;
        }
        progress.exceptions.lock().get(&value).copied().unwrap_or(FenceState::Ok)
    }

    /// Waits until a value has ended or the time is over.
    pub(super) fn wait(&self, value: u64, timeout: Duration) -> FenceState {
        let until = Instant::now().checked_add(timeout);
        let mut growing = self.progress.growing.lock();
        loop {
            let state = self.poll(value);
            if state.has_ended() {
                return state;
            }
            match until {
                None => self.progress.grew.wait(&mut growing),
                Some(until) => {
                    if self.progress.grew.wait_until(&mut growing, until).timed_out() {
                        return self.poll(value);
                    }
                }
            }
        }
    }

    /// Takes jobs in order and ends each as `run` says, until the queue closes. One thread at a time.
    pub(super) fn work(&self, run: impl Fn(&Job) -> FenceState) {
        while let Some(job) = self.next() {
            let state = run(&job);
            // What the operation holds is given back before anyone learns that it ended.
            drop(job);
            self.progress.end_next(state);
        }
        let abandoned = std::mem::take(&mut self.line.lock().jobs);
        for job in abandoned {
            drop(job);
            self.progress.end_next(FenceState::Lost);
        }
    }

    fn next(&self) -> Option<Job> {
        let mut line = self.line.lock();
        loop {
            if line.closing {
                return None;
            }
            match line.jobs.pop_front() {
                Some(job) => return Some(job),
                None => self.work_came.wait(&mut line),
            }
        }
    }

    /// The job that runs is the last to run; those behind it end lost. Nobody submits any more.
    pub(super) fn close(&self) {
        self.line.lock().closing = true;
        self.work_came.notify_all();
    }
}

impl Progress {
    fn end_next(&self, state: FenceState) {
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
