//! Loom's atomics and locks with the names and shapes of parking_lot's and the standard library's.

pub(crate) mod kernel {
    use std::{
        ops::{Deref, DerefMut},
        time::Instant,
    };

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    /// Empty only while its thread sleeps.
    pub(crate) struct Guard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

    #[derive(Debug)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    /// Loom has no clock: a wait with an end in time waits for its wake, and never runs out.
    pub(crate) struct Woken;

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> Guard<'_, T> {
            Guard(Some(self.0.lock().unwrap()))
        }
    }

    impl<T> Deref for Guard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().unwrap()
        }
    }

    impl<T> DerefMut for Guard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().unwrap()
        }
    }

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(loom::sync::Condvar::new())
        }

        pub(crate) fn wait<T>(&self, guard: &mut Guard<'_, T>) {
            let held = guard.0.take().unwrap();
            guard.0 = Some(self.0.wait(held).unwrap());
        }

        pub(crate) fn wait_until<T>(&self, guard: &mut Guard<'_, T>, _until: Instant) -> Woken {
            self.wait(guard);
            Woken
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    impl Woken {
        pub(crate) fn timed_out(&self) -> bool {
            false
        }
    }
}
