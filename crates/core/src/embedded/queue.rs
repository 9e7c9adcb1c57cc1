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
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use smallvec::SmallVec;

use super::{operation::Operation, progress::Progress};
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

impl Queue {
    pub(super) fn new(timeline: TimelineId) -> Self {
        Self {
            timeline,
            line: Mutex::default(),
            work_came: Condvar::new(),
            progress: Progress::new(),
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
        self.progress.has_ended(value) || value <= self.line.lock().last_submitted
    }

    /// How a value stands.
    pub(super) fn poll(&self, value: u64) -> FenceState {
        self.progress.poll(value)
    }

    /// Waits until a value has ended or the time is over.
    pub(super) fn wait(&self, value: u64, timeout: Duration) -> FenceState {
        self.progress.wait(value, Instant::now().checked_add(timeout))
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
