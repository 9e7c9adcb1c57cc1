//! Hints on ranges: what was said is there to be read back, and what it makes of touches, launches and evictions can be counted.
#![allow(unsafe_code, reason = "defines kernels")]

mod faults;
#[path = "../host_faults/kernels.rs"]
#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod kernels;
mod places;
mod readback;
#[path = "../host_faults/rig.rs"]
#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod rig;
mod room;
mod sending;

use hmmap_core::{Runtime, SharedVec};
use kernels::Count;

/// Elements in a page.
const PAGE: usize = 65_536 / 4;

/// A vector that device 0 has and nobody else: element `i` is `seed + i`.
fn on_device(mem: &Runtime, pages: usize, seed: u32) -> SharedVec<u32> {
    let mut y = SharedVec::new(mem, pages * PAGE).unwrap();
    mem.launch(y.len(), Count { y: y.write(), seed, pause_ms: 0 }).unwrap().wait().unwrap();
    y
}
