//! What a touch sees, and what it moves.

use std::{
    fmt::Write as _,
    io::Write as _,
    panic::AssertUnwindSafe,
    thread,
    time::{Duration, Instant},
};

use hmmap_core::{Cause, Runtime, SharedVec, embedded::EmbeddedMemory, host::HostFaults};
use rayon::prelude::*;

use crate::{
    kernels::{Add, Break, Count},
    rig::{device, each_rung, lacks_shared_pages, runtime},
};

const PAGE: usize = 65_536 / 4;
const SIZES: [usize; 5] = [1, 1000, PAGE, 3 * PAGE + 17, 70 * PAGE];

fn counted(mem: &Runtime, n: usize, seed: u32, pause_ms: u32) -> SharedVec<u32> {
    let mut y = SharedVec::new(mem, n).unwrap();
    mem.launch(n, Count { y: y.write(), seed, pause_ms }).unwrap();
    y
}

#[test]
fn an_index_sees_what_the_kernel_wrote() {
    each_rung(|mem| {
        for n in SIZES {
            let y = counted(mem, n, 5, 20);
            assert_eq!(y[n - 1], 5 + n as u32 - 1, "{n}");
            assert!(y.iter().zip(5u32..).all(|(y, wanted)| *y == wanted), "{n}");
        }
    });
}

#[test]
fn a_kernel_sees_what_an_index_wrote() {
    each_rung(|mem| {
        for n in SIZES {
            let mut x = SharedVec::<u32>::new(mem, n).unwrap();
            let mut y = SharedVec::<u32>::new(mem, n).unwrap();
            let mut expected = vec![0u32; n];
            for round in 0..4u32 {
                x.iter_mut()
                    .enumerate()
                    .for_each(|(i, x)| *x = x.wrapping_mul(3) ^ (i as u32 + round));
                mem.launch_on(device(round as usize % 2), n, Add { x: x.read(), y: y.update() })
                    .unwrap();
                // Reading what a device reads or has written takes nothing away.
                assert_eq!(x[n / 2], x.host(..).unwrap()[n / 2]);
                expected.iter_mut().zip(&x).for_each(|(e, x)| *e = e.wrapping_add(*x));
                let touched = (round as usize * 7919) % n;
                y[touched] ^= 1;
                expected[touched] ^= 1;
            }
            assert_eq!(y[..], expected[..], "{n}");
        }
    });
}

#[test]
fn an_empty_vector_and_one_that_was_never_written_read_as_zeros() {
    each_rung(|mem| {
        let mut none = SharedVec::<u64>::new(mem, 0).unwrap();
        assert!(none.iter().next().is_none() && none.iter_mut().next().is_none());
        let fresh = SharedVec::<u64>::new(mem, 100_000).unwrap();
        assert!(fresh.iter().all(|element| *element == 0));
        drop(fresh);
        // The same memory, which an earlier vector has used through its slices.
        let mut used = SharedVec::<u64>::new(mem, 100_000).unwrap();
        used.fill(7);
        drop(used);
        let again = SharedVec::<u64>::new(mem, 100_000).unwrap();
        assert!(again.iter().all(|element| *element == 0));
    });
}

/// A touch moves a page, a stream moves more and more of them, and nothing moves twice.
#[test]
fn what_is_touched_moves_and_nothing_else() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    if lacks_shared_pages(&mem) {
        return;
    }
    let pages = 640;
    let mut y = counted(&mem, pages * PAGE, 1, 0);
    let home = |mem: &Runtime| mem.stats()[Cause::Fault].to_host_bytes / 65_536;
    assert_eq!(y[300 * PAGE + 5], 300 * PAGE as u32 + 6);
    assert_eq!(home(&mem), 1, "one touch, one page");
    let _ = (y[300 * PAGE], y[301 * PAGE - 1]);
    assert_eq!(home(&mem), 1, "it is there");
    assert!(y.iter().zip(1u32..).all(|(y, wanted)| *y == wanted));
    assert_eq!(home(&mem), pages as u64, "each page once");
    // Both hold every page now, and what the host changes has to go back, alone.
    y[9 * PAGE] = 0;
    let before = mem.stats();
    let x = SharedVec::<u32>::new(&mem, pages * PAGE).unwrap();
    mem.launch(y.len(), Add { x: x.read(), y: y.update() }).unwrap().wait().unwrap();
    assert_eq!((mem.stats() - before)[Cause::Launch].to_device_bytes / 65_536, 1);
    assert_eq!((y[9 * PAGE], y[9 * PAGE + 1]), (0, 9 * PAGE as u32 + 2));
}

/// Host and device take turns on one page of a large vector.
/// From its end, so that no stream is seen. Neighbours come once most of their part of the block is there; what the next block has stays.
#[test]
fn a_block_that_is_read_backwards_comes_in_six_moves() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    if lacks_shared_pages(&mem) {
        return;
    }
    let y = counted(&mem, 64 * PAGE, 3, 0);
    let mut moved = Vec::new();
    for page in (0..32).rev() {
        let before = mem.stats();
        assert_eq!(y[page * PAGE], 3 + (page * PAGE) as u32);
        moved.push((mem.stats() - before)[Cause::Fault].to_host_bytes >> 10);
    }
    moved.retain(|kib| *kib > 0);
    assert_eq!(moved, [64, 64, 128, 256, 512, 1024]);
}

/// A column of a matrix whose rows are 40 pages long: after three equal steps the next pages come before they are touched.
#[test]
fn pages_at_equal_distances_are_brought_ahead() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    if lacks_shared_pages(&mem) {
        return;
    }
    let (rows, row) = (24, 40 * PAGE);
    let y = counted(&mem, rows * row, 5, 0);
    let home = || mem.stats()[Cause::Fault].to_host_bytes / 65_536;
    let touch = |at: usize| assert_eq!(y[at * row], 5 + (at * row) as u32);
    (0..4).for_each(touch);
    // The reader goes on before they are sent for.
    let deadline = Instant::now() + Duration::from_secs(20);
    while home() < 6 {
        assert!(Instant::now() < deadline, "{} pages for four rows, none ahead", home());
        thread::yield_now();
    }
    (4..rows).for_each(touch);
    assert!((rows as u64..=rows as u64 + 8).contains(&home()), "{} pages for {rows} rows", home());
}

/// What lies past a vector's end is no part of its block: that the last page is at home says nothing about the others.
#[test]
fn the_last_page_of_a_small_vector_does_not_bring_the_others() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    if lacks_shared_pages(&mem) {
        return;
    }
    let y = counted(&mem, 5 * PAGE, 1, 0);
    // Two of five; with the third it is more than half, and the rest comes too.
    for (page, wanted) in [(4, 1), (0, 2), (2, 5)] {
        assert_eq!(y[page * PAGE], 1 + (page * PAGE) as u32);
        let home = mem.stats()[Cause::Fault].to_host_bytes / 65_536;
        assert_eq!(home, wanted, "after page {page}");
    }
}

#[test]
fn ping_pong_moves_one_page_each_way() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let n = 256 * PAGE;
    let x = SharedVec::from_fn(&mem, n, |_| 1u32).unwrap();
    let mut y = SharedVec::<u32>::new(&mem, n).unwrap();
    mem.launch(n, Add { x: x.read(), y: y.update() }).unwrap();
    assert_eq!(y[100 * PAGE], 1);
    let start = mem.stats();
    for round in 0..10 {
        y[100 * PAGE] += 10;
        mem.launch(n, Add { x: x.read(), y: y.update() }).unwrap();
        assert_eq!(y[100 * PAGE], 12 + round * 11);
    }
    let moved = mem.stats() - start;
    assert!(moved.total().bytes() / 65_536 <= 2 * 10, "{moved}");
}

/// The first write to a page that a device reads waits for it, and the device sees what was there before.
#[test]
fn a_write_does_not_overtake_a_kernel_that_reads() {
    each_rung(|mem| {
        let n = 20 * PAGE;
        let mut x = SharedVec::from_fn(mem, n, |i| i as u32).unwrap();
        x[3] = 77;
        let mut slow = SharedVec::<u32>::new(mem, n).unwrap();
        let mut y = SharedVec::<u32>::new(mem, n).unwrap();
        // Both in one queue: the second begins late.
        mem.launch(n, Count { y: slow.write(), seed: 0, pause_ms: 50 }).unwrap();
        mem.launch(n, Add { x: x.read(), y: y.update() }).unwrap();
        x.fill(1_000_000);
        assert_eq!((y[3], y[n - 1]), (77, n as u32 - 1));
        assert!(x.iter().all(|x| *x == 1_000_000));
    });
}

/// `println!` holds the lock of the standard output while the element faults, and a subscriber wants it.
#[test]
fn printing_an_element_does_not_deadlock() {
    struct Shout;
    impl tracing::Subscriber for Shout {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            let mut line = String::new();
            let _ = write!(line, "{}", event.metadata().name());
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }
    tracing::subscriber::set_global_default(Shout).unwrap();
    each_rung(|mem| {
        for seed in 0..20 {
            let y = counted(mem, 40 * PAGE, seed, 2);
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}", y[30 * PAGE]).unwrap();
        }
    });
}

#[test]
fn many_threads_read_what_a_device_is_writing() {
    each_rung(|mem| {
        for seed in [1, 9] {
            let y = counted(mem, 200 * PAGE, seed, 10);
            let sum: u64 = y.par_iter().map(|y| u64::from(*y)).sum();
            let n = y.len() as u64;
            assert_eq!(sum, n * (n - 1) / 2 + n * u64::from(seed));
        }
    });
}

#[test]
fn many_threads_write_parts_of_one_vector() {
    each_rung(|mem| {
        let mut y = counted(mem, 100 * PAGE, 3, 5);
        y.par_chunks_mut(1000).for_each(|chunk| chunk.iter_mut().for_each(|y| *y *= 2));
        assert!(y.iter().zip(3u32..).all(|(y, i)| *y == 2 * i));
    });
}

/// A fault that waits for a kernel does not hold up the others.
#[test]
fn a_slow_fault_holds_up_nobody_else() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 2);
    let n = 64 * PAGE;
    let mut slow = SharedVec::<u32>::new(&mem, n).unwrap();
    let mut quick = SharedVec::<u32>::new(&mem, n).unwrap();
    let kernel = Count { y: quick.write(), seed: 2, pause_ms: 0 };
    mem.launch_on(device(1), n, kernel).unwrap().wait().unwrap();
    let kernel = Count { y: slow.write(), seed: 1, pause_ms: 1500 };
    let fence = mem.launch_on(device(0), n, kernel).unwrap();
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..3)
            .map(|k| {
                scope.spawn({
                    let slow = &slow;
                    move || slow[k * 20 * PAGE]
                })
            })
            .collect();
        for page in (0..64).rev() {
            assert_eq!(quick[page * PAGE], 2 + (page * PAGE) as u32);
        }
        assert!(!fence.has_ended(), "64 faults of another vector waited for a kernel of 1.5 s");
        for (k, thread) in waiting.into_iter().enumerate() {
            assert_eq!(thread.join().unwrap(), 1 + (k * 20 * PAGE) as u32);
        }
    });
}

/// What a kernel of the host's own memory did wrong is told where an index has nobody to tell: by a panic.
#[test]
fn an_index_of_a_vector_whose_kernel_failed_panics_with_the_cause() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Host, 1);
    let mut y = SharedVec::from_fn(&mem, 10, |i| i as u32).unwrap();
    mem.launch(10usize, Break { y: y.update() }).unwrap();
    let panic = std::panic::catch_unwind(AssertUnwindSafe(|| y[0])).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("the elements cannot be had"), "{text}");
    mem.launch(10usize, Count { y: y.write(), seed: 4, pause_ms: 0 }).unwrap();
    assert_eq!(y[9], 13, "overwritten, it is as good as new");
}
