//! Everything at once, for a while: the owner writes on the host and on devices, makes room, discards, frees and makes anew, at random, while a card, a device and pins
//! read by address. At the end every byte is accounted for.
//!
//! What is in a vector is always `seed + i`, or zeros: kernels change the seed, the host writes what is there already (a peer may see a slice of the host's half
//! done). So whoever reads by address knows what it may see, and that is one state, never two.
//!
//! With other processes: `crates/share/tests/processes/soak.rs`.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use hmmap_core::{
    Error, Options, Runtime, SharedVec,
    backend::Provider,
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    host::HostFaults,
    peer::{BusSegment, DevicePeer, MappingState, Participation, PeerError, PeerMapping, Segments},
};
use parking_lot::Mutex;

use crate::{
    card::{Card, Manners, unsafe_words},
    kernels::Count,
    rig::device,
};

const PAGE: usize = 65_536 / 4;
const N: usize = 36 * PAGE;
const VECS: usize = 4;
/// Far apart, so that two states have no word in common at one place.
const SEED_STEP: u32 = 10_000_019;

/// What the readers share with the owner: the mappings of the vectors that there are now.
#[derive(Default)]
struct Shown {
    cards: Mutex<Vec<Arc<PeerMapping>>>,
    devices: Mutex<Vec<Arc<PeerMapping>>>,
    over: AtomicBool,
}

/// Ends the readers also when the owner fails.
struct Ends<'a>(&'a Shown);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, SeqCst);
    }
}

fn is_one_state(words: &[u32]) -> bool {
    let seed = words[0];
    seed == 0 && words.iter().all(|word| *word == 0)
        || words.iter().enumerate().all(|(i, word)| *word == seed.wrapping_add(i as u32))
}

fn words_of(list: &[BusSegment]) -> Vec<u32> {
    list.iter().flat_map(unsafe_words).collect()
}

/// One vector, and what it holds.
struct Owned {
    vec: SharedVec<u32>,
    seed: Option<u32>,
}

struct Pin {
    at: usize,
    first: usize,
    mapping: PeerMapping,
    has_lost_its_vector: bool,
}

struct Owner<'m> {
    mem: &'m Runtime,
    shown: &'m Shown,
    card: Arc<Card>,
    fixed: Arc<Card>,
    device: Arc<DevicePeer>,
    vecs: Vec<Owned>,
    pins: Vec<Pin>,
    seed: u32,
    refused: u32,
}

impl Owner<'_> {
    fn make(&mut self) -> Owned {
        let vec = SharedVec::new(self.mem, N).unwrap();
        Owned { vec, seed: None }
    }

    /// Gives the readers mappings of the vector at `at`.
    fn show(&mut self, at: usize) {
        let vec = &self.vecs[at].vec;
        let card = Arc::new(vec.map_peer(self.card.clone(), ..).unwrap());
        let device = Arc::new(vec.map_peer(self.device.clone(), ..).unwrap());
        for (shown, mapping) in [(&self.shown.cards, card), (&self.shown.devices, device)] {
            let mut shown = shown.lock();
            match shown.get_mut(at) {
                Some(old) => drop(std::mem::replace(old, mapping)),
                None => shown.push(mapping),
            }
        }
    }

    /// True when it was done; a pin may have refused it.
    fn done<T>(&mut self, result: Result<T, Error>) -> bool {
        match result {
            Ok(_) => true,
            Err(Error::Pinned { peer, .. }) => {
                assert_eq!(peer, "card");
                assert!(!self.pins.is_empty(), "refused for a pin that nobody has");
                self.refused += 1;
                false
            }
            Err(Error::OutOfDeviceMemory { pinned_bytes, .. }) => {
                assert!(pinned_bytes > 0 && !self.pins.is_empty(), "nothing was in the way");
                self.refused += 1;
                false
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    fn step(&mut self, random: &mut fastrand::Rng) {
        let at = random.usize(..VECS);
        let i = random.usize(..N);
        let mem = self.mem;
        match random.u32(..100) {
            0..35 => {
                self.seed = self.seed.wrapping_add(SEED_STEP);
                let (seed, on) = (self.seed, device(random.usize(..2)));
                let y = &mut self.vecs[at].vec;
                let launched = mem.launch_on(on, N, Count { y: y.write(), seed, pause_ms: 0 });
                if self.done(launched) {
                    self.vecs[at].seed = Some(seed);
                }
            }
            35..50 => {
                let seed = self.vecs[at].seed;
                let part = i.saturating_sub(2 * PAGE)..i + 1;
                let written = match self.vecs[at].vec.host_mut(part.clone()) {
                    Ok(words) => {
                        for (word, i) in words.iter_mut().zip(part) {
                            *word = holds(seed, i);
                        }
                        Ok(())
                    }
                    Err(error) => Err(error),
                };
                self.done(written);
            }
            50..65 => {
                let owned = &self.vecs[at];
                let part = owned.vec.host(i..N.min(i + 3 * PAGE)).unwrap();
                let is_right = |(k, word): (usize, &u32)| *word == holds(owned.seed, i + k);
                assert!(part.iter().enumerate().all(is_right), "vector {at} from {i}");
            }
            65..72 => {
                let fetched = self.vecs[at].vec.prefetch(.., device(random.usize(..2)));
                self.done(fetched);
            }
            72..80 => {
                let discarded = self.vecs[at].vec.discard(..);
                if self.done(discarded) {
                    self.vecs[at].seed = None;
                }
            }
            80..88 => {
                let new = self.make();
                let old = std::mem::replace(&mut self.vecs[at], new);
                for pin in self.pins.iter_mut().filter(|pin| pin.at == at) {
                    pin.has_lost_its_vector = true;
                }
                drop(old);
                self.show(at);
            }
            88..94 if self.pins.len() < 2 => {
                let first = i / PAGE * PAGE;
                let mapped = self.vecs[at].vec.map_peer(self.fixed.clone(), first..first + PAGE);
                self.pins.push(Pin {
                    at,
                    first,
                    mapping: mapped.unwrap(),
                    has_lost_its_vector: false,
                });
            }
            _ => self.let_go_of_the_oldest_pin(),
        }
    }

    /// Once it has seen what it may see.
    fn let_go_of_the_oldest_pin(&mut self) {
        if self.pins.is_empty() {
            return;
        }
        let pin = self.pins.remove(0);
        if pin.has_lost_its_vector {
            assert_eq!(pin.mapping.state(), MappingState::Released);
            return;
        }
        let Owned { vec, seed } = &self.vecs[pin.at];
        let runs = vec.residency(pin.first..pin.first + 1).unwrap();
        assert!(runs[0].pinned, "{runs:?}");
        // The kernel that wrote it in place may be under way.
        vec.host(pin.first..pin.first + 1).unwrap();
        let words = words_of(pin.mapping.segments().unwrap().list());
        let expected = (0..PAGE).map(|k| holds(*seed, pin.first + k));
        assert!(words.iter().copied().eq(expected), "under a pin");
    }
}

fn holds(seed: Option<u32>, i: usize) -> u32 {
    seed.map_or(0, |seed| seed.wrapping_add(i as u32))
}

/// Reads what is shown, until it is over; how often it got something.
fn read_cards(card: &Card, shown: &Shown, mut random: fastrand::Rng) -> u32 {
    let mut reads = 0;
    while !shown.over.load(SeqCst) {
        let mapping = shown.cards.lock()[random.usize(..VECS)].clone();
        if let Some(words) = card.read(&mapping) {
            assert!(is_one_state(&words), "the card saw {:?}", torn(&words));
            reads += 1;
        }
    }
    reads
}

/// As a device does: inside of [`DevicePeer::work`], with a fence of its own.
fn read_devices(mem: &Runtime, peer: &DevicePeer, shown: &Shown, mut random: fastrand::Rng) -> u32 {
    let mut scratch = SharedVec::<u32>::new(mem, 64).unwrap();
    let mut reads = 0;
    while !shown.over.load(SeqCst) {
        let mapping = shown.devices.lock()[random.usize(..VECS)].clone();
        // Made before: a launch from inside may need room, and wait for the very range that is read.
        let work = Count { y: scratch.write(), seed: 0, pause_ms: 0 };
        let point = match mem.launch_on(device(1), 64, work) {
            Ok(fence) => fence.point().expect("a launch of a kernel has a fence"),
            // Everything there is in use at this moment, or pinned.
            Err(Error::OutOfDeviceMemory { .. }) => continue,
            Err(other) => panic!("{other:?}"),
        };
        let worked = peer.work(&mapping, |segments: &Segments| -> Result<_, Error> {
            let words = words_of(segments.list());
            assert!(is_one_state(&words), "the device saw {:?}", torn(&words));
            Ok(point)
        });
        match worked {
            Ok(_) => reads += 1,
            Err(Error::Peer { source: PeerError::Released, .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    reads
}

/// The first word that does not fit the one before it.
fn torn(words: &[u32]) -> Option<(usize, u32, u32)> {
    let at = words.windows(2).position(|two| two[1] != two[0].wrapping_add(1) && two[0] != two[1]);
    at.map(|at| (at, words[at], words[at + 1]))
}

fn soak(host_faults: HostFaults, steps: u32, seed: u64) {
    let memory = EmbeddedOptions { memory: EmbeddedMemory::Own, ..EmbeddedOptions::default() };
    let provider = || -> Arc<dyn Provider> { Arc::new(EmbeddedProvider::new(memory.clone())) };
    // Room for two and a half of the four.
    let device_memory_limit_bytes = Some(10 * N as u64);
    // Nobody is late here, however busy the machine is.
    let peer_deadline = Some(Duration::from_secs(100));
    let options =
        Options { host_faults, device_memory_limit_bytes, peer_deadline, ..Options::default() };
    let mem = Runtime::new(vec![provider(), provider()], options).unwrap();
    let shown = Shown::default();
    let card = Card::honest();
    let fixed = Card { participation: Participation::Static, ..Card::new(Manners::Panics) };
    let fixed = Arc::new(fixed);
    let peer = mem.device_peer(device(1)).unwrap();
    let mut owner = Owner {
        mem: &mem,
        shown: &shown,
        card: card.clone(),
        fixed: fixed.clone(),
        device: peer.clone(),
        vecs: Vec::new(),
        pins: Vec::new(),
        seed: 0,
        refused: 0,
    };
    for at in 0..VECS {
        let new = owner.make();
        owner.vecs.push(new);
        owner.show(at);
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let (by_card, by_device) = thread::scope(|scope| {
        let ends = Ends(&shown);
        let seeds = [random.fork(), random.fork()];
        let [first, second] = seeds;
        let cards = scope.spawn(|| read_cards(&card, &shown, first));
        let devices = scope.spawn(|| read_devices(&mem, &peer, &shown, second));
        for _ in 0..steps {
            owner.step(&mut random);
        }
        drop(ends);
        (cards.join().unwrap(), devices.join().unwrap())
    });
    let refused = owner.refused;
    owner.pins.clear();
    for (at, owned) in owner.vecs.iter().enumerate() {
        let words = owned.vec.host(..).unwrap();
        assert!((0..N).all(|i| words[i] == holds(owned.seed, i)), "vector {at} at the end");
    }
    shown.cards.lock().clear();
    shown.devices.lock().clear();
    drop(owner);
    // A prefetch may be under way yet.
    let used = || (0..2).map(|index| mem.device_memory(device(index)).unwrap().used_bytes);
    let deadline = Instant::now() + Duration::from_secs(30);
    while used().sum::<u64>() > 0 && Instant::now() < deadline {
        thread::yield_now();
        mem.trim();
    }
    let stats = mem.stats();
    println!(
        "{host_faults:?}: {steps} steps, {by_card} reads by the card, {by_device} by the device, {refused} refused for pins, \
         {} taken back, {} blocks evicted",
        stats.revocations, stats.evicted_blocks
    );
    assert!(by_card > 0 && by_device > 0 && stats.revocations > 0);
    assert_eq!((stats.late_peers, stats.pinned_bytes), (0, 0));
    let mapped = [&card, &fixed].map(|card| card.mapped.load(SeqCst));
    assert_eq!(mapped, [0, 0], "addresses that were not given back");
    assert_eq!(used().collect::<Vec<_>>(), [0, 0], "bytes on devices that nobody has");
}

#[test]
fn every_byte_is_accounted_for_while_peers_read_and_the_owner_moves_evicts_and_frees() {
    let deep = std::env::var_os("HMMAP_DEEP").is_some();
    let steps = if deep { 40_000 } else { 600 };
    for (rung, host_faults) in crate::rig::RUNGS.into_iter().enumerate() {
        // New ones each time where there is time for it.
        let seed = if deep { RandomState::new().hash_one(rung) } else { rung as u64 };
        println!("seed {seed}");
        soak(host_faults, steps, seed);
    }
}
