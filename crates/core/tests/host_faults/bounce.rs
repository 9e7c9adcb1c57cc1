//! Pages go round between threads and two devices, with counters on every page: nothing is lost, nobody is stuck.
//!
//! A few teams share two simulated devices that are too small for all of them, so they evict each other. A team owns a ring of pages. In
//! each round
//!
//! 1. a device, chosen at random, adds one to its counter on some pages and writes down the sum of all counters of each; nobody
//!    waits for it,
//! 2. the team's threads read counters and sums of random pages, while each of them launches kernels that read the ring and prefetches
//!    parts of it,
//! 3. the threads add to their own counters, which lie side by side in one entry of the page table and apart in others.
//!
//! Everything is compared with what each has counted for itself. Devices end their work late, in an order chosen by seed. A thread
//! that has done nothing for a minute has the state of all printed, and the test ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use fastrand::Rng;
use hmmap_core::{
    Cause, Kernel, MemoryModel, Options, Read, Runtime, SharedVec, Source, Update, Write,
    backend::Provider,
    embedded::Backing,
    host::HostFaults,
    kernel::{Arguments, Twin},
    simulated::{SimulatedControl, SimulatedOptions, SimulatedProvider},
};

use crate::rig::device;

const TEAMS: u64 = 2;
const THREADS: usize = 3;
const PAGES: usize = 44;
const PAGE: usize = 65_536 / size_of::<u32>();
/// Elements that one thread owns in a stretch.
const CELL: usize = 64;
const ENTRY: usize = 4096 / size_of::<u32>();
/// Where a thread's two counters are: beside those of the others, and in an entry of its own.
const OWN: [fn(usize) -> usize; 2] = [|thread| thread * CELL, |thread| (thread + 1) * ENTRY];
const DEVICE: usize = 10 * ENTRY;
const SUM: usize = 15 * ENTRY + 7;
/// Touches of one thread in one part of a round.
const STEPS: usize = 8;
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Adds one to the device's counter of each page and writes down the page's sum.
struct Bump<'a> {
    ring: Update<'a, u32>,
}

static BUMP: Source = Source {
    name: "bump",
    spirv: &[],
    ptx: "",
    workgroup: [64, 1, 1],
    twin: Some(|twin: &Twin<'_>| {
        for page in twin.write::<u32>(0).chunks_mut(PAGE) {
            page[DEVICE] += 1;
            page[SUM] = sum(page);
        }
    }),
};

// SAFETY: the twin, the only code, goes through safe slices of the Update argument; it reads no parameters.
unsafe impl Kernel for Bump<'_> {
    fn source() -> &'static Source {
        &BUMP
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.update(&self.ring).grid();
    }
}

/// `sums[p]` is the sum of the counters of page `p`, as a device sees them.
struct Sums<'a> {
    ring: Read<'a, u32>,
    sums: Write<'a, u32>,
}

static SUMS: Source = Source {
    name: "sums",
    spirv: &[],
    ptx: "",
    workgroup: [64, 1, 1],
    twin: Some(|twin: &Twin<'_>| {
        let (ring, sums) = (twin.read::<u32>(0), twin.write::<u32>(1));
        ring.chunks(PAGE).zip(sums).for_each(|(page, total)| *total = sum(page));
    }),
};

// SAFETY: as for Bump; a launch gives as many sums as pages, so the Write argument is overwritten whole.
unsafe impl Kernel for Sums<'_> {
    fn source() -> &'static Source {
        &SUMS
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.ring).write(&self.sums).grid();
    }
}

/// All counters of a page.
fn sum(page: &[u32]) -> u32 {
    let own = (0..THREADS).flat_map(|thread| OWN.map(|place| page[place(thread)]));
    page[DEVICE].wrapping_add(own.fold(0, u32::wrapping_add))
}

/// What the counters of the pages must be.
#[derive(Clone, Default)]
struct Model {
    own: [[u32; OWN.len()]; THREADS],
    device: u32,
    /// The sum that the device wrote last.
    sum: u32,
}

impl Model {
    fn total(&self) -> u32 {
        self.own.iter().flatten().fold(self.device, |sum, own| sum.wrapping_add(*own))
    }

    fn bump(&mut self) {
        self.device += 1;
        self.sum = self.total();
    }

    fn check(&self, page: &[u32], what: &str, rng: &mut Rng) {
        // One element, so that what is touched first differs.
        match rng.u32(..4) {
            0 => assert_eq!(page[DEVICE], self.device, "{what}: the device's counter"),
            1 => assert_eq!(page[SUM], self.sum, "{what}: the device's sum"),
            _ => {
                let (thread, which) = (rng.usize(..THREADS), rng.usize(..OWN.len()));
                assert_eq!(page[OWN[which](thread)], self.own[thread][which], "{what}: {thread}");
            }
        }
    }
}

/// How far everybody is, for whoever watches.
#[derive(Default)]
struct Progress {
    /// What each thread of each team does now, and how often it has done something.
    steps: [[AtomicU64; THREADS]; TEAMS as usize],
    over: AtomicBool,
}

impl Progress {
    fn touched(&self) -> u64 {
        self.steps.iter().flatten().map(|steps| steps.load(Relaxed)).sum()
    }

    /// Ends the process, with what is known, when nobody gets on.
    fn watch(&self, mem: &Runtime, controls: &[SimulatedControl]) {
        let (mut seen, mut since) = (0, Instant::now());
        while !self.over.load(Relaxed) {
            thread::park_timeout(Duration::from_millis(100));
            let now = self.touched();
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            if since.elapsed() > STUCK_AFTER {
                eprintln!("nobody gets on; touches by team and thread: {:?}", self.steps);
                eprintln!("{}", mem.stats());
                for control in controls {
                    eprintln!("not ended: {:?}", control.pending());
                    eprintln!("breaches: {:?}", control.violations());
                }
                std::process::abort();
            }
        }
    }
}

/// One team's ring.
struct Ring<'a> {
    mem: &'a Runtime,
    steps: &'a [AtomicU64; THREADS],
    ring: SharedVec<u32>,
    model: Vec<Model>,
    rng: Rng,
}

impl<'a> Ring<'a> {
    fn new(mem: &'a Runtime, steps: &'a [AtomicU64; THREADS], seed: u64) -> Self {
        let ring = SharedVec::new(mem, PAGES * PAGE).unwrap();
        Self { mem, steps, ring, model: vec![Model::default(); PAGES], rng: Rng::with_seed(seed) }
    }

    fn some_pages(rng: &mut Rng) -> std::ops::Range<usize> {
        let first = rng.usize(..PAGES);
        first..rng.usize(first + 1..=PAGES)
    }

    fn round(&mut self) {
        if self.rng.u32(..50) == 0 {
            // What is in flight on the old one goes on.
            *self = Self::new(self.mem, self.steps, self.rng.u64(..));
        }
        for _ in 0..self.rng.u32(1..4) {
            let (pages, on) = (Self::some_pages(&mut self.rng), device(self.rng.usize(..2)));
            let elements = pages.start * PAGE..pages.end * PAGE;
            let kernel = Bump { ring: self.ring.update().range(elements.clone()) };
            self.mem.launch_on(on, elements.len(), kernel).unwrap();
            self.model[pages].iter_mut().for_each(Model::bump);
        }
        let seeds: [u64; THREADS] = std::array::from_fn(|_| self.rng.u64(..));
        let (ring, model, mem) = (&self.ring, &self.model, self.mem);
        thread::scope(|scope| {
            for (steps, seed) in self.steps.iter().zip(seeds) {
                scope.spawn(move || read(mem, ring, model, &mut Rng::with_seed(seed), steps));
            }
        });
        self.write(seeds);
    }

    /// Each thread adds to its own counters.
    fn write(&mut self, seeds: [u64; THREADS]) {
        let mut own: [Vec<Cells<'_>>; THREADS] = Default::default();
        for (page, model) in self.ring.chunks_mut(PAGE).zip(&mut self.model) {
            let mut cells: Vec<_> = page.chunks_mut(CELL).map(Some).collect();
            for (thread, (own, counts)) in own.iter_mut().zip(&mut model.own).enumerate() {
                own.push((OWN.map(|place| cells[place(thread) / CELL].take().unwrap()), counts));
            }
        }
        thread::scope(|scope| {
            for ((mut own, steps), seed) in own.into_iter().zip(self.steps).zip(seeds) {
                scope.spawn(move || {
                    let mut rng = Rng::with_seed(!seed);
                    for _ in 0..STEPS {
                        let page = rng.usize(..PAGES);
                        let which = rng.usize(..OWN.len());
                        let (cells, counts) = &mut own[page];
                        if rng.bool() {
                            assert_eq!(
                                cells[which][0], counts[which],
                                "own counter of page {page}"
                            );
                        }
                        cells[which][0] += 1;
                        counts[which] += 1;
                        steps.fetch_add(1, Relaxed);
                    }
                });
            }
        });
    }
}

/// One thread's cells on a page, and what it has counted.
type Cells<'a> = ([&'a mut [u32]; OWN.len()], &'a mut [u32; OWN.len()]);

/// Touches pages that others read, send elsewhere and fault home at the same time.
fn read(mem: &Runtime, ring: &SharedVec<u32>, model: &[Model], rng: &mut Rng, steps: &AtomicU64) {
    let mut sums = SharedVec::<u32>::new(mem, PAGES).unwrap();
    let asked = Ring::some_pages(rng);
    let on = device(rng.usize(..2));
    let launched = rng.u32(..3) == 0;
    for step in 0..STEPS {
        let page = rng.usize(..PAGES);
        model[page].check(&ring[page * PAGE..(page + 1) * PAGE], "reading", rng);
        steps.fetch_add(1, Relaxed);
        if launched && step == STEPS / 4 {
            let elements = asked.start * PAGE..asked.end * PAGE;
            let kernel =
                Sums { ring: ring.read().range(elements), sums: sums.write().range(asked.clone()) };
            mem.launch_on(on, asked.len(), kernel).unwrap();
        }
        match rng.u32(..40) {
            0 => {
                let pages = Ring::some_pages(rng);
                ring.prefetch(pages.start * PAGE..pages.end * PAGE, on).unwrap();
            }
            1 => {
                let guard = ring.host(page * PAGE..(page + 1) * PAGE).unwrap();
                model[page].check(guard, "guard", rng);
            }
            // Somebody reads them in order.
            2 => (page..PAGES).for_each(|page| {
                model[page].check(&ring[page * PAGE..(page + 1) * PAGE], "stream", rng);
            }),
            _ => {}
        }
    }
    if launched {
        for page in asked {
            assert_eq!(sums[page], model[page].total(), "what a reading kernel saw of page {page}");
        }
    }
}

fn epoch(rung: HostFaults, seed: u64, progress: &Arc<Progress>, until: u64) -> u64 {
    let providers: Vec<_> = (0..2)
        .map(|k| {
            SimulatedProvider::new(SimulatedOptions {
                seed: seed * 2 + k,
                backing: Backing::Blocks,
                ..SimulatedOptions::default()
            })
        })
        .collect();
    let controls: Vec<_> = providers.iter().map(SimulatedProvider::control).collect();
    let providers = providers.into_iter().map(|one| Arc::new(one) as Arc<dyn Provider>).collect();
    let options = Options {
        host_faults: rung,
        memory_model: MemoryModel::Migrate,
        // Four blocks, for two rings of two blocks each and the sums.
        device_memory_limit_bytes: Some(4 << 21),
        ..Options::default()
    };
    let mem = Runtime::new(providers, options).unwrap();
    assert!(mem.host_faults().is_some(), "userfaultfd was refused");
    thread::scope(|scope| {
        let watch = scope.spawn(|| progress.watch(&mem, &controls));
        let teams: Vec<_> = (0..TEAMS)
            .zip(&progress.steps)
            .map(|(team, steps)| {
                let (mem, progress) = (&mem, progress);
                scope.spawn(move || {
                    let mut ring = Ring::new(mem, steps, seed * TEAMS + team);
                    while progress.touched() < until {
                        ring.round();
                    }
                })
            })
            .collect();
        let ends: Vec<_> = teams.into_iter().map(thread::ScopedJoinHandle::join).collect();
        progress.over.store(true, Relaxed);
        watch.thread().unpark();
        assert!(ends.iter().all(Result::is_ok), "seed {seed}: what went wrong is above");
    });
    progress.over.store(false, Relaxed);
    let breaches: Vec<_> = controls.iter().flat_map(SimulatedControl::violations).collect();
    assert!(breaches.is_empty(), "seed {seed}: {breaches:?}");
    mem.stats()[Cause::Fault].to_host_bytes / 65_536
}

/// How long it goes on.
struct Length {
    /// Pages home by faults.
    pages: u64,
    /// Touches until everything begins anew.
    epoch: u64,
    /// The first seed.
    first: u64,
}

impl Length {
    /// By how many pages an ordinary run takes. The lab's processors are emulated, and take seconds for what others do in a tenth of one.
    fn of(pages: u64) -> Self {
        let is_set = |variable| std::env::var_os(variable).is_some();
        match (is_set("HMMAP_LAB"), is_set("HMMAP_DEEP")) {
            (false, false) => Self { pages, epoch: 20_000, first: 0 },
            (false, true) => Self { pages: pages * 25, epoch: 20_000, first: new_seed() },
            (true, false) => Self { pages: pages / 100, epoch: 500, first: 0 },
            (true, true) => Self { pages: pages / 4, epoch: 5_000, first: new_seed() },
        }
    }
}

/// Another one each time.
fn new_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

fn bounce(rung: HostFaults, pages: u64) {
    let Length { pages, epoch: touches, first } = Length::of(pages);
    let progress = Arc::new(Progress::default());
    let (mut moved, mut epochs) = (0, 0);
    while moved < pages {
        moved += epoch(rung, first + epochs, &progress, (epochs + 1) * touches);
        epochs += 1;
        // It would be no test of faults if most touches found their page at home.
        assert!(moved * 10 > progress.touched(), "{moved} pages in {epochs} epochs");
    }
    println!("HMMAP-COUNT: {moved} pages home by faults, {} touches", progress.touched());
    println!("{epochs} seeds from {first} on");
}

#[test]
fn pages_go_round_between_threads_and_devices() {
    bounce(HostFaults::Auto, 200_000);
}

#[test]
fn pages_go_round_where_host_and_device_never_share_one() {
    bounce(HostFaults::NoSharing, 40_000);
}
