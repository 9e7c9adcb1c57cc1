//! Where a launch works where something was said.

use hmmap_core::{
    Cause, Error, Hint, NodeId, Options, Runtime, SharedVec, Stats,
    embedded::EmbeddedMemory,
    hints::{Granularity, HintEffect, HintStats, NoEffect},
    host::HostFaults,
    simulated::{HostWindows, SimulatedMemory, SimulatedOptions, SimulatedProvider},
};
use std::sync::Arc;

use crate::{
    PAGE,
    kernels::{Add, Break, Count},
    on_device,
    rig::{RUNGS, device, runtime},
};

const PAGES: usize = 70;

fn gpu(index: usize) -> NodeId {
    NodeId::of_device(device(index))
}

fn counted(mem: &Runtime, pages: usize) -> SharedVec<u32> {
    SharedVec::from_fn(mem, pages * PAGE, |i| 1 + i as u32).unwrap()
}

fn moved(before: Stats, mem: &Runtime) -> u64 {
    (mem.stats() - before).total().bytes() / 65_536
}

/// Which nodes have all pages of a vector.
fn nodes(y: &SharedVec<u32>) -> Vec<NodeId> {
    let runs = y.residency(..).unwrap();
    assert!(runs.windows(2).all(|pair| pair[0].nodes == pair[1].nodes), "{runs:?}");
    runs[0].nodes.to_vec()
}

#[test]
fn what_is_at_home_on_the_host_is_used_there() {
    for rung in RUNGS {
        let mem = runtime(rung, EmbeddedMemory::Own, 1);
        let (x, mut y) = (counted(&mem, PAGES), counted(&mem, PAGES));
        for vec in [&x, &y] {
            assert_eq!(vec.hint(.., Hint::PreferredLocation(NodeId::HOST)), Ok(HintEffect::Acts));
        }
        let before = mem.stats();
        for round in 1..4u32 {
            mem.launch(y.len(), Add { x: x.read(), y: y.update() }).unwrap();
            assert_eq!(y[PAGE + 5], (round + 1) * (PAGE as u32 + 6), "{rung:?}");
            y[PAGE + 5] += 0;
        }
        assert_eq!(moved(before, &mem), 0, "{rung:?}");
        assert_eq!((nodes(&x), nodes(&y)), (vec![NodeId::HOST], vec![NodeId::HOST]));
        assert_eq!((mem.stats() - before).hints, HintStats { in_place: 6, ..HintStats::default() });
        assert_eq!(mem.device_memory(device(0)).unwrap().used_bytes, 0);
        // Taken back, it moves.
        y.hint(.., Hint::NoPreferredLocation).unwrap();
        mem.launch(y.len(), Add { x: x.read(), y: y.update() }).unwrap();
        assert_eq!(moved(before, &mem), PAGES as u64);
        assert_eq!(nodes(&y), [gpu(0)]);
        assert!(y.iter().zip(1u32..).all(|(y, i)| *y == 5 * i), "{rung:?}");
    }
}

/// The caller's own work gets the address of the host's pages.
#[test]
fn what_is_acquired_is_acquired_where_it_is() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let (x, mut y) = (counted(&mem, PAGES), counted(&mem, PAGES));
    y.hint(.., Hint::PreferredLocation(NodeId::HOST)).unwrap();
    let before = mem.stats();
    let acquired = mem.acquire(device(0), [x.read().into(), y.update().into()]).unwrap();
    let addresses: Vec<_> = acquired.arrays().iter().map(|array| array.address).collect();
    drop(acquired);
    assert_eq!((mem.stats() - before).hints.in_place, 1);
    assert_eq!(moved(before, &mem), PAGES as u64, "the other one moved");
    assert_eq!(nodes(&y), [NodeId::HOST]);
    // The embedded device reaches the host's pages where the host does.
    let start = y.host(..).unwrap().as_ptr() as u64;
    assert!(addresses[1] == start && addresses[0] != 0, "{addresses:x?}, {start:x}");
}

#[test]
fn what_is_not_there_comes_home_first() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 2);
    // On the launching device itself, and on another.
    for other in [0, 1] {
        let mut y = SharedVec::<u32>::new(&mem, PAGES * PAGE).unwrap();
        let count = Count { y: y.write(), seed: 1, pause_ms: 5 };
        mem.launch_on(device(other), PAGES * PAGE, count).unwrap();
        let x = counted(&mem, PAGES);
        y.hint(.., Hint::PreferredLocation(NodeId::HOST)).unwrap();
        let before = mem.stats();
        mem.launch(y.len(), Add { x: x.read(), y: y.update() }).unwrap();
        let launch = (mem.stats() - before)[Cause::Launch];
        assert_eq!(launch.to_host_bytes / 65_536, PAGES as u64);
        assert_eq!(nodes(&y), [NodeId::HOST]);
        assert!(y.iter().zip(1u32..).all(|(y, i)| *y == 2 * i));
    }
}

#[test]
fn who_accesses_a_range_uses_it_where_it_is() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 2);
    let mut y = counted(&mem, PAGES);
    y.hint(.., Hint::AccessedBy(gpu(0))).unwrap();
    let x = counted(&mem, PAGES);
    let before = mem.stats();
    mem.launch(y.len(), Add { x: x.read(), y: y.update() }).unwrap();
    assert_eq!((moved(before, &mem), nodes(&y)), (PAGES as u64, vec![NodeId::HOST]), "x moved");
    // Another device is not spoken of: it has it moved.
    mem.launch_on(device(1), y.len(), Add { x: x.read(), y: y.update() }).unwrap();
    assert_eq!(nodes(&y), [gpu(1)]);
    // Not on the host and not on the device: it moves there, and that is counted.
    let before = mem.stats();
    mem.launch(y.len(), Add { x: x.read(), y: y.update() }).unwrap();
    assert_eq!(nodes(&y), [gpu(0)]);
    assert_eq!((mem.stats() - before).hints, HintStats { ignored: 1, ..HintStats::default() });
    // On the device it is used on the device.
    let before = mem.stats();
    mem.launch(y.len(), Add { x: x.read(), y: y.update() }).unwrap();
    assert_eq!((moved(before, &mem), nodes(&y)), (0, vec![gpu(0)]));
    assert_eq!((mem.stats() - before).hints, HintStats::default());
    assert!(y.iter().zip(1u32..).all(|(y, i)| *y == 5 * i));
}

#[test]
fn read_mostly_readers_get_copies_of_their_own_and_a_write_leaves_one() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 2);
    let mut x = counted(&mem, PAGES);
    x.hint(.., Hint::PreferredLocation(NodeId::HOST)).unwrap();
    x.hint(.., Hint::ReadMostly).unwrap();
    let mut y = counted(&mem, PAGES);
    for index in 0..2 {
        mem.launch_on(device(index), y.len(), Add { x: x.read(), y: y.update() }).unwrap();
    }
    assert_eq!(nodes(&x), [NodeId::HOST, gpu(0), gpu(1)]);
    // The host reads its own, and takes nobody's away.
    let before = mem.stats();
    assert!(x.iter().zip(1u32..).all(|(x, i)| *x == i));
    assert_eq!((moved(before, &mem), nodes(&x).len()), (0, 3));
    // One write: its page is the host's alone, the others are as they were.
    x[3 * PAGE] = 9;
    let stats = (mem.stats() - before).hints;
    assert_eq!(stats, HintStats { collapsed_pages: 1, ..HintStats::default() });
    let runs = x.residency(..).unwrap();
    let held: Vec<_> = runs.iter().map(|run| (run.pages.clone(), run.nodes.len())).collect();
    assert_eq!(held, [(0..3, 3), (3..4, 1), (4..PAGES as u64, 3)]);
    // A kernel that writes collapses the rest, at home as the other hint says.
    mem.launch(x.len(), Add { x: y.read(), y: x.update() }).unwrap();
    assert_eq!(nodes(&x), [NodeId::HOST]);
    assert_eq!((mem.stats() - before).hints.collapsed_pages, PAGES as u64);
    assert_eq!(x[0], 1 + 3);
}

#[test]
fn what_is_said_of_a_part_alone_moves_and_is_counted() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let mut y = counted(&mem, PAGES);
    y.hint(..PAGE, Hint::PreferredLocation(NodeId::HOST)).unwrap();
    let count = |y: &mut SharedVec<u32>| {
        let before = mem.stats();
        let n = y.len();
        mem.launch(n, Count { y: y.write(), seed: 1, pause_ms: 0 }).unwrap();
        (mem.stats() - before).hints
    };
    assert_eq!(count(&mut y), HintStats { ignored: 1, ..HintStats::default() });
    assert_eq!(nodes(&y), [gpu(0)]);
    // A launch over that part alone.
    let before = mem.stats();
    let part = Count { y: y.write().range(..PAGE), seed: 7, pause_ms: 0 };
    mem.launch(PAGE, part).unwrap();
    assert_eq!((mem.stats() - before).hints.in_place, 1);
    assert_eq!(y.residency(..).unwrap()[0].nodes.as_slice(), [NodeId::HOST]);
    assert_eq!((y[1], y[PAGE]), (8, 1 + PAGE as u32));
}

#[test]
fn without_a_window_it_is_kept_and_ignored_and_counted() {
    let options = SimulatedOptions {
        memory: SimulatedMemory::Own,
        windows: HostWindows::Absent,
        ..SimulatedOptions::default()
    };
    let provider = Arc::new(SimulatedProvider::new(options));
    let mem = Runtime::new(vec![provider], Options::default()).unwrap();
    let mut y = counted(&mem, PAGES);
    let kept = Ok(HintEffect::KeptOnly(NoEffect::NoWindow));
    assert_eq!(y.hint(.., Hint::AccessedBy(gpu(0))), kept);
    let n = y.len();
    mem.launch(n, Count { y: y.write(), seed: 1, pause_ms: 0 }).unwrap();
    assert_eq!(nodes(&y), [gpu(0)]);
    assert_eq!(mem.stats().hints, HintStats { ignored: 1, ..HintStats::default() });
    assert!(y.iter().zip(1u32..).all(|(y, i)| *y == i));
}

#[test]
fn touches_of_what_is_at_home_on_a_device_are_counted() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let y = on_device(&mem, PAGES, 1);
    y.hint(.., Hint::PreferredLocation(gpu(0))).unwrap();
    assert_eq!(
        (y[0], y[50 * PAGE], y[50 * PAGE + 1]),
        (1, 1 + 50 * PAGE as u32, 2 + 50 * PAGE as u32)
    );
    assert_eq!(mem.stats().hints.ignored, 2, "two touches that brought something");
    y.hint(.., Hint::ReadMostly).unwrap();
    assert_eq!(y[60 * PAGE], 1 + 60 * PAGE as u32);
    assert_eq!(mem.stats().hints.ignored, 2, "a copy is what was asked for");
}

/// A kernel on the host's pages that fails: what it was to write is lost, as on a device that works there always.
#[test]
fn a_kernel_that_fails_in_place_takes_its_pages_with_it() {
    for rung in RUNGS {
        let mem = runtime(rung, EmbeddedMemory::Own, 1);
        let mut y = counted(&mem, PAGES);
        y.hint(.., Hint::PreferredLocation(NodeId::HOST)).unwrap();
        mem.launch(y.len(), Break { y: y.update() }).unwrap();
        assert!(y.host(..).is_err(), "{rung:?}");
        y.overwrite(..).unwrap().fill(3);
        assert_eq!(y[PAGE], 3);
    }
}

/// The host does not look at what a kernel is writing in place, though the entry is there.
#[test]
fn an_index_waits_for_a_kernel_that_works_in_place() {
    for rung in RUNGS {
        let mem = runtime(rung, EmbeddedMemory::Own, 1);
        let mut y = counted(&mem, 4);
        y.hint(.., Hint::PreferredLocation(NodeId::HOST)).unwrap();
        for round in 0..10 {
            // Mapped, and for writing.
            y[PAGE] = 0;
            let n = y.len();
            mem.launch(n, Count { y: y.write(), seed: round, pause_ms: 20 }).unwrap();
            assert_eq!(y[PAGE], round + PAGE as u32, "{rung:?}");
        }
        // Nor does it write what a kernel reads there.
        let mut sum = SharedVec::<u32>::new(&mem, y.len()).unwrap();
        for round in 0..10u32 {
            y.fill(round);
            mem.launch(y.len(), Add { x: y.read(), y: sum.update() }).unwrap();
            y.fill(1000);
        }
        assert!(sum.iter().all(|sum| *sum == 45), "{rung:?} {}", sum[0]);
    }
}

#[test]
fn granularity_is_the_least_that_a_launch_moves() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let x = counted(&mem, PAGES);
    let mut y = counted(&mem, PAGES);
    for vec in [&x, &y] {
        vec.hint(.., Hint::Granularity(Granularity::of_bytes(1 << 20).unwrap())).unwrap();
    }
    let part = 20 * PAGE..22 * PAGE;
    let add = |x: &SharedVec<u32>, y: &mut SharedVec<u32>| {
        let before = mem.stats();
        let (x, y) = (x.read().range(part.clone()), y.update().range(part.clone()));
        mem.launch(2 * PAGE, Add { x, y }).unwrap();
        (mem.stats() - before)[Cause::Launch].to_device_bytes / 65_536
    };
    assert_eq!(add(&x, &mut y), 32, "16 of each");
    let held: Vec<_> =
        y.residency(..).unwrap().iter().map(|run| (run.pages.clone(), run.nodes.len())).collect();
    assert_eq!(held, [(0..16, 1), (16..20, 2), (20..22, 1), (22..32, 2), (32..PAGES as u64, 1)]);
    assert_eq!(add(&x, &mut y), 0);
    // Brought with the others, and then written here: the device must not go on with its copy.
    y[17 * PAGE] = 7;
    let whole = (x.read().range(16 * PAGE..18 * PAGE), y.update().range(16 * PAGE..18 * PAGE));
    mem.launch(2 * PAGE, Add { x: whole.0, y: whole.1 }).unwrap();
    assert_eq!(y[17 * PAGE], 7 + 1 + 17 * PAGE as u32);
    // Past the end there is nothing.
    let tail = (x.read().range(69 * PAGE..), y.update().range(69 * PAGE..));
    let before = mem.stats();
    mem.launch(PAGE, Add { x: tail.0, y: tail.1 }).unwrap();
    assert_eq!(moved(before, &mem), 12, "pages 64 to 69 of each");
    assert_eq!(y[69 * PAGE], 2 * (1 + 69 * PAGE as u32));
}

/// More than was asked for is left out where it is in flight, or lost: nobody waits for it, and nobody is told of it.
#[test]
fn what_is_moved_along_is_in_nobodys_way() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 2);
    let mut y = counted(&mem, 16);
    y.hint(.., Hint::Granularity(Granularity::of_bytes(512 << 10).unwrap())).unwrap();
    let page = |page: usize| page * PAGE..(page + 1) * PAGE;
    // Another device is at a neighbour.
    let slow = Count { y: y.write().range(page(9)), seed: 1, pause_ms: 300 };
    let slow = mem.launch_on(device(1), PAGE, slow).unwrap();
    let count = Count { y: y.write().range(page(8)), seed: 0, pause_ms: 0 };
    mem.launch(PAGE, count).unwrap().wait().unwrap();
    assert!(!slow.has_ended(), "it waited for a page that it does not use");
    // A neighbour is lost with the only copy of it.
    mem.launch(PAGE, Count { y: y.write().range(page(3)), seed: 0, pause_ms: 0 }).unwrap();
    let broken = Break { y: y.update().range(page(3)) };
    mem.launch(PAGE, broken).unwrap().wait().unwrap_err();
    assert!(matches!(y.host(page(3)), Err(Error::DataLost { .. })));
    mem.launch(PAGE, Count { y: y.write().range(page(4)), seed: 0, pause_ms: 0 }).unwrap();
    assert_eq!((y[4 * PAGE + 7], y[2 * PAGE]), (7, 1 + 2 * PAGE as u32));
}
