//! Debug builds count the locks that each thread holds, so that a breach of this rule shows where it is made and not as a rare deadlock:
//!
//! No lock that the answer to a fault needs is held while user code runs, or while anything is waited for. User code may touch a vector; the
//! fault that this is would wait for the lock, and the lock for the fault.
//!
//! What counts is every [`Mutex`]. Turns and tables of kernels are no part of the fault path, and devices have locks of their own, under which
//! they call nobody.
#![allow(unsafe_code, reason = "a lock that counts is a raw lock")]

use std::cell::Cell;

use parking_lot::{RawMutex, lock_api};

pub(crate) type Mutex<T> = lock_api::Mutex<Counted, T>;
pub(crate) type MutexGuard<'a, T> = lock_api::MutexGuard<'a, Counted, T>;

thread_local! {
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// How many of the engine's locks the calling thread holds.
pub(super) fn held() -> u32 {
    HELD.get()
}

/// parking_lot's lock, counted.
pub(crate) struct Counted(RawMutex);

// SAFETY: every call goes to a lock that excludes; guards cannot be sent (`GuardMarker`), so the thread that took the lock gives it
// back, and its count goes down.
unsafe impl lock_api::RawMutex for Counted {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait's own way")]
    const INIT: Self = Self(RawMutex::INIT);

    type GuardMarker = <RawMutex as lock_api::RawMutex>::GuardMarker;

    fn lock(&self) {
        self.0.lock();
        HELD.set(HELD.get() + 1);
    }

    fn try_lock(&self) -> bool {
        let taken = self.0.try_lock();
        HELD.set(HELD.get() + u32::from(taken));
        taken
    }

    unsafe fn unlock(&self) {
        HELD.set(HELD.get() - 1);
        // SAFETY: the caller holds the lock, as this method's contract has it.
        unsafe { self.0.unlock() };
    }

    fn is_locked(&self) -> bool {
        self.0.is_locked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::about_to_run_user_code;

    #[test]
    fn locks_are_counted_as_they_come_and_go() {
        let (one, other) = (Mutex::new(()), Mutex::new(()));
        let first = one.lock();
        assert!(one.try_lock().is_none());
        let second = other.try_lock();
        assert_eq!(held(), 2);
        drop(first);
        assert_eq!(held(), 1);
        assert_eq!(std::thread::spawn(held).join().unwrap(), 0, "each thread its own");
        drop(second);
        about_to_run_user_code();
    }

    #[test]
    #[should_panic = "a lock of the engine is held"]
    fn user_code_under_a_lock_is_a_mistake() {
        let lock = Mutex::new(());
        let _held = lock.lock();
        about_to_run_user_code();
    }
}
