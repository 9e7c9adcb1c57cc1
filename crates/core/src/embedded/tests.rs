use std::{ops::Range, os::unix::fs::FileExt, sync::Arc, time::Duration};

use super::{Backing, EmbeddedMemory, EmbeddedOptions, EmbeddedProvider};
use crate::{
    access::Access,
    backend::{
        Copy, DeviceError, Direction, MemoryId,
        bench::{Bench, DOUBLE, PANIC, block, kernel, words},
    },
    fence::{Failure, FencePoint, FenceState, TimelineId},
    kernel::{KernelId, ParamLayout, Source},
    node::DeviceId,
    units::{BLOCK_BYTES, PAGE_BYTES},
};

fn bench(options: EmbeddedOptions) -> Bench {
    Bench::new(&EmbeddedProvider::new(options))
}

/// Takes long enough that a device which does not keep order would be seen.
static SLOW_COUNT: Source = kernel("slow count", |twin| {
    std::thread::sleep(Duration::from_millis(20));
    twin.write::<u32>(0).iter_mut().for_each(|x| *x += 1);
});

fn own(backing: Backing) -> EmbeddedOptions {
    EmbeddedOptions { memory: EmbeddedMemory::Own, backing, ..EmbeddedOptions::default() }
}

#[test]
fn the_facts_say_where_it_lives() {
    let threads = EmbeddedOptions { threads: 3.try_into().unwrap(), ..Default::default() };
    let host = bench(threads);
    assert_eq!(host.device.facts().summary.name, "embedded CPU device (3 threads)");
    assert!(host.device.facts().shares_host_memory);
    let own = bench(own(Backing::Blocks));
    assert!(!own.device.facts().shares_host_memory);
    assert!(own.device.facts().capabilities.sparse.is_proved());
}

#[test]
fn a_launch_between_two_copies_gives_what_the_twin_computes() {
    for backing in [Backing::Whole, Backing::Blocks] {
        let bench = bench(own(backing));
        let memory = bench.backed(2);
        assert_eq!(memory.backs_whole, backing == Backing::Whole);
        assert_eq!(memory.address % PAGE_BYTES, 0);
        let span = bench.arena.allocate(BLOCK_BYTES).unwrap();
        bench.put(span, 21);
        // Across the border of two blocks.
        let offset_bytes = BLOCK_BYTES / 2;
        let to = Copy {
            direction: Direction::HostToDevice,
            host: span,
            memory: memory.memory,
            offset_bytes,
        };
        let from = Copy { direction: Direction::DeviceToHost, ..to };
        let up = bench.copy(to, &[]).unwrap();
        let x = words(memory.address + offset_bytes, BLOCK_BYTES / 4, Access::Update);
        let run = bench.launch(&DOUBLE, &[x], &[up]).unwrap();
        let down = bench.copy(from, &[run]).unwrap();
        assert_ne!(run.timeline, down.timeline);
        assert_eq!(bench.end(down), FenceState::Ok);
        assert!(bench.get(span).iter().all(|x| *x == 42));
    }
}

#[test]
fn a_window_is_the_arena_itself() {
    let bench = bench(EmbeddedOptions::default());
    let span = bench.arena.allocate(PAGE_BYTES).unwrap();
    bench.put(span, 4);
    let window = bench.device.open_window(span).unwrap();
    assert_eq!(window.address, bench.arena.view().pointer(span) as u64);
    let x = words(window.address, PAGE_BYTES / 4, Access::Update);
    let run = bench.launch(&DOUBLE, &[x], &[]).unwrap();
    assert_eq!(bench.end(run), FenceState::Ok);
    assert!(bench.get(span).iter().all(|x| *x == 8));
    bench.device.close_window(window.window);
}

#[test]
fn a_fill_writes_zeros_and_nothing_beside_them() {
    let bench = bench(own(Backing::Whole));
    let memory = bench.backed(1).memory;
    let span = bench.arena.allocate(3 * PAGE_BYTES).unwrap();
    bench.put(span, 7);
    let copy = |direction| Copy { direction, host: span, memory, offset_bytes: 0 };
    let up = bench.copy(copy(Direction::HostToDevice), &[]).unwrap();
    let zeroed = bench.zero(memory, PAGE_BYTES..2 * PAGE_BYTES, &[up]).unwrap();
    let down = bench.copy(copy(Direction::DeviceToHost), &[zeroed]).unwrap();
    assert_eq!(bench.end(down), FenceState::Ok);
    let words = bench.get(span);
    let pages: Vec<_> = words.chunks(PAGE_BYTES as usize / 4).collect();
    assert!(pages[0].iter().chain(pages[2]).all(|word| *word == 7));
    assert!(pages[1].iter().all(|word| *word == 0));
}

#[test]
fn values_of_a_queue_end_in_order() {
    let bench = bench(own(Backing::Whole));
    let memory = bench.backed(1);
    let x = words(memory.address, 1, Access::Update);
    let points: Vec<_> = (0..5).map(|_| bench.launch(&SLOW_COUNT, &[x], &[]).unwrap()).collect();
    assert!(points.is_sorted_by(|a, b| a.value < b.value));
    assert_eq!(bench.end(points[3]), FenceState::Ok);
    assert!(points[..4].iter().all(|point| bench.device.poll(*point) == FenceState::Ok));
    assert_eq!(bench.end(points[4]), FenceState::Ok);
}

#[test]
fn a_wait_that_is_too_short_answers_pending() {
    let bench = bench(own(Backing::Whole));
    let memory = bench.backed(1);
    let x = words(memory.address, 1, Access::Update);
    static GATE: std::sync::Barrier = std::sync::Barrier::new(2);
    static GATED: Source = kernel("gated", |_| {
        GATE.wait();
    });
    let run = bench.launch(&GATED, &[x], &[]).unwrap();
    assert_eq!(bench.device.poll(run), FenceState::Pending);
    assert_eq!(bench.device.wait(run, Duration::from_millis(1)), FenceState::Pending);
    GATE.wait();
    assert_eq!(bench.end(run), FenceState::Ok);
}

#[test]
fn a_panic_inside_a_twin_fails_its_fence_and_what_depends_on_it_only() {
    let bench = bench(own(Backing::Whole));
    let memory = bench.backed(1);
    let x = words(memory.address, 1, Access::Update);
    let bad = bench.launch(&PANIC, &[x], &[]).unwrap();
    let dependent = bench.launch(&DOUBLE, &[x], &[bad]).unwrap();
    let far = bench.zero(memory.memory, 0..PAGE_BYTES, &[dependent]).unwrap();
    let other = bench.launch(&DOUBLE, &[x], &[]).unwrap();
    assert_eq!(bench.end(bad), FenceState::Failed(Failure::KernelPanicked));
    assert_eq!(bench.end(dependent), FenceState::Failed(Failure::Dependency));
    assert_eq!(bench.end(far), FenceState::Failed(Failure::Dependency));
    assert_eq!(bench.end(other), FenceState::Ok);
    assert_eq!(bench.device.poll(bad), FenceState::Failed(Failure::KernelPanicked));
}

#[test]
fn a_full_device_says_how_much_was_asked_and_backs_nothing() {
    let options =
        EmbeddedOptions { memory_limit_bytes: Some(2 * BLOCK_BYTES), ..own(Backing::Blocks) };
    let bench = bench(options);
    let memory = bench.device.reserve(4 * BLOCK_BYTES).unwrap().memory;
    bench.device.back(memory, &[block(3)]).unwrap();
    let asked_bytes = 2 * BLOCK_BYTES;
    let refused = bench.device.back(memory, &[block(0), block(1)]);
    assert_eq!(refused, Err(DeviceError::OutOfMemory { asked_bytes }));
    bench.device.back(memory, &[block(0)]).unwrap();
    bench.device.unback(memory, &[block(3)]);
    bench.device.back(memory, &[block(1)]).unwrap();
    bench.device.release(memory);
    bench.backed(2);
}

#[test]
fn unbacked_memory_goes_back_to_the_system() {
    let bench = bench(own(Backing::Blocks));
    let memory = bench.backed(2);
    let span = bench.arena.allocate(2 * BLOCK_BYTES).unwrap();
    bench.put(span, 1);
    let both = memory.address..memory.address + 2 * BLOCK_BYTES;
    let copy = Copy {
        direction: Direction::HostToDevice,
        host: span,
        memory: memory.memory,
        offset_bytes: 0,
    };
    assert_eq!(bench.end(bench.copy(copy, &[]).unwrap()), FenceState::Ok);
    assert_eq!(resident_bytes(both.clone()), 2 * BLOCK_BYTES);
    bench.device.unback(memory.memory, &[block(1)]);
    assert_eq!(resident_bytes(both.clone()), BLOCK_BYTES);
}

/// How much of a range has memory under it, as the system says.
fn resident_bytes(range: Range<u64>) -> u64 {
    let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
    let page_bytes = rustix::param::page_size() as u64;
    let pages = (range.end - range.start) / page_bytes;
    let mut entries = vec![0u64; pages as usize];
    let at = range.start / page_bytes * size_of::<u64>() as u64;
    pagemap.read_exact_at(bytemuck::cast_slice_mut(&mut entries), at).unwrap();
    // The two top bits: present, swapped.
    entries.iter().filter(|entry| *entry >> 62 != 0).count() as u64 * page_bytes
}

#[test]
fn work_on_memory_that_is_not_there_is_refused() {
    let bench = bench(own(Backing::Blocks));
    let memory = bench.device.reserve(2 * BLOCK_BYTES).unwrap();
    bench.device.back(memory.memory, &[block(0)]).unwrap();
    let refused = |result| matches!(result, Err(DeviceError::Misuse { .. }));
    let update = |address, elements| [words(address, elements, Access::Update)];
    let whole = 2 * BLOCK_BYTES / 4;
    assert!(bench.launch(&DOUBLE, &update(memory.address, whole / 2), &[]).is_ok());
    assert!(refused(bench.launch(&DOUBLE, &update(memory.address, whole), &[])));
    assert!(refused(bench.launch(&DOUBLE, &update(memory.address, whole + 1), &[])));
    assert!(refused(bench.launch(&DOUBLE, &update(0x1000, 1), &[])));
    assert!(refused(bench.launch(&DOUBLE, &update(u64::MAX - 3, u64::MAX / 4), &[])));
    let twice = [update(memory.address, 4)[0], words(memory.address + 12, 4, Access::Read)];
    assert!(refused(bench.launch(&DOUBLE, &twice, &[])));
    let span = bench.arena.allocate(BLOCK_BYTES).unwrap();
    let copy = Copy {
        direction: Direction::DeviceToHost,
        host: span,
        memory: memory.memory,
        offset_bytes: PAGE_BYTES,
    };
    assert!(refused(bench.copy(copy, &[])));
    assert!(refused(bench.copy(Copy { memory: MemoryId(1), ..copy }, &[])));
    assert!(refused(bench.device.back(memory.memory, &[block(0)]).map(|()| never())));
    let page = 0..PAGE_BYTES;
    assert!(refused(bench.device.back(memory.memory, &[page]).map(|()| never())));
}

/// A fence that no device has.
fn never() -> FencePoint {
    FencePoint { timeline: TimelineId::new(DeviceId::new(9).unwrap(), 0), value: 1 }
}

#[test]
fn a_wait_for_a_value_that_was_not_handed_out_is_refused() {
    let bench = bench(own(Backing::Whole));
    let memory = bench.backed(1);
    let x = words(memory.address, 1, Access::Update);
    let first = bench.launch(&DOUBLE, &[x], &[]).unwrap();
    let next = FencePoint { value: first.value + 1, ..first };
    for wait in [next, never()] {
        let refused = bench.launch(&DOUBLE, &[x], &[wait]);
        assert!(matches!(refused, Err(DeviceError::Misuse { .. })));
    }
    assert_eq!(bench.end(first), FenceState::Ok);
}

#[test]
fn a_kernel_without_a_twin_is_refused_by_name() {
    static BARE: Source = Source { twin: None, ..kernel("bare", |_| ()) };
    let bench = bench(EmbeddedOptions::default());
    let refused = bench.device.prepare(&BARE, &ParamLayout::default());
    assert_eq!(refused, Err(DeviceError::NoShader { kernel: "bare", format: "Rust twin" }));
    let kernel = bench.device.prepare(&DOUBLE, &ParamLayout::default()).unwrap();
    assert_eq!(bench.device.prepare(&DOUBLE, &ParamLayout::default()).unwrap(), kernel);
    assert_ne!(bench.device.prepare(&PANIC, &ParamLayout::default()).unwrap(), kernel);
    assert_eq!(kernel, KernelId(0));
}

#[test]
fn a_twin_runs_inside_the_pool_of_its_device() {
    static IN_POOL: Source = kernel("in pool", |twin| {
        twin.write::<u32>(0)[0] = rayon::current_num_threads() as u32;
    });
    let bench =
        bench(EmbeddedOptions { threads: 3.try_into().unwrap(), ..EmbeddedOptions::default() });
    let span = bench.arena.allocate(PAGE_BYTES).unwrap();
    let window = bench.device.open_window(span).unwrap();
    let x = words(window.address, 1, Access::Update);
    let run = bench.launch(&IN_POOL, &[x], &[]).unwrap();
    assert_eq!(bench.end(run), FenceState::Ok);
    assert_eq!(bench.get(span)[0], 3);
}

#[test]
fn a_device_dropped_with_work_in_flight_joins_its_threads() {
    let bench = bench(own(Backing::Whole));
    let memory = bench.backed(1);
    // What runs holds the arena's view, through the window.
    let span = bench.arena.allocate(PAGE_BYTES).unwrap();
    let window = bench.device.open_window(span).unwrap();
    let x = words(window.address, 1, Access::Update);
    let mut last = bench.launch(&SLOW_COUNT, &[x], &[]).unwrap();
    for _ in 0..50 {
        // Each queue waits for the other.
        let zeroed = bench.zero(memory.memory, 0..PAGE_BYTES, &[last]).unwrap();
        last = bench.launch(&SLOW_COUNT, &[x], &[zeroed]).unwrap();
    }
    let Bench { arena, device } = bench;
    drop(device);
    // Nothing holds it any more, so no job is left, running or not.
    assert_eq!(Arc::strong_count(arena.view()), 1);
}
