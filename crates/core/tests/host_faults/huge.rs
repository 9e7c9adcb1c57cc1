//! Vectors on huge pages: what a touch moves and takes, what a lost page takes with it, and what a pool that is too small refuses.

use std::fs::File;
use std::io::Write as _;

use bytemuck::cast_slice;
use hmmap_core::{
    Cause, Error, Options, Runtime, SharedVec,
    embedded::EmbeddedMemory,
    host::{HostError, HostFaults, HostPages, HugePool},
};

use crate::{
    kernels::{Add, Break, Count},
    rig::{RUNGS, lacks_huge_pages, runtime_on},
};

const PAGE: usize = 65_536 / 4;
/// Pages of a block.
const BLOCK: usize = 32;

fn huge(rung: HostFaults) -> Option<Runtime> {
    if let Some(reason) = lacks_huge_pages() {
        println!("HMMAP-SKIP: {reason}");
        return None;
    }
    Some(runtime_on(HostPages::Huge, rung, EmbeddedMemory::Own, 1))
}

fn counted(mem: &Runtime, pages: usize, seed: u32) -> SharedVec<u32> {
    let n = pages * PAGE;
    let mut y = SharedVec::new(mem, n).unwrap();
    mem.launch(n, Count { y: y.write(), seed, pause_ms: 0 }).unwrap();
    y
}

fn home(mem: &Runtime) -> u64 {
    mem.stats()[Cause::Fault].to_host_bytes / 65_536
}

/// A touch brings the block, the end of a vector what is left of it, a stream each page once. A write takes the block from the device, and
/// that alone goes back.
#[test]
fn blocks_come_and_go_whole() {
    let Some(mem) = huge(HostFaults::Auto) else { return };
    let pages = 10 * BLOCK + 5;
    let mut y = counted(&mem, pages, 1);
    assert_eq!(y[4 * BLOCK * PAGE + 5], (4 * BLOCK * PAGE + 6) as u32);
    assert_eq!(home(&mem), 32, "one touch, one block");
    assert_eq!(y[pages * PAGE - 1], (pages * PAGE) as u32);
    assert_eq!(home(&mem), 37, "the end of the vector");
    assert!(y.iter().zip(1u32..).all(|(y, wanted)| *y == wanted));
    assert_eq!(home(&mem), pages as u64, "each page once");
    y[9 * PAGE] = 0;
    let before = mem.stats();
    let x = SharedVec::<u32>::new(&mem, pages * PAGE).unwrap();
    mem.launch(y.len(), Add { x: x.read(), y: y.update() }).unwrap().wait().unwrap();
    assert_eq!((mem.stats() - before)[Cause::Launch].to_device_bytes / 65_536, 32);
    assert_eq!((y[9 * PAGE], y[9 * PAGE + 1]), (0, 9 * PAGE as u32 + 2));
}

/// A kernel that uses one page takes the block out of the program's sight, and both see what the other wrote beside it.
#[test]
fn what_a_kernel_does_to_a_page_is_seen_beside_what_the_host_does_to_its_neighbour() {
    for rung in RUNGS {
        let Some(mem) = huge(rung) else { return };
        let mut y = counted(&mem, 2 * BLOCK, 0);
        for round in 0..20 {
            let (device, host) = (round % 7 + 10, round % 5);
            let one = device * PAGE..(device + 1) * PAGE;
            let seed = 1000 * round as u32;
            mem.launch(PAGE, Count { y: y.write().range(one), seed, pause_ms: 0 }).unwrap();
            assert_eq!(y[device * PAGE + 3], seed + 3, "{rung:?}");
            // The device has that page too, and none of the others.
            y[host * PAGE] = seed + 1;
            y[device * PAGE + 4] = seed;
            let mut seen = SharedVec::<u32>::new(&mem, y.len()).unwrap();
            mem.launch(y.len(), Add { x: y.read(), y: seen.update() }).unwrap();
            assert_eq!(seen[..], y[..], "{rung:?}");
            assert_eq!((y[host * PAGE], y[device * PAGE + 4]), (seed + 1, seed), "{rung:?}");
            y[device * PAGE + 5] = seed;
        }
    }
}

/// Small vectors share blocks as ever, on ordinary pages.
#[test]
fn small_vectors_stay_on_ordinary_pages() {
    let Some(mem) = huge(HostFaults::Auto) else { return };
    let (x, y) = (counted(&mem, 3, 1), counted(&mem, 3, 2));
    assert_eq!((x[PAGE], y[2 * PAGE]), (PAGE as u32 + 1, 2 * PAGE as u32 + 2));
    assert_eq!(home(&mem), 2, "a page each");
    let apart = y.as_ptr().addr().abs_diff(x.as_ptr().addr());
    assert!(apart < 2 << 20, "{apart} bytes apart");
}

/// A touch as a system call makes it, which says `EFAULT` where a load would end with a signal.
fn touch(elements: &[u32]) -> bool {
    let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    File::from(fd).write_all(cast_slice(elements)).is_ok()
}

/// Touches know blocks alone, so all of one ends with a signal; a guard still gets what is there. Once all of it is good, so are touches.
#[test]
fn a_lost_page_takes_the_touches_of_its_block_with_it() {
    let Some(mem) = huge(HostFaults::Auto) else { return };
    let mut y = counted(&mem, 3 * BLOCK, 1);
    let (page, behind) = (40 * PAGE..41 * PAGE, 41 * PAGE..42 * PAGE);
    // The host has no copy of the one, nor the block an entry.
    let _ = y.host(behind.clone()).unwrap();
    let broken = mem.launch(PAGE, Break { y: y.update().range(page.clone()) }).unwrap();
    broken.wait().unwrap_err();
    assert!(!touch(&y[page.clone()]), "it is lost");
    assert!(!touch(&y[behind.clone()]), "its neighbour has the same entry");
    assert!(touch(&y[..BLOCK * PAGE]) && touch(&y[2 * BLOCK * PAGE..]), "the others go on");
    assert_eq!(y.host(behind.clone()).unwrap()[0], 41 * PAGE as u32 + 1);
    assert!(matches!(y.host(page.clone()), Err(Error::DataLost { .. })));
    y.overwrite(page.clone()).unwrap().fill(7);
    assert!(touch(&y[page.clone()]) && touch(&y[behind.clone()]));
    assert_eq!((y[40 * PAGE], y[41 * PAGE]), (7, 41 * PAGE as u32 + 1));
}

/// More than the pool has: refused with what an administrator has to do, and nothing else is hurt.
#[test]
fn a_pool_that_is_too_small_is_an_error_that_says_so() {
    let pool = HugePool::look();
    // Of addresses there are enough for a few of them.
    let too_many = pool.pages + pool.overcommit + (1 << 16);
    let refused = |error: &Error| {
        let Error::Host(error @ HostError::TooFewHugePages { needed, .. }) = error else {
            panic!("{error}");
        };
        let text = error.to_string();
        assert!(text.contains("as root: `echo "), "{text}");
        *needed
    };
    if pool.free + pool.overcommit == 0 {
        let options = Options { host_pages: HostPages::Huge, ..Options::default() };
        match Runtime::new(vec![], options) {
            Err(Error::Host(HostError::NoHugePages { .. })) => {}
            other => assert_eq!(refused(&other.unwrap_err()), 1),
        }
        println!("HMMAP-SKIP: no huge pages: {}", pool.remedy(1));
        return;
    }
    let Some(mem) = huge(HostFaults::Auto) else { return };
    let len = too_many as usize * BLOCK * PAGE;
    for _ in 0..10 {
        let error = SharedVec::<u32>::new(&mem, len).unwrap_err();
        assert_eq!(refused(&error), too_many);
    }
    assert_eq!(counted(&mem, 16, 3)[PAGE], PAGE as u32 + 3);
}

/// A vector that other processes may map has a file of ordinary pages, and places of its own in the window.
#[test]
fn a_shareable_vector_stays_on_ordinary_pages() {
    let Some(mem) = huge(HostFaults::Auto) else { return };
    for round in 0..4 {
        let n = 3 * BLOCK * PAGE;
        let large = counted(&mem, 2 * BLOCK, round);
        let mut y = SharedVec::<u32>::shareable(&mem, n).unwrap();
        mem.launch(n, Count { y: y.write(), seed: round, pause_ms: 0 }).unwrap();
        let before = home(&mem);
        assert_eq!(y[40 * PAGE], 40 * PAGE as u32 + round);
        assert_eq!(home(&mem) - before, 1, "a page of its own");
        y[40 * PAGE] += 1;
        assert!(y[1..40 * PAGE].iter().zip(1 + round..).all(|(y, wanted)| *y == wanted));
        assert_eq!((y[40 * PAGE], large[7]), (40 * PAGE as u32 + round + 1, 7 + round));
    }
}
