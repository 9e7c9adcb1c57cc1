//! Other sides that lie, fall silent, flood or die. A second process plays them: this program again (`../processes/harness.rs`).

mod both_ways;
mod comings_and_goings;
mod crashes;
mod dice;
#[path = "../processes/harness.rs"]
#[allow(dead_code, reason = "shared with the tests of honest processes")]
mod harness;
mod hostile_exporter;
mod hostile_importer;
#[path = "../../../core/tests/host_faults/kernels.rs"]
#[allow(dead_code, reason = "shared with the tests of page faults")]
mod kernels;
mod raw;
mod soak;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use hmmap_core::{
    Options, Runtime,
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
};

/// Elements in a page.
const PAGE: usize = 65_536 / 4;
/// Elements in a block.
const BLOCK: usize = 32 * PAGE;

/// A runtime with one device that has memory of its own.
fn runtime() -> Runtime {
    let memory = EmbeddedMemory::Own;
    let device = EmbeddedProvider::new(EmbeddedOptions { memory, ..EmbeddedOptions::default() });
    Runtime::new(vec![std::sync::Arc::new(device)], Options::default()).unwrap()
}

/// The tests count what the process has open, so there is one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many descriptors this process has open.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until something is so, and fails when it does not become so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("it does not come to that: {what}");
}
