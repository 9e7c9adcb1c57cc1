//! The locks of the engine, from one place, so that a test can put an explorer under them.
//!
//! Ordinary builds use parking_lot. A build with `--cfg shuttle` uses [shuttle]'s locks behind the same names: then
//! each lock is a point at which the explorer may switch threads, and `tests/engine_shuttle.rs` tries the orders.
//!
//! Debug builds count the locks that a thread holds, and [`about_to_run_user_code`] looks at the count.
//!
//! What the smallest kernels are made of stands apart, in [`kernel`]: their tests build the same file over loom's types.
//!
//! [shuttle]: https://docs.rs/shuttle

#[cfg(all(debug_assertions, not(shuttle)))]
mod counted;
#[cfg(shuttle)]
mod explored;

#[cfg(all(debug_assertions, not(shuttle)))]
pub(crate) use counted::{Mutex, MutexGuard};
#[cfg(shuttle)]
pub(crate) use explored::{FairMutex, Mutex, MutexGuard, RwLock};
#[cfg(not(shuttle))]
pub(crate) use parking_lot::{FairMutex, RwLock};
#[cfg(not(any(debug_assertions, shuttle)))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(shuttle)]
pub(crate) use shuttle::thread::yield_now;
#[cfg(not(shuttle))]
pub(crate) use std::thread::yield_now;

/// How many of the engine's locks the calling thread holds; `None` in builds that do not count.
#[doc(hidden)]
pub fn locks_held() -> Option<u32> {
    #[cfg(all(debug_assertions, not(shuttle)))]
    let held = Some(counted::held());
    #[cfg(not(all(debug_assertions, not(shuttle))))]
    let held = None;
    held
}

/// Says that user code runs next, or a wait begins: debug builds panic when a lock is held.
#[inline]
#[track_caller]
pub(crate) fn about_to_run_user_code() {
    debug_assert!(
        locks_held().is_none_or(|held| held == 0),
        "a lock of the engine is held while user code runs or something is waited for"
    );
}

/// For code of a few atomics and a lock, in a file of its own that `tests/loom_*.rs` includes with another `crate::sync::kernel`. Never shuttle's.
pub(crate) mod kernel {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    pub(crate) use parking_lot::{Condvar, Mutex};
}
