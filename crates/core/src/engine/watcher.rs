//! What the threads that answer faults may not do: speak, and stay with a page that they have given up.
//!
//! A fault that waits long for a device has it said by this thread, since a subscriber may want a lock that the faulting
//! thread holds. A page whose fault waited longer than the option allows ends with a signal ([`super::user_view::poison`]); when the work ends
//! well after all, the signal is taken back. The thread is started when there is something to do, and ends when there is nothing left.

use std::{
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::user_view;
use crate::{
    directory::{FenceSet, PageSpan},
    fence::FencePoint,
    runtime::Inner,
    sync::about_to_run_user_code,
    vec::Buffer,
};

/// How often the fences of pages that were given up are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The thread, if there is one, and what it has to do.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    watch: Mutex<Watch>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Watch {
    runs: bool,
    ends: bool,
    tasks: Vec<Task>,
}

#[derive(Debug)]
pub(super) enum Task {
    /// A fault, or another process's recall, has waited so long for a fence.
    Late { fence: FencePoint, waited: Duration },
    /// Pages end with a signal, because these fences did not end in time.
    GivenUp { buffer: Weak<Buffer>, pages: PageSpan, fences: FenceSet },
}

/// Says that the thread has gone when a subscriber panicked in it.
struct Running<'w>(&'w Watcher);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.gone(&mut self.0.watch.lock());
        }
    }
}

impl Watcher {
    /// Leaves a task to the thread. Does not wait.
    pub(super) fn take(self: &Arc<Self>, runtime: &Arc<Inner>, task: Task) {
        let mut watch = self.watch.lock();
        if watch.ends {
            return;
        }
        watch.tasks.push(task);
        self.news.notify_all();
        if std::mem::replace(&mut watch.runs, true) {
            return;
        }
        drop(watch);
        let (watcher, runtime) = (self.clone(), Arc::downgrade(runtime));
        let builder = thread::Builder::new().name("hmmap watcher".into());
        let work = move || {
            let _running = Running(&watcher);
            while watcher.step(&runtime) {}
        };
        if builder.spawn(work).is_err() {
            // The next task tries again.
            self.watch.lock().runs = false;
        }
    }

    /// Ends the thread and waits until it has. Not to be called by it.
    pub(crate) fn end(&self) {
        let mut watch = self.watch.lock();
        watch.ends = true;
        self.news.notify_all();
        while watch.runs {
            self.news.wait(&mut watch);
        }
    }

    /// Does what can be done; false when there is nothing left.
    fn step(&self, runtime: &Weak<Inner>) -> bool {
        let mut watch = self.watch.lock();
        let tasks = std::mem::take(&mut watch.tasks);
        let Some(inner) = runtime.upgrade().filter(|_| !watch.ends && !tasks.is_empty()) else {
            self.gone(&mut watch);
            return false;
        };
        drop(watch);
        let left: Vec<_> = tasks.into_iter().filter(|task| !inner.watch(task)).collect();
        inner.tell_losses();
        drop(inner);
        let mut watch = self.watch.lock();
        let is_new = !watch.tasks.is_empty();
        watch.tasks.extend(left);
        if !watch.ends && !watch.tasks.is_empty() && !is_new {
            let _ = self.news.wait_for(&mut watch, LOOK_EVERY);
        }
        true
    }
}

impl Watcher {
    /// There is no thread from here on; whoever has a task starts one.
    fn gone(&self, watch: &mut Watch) {
        watch.runs = false;
        self.news.notify_all();
    }
}

impl Inner {
    /// True when there is no more to do about a task.
    fn watch(&self, task: &Task) -> bool {
        match task {
            Task::Late { fence, waited } => {
                about_to_run_user_code();
                tracing::warn!(%fence, ?waited, "a touch or a recall still waits for our own device");
                true
            }
            Task::GivenUp { buffer, pages, fences } => {
                let ended = fences.as_slice().iter().all(|fence| self.poll(*fence).has_ended());
                if ended && let Some(buffer) = buffer.upgrade() {
                    self.take_signal_back(&buffer, *pages);
                }
                ended
            }
        }
    }

    /// Lets pages be touched again, unless they are lost.
    fn take_signal_back(&self, buffer: &Buffer, pages: PageSpan) {
        let Some(view) = self.user_view() else { return };
        let mut state = buffer.state.lock();
        if state.is_gone {
            return;
        }
        self.settle(&mut state, pages);
        let mut is_lost = false;
        state.directory.look(pages, |_, mask, run| {
            is_lost |= run.log.promised().lost().overlaps(mask);
        });
        if !is_lost {
            // Where it cannot be taken back it stays, until a guard or a launch tries.
            let _ = user_view::cure(view, buffer, &mut state, pages);
        }
    }
}
