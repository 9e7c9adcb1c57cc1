//! The locks of the engine, from one place, so that a test can put an explorer under them.
//!
//! Ordinary builds use parking_lot. A build with `--cfg shuttle` uses [shuttle]'s locks behind the same names: then
//! each lock is a point at which the explorer may switch threads, and `tests/engine_shuttle.rs` tries the orders.
//!
//! What the smallest kernels are made of stands apart, in [`kernel`]: their tests build the same file over loom's types.
//!
//! [shuttle]: https://docs.rs/shuttle

#[cfg(shuttle)]
mod explored;

#[cfg(shuttle)]
pub(crate) use explored::{FairMutex, Mutex, MutexGuard, RwLock};
#[cfg(not(shuttle))]
pub(crate) use parking_lot::{FairMutex, Mutex, MutexGuard, RwLock};
#[cfg(shuttle)]
pub(crate) use shuttle::thread::yield_now;
#[cfg(not(shuttle))]
pub(crate) use std::thread::yield_now;

/// For code of a few atomics and a lock, in a file of its own that `tests/loom_*.rs` includes with another `crate::sync::kernel`. Never shuttle's.
pub(crate) mod kernel {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    pub(crate) use parking_lot::{Condvar, Mutex};
}
