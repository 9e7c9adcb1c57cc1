//! Faults that are answered late: after others brought the page, after the vector has gone, after its device has.

use std::{fs, os::unix::fs::MetadataExt as _, sync::Barrier, thread};

use hmmap_core::{SharedVec, embedded::EmbeddedMemory, host::HostFaults};

use crate::{
    kernels::Count,
    peers_of_the_process::in_child,
    rig::{device, each_rung, runtime},
};

const PAGE: usize = 65_536 / 4;

/// Several threads wait for one page. Whoever answers the last of them does it when the vector may be gone and another
/// one may have its place.
#[test]
fn a_fault_that_is_answered_late_does_nothing_to_the_next_vector() {
    for rung in [HostFaults::Auto, HostFaults::NoSharing] {
        let mem = runtime(rung, EmbeddedMemory::Own, 1);
        for seed in 0..400 {
            let mut y = SharedVec::<u32>::new(&mem, PAGE).unwrap();
            mem.launch(y.len(), Count { y: y.write(), seed, pause_ms: 0 }).unwrap();
            let together = Barrier::new(12);
            thread::scope(|scope| {
                for k in 0..12 {
                    let (y, together) = (&y, &together);
                    scope.spawn(move || {
                        together.wait();
                        assert_eq!(y[k], seed + k as u32);
                    });
                }
            });
        }
    }
}

/// Reading what is acquired for reading is allowed, and takes nothing away from whoever acquired it.
#[test]
fn what_is_acquired_for_reading_can_be_read() {
    each_rung(|mem| {
        let mut x = SharedVec::from_fn(mem, 3 * PAGE, |i| i as u32).unwrap();
        for round in 0..3 {
            let acquired = mem.acquire(device(0), [x.read().into()]).unwrap();
            assert_eq!(x[PAGE], PAGE as u32 + round);
            drop(acquired);
            std::mem::forget(mem.acquire(device(1), [x.read().into()]).unwrap());
            x[PAGE] += 1;
        }
        assert_eq!(x[PAGE], PAGE as u32 + 3);
    });
}

/// Memory of all arenas of this process, in bytes, by the kernel's account.
fn arena_bytes() -> u64 {
    let files = fs::read_dir("/proc/self/fd").unwrap().map(|file| file.unwrap().path());
    let ours = files.filter(|file| {
        fs::read_link(file).is_ok_and(|name| name.to_string_lossy().contains("hmmap arena"))
    });
    ours.filter_map(|file| fs::metadata(file).ok()).map(|file| file.blocks() * 512).sum()
}

/// Reading zeros takes memory, and it goes back with the vector, on every rung.
#[test]
fn zeros_that_were_read_cost_nothing_afterwards() {
    let name = "edges::zeros_that_were_read_cost_nothing_afterwards";
    // Alone in a process: the account is of all runtimes.
    if let Some(status) = in_child(name) {
        assert!(status.success(), "{status:?}");
        return;
    }
    each_rung(|mem| {
        let before = arena_bytes();
        let fresh = SharedVec::<u32>::new(mem, 100 * PAGE).unwrap();
        assert!(fresh.iter().all(|element| *element == 0));
        assert!(arena_bytes() > before, "it would prove nothing");
        drop(fresh);
        mem.trim();
        assert_eq!(arena_bytes(), before);
    });
}
