//! Peers in this process: an application's own device that maps ranges, works on them and gives them back, on embedded devices (real memory, real
//! threads) with and without page faults.
//!
//! Each of the questions that this is all for has its tests by name: who has a page (q1), at which address (q2), what happens when it moves
//! (q3, q4), and what of a device that takes no part (q5).

mod card;
mod devices;
mod dynamic;
mod ends;
#[path = "../host_faults/kernels.rs"]
#[allow(dead_code, reason = "shared with the tests of page faults")]
mod kernels;
#[path = "../host_faults/rig.rs"]
#[allow(dead_code, reason = "shared with the tests of page faults")]
mod rig;
mod soak;
mod statics;
