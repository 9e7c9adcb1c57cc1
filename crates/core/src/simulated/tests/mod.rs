mod failure;
mod hazard;
mod memory;

use std::{thread, time::Duration};

use super::{
    HostWindows, LinkModel, Progress, Queues, SimulatedControl, SimulatedMemory, SimulatedOptions,
    SimulatedProvider,
};
use crate::{
    access::Access,
    backend::{
        ArrayArgument, Copy, DeviceError, Direction, Reservation,
        bench::{Bench, block, kernel, words},
    },
    fence::{FencePoint, FenceState},
    host::HostSpan,
    kernel::Source,
    units::PAGE_BYTES,
};

/// Writes nothing, and so breaks the promise of a `Write` argument.
static IDLE: Source = kernel("idle", |_| ());
static INCREMENT: Source = kernel("increment", |twin| {
    twin.write::<u32>(0).iter_mut().for_each(|x| *x = x.wrapping_add(1));
});

/// What no reader takes for data: huge, or no number at all.
fn garbage(word: &u32) -> bool {
    let float = f32::from_bits(*word);
    float.is_nan() || float.abs() > 1e20
}

struct Rig {
    bench: Bench,
    control: SimulatedControl,
    memory: Reservation,
}

impl Rig {
    /// An open device with two backed blocks.
    fn new(options: SimulatedOptions) -> Self {
        let provider = SimulatedProvider::new(options);
        let bench = Bench::new(&provider);
        let memory = bench.backed(2);
        Self { bench, control: provider.control(), memory }
    }

    fn by_step(seed: u64) -> Self {
        Self::new(SimulatedOptions { seed, progress: Progress::ByStep, ..Default::default() })
    }

    /// The first words of a page of the device's memory.
    fn page(&self, number: u64, access: Access) -> [ArrayArgument; 1] {
        [words(self.memory.address + number * PAGE_BYTES, 16, access)]
    }

    /// Submits a kernel on a page.
    fn launch(&self, source: &'static Source, page: u64, waits: &[FencePoint]) -> FencePoint {
        self.bench.launch(source, &self.page(page, Access::Update), waits).unwrap()
    }

    fn copy(&self, direction: Direction, host: HostSpan, waits: &[FencePoint]) -> FencePoint {
        let copy = Copy { direction, host, memory: self.memory.memory, offset_bytes: 0 };
        self.bench.copy(copy, waits).unwrap()
    }

    /// The device's first bytes, once everything is done.
    fn read(&self, len_bytes: u64) -> Vec<u32> {
        self.control.run_all();
        let span = self.bench.arena.allocate(len_bytes).unwrap();
        let pending: Vec<_> = self.control.records().iter().map(|record| record.fence).collect();
        let down = self.copy(Direction::DeviceToHost, span, &pending);
        self.control.run_all();
        assert_eq!(self.bench.device.poll(down), FenceState::Ok);
        self.bench.get(span)
    }
}

#[test]
fn work_is_late_and_done_only_when_stepped() {
    let rig = Rig::by_step(1);
    let zeroed = rig.bench.zero(rig.memory.memory, 0..PAGE_BYTES, &[]).unwrap();
    let run = rig.launch(&INCREMENT, 0, &[zeroed]);
    for _ in 0..100 {
        assert_eq!(rig.bench.device.poll(run), FenceState::Pending);
    }
    assert_eq!(rig.bench.device.wait(run, Duration::from_millis(1)), FenceState::Pending);
    assert!(!rig.control.step_to(run), "it waits for the fill");
    assert_eq!(rig.control.step(), Some(zeroed));
    assert_eq!(rig.bench.device.poll(run), FenceState::Pending);
    assert_eq!(rig.control.pending(), [run]);
    assert_eq!(rig.control.step(), Some(run));
    assert_eq!(rig.bench.device.poll(run), FenceState::Ok);
    assert_eq!(rig.control.step(), None);
    assert_eq!(rig.read(PAGE_BYTES)[..17], [[1; 16].as_slice(), &[0]].concat());
    assert_eq!(rig.control.violations(), []);
}

#[test]
fn a_wait_moves_the_device_on_and_a_poll_does_so_sooner_or_later() {
    let rig = Rig::new(SimulatedOptions { seed: 3, ..Default::default() });
    let runs: Vec<_> = (0..8).map(|page| rig.launch(&INCREMENT, page, &[])).collect();
    assert_eq!(rig.bench.device.wait(runs[7], Duration::ZERO), FenceState::Ok);
    let later = rig.launch(&INCREMENT, 9, &[]);
    let polls = (0..1000).take_while(|_| rig.bench.device.poll(later) == FenceState::Pending);
    assert!(polls.count() < 1000);
}

#[test]
fn values_end_in_order_though_works_run_out_of_order() {
    let rig = Rig::by_step(0);
    let [first, second, third] = [0, 1, 2].map(|page| rig.launch(&INCREMENT, page, &[]));
    let dependent = rig.bench.zero(rig.memory.memory, PAGE_BYTES..2 * PAGE_BYTES, &[second]);
    let dependent = dependent.unwrap();
    assert!(rig.control.step_to(third));
    assert!(rig.control.step_to(second));
    let states = || [first, second, third].map(|point| rig.bench.device.poll(point));
    assert_eq!(states(), [FenceState::Pending; 3]);
    assert!(!rig.control.step_to(dependent), "the value that it waits for has not ended");
    assert!(rig.control.step_to(first));
    assert_eq!(states(), [FenceState::Ok; 3]);
    assert!(rig.control.step_to(dependent));
    let turns: Vec<_> = rig.control.records().iter().map(|record| record.turn).collect();
    assert_eq!(turns, [Some(2), Some(1), Some(0), Some(3)]);
}

#[test]
fn the_seed_decides_the_order_and_nothing_else_does() {
    let order = |seed| {
        let rig = Rig::by_step(seed);
        for page in 0..10 {
            rig.launch(&INCREMENT, page, &[]);
            rig.bench.zero(rig.memory.memory, block(1), &[]).unwrap();
        }
        std::iter::from_fn(|| rig.control.step()).collect::<Vec<_>>()
    };
    assert_eq!(order(5), order(5));
    assert!((0..5).any(|seed| order(seed) != order(5)));
    assert!(!order(5).is_sorted_by_key(|point| point.value));
}

#[test]
fn the_clock_counts_what_the_host_waits_for_and_overlaps_what_it_does_not() {
    let link = LinkModel {
        upload_bytes_per_s: 1_000_000_000,
        download_bytes_per_s: 500_000_000,
        memory_bytes_per_s: u64::MAX,
        copy_latency_ns: 3,
        submit_latency_ns: 100,
        ..LinkModel::default()
    };
    let rig = Rig::new(SimulatedOptions { link, ..Default::default() });
    let span = rig.bench.arena.allocate(PAGE_BYTES).unwrap();
    let up = rig.copy(Direction::HostToDevice, span, &[]);
    let beside = rig.launch(&INCREMENT, 9, &[]);
    assert_eq!(rig.control.clock_ns(), 0);
    rig.bench.end(beside);
    assert_eq!(rig.control.clock_ns(), 100);
    rig.bench.end(up);
    assert_eq!(rig.control.clock_ns(), 103 + PAGE_BYTES);
    let down = rig.copy(Direction::DeviceToHost, span, &[up]);
    let after = rig.launch(&INCREMENT, 0, &[down]);
    rig.bench.end(down);
    assert_eq!(rig.control.clock_ns(), 206 + 3 * PAGE_BYTES);
    rig.bench.end(after);
    assert_eq!(rig.control.clock_ns(), 306 + 3 * PAGE_BYTES);
    let counters = rig.control.counters();
    assert_eq!((counters.uploaded_bytes, counters.downloaded_bytes), (PAGE_BYTES, PAGE_BYTES));
    assert_eq!((counters.transfers, counters.copies, counters.launches), (2, 2, 2));
}

#[test]
fn the_options_say_what_is_there() {
    let options = SimulatedOptions {
        memory: SimulatedMemory::Host,
        windows: HostWindows::Absent,
        queues: Queues::One,
        ..Default::default()
    };
    let rig = Rig::new(options);
    let facts = rig.bench.device.facts();
    assert!(facts.shares_host_memory);
    assert!(!facts.capabilities.host_window.is_proved());
    let span = rig.bench.arena.allocate(PAGE_BYTES).unwrap();
    let refused = rig.bench.device.open_window(span);
    assert!(matches!(refused, Err(DeviceError::Unsupported { .. })));
    let run = rig.launch(&INCREMENT, 0, &[]);
    let zeroed = rig.bench.zero(rig.memory.memory, block(1), &[]).unwrap();
    assert_eq!(run.timeline, zeroed.timeline);
}

#[test]
fn several_threads_may_use_it() {
    let rig = Rig::new(SimulatedOptions { seed: 11, ..Default::default() });
    thread::scope(|scope| {
        for page in 0..4 {
            let rig = &rig;
            scope.spawn(move || {
                let mut last = rig.bench.zero(
                    rig.memory.memory,
                    page * PAGE_BYTES..(page + 1) * PAGE_BYTES,
                    &[],
                );
                for _ in 0..20 {
                    last = Ok(rig.launch(&INCREMENT, page, &[last.unwrap()]));
                }
                assert_eq!(rig.bench.end(last.unwrap()), FenceState::Ok);
            });
        }
    });
    assert_eq!(rig.control.violations(), []);
    let words = rig.read(4 * PAGE_BYTES);
    assert!((0..4).all(|page| words[page * PAGE_BYTES as usize / 4] == 20));
}

#[test]
fn another_thread_steps_what_one_waits_for() {
    let rig = Rig::by_step(0);
    let run = rig.launch(&INCREMENT, 0, &[]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| rig.bench.end(run));
        assert!(rig.control.step_to(run));
        assert_eq!(waiting.join().unwrap(), FenceState::Ok);
    });
}
