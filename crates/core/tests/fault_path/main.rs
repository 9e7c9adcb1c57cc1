//! What the threads that answer faults do not do: emit events, and, for the ordinary fault, allocate. And what nobody does: emit an event while
//! a lock is held that the answer to a fault needs.
//!
//! A program of its own, since its subscriber and its allocator are the process's.
#![allow(unsafe_code, reason = "defines kernels and an allocator")]

mod allocations;
mod events;
#[path = "../host_faults/kernels.rs"]
mod kernels;
#[path = "../host_faults/rig.rs"]
mod rig;

/// The counts are of the process, so its tests take turns.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
