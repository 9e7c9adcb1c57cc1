//! Loom's atomics and locks with the names and shapes of parking_lot's and the standard library's.

#[allow(dead_code, unused_imports, reason = "each test uses what its kernel does")]
pub(crate) mod kernel {
    use std::{
        ops::{Deref, DerefMut},
        time::Instant,
    };

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    /// Empty only while its thread sleeps.
    pub(crate) struct Guard<'a, T> {
        held: Option<loom::sync::MutexGuard<'a, T>>,
        of: &'a loom::sync::Mutex<T>,
    }

    #[derive(Debug)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    /// How a wait with an end in time ended. Loom has no clock: one that may last waits for its wake and never runs out; one whose end
    /// has passed misses every wake and runs out, after whatever others do meanwhile.
    pub(crate) struct Woken {
        late: bool,
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> Guard<'_, T> {
            Guard { held: Some(self.0.lock().unwrap()), of: &self.0 }
        }
    }

    impl<T> Deref for Guard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.held.as_ref().unwrap()
        }
    }

    impl<T> DerefMut for Guard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.held.as_mut().unwrap()
        }
    }

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(loom::sync::Condvar::new())
        }

        pub(crate) fn wait<T>(&self, guard: &mut Guard<'_, T>) {
            let held = guard.held.take().unwrap();
            guard.held = Some(self.0.wait(held).unwrap());
        }

        pub(crate) fn wait_until<T>(&self, guard: &mut Guard<'_, T>, until: Instant) -> Woken {
            let late = until <= Instant::now();
            if late {
                drop(guard.held.take());
                guard.held = Some(guard.of.lock().unwrap());
            } else {
                self.wait(guard);
            }
            Woken { late }
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    impl Woken {
        pub(crate) fn timed_out(&self) -> bool {
            self.late
        }
    }
}
