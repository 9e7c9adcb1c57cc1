//! Orders of memory accesses over the embedded device's timeline, tried by loom. Built with `--cfg loom` alone; `cargo xtask test` does so.
//!
//! The file under test is the shipped one, included here where `crate::sync::kernel` is loom's.
#![cfg(loom)]
#![allow(unsafe_code, reason = "stands for what a kernel writes")]

use hmmap_core::fence;

#[allow(unreachable_pub, reason = "a file of the library, where it is public")]
#[path = "../src/embedded/progress.rs"]
mod progress;
#[path = "loom/sync.rs"]
mod sync;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use fence::{Failure, FenceState};
use loom::{cell::UnsafeCell, sync::Arc, thread};
use progress::Progress;

const FAILED: FenceState = FenceState::Failed(Failure::KernelPanicked);

/// A timeline, and what the work of its values writes, without a lock: loom complains when somebody reads it too early.
struct World {
    progress: Progress,
    written: [UnsafeCell<u64>; 2],
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            progress: Progress::new(),
            written: [UnsafeCell::new(0), UnsafeCell::new(0)],
        })
    }

    /// Does the work of values 1 and 2, of which the second fails.
    fn work(&self) {
        for (value, state) in [(1, FenceState::Ok), (2, FAILED)] {
            // SAFETY: nobody reads it before the value has ended; that this is so is what loom checks.
            self.written[value - 1].with_mut(|at| unsafe { *at = value as u64 });
            self.progress.end_next(state);
        }
    }

    /// What must be true of a value that ended so.
    fn look(&self, value: usize, state: FenceState) {
        assert_eq!(state, [FenceState::Ok, FAILED][value - 1], "value {value}");
        assert!(self.progress.has_ended(value as u64));
        // SAFETY: the value has ended, so its work writes no more.
        let written = self.written[value - 1].with(|at| unsafe { *at });
        assert_eq!(written, value as u64);
    }
}

#[test]
fn nobody_sleeps_through_the_end_and_everybody_sees_what_was_written() {
    let mut all: Vec<&[usize]> = vec![&[1], &[2]];
    // Three threads have so many orders that they take half a minute.
    if std::env::var_os("HMMAP_DEEP").is_some() {
        all.push(&[1, 2]);
    }
    for values in all {
        loom::model(|| {
            let world = World::new();
            let wait = |value: &usize| {
                let (world, value) = (Arc::clone(&world), *value);
                thread::spawn(move || world.look(value, world.progress.wait(value as u64, None)))
            };
            let waiters: Vec<_> = values.iter().map(wait).collect();
            world.work();
            for waiter in waiters {
                waiter.join().unwrap();
            }
        });
    }
}

/// Loom leaves out orders that it takes for equal to one that it tried, and takes too many for that where a thread loads before it stores.
/// So the worker is the first thread, and how many orders were tried is asserted.
#[test]
fn who_polls_sees_pending_or_all_of_it() {
    let (tried, early) = (AtomicU64::new(0), AtomicU64::new(0));
    let counts = std::sync::Arc::new((tried, early));
    let counted = std::sync::Arc::clone(&counts);
    loom::model(move || {
        let world = World::new();
        let (looks, counts) = (Arc::clone(&world), std::sync::Arc::clone(&counted));
        let looks = thread::spawn(move || {
            for value in [2, 1, 2] {
                let state = looks.progress.poll(value as u64);
                if state == FenceState::Pending {
                    counts.1.fetch_add(1, Relaxed);
                } else {
                    looks.look(value, state);
                }
            }
        });
        world.work();
        looks.join().unwrap();
        assert_eq!(world.progress.poll(3), FenceState::Pending);
        counted.0.fetch_add(1, Relaxed);
    });
    let [tried, early] = [&counts.0, &counts.1].map(|count| count.load(Relaxed));
    println!("{tried} orders, {early} looks that came too early");
    assert!(tried > 20 && early > 20, "{tried} orders, {early} looks that came too early");
}
