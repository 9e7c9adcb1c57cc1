//! The threads that answer faults.
//!
//! One thread at a time *leads*: it takes the next fault and has it resolved. A fault that needs no waiting is answered by the leader
//! itself, without a hand-over. Before the resolver waits for anything (a device's work, a lock that somebody holds), the
//! leader makes another thread lead, so that one slow fault never holds up the others. No more threads are made than
//! faults wait at once, plus one.
//!
//! These threads trace nothing: the program's subscriber may want a lock that the faulting thread holds (`println!("{}", y[42])` holds
//! the one of the standard output).

use std::{
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags},
    fd::OwnedFd,
    io::Errno,
};

use super::{
    HostSpan, Reason, UserView,
    crew::{Crew, Next},
};
use crate::units::PAGE_BYTES;

/// A thread that found nothing to do for so long ends, unless it leads.
const IDLE_FOR: Duration = Duration::from_secs(5);

/// The leader looks for the next fault for so long before it sleeps: faults come in streams, and waking a thread on a processor that
/// sleeps takes as long as this.
const AWAKE_FOR: Duration = Duration::from_micros(50);

/// A fault, by offset in the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Faulted {
    pub(crate) offset_bytes: u64,
    pub(crate) write: bool,
    /// [`UserView::stamp`] before the fault was taken. If it has changed, whoever faulted may have been woken and gone on since: then the
    /// fault is answered by one more waking, which does no harm.
    pub(crate) stamp: u64,
}

/// The page with this byte.
pub(crate) fn page_of(offset_bytes: u64) -> HostSpan {
    HostSpan { offset_bytes: offset_bytes / PAGE_BYTES * PAGE_BYTES, len_bytes: PAGE_BYTES }
}

/// Who knows what to do about a fault.
pub(crate) trait Resolve: Send + Sync + 'static {
    /// Brings the page where the touch wants it, maps it and wakes whoever waits. Calls `before_wait` before it waits for anything.
    fn resolve(&self, view: &UserView, fault: Faulted, before_wait: &dyn Fn());

    /// Has the touch end with a signal, after a panic in [`Resolve::resolve`], in a way that whoever makes the page good can take back.
    fn give_up(&self, view: &UserView, fault: Faulted, before_wait: &dyn Fn());
}

/// The running threads; they end after it was dropped.
#[derive(Debug)]
pub(crate) struct FaultLoop {
    shared: Arc<Shared>,
}

struct Shared {
    view: Arc<UserView>,
    resolver: Box<dyn Resolve>,
    /// Readable when the threads are to end.
    stop: OwnedFd,
    crew: Crew,
}

impl FaultLoop {
    /// Starts the first thread.
    pub(crate) fn start(view: Arc<UserView>, resolver: Box<dyn Resolve>) -> Result<Self, Errno> {
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        let shared = Arc::new(Shared { view, resolver, stop, crew: Crew::new() });
        if shared.hire() { Ok(Self { shared }) } else { Err(Errno::AGAIN) }
    }

    pub(crate) fn view(&self) -> &Arc<UserView> {
        &self.shared.view
    }
}

impl FaultLoop {
    /// Ends the threads and waits until they have. Not to be called by one of them.
    pub(crate) fn end(&self) {
        self.stop();
        self.shared.crew.wait_for_end();
    }

    fn stop(&self) {
        self.shared.crew.stop();
        // Whoever leads sleeps on the descriptors.
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
    }
}

impl Drop for FaultLoop {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// One more thread. False when the system gives none: then the next one that is done leads.
    fn hire(self: &Arc<Self>) -> bool {
        let shared = self.clone();
        self.crew.join();
        let builder = thread::Builder::new().name("hmmap faults".into());
        let hired = builder.spawn(move || shared.work()).is_ok();
        if !hired {
            self.crew.leave();
        }
        hired
    }

    fn work(self: Arc<Self>) {
        let _silent = tracing::dispatcher::set_default(&tracing::Dispatch::none());
        while self.crew.take_lead(Instant::now() + IDLE_FOR) {
            self.lead();
        }
        self.crew.leave();
    }

    /// Somebody else is to lead from now on.
    fn hand_over(self: &Arc<Self>) {
        if self.crew.hand_over() == Next::Hire {
            self.hire();
        }
    }

    /// Answers faults until one has to be waited for, or until the end.
    fn lead(self: &Arc<Self>) {
        let handed_over = std::cell::Cell::new(false);
        let before_wait = || {
            if !handed_over.replace(true) {
                self.hand_over();
            }
        };
        let mut awake_until: Option<Instant> = None;
        while !handed_over.get() {
            let stamp = self.view.stamp();
            match self.view.next() {
                Some((offset_bytes, write)) => {
                    let fault = Faulted { offset_bytes, write, stamp };
                    self.answer(fault, &before_wait);
                    awake_until = Some(Instant::now() + AWAKE_FOR);
                }
                None if awake_until.is_some_and(|until| Instant::now() < until) => {
                    std::hint::spin_loop();
                }
                None if self.sleep() => {}
                None => return,
            }
        }
    }

    /// Whatever goes wrong, whoever faulted does not hang for it, and the others go on.
    fn answer(&self, fault: Faulted, before_wait: &dyn Fn()) {
        let caught = |work: &dyn Fn()| panic::catch_unwind(AssertUnwindSafe(work)).is_err();
        if caught(&|| self.resolver.resolve(&self.view, fault, before_wait))
            && caught(&|| self.resolver.give_up(&self.view, fault, before_wait))
        {
            // Our own mistake, twice.
            let _ = self.view.poison(page_of(fault.offset_bytes), None, Reason::Broken);
        }
    }

    /// Sleeps until there is a fault; false when the threads are to end.
    fn sleep(&self) -> bool {
        let view = self.view.fd();
        let mut fds =
            [PollFd::from_borrowed_fd(view, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
        // A signal ends the sleep early, which does no harm.
        let _ = rustix::event::poll(&mut fds, None);
        !fds[1].revents().contains(PollFlags::IN)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("crew", &self.crew).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread::ThreadId};

    use parking_lot::Mutex;

    use super::*;
    use crate::{
        access::Access,
        host::{Arena, HostFaults},
    };

    /// Sleeps in the page at 0, panics in the one after, answers any other; tells which thread did.
    struct Moody {
        told: Mutex<mpsc::Sender<(u64, ThreadId)>>,
        wake: Mutex<mpsc::Receiver<()>>,
    }

    impl Resolve for Moody {
        fn resolve(&self, view: &UserView, fault: Faulted, before_wait: &dyn Fn()) {
            let page = fault.offset_bytes / PAGE_BYTES;
            if page == 0 {
                before_wait();
                let _ = self.wake.lock().recv();
            }
            let _ = self.told.lock().send((page, thread::current().id()));
            assert_ne!(page, 1, "as the test wants it");
            view.show(page_of(fault.offset_bytes), Access::Update).unwrap();
        }

        fn give_up(&self, _: &UserView, _: Faulted, _: &dyn Fn()) {
            panic!("it panics here, too");
        }
    }

    fn touch(view: &Arc<UserView>, page: u64) -> thread::JoinHandle<rustix::io::Result<usize>> {
        let view = view.clone();
        // By a system call: a poisoned page is an error to it, not a signal.
        thread::spawn(move || {
            let (_reader, writer) = rustix::pipe::pipe()?;
            let pointer = view.pointer(page_of(page * PAGE_BYTES));
            write_one(&writer, pointer)
        })
    }

    #[allow(unsafe_code, reason = "a byte of memory that is not there is written to a pipe")]
    fn write_one(to: &OwnedFd, from: *const u8) -> rustix::io::Result<usize> {
        // SAFETY: the byte lies in the view, which the caller holds; only the kernel reads it.
        rustix::io::write(to, unsafe { std::slice::from_raw_parts(from, 1) })
    }

    #[test]
    fn a_fault_that_waits_and_one_that_panics_hold_up_nobody() {
        let arena = Arena::new().unwrap();
        let Ok(view) = arena.map_user_view(HostFaults::Auto) else {
            println!("HMMAP-SKIP: no userfaultfd");
            return;
        };
        let view = Arc::new(view);
        let ((told, tells), (wake, waits)) = (mpsc::channel(), mpsc::channel());
        let resolver = Moody { told: Mutex::new(told), wake: Mutex::new(waits) };
        let faults = FaultLoop::start(view.clone(), Box::new(resolver)).unwrap();
        let slow = touch(&view, 0);
        let quick: Vec<_> = (2..20).map(|page| touch(&view, page)).collect();
        assert!(quick.into_iter().all(|touch| touch.join().unwrap() == Ok(1)));
        let broken = touch(&view, 1).join().unwrap();
        assert_eq!(broken, Err(Errno::FAULT), "poisoned");
        assert_eq!(touch(&view, 20).join().unwrap(), Ok(1));
        assert!(!slow.is_finished());
        wake.send(()).unwrap();
        assert_eq!(slow.join().unwrap(), Ok(1));
        drop(faults);
        let tells: Vec<_> = tells.iter().collect();
        assert_eq!(tells.len(), 21);
        let (_, waited) = tells.iter().find(|(page, _)| *page == 0).unwrap();
        assert!(tells.iter().any(|(_, led)| led != waited), "another thread led meanwhile");
    }
}
