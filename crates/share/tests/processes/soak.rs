//! Everything at once, across processes: the owner writes, moves, evicts, discards and frees at random, while a card, a device and pins of its own read by address, and
//! two other processes read the same vector and count in another one.
//!
//! What is in a frame is always `seed + i`, or zeros; so whoever reads knows what it may see. What is counted is added up at the end.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use hmmap_core::{
    DeviceId, Error, Options, Runtime, SharedVec,
    backend::Provider,
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    peer::{DevicePeer, Participation, PeerError, PeerMapping, Segments},
};
use hmmap_share::{ExportEvent, Exporter, ExporterOptions, Importer, ImporterOptions};
use parking_lot::Mutex;

use crate::{
    BLOCK, PAGE,
    card::{Card, Manners, unsafe_words},
    harness::{Other, hear, part, say, socket_path},
    kernels::{Add, Count},
};

const N: usize = BLOCK + 3 * PAGE;
/// Far apart, so that two states have no word in common at one place.
const SEED_STEP: u32 = 10_000_019;
const COUNTERS: usize = 4 * PAGE;

fn rounds() -> u32 {
    if std::env::var_os("HMMAP_DEEP").is_some() { 20_000 } else { 300 }
}

/// Every word of one state, or all zeros.
fn is_one_state(words: &[u32]) -> bool {
    words.iter().all(|word| *word == 0)
        || words.windows(2).all(|two| two[1] == two[0].wrapping_add(1))
}

fn runtime(devices: usize, limit_bytes: u64) -> Runtime {
    let memory = EmbeddedOptions { memory: EmbeddedMemory::Own, ..EmbeddedOptions::default() };
    let provider = || -> Arc<dyn Provider> { Arc::new(EmbeddedProvider::new(memory.clone())) };
    let options = Options {
        device_memory_limit_bytes: Some(limit_bytes),
        // Nobody is late here, however busy the machine is.
        peer_deadline: Some(Duration::from_secs(100)),
        ..Options::default()
    };
    Runtime::new((0..devices).map(|_| provider()).collect(), options).unwrap()
}

fn device(index: usize) -> DeviceId {
    DeviceId::new(index).unwrap()
}

/// The other process: reads the frames page by page and by a kernel, and counts.
fn play_the_other(socket: &std::path::Path) {
    let mem = runtime(1, 64 << 20);
    let importer = Importer::connect(socket, ImporterOptions::default()).unwrap();
    let mut counters = importer.open::<u32>(&mem, "counters").unwrap();
    let mut random = fastrand::Rng::with_seed(u64::from(std::process::id()));
    let mut sum = SharedVec::<u32>::new(&mem, N).unwrap();
    let mut reads = 0;
    while reads < rounds() {
        // Between two frames there is none of that name.
        let Ok(frames) = importer.open::<u32>(&mem, "frames") else {
            thread::yield_now();
            continue;
        };
        while reads < rounds() {
            let page = random.usize(..N / PAGE);
            let mut words = vec![0; PAGE];
            match frames.copy_to(page * PAGE, &mut words) {
                Ok(()) => assert!(is_one_state(&words), "page {page} was half written"),
                Err(Error::Home { .. }) => break,
                Err(other) => panic!("{other:?}"),
            }
            if reads % 8 == 0 {
                sum.fill(0);
                match mem.launch(N, Add { x: frames.read(), y: sum.update() }) {
                    Ok(_) => {
                        assert!(is_one_state(sum.host(..).unwrap()), "a kernel saw two states")
                    }
                    Err(Error::Home { .. }) => break,
                    Err(other) => panic!("{other:?}"),
                }
            }
            counters.atomic_add(random.usize(..COUNTERS), 1).unwrap();
            reads += 1;
        }
    }
    say("counted");
    // With the pages that it has.
    hear("taken back");
}

/// What the readers of the owner's process share with it.
#[derive(Default)]
struct Shown {
    card: Mutex<Option<Arc<PeerMapping>>>,
    device: Mutex<Option<Arc<PeerMapping>>>,
    over: AtomicBool,
}

/// Ends what waits for these, also when the owner fails.
struct Ends<'a>([&'a AtomicBool; 2]);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|over| over.store(true, SeqCst));
    }
}

/// Sees the other process to its end.
fn go_along(mut other: Other, counted: &AtomicUsize, taken: &AtomicBool) {
    other.expect("counted");
    counted.fetch_add(1, SeqCst);
    while !taken.load(SeqCst) {
        thread::sleep(Duration::from_millis(1));
    }
    other.tell("taken back");
    other.join();
}

fn read_by_card(card: &Card, shown: &Shown) {
    while !shown.over.load(SeqCst) {
        let Some(mapping) = shown.card.lock().clone() else { continue };
        if let Some(words) = card.read(&mapping) {
            assert!(is_one_state(&words), "the card saw two states");
        }
        thread::sleep(Duration::from_micros(500));
    }
}

fn read_by_device(mem: &Runtime, peer: &DevicePeer, shown: &Shown) {
    let mut scratch = SharedVec::<u32>::new(mem, 64).unwrap();
    while !shown.over.load(SeqCst) {
        let Some(mapping) = shown.device.lock().clone() else { continue };
        let work = Count { y: scratch.write(), seed: 0, pause_ms: 0 };
        let Ok(fence) = mem.launch_on(device(1), 64, work) else { continue };
        let point = fence.point().expect("a launch of a kernel has a fence");
        let worked = peer.work(&mapping, |segments: &Segments| -> Result<_, Error> {
            let words: Vec<u32> = segments.list().iter().flat_map(unsafe_words).collect();
            assert!(is_one_state(&words), "the device saw two states");
            Ok(point)
        });
        let is_fine =
            matches!(&worked, Ok(_) | Err(Error::Peer { source: PeerError::Released, .. }));
        assert!(is_fine, "{worked:?}");
        thread::sleep(Duration::from_micros(500));
    }
}

fn random() -> fastrand::Rng {
    let seed = match std::env::var_os("HMMAP_DEEP") {
        Some(_) => RandomState::new().hash_one(0),
        None => 5,
    };
    println!("seed {seed}");
    fastrand::Rng::with_seed(seed)
}

struct Owner<'m> {
    mem: &'m Runtime,
    exporter: &'m Exporter,
    shown: &'m Shown,
    card: Arc<Card>,
    fixed: Arc<Card>,
    device: Arc<DevicePeer>,
    frames: SharedVec<u32>,
    ballast: SharedVec<u32>,
    pin: Option<PeerMapping>,
    seed: u32,
    refused: u32,
}

impl Owner<'_> {
    fn show(&mut self) {
        self.exporter.export("frames", &self.frames).unwrap();
        let card = self.frames.map_peer(self.card.clone(), ..).unwrap();
        let device = self.frames.map_peer(self.device.clone(), ..).unwrap();
        *self.shown.card.lock() = Some(Arc::new(card));
        *self.shown.device.lock() = Some(Arc::new(device));
    }

    /// A pin may refuse it.
    fn done<T>(&mut self, result: Result<T, Error>) {
        match result {
            Ok(_) => {}
            Err(Error::Pinned { .. } | Error::OutOfDeviceMemory { .. }) if self.pin.is_some() => {
                self.refused += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    fn step(&mut self, random: &mut fastrand::Rng) {
        let (mem, on) = (self.mem, device(random.usize(..2)));
        match random.u32(..100) {
            0..45 => {
                self.seed = self.seed.wrapping_add(SEED_STEP);
                let work = Count { y: self.frames.write(), seed: self.seed, pause_ms: 0 };
                let launched = mem.launch_on(on, N, work);
                self.done(launched);
            }
            45..60 => {
                // Makes no room for both.
                let work = Count { y: self.ballast.write(), seed: 0, pause_ms: 0 };
                let launched = mem.launch_on(on, N, work);
                self.done(launched);
            }
            60..70 => {
                let whole = self.frames.host(..).unwrap();
                assert!(is_one_state(whole), "the owner sees two states");
            }
            70..78 => {
                let fetched = self.frames.prefetch(.., on);
                self.done(fetched);
            }
            78..84 => {
                let discarded = self.frames.discard(..);
                self.done(discarded);
            }
            84..88 => {
                assert!(self.exporter.withdraw("frames"));
                self.pin = None;
                self.frames = SharedVec::shareable(mem, N).unwrap();
                self.show();
            }
            88..94 if self.pin.is_none() => {
                let at = random.usize(..N);
                self.pin = Some(self.frames.map_peer(self.fixed.clone(), at..at + 1).unwrap());
            }
            _ => self.pin = None,
        }
    }
}

/// All vectors and mappings are gone.
fn account_for(mem: &Runtime) {
    let used = || (0..2).map(|index| mem.device_memory(device(index)).unwrap().used_bytes);
    // A prefetch may be under way yet.
    let deadline = Instant::now() + Duration::from_secs(30);
    while used().sum::<u64>() > 0 && Instant::now() < deadline {
        thread::yield_now();
        mem.trim();
    }
    assert_eq!(used().collect::<Vec<_>>(), [0, 0], "bytes on devices that nobody has");
    assert_eq!((mem.stats().late_peers, mem.stats().pinned_bytes), (0, 0));
}

#[test]
fn two_processes_and_three_peers_read_and_count_while_the_owner_moves_evicts_and_frees() {
    const NAME: &str =
        "soak::two_processes_and_three_peers_read_and_count_while_the_owner_moves_evicts_and_frees";
    if let Some(socket) = part() {
        return play_the_other(&socket);
    }
    // Frames and ballast take two blocks each: they do not both fit.
    let mem = runtime(2, 3 * 4 * BLOCK as u64);
    let socket = socket_path(NAME);
    let mut options = ExporterOptions::default();
    options.deadline = Duration::from_secs(75);
    let exporter = Exporter::bind(&socket, options).unwrap();
    let counters = SharedVec::<u32>::shareable(&mem, COUNTERS).unwrap().lend().unwrap();
    exporter.export_lent("counters", &counters).unwrap();
    let shown = Shown::default();
    let card = Card::honest();
    let fixed = Card { participation: Participation::Static, ..Card::new(Manners::Panics) };
    let peer = mem.device_peer(device(1)).unwrap();
    let mut owner = Owner {
        mem: &mem,
        exporter: &exporter,
        shown: &shown,
        card: card.clone(),
        fixed: Arc::new(fixed),
        device: peer.clone(),
        frames: SharedVec::shareable(&mem, N).unwrap(),
        ballast: SharedVec::new(&mem, N).unwrap(),
        pin: None,
        seed: 0,
        refused: 0,
    };
    owner.show();
    let mut random = random();
    let (counted, mut steps) = (AtomicUsize::new(0), 0);
    let (taken, mut total) = (AtomicBool::new(false), 0);
    thread::scope(|scope| {
        let ends = Ends([&shown.over, &taken]);
        for _ in 0..2 {
            let other = Other::start(NAME, &socket);
            scope.spawn(|| go_along(other, &counted, &taken));
        }
        scope.spawn(|| read_by_card(&card, &shown));
        scope.spawn(|| read_by_device(&mem, &peer, &shown));
        let until = Instant::now() + Duration::from_secs(if rounds() > 1_000 { 3000 } else { 200 });
        while counted.load(SeqCst) < 2 {
            assert!(Instant::now() < until, "the others do not come to an end");
            owner.step(&mut random);
            counters.atomic_add(random.usize(..COUNTERS), 1).unwrap();
            steps += 1;
            // The others are to get their turn on two processors.
            thread::sleep(Duration::from_millis(2));
        }
        total = counters.take_back().unwrap().iter().sum();
        drop(ends);
    });
    assert_eq!(total, steps + 2 * rounds(), "something was counted twice or not at all");
    let lost = |event: &ExportEvent| matches!(event, ExportEvent::Lost { .. });
    let events = exporter.take_events();
    assert!(!events.iter().any(lost), "{events:?}");
    println!("{steps} steps, {} refused for pins; {}", owner.refused, mem.stats());
    (*shown.card.lock(), *shown.device.lock()) = (None, None);
    drop((owner, peer));
    drop(exporter);
    account_for(&mem);
    assert_eq!(card.mapped.load(SeqCst), 0, "addresses that were not given back");
    drop(mem);
    std::fs::remove_file(socket).unwrap();
}
