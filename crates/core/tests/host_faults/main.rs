//! Plain indexing of vectors that devices hold, on every rung of what the system can offer.
//!
//! The program is the same on each rung; [`each_rung`] runs it on all that can be had here and fails when the best one is missing for want of
//! a code path (a system without userfaultfd runs the last rung alone, and says so).
#![allow(unsafe_code, reason = "defines kernels, forks and asks the kernel about memory")]

mod back_and_forth;
mod beside;
mod bounce;
#[path = "../cases/mod.rs"]
mod cases;
mod edges;
mod huge;
mod kernels;
mod lives;
mod panics;
mod peers_of_the_process;
mod random;
mod renewal;
mod rig;
mod sigbus;
mod strangers;
mod strays;
mod system_calls;
mod told;
mod touches;
