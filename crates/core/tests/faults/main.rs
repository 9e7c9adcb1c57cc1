//! Operations on vectors while calls fail, work fails and devices are lost, against an oracle that knows what really happened.
//!
//! **The promise.** Failure of any single call at any point leaves each page with a good copy, or reports it as lost: never zeros, never
//! stale bytes, never a hang, never a panic. Work that failed has not happened; everything else has, in the order of the calls.
//!
//! **The oracle.** Every launch that was accepted is remembered with its fence. What became of it is asked of the simulated device that ran
//! it, so what a vector must hold is the replay of the launches that ended Ok ([`oracle`]). A range that was reported as lost
//! must be reported again until it is overwritten.
//!
//! [`random`] plays random operations with random faults, on one thread and on several; [`every_call`] makes each call and each piece of work
//! of every public entry point fail in its turn.
#![allow(unsafe_code, reason = "defines kernels")]

#[path = "../cases/mod.rs"]
mod cases;
mod every_call;
mod kernels;
mod oracle;
mod random;
mod rig;
