//! Waiting on the host, and the fence that users hold.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use super::watcher::Task;
use crate::{
    directory::FenceSet,
    error::Error,
    fence::{FencePoint, FenceState},
    runtime::{Inner, Runtime},
    sync::about_to_run_user_code,
};

/// After this long, and again each time as long, a wait says what it waits for, unless [`crate::Options::own_fence_warning`] says
/// otherwise.
const WARN_EVERY: Duration = Duration::from_secs(10);

impl Inner {
    /// Waits until a fence has ended, however it ended.
    ///
    /// # Errors
    /// [`Error::FenceTimedOut`] when the options bound the wait.
    pub(super) fn wait(&self, fence: FencePoint) -> Result<FenceState, Error> {
        self.wait_or(fence, |waited| {
            about_to_run_user_code();
            tracing::warn!(%fence, ?waited, "still waiting for our own device");
        })
    }

    /// As [`Inner::wait`]; `warn` says that it takes long.
    fn wait_or(
        &self,
        fence: FencePoint,
        mut warn: impl FnMut(Duration),
    ) -> Result<FenceState, Error> {
        let device = fence.timeline.device();
        let Some(open) = self.opened(device) else { return Ok(FenceState::Lost) };
        about_to_run_user_code();
        let started = Instant::now();
        let deadline = self.options.own_fence_deadline;
        let warn_every = self.options.own_fence_warning.unwrap_or(WARN_EVERY);
        loop {
            let left = deadline.map_or(warn_every, |limit| limit.saturating_sub(started.elapsed()));
            match open.device.wait(fence, left.min(warn_every)) {
                FenceState::Pending => {}
                FenceState::Lost => {
                    self.mark_lost(device);
                    return Ok(FenceState::Lost);
                }
                ended => return Ok(ended),
            }
            let waited = started.elapsed();
            if deadline.is_some_and(|limit| waited >= limit) {
                return Err(Error::FenceTimedOut { fence, waited });
            }
            warn(waited);
        }
    }

    /// Waits for the end of work, and tells whoever waits how it ended, once.
    fn wait_and_tell(&self, fence: FencePoint) -> Result<(), Error> {
        let ended = self.wait(fence)?;
        self.tell_losses();
        let error = match ended {
            FenceState::Pending | FenceState::Ok => return Ok(()),
            FenceState::Failed(source) => Error::WorkFailed { fence, bytes: None, source },
            FenceState::Lost => Error::DeviceLost { device: fence.timeline.device(), bytes: None },
        };
        self.tell_no_more(fence);
        Err(error)
    }

    /// The same of several pieces of work; of those that ended otherwise, the first is told of.
    fn wait_and_tell_all(&self, fences: &[FencePoint]) -> Result<(), Error> {
        let ends: SmallVec<[_; 1]> =
            fences.iter().map(|fence| self.wait_and_tell(*fence)).collect();
        ends.into_iter().collect()
    }

    /// Somebody was told how the work of this fence ended: the vectors that it concerns fold it now, and have nothing to tell.
    fn tell_no_more(&self, fence: FencePoint) {
        let buffers: Vec<_> = {
            let placed = self.placed.lock();
            placed.buffers.values().filter_map(Weak::upgrade).collect()
        };
        for buffer in buffers {
            self.settle_told(&mut buffer.state.lock(), buffer.all(), Some(fence));
        }
    }

    /// As [`Inner::wait_all`], for a thread that answers faults or another process: that it takes long is said by another thread.
    pub(super) fn wait_all_silently(self: &Arc<Self>, fences: &FenceSet) -> Result<(), Error> {
        fences.as_slice().iter().try_for_each(|fence| {
            let late = |waited| Task::Late { fence: *fence, waited };
            self.wait_or(*fence, |waited| self.watcher.take(self, late(waited))).map(drop)
        })
    }

    /// Waits until all have ended, however they ended: the directory says what came of them.
    pub(super) fn wait_all(&self, fences: &FenceSet) -> Result<(), Error> {
        fences.as_slice().iter().try_for_each(|fence| self.wait(*fence).map(drop))
    }
}

/// Threads that wait for a fence on behalf of a future.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    count: parking_lot::Mutex<usize>,
    none: parking_lot::Condvar,
}

/// One of them.
struct Waiter(Arc<Waiters>);

impl Waiters {
    fn enter(self: &Arc<Self>) -> Waiter {
        *self.count.lock() += 1;
        Waiter(self.clone())
    }

    /// Waits until there is none.
    pub(crate) fn join(&self) {
        let mut count = self.count.lock();
        while *count > 0 {
            self.none.wait(&mut count);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        *self.0.count.lock() -= 1;
        self.0.none.notify_all();
    }
}

/// When a launch has ended, and how.
///
/// Nothing depends on it being kept, waited for or dropped: the vectors know what is in flight on them.
#[derive(Clone)]
pub struct Fence {
    runtime: Runtime,
    points: SmallVec<[FencePoint; 1]>,
}

impl Fence {
    pub(super) fn new(runtime: Runtime, points: impl IntoIterator<Item = FencePoint>) -> Self {
        Self { runtime, points: points.into_iter().collect() }
    }

    /// The point on its device's timeline; `None` for a launch that had nothing to do. Of a prefetch to the host from several devices, one of them.
    pub fn point(&self) -> Option<FencePoint> {
        self.points.last().copied()
    }

    /// True when the work has ended, well or not. Does not block.
    pub fn has_ended(&self) -> bool {
        self.points.iter().all(|point| self.runtime.inner().poll(*point).has_ended())
    }

    /// Waits for the end of the work.
    ///
    /// # Errors
    /// [`Error::WorkFailed`] or [`Error::DeviceLost`] when it ended undone (its vectors then hold what they held before it, or
    /// report what was lost); [`Error::FenceTimedOut`].
    pub fn wait(&self) -> Result<(), Error> {
        self.runtime.inner().wait_and_tell_all(&self.points)
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fence").field(&self.points).finish()
    }
}

impl IntoFuture for Fence {
    type Output = Result<(), Error>;
    type IntoFuture = FenceFuture;

    fn into_future(self) -> FenceFuture {
        FenceFuture { fence: self, outcome: Arc::default(), started: false }
    }
}

/// A [`Fence`] in an async program. A thread of its own waits for the device, since drivers have no wakers.
#[derive(Debug)]
pub struct FenceFuture {
    fence: Fence,
    outcome: Arc<parking_lot::Mutex<Outcome>>,
    started: bool,
}

#[derive(Debug, Default)]
struct Outcome {
    result: Option<Result<(), Error>>,
    waker: Option<std::task::Waker>,
}

impl Future for FenceFuture {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.fence.has_ended() {
            return Poll::Ready(self.fence.wait());
        }
        // A waker is the program's code, so it is neither made nor run nor dropped under the lock.
        let waker = context.waker().clone();
        let mut outcome = self.outcome.lock();
        if let Some(result) = outcome.result.take() {
            return Poll::Ready(result);
        }
        let replaced = outcome.waker.replace(waker);
        drop(outcome);
        drop(replaced);
        if !self.started {
            self.started = true;
            let (points, outcome) = (self.fence.points.clone(), self.outcome.clone());
            // Not the user's handle: that is not to be let go of by a thread that nobody waits for.
            let inner = self.fence.runtime.inner().clone();
            let waiter = inner.waiters.enter();
            let wait = move || {
                let result = inner.wait_and_tell_all(&points);
                drop(inner);
                drop(waiter);
                let mut outcome = outcome.lock();
                outcome.result = Some(result);
                let waker = outcome.waker.take();
                drop(outcome);
                if let Some(waker) = waker {
                    waker.wake();
                }
            };
            if std::thread::Builder::new().name("hmmap fence".into()).spawn(wait).is_err() {
                // The system gives no thread, so the caller's has to wait.
                return Poll::Ready(self.fence.wait());
            }
        }
        Poll::Pending
    }
}
