//! Peers that take part: they read where the pages are, and lose them when somebody writes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use hmmap_core::{
    Access, Cause, Error, NodeId, Options, Runtime, SharedVec,
    backend::Provider,
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    peer::{AddressFault, AddressLimits, MappingState, Peer, PeerError, PeerEvent, PeerMapping},
};

use crate::{
    card::{Card, Manners, Work, unsafe_words},
    kernels::{Add, Count},
    rig::{RUNGS, device, each_rung, runtime},
};

const N: usize = 100_000;
/// Elements in a page.
const PAGE: usize = 65_536 / 4;

/// A vector that the first device wrote.
fn counted(mem: &Runtime, seed: u32) -> SharedVec<u32> {
    let mut y = SharedVec::<u32>::new(mem, N).unwrap();
    mem.launch(N, Count { y: y.write(), seed, pause_ms: 0 }).unwrap();
    y
}

fn counts_from(words: &[u32], seed: u32) -> bool {
    words.iter().enumerate().all(|(i, word)| *word == seed.wrapping_add(i as u32))
}

#[test]
fn q1_residency_names_peers_without_moving_anything() {
    each_rung(|mem| {
        let y = counted(mem, 5);
        let card = Card::honest();
        let mapping = y.map_peer(card.clone(), PAGE..3 * PAGE).unwrap();
        let before = mem.stats();
        let runs = y.residency(..).unwrap();
        assert_eq!(runs[0].pages, 0..1);
        assert_eq!((runs[0].peers, runs[1].pages.clone(), runs[1].peers), (0, 1..3, 1));
        assert!(!runs[1].pinned && runs[1].to_string().contains("mapped by 1 peers"));
        assert_eq!(mem.stats().total(), before.total());
        drop(mapping);
        assert!(y.residency(..).unwrap().iter().all(|run| run.peers == 0));
        assert_eq!(card.mapped.load(SeqCst), 0, "each map was undone");
    });
}

#[test]
fn q1_whose_memory_a_page_is_in_is_told_while_work_is_in_flight() {
    let mem = runtime(RUNGS[0], EmbeddedMemory::Own, 2);
    let mut y = SharedVec::<u32>::new(&mem, N).unwrap();
    assert_eq!(y.residency(..).unwrap()[0].access(), None, "nobody has what was never written");
    let work = Count { y: y.write(), seed: 3, pause_ms: 2000 };
    let fence = mem.launch_on(device(1), N, work).unwrap();
    let before = mem.stats();
    let runs = y.residency(..).unwrap();
    assert!(!fence.has_ended(), "it was not waited for");
    assert!(runs.len() == 1 && runs[0].pending, "{runs:?}");
    assert_eq!((runs[0].access(), runs[0].is_clean()), (Some(Access::Update), false));
    // From the page to the device, and to what it says of itself.
    let provider = runs[0].nodes[0].device().expect("it is no host memory");
    let known = &mem.facts(provider).unwrap().summary;
    assert_eq!(provider, device(1));
    assert!(!known.name.is_empty() && !known.driver.is_empty(), "{known:?}");
    assert_eq!((known.uuid, known.pci), (None, None), "this one is software");
    assert_eq!(mem.stats().total(), before.total());
    // Two have it once the host has read it.
    assert_eq!(y.host(..PAGE).unwrap()[1], 4);
    let runs = y.residency(..).unwrap();
    assert_eq!(runs[0].nodes.as_slice(), [NodeId::HOST, NodeId::of_device(device(1))]);
    assert_eq!((runs[0].access(), runs[0].is_clean()), (Some(Access::Read), true));
    assert_eq!((runs[1].access(), runs[1].is_clean()), (Some(Access::Update), false));
}

#[test]
fn q2_addresses_lead_to_the_bytes_where_they_are() {
    each_rung(|mem| {
        let y = counted(mem, 40);
        let card = Card::honest();
        let before = mem.stats();
        let mapping = y.map_peer(card.clone(), 10..N - 3).unwrap();
        let words = card.read(&mapping).unwrap();
        assert_eq!(words.len(), N - 13);
        assert!(counts_from(&words, 50));
        // It reaches the device's own memory, so nothing had to move.
        assert_eq!((mem.stats() - before)[Cause::Peer].bytes(), 0);
    });
}

#[test]
fn q2_what_the_peer_does_not_reach_comes_home() {
    let mem = runtime(RUNGS[0], EmbeddedMemory::Own, 1);
    let y = counted(&mem, 9);
    let card = Arc::new(Card { reaches_devices: false, ..Card::new(Manners::Honest) });
    let mapping = y.map_peer(card.clone(), ..).unwrap();
    assert!(counts_from(&card.read(&mapping).unwrap(), 9));
    let pages = y.residency(..).unwrap().last().unwrap().pages.end;
    assert_eq!(mem.stats()[Cause::Peer].to_host_bytes, pages * 65_536);
    let nowhere = Arc::new(Card { reaches_host: false, ..Card::new(Manners::Honest) });
    let nowhere = Arc::new(Card { reaches_devices: false, ..Arc::into_inner(nowhere).unwrap() });
    let error = y.map_peer(nowhere.clone(), ..).unwrap_err();
    let Error::Peer { source: PeerError::Unreachable { reason, .. }, .. } = &error else {
        panic!("{error}");
    };
    assert!(reason.contains("keeps it away"));
    assert_eq!(y.residency(..).unwrap()[0].peers, 1, "the refused one left nothing");
}

#[test]
fn q2_segments_keep_to_the_limits() {
    let mem = runtime(RUNGS[0], EmbeddedMemory::Own, 1);
    let y = counted(&mem, 3);
    let limits =
        AddressLimits { max_segment_bytes: 5000, alignment_bytes: 4096, ..Default::default() };
    let card = Arc::new(Card { limits, ..Card::new(Manners::Honest) });
    let mapping = y.map_peer(card.clone(), ..2 * PAGE).unwrap();
    let segments = mapping.segments().unwrap();
    assert_eq!(segments.list().len(), 32);
    assert!(segments.list().iter().all(|segment| segment.len_bytes == 4096));
    assert!(counts_from(&card.read(&mapping).unwrap(), 3));
    let error = y.map_peer(card.clone(), 1..PAGE).unwrap_err();
    let fault = PeerError::Addresses(AddressFault::Misaligned { addr: 0, alignment_bytes: 4096 });
    let Error::Peer { source, .. } = error else { panic!("{error}") };
    assert_eq!(std::mem::discriminant(&source), std::mem::discriminant(&fault));
    let short = AddressLimits { address_bits: 20, ..Default::default() };
    let legs = Arc::new(Card { limits: short, ..Card::new(Manners::Honest) });
    let error = y.map_peer(legs.clone(), ..).unwrap_err();
    let is_too_wide = matches!(
        &error,
        Error::Peer { source: PeerError::Addresses(AddressFault::TooWide { .. }), .. }
    );
    assert!(is_too_wide, "{error}");
    assert_eq!(legs.mapped.load(SeqCst), 0, "what it could not use was unmapped again");
}

/// Checks that a mapping was taken back once, for this, and that the peer sees what was written when it maps again.
fn taken_back(
    card: &Arc<Card>,
    mapping: &PeerMapping,
    stamp: hmmap_core::peer::Stamp,
    cause: Cause,
    initiator: NodeId,
) {
    assert!(mapping.retry(stamp), "{cause}");
    let told = card.last();
    assert_eq!((told.cause(), told.initiator()), (cause, initiator));
    assert_eq!(told.bytes(), mapping.bytes());
    assert_eq!(mapping.state(), MappingState::Unmapped);
    assert_eq!(card.mapped.load(SeqCst), 0);
}

#[test]
fn a_mapping_says_whether_reading_alone_is_enforced() {
    let mem = runtime(RUNGS[0], EmbeddedMemory::Own, 1);
    let y = counted(&mem, 1);
    let trusted = y.map_peer(Card::honest(), ..).unwrap();
    let bound = Card { enforces_reading: true, ..Card::new(Manners::Honest) };
    let bound = y.map_peer(Arc::new(bound), ..).unwrap();
    assert!(!trusted.is_enforced() && bound.is_enforced());
    drop((trusted, bound));
    let y = y.lend().unwrap();
    let writes = y.map_peer(Card::honest(), .., Access::Update).unwrap();
    let reads = y.map_peer(Card::honest(), .., Access::Read).unwrap();
    assert!(writes.is_enforced() && !reads.is_enforced());
}

#[test]
fn q3_every_writer_takes_the_range_back_first() {
    each_rung(|mem| {
        let mut y = counted(mem, 0);
        let x = SharedVec::from_slice(mem, &vec![1u32; N]).unwrap();
        let card = Card::honest();
        let mapping = y.map_peer(card.clone(), ..).unwrap();
        let node = mem.node(device(1)).unwrap();

        let stamp = mapping.segments().unwrap().stamp();
        mem.launch_on(device(1), N, Add { x: x.read(), y: y.update() }).unwrap();
        taken_back(&card, &mapping, stamp, Cause::Launch, node);
        assert!(counts_from(&card.read(&mapping).unwrap(), 1), "the new bytes");

        let stamp = mapping.segments().unwrap().stamp();
        y.host_mut(..).unwrap()[0] = 1;
        taken_back(&card, &mapping, stamp, Cause::Guard, NodeId::HOST);
        assert!(counts_from(&card.read(&mapping).unwrap(), 1));

        // Without page faults only a vector that some launch closed asks.
        if mem.host_faults().is_some() {
            let stamp = mapping.segments().unwrap().stamp();
            y[7 * 1000] = 7001;
            taken_back(&card, &mapping, stamp, Cause::Fault, NodeId::HOST);
            assert!(counts_from(&card.read(&mapping).unwrap(), 1));
        }

        let stamp = mapping.segments().unwrap().stamp();
        y.discard(..).unwrap();
        taken_back(&card, &mapping, stamp, Cause::Guard, NodeId::HOST);
        assert_eq!(card.last().event(), PeerEvent::Unmap);
        assert!(card.read(&mapping).unwrap().iter().all(|word| *word == 0), "it reads as zeros");
        mem.launch(N, Count { y: y.write(), seed: 1, pause_ms: 0 }).unwrap();
        assert!(counts_from(&card.read(&mapping).unwrap(), 1));

        // Who only reads leaves peers alone.
        let stamp = mapping.segments().unwrap().stamp();
        assert_eq!(y.host(..).unwrap()[9], 10);
        let mut z = SharedVec::<u32>::new(mem, N).unwrap();
        mem.launch(N, Add { x: y.read(), y: z.update() }).unwrap();
        assert!(!mapping.retry(stamp));
    });
}

#[test]
fn q3_the_host_hears_before_it_writes_a_page_that_it_had_mapped() {
    each_rung(|mem| {
        if mem.host_faults().is_none() {
            return;
        }
        let card = Card::honest();
        let mut y = SharedVec::from_slice(mem, &vec![0u32; N]).unwrap();
        y[0] = 1;
        let mapping = y.map_peer(card.clone(), ..).unwrap();
        let stamp = mapping.segments().unwrap().stamp();
        y[1] = 1;
        assert!(mapping.retry(stamp), "the page was writable before the peer came");
        let stamp = mapping.segments().unwrap().stamp();
        assert_eq!(y[2 * PAGE], 0);
        y[2 * PAGE] = 1;
        assert!(mapping.retry(stamp), "a read under the peer's eyes did not make it writable");
        assert_eq!(card.read(&mapping).unwrap()[2 * PAGE], 1);
    });
}

#[test]
fn q3_a_dropped_vector_is_released_once_and_for_all() {
    let mem = runtime(RUNGS[0], EmbeddedMemory::Own, 1);
    let y = counted(&mem, 0);
    let card = Card::honest();
    let mapping = y.map_peer(card.clone(), ..).unwrap();
    drop(y);
    assert_eq!(card.last().event(), PeerEvent::Release);
    assert_eq!(mapping.state(), MappingState::Released);
    let error = mapping.segments().unwrap_err();
    assert!(matches!(error, Error::Peer { source: PeerError::Released, .. }), "{error}");
    assert_eq!(card.told.lock().len(), 1);
    drop(mapping);
    assert_eq!(card.mapped.load(SeqCst), 0);
}

#[test]
fn q4_nothing_is_written_before_the_last_user_has_gone() {
    each_rung(|mem| {
        let mut y = counted(mem, 0);
        let card = Arc::new(Card::new(Manners::Silent));
        let mapping = y.map_peer(card.clone(), ..).unwrap();
        let segments = mapping.segments().unwrap();
        let work = Arc::new(Work::default());
        assert!(mapping.attach(segments.stamp(), work.clone()));
        let written = AtomicBool::new(false);
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                y.host_mut(..).unwrap().fill(1);
                written.store(true, SeqCst);
            });
            let told = loop {
                if let Some(told) = card.told.lock().last().cloned() {
                    break told;
                }
                thread::yield_now();
            };
            assert!(mapping.retry(segments.stamp()));
            let late = Arc::new(Work::default());
            assert!(!mapping.attach(segments.stamp(), late), "too late for that");
            // Each alone is not enough.
            told.confirm();
            thread::sleep(Duration::from_millis(20));
            assert!(!written.load(SeqCst), "its work has not ended");
            assert!(counts_from(&unsafe_words(&segments.list()[0]), 0));
            work.end();
            writer.join().unwrap();
        });
        assert!(written.load(SeqCst));
    });
}

#[test]
fn q4_all_are_told_before_anybody_is_waited_for() {
    /// Confirms its own range and that of the other card, which waits for it.
    struct Second(Arc<Card>);
    impl Peer for Second {
        fn name(&self) -> &str {
            "second"
        }
        fn reach(&self, place: &hmmap_core::peer::Place<'_>) -> hmmap_core::peer::Reach {
            self.0.reach(place)
        }
        fn revoke(&self, revoked: hmmap_core::peer::Revoked) {
            self.0.last().confirm();
            revoked.confirm();
        }
    }
    let mem = runtime(RUNGS[0], EmbeddedMemory::Own, 1);
    let mut y = counted(&mem, 0);
    let first = Arc::new(Card::new(Manners::Silent));
    let second: Arc<dyn Peer> = Arc::new(Second(first.clone()));
    let _one = y.map_peer(first.clone(), ..).unwrap();
    let _two = y.map_peer(second, ..).unwrap();
    y.host_mut(..).unwrap().fill(2);
    assert_eq!(mem.stats().late_peers, 0);
    assert_eq!(mem.stats().revocations, 2);
}

#[test]
fn q4_room_is_made_from_peers_when_nothing_else_is_left() {
    let memory = EmbeddedOptions { memory: EmbeddedMemory::Own, ..EmbeddedOptions::default() };
    let provider: Arc<dyn Provider> = Arc::new(EmbeddedProvider::new(memory));
    let options = Options { device_memory_limit_bytes: Some(4 << 20), ..Options::default() };
    let mem = Runtime::new(vec![provider], options).unwrap();
    let len = (3 << 20) / 4;
    let (mut x, mut y) =
        (SharedVec::<u32>::new(&mem, len).unwrap(), SharedVec::<u32>::new(&mem, len).unwrap());
    mem.launch(len, Count { y: x.write(), seed: 1, pause_ms: 0 }).unwrap();
    let card = Card::honest();
    let mapping = x.map_peer(card.clone(), ..).unwrap();
    let stamp = mapping.segments().unwrap().stamp();
    mem.launch(len, Count { y: y.write(), seed: 2, pause_ms: 0 }).unwrap();
    assert!(mapping.retry(stamp));
    assert_eq!((card.last().cause(), card.last().event()), (Cause::Eviction, PeerEvent::Migrate));
    assert!(counts_from(&card.read(&mapping).unwrap(), 1), "it has moved home");
    assert_eq!(y.host(..).unwrap()[1], 3);
}

#[test]
fn who_begins_meanwhile_sleeps_and_gets_the_new_place() {
    let mem = runtime(RUNGS[0], EmbeddedMemory::Own, 1);
    let mut y = counted(&mem, 0);
    let card = Arc::new(Card::new(Manners::Silent));
    let mapping = y.map_peer(card.clone(), ..).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| y.host_mut(..).unwrap().fill(8));
        while card.told.lock().is_empty() {
            thread::yield_now();
        }
        let sleeper = scope.spawn(|| mapping.segments());
        thread::sleep(Duration::from_millis(10));
        assert!(!sleeper.is_finished());
        card.last().confirm();
        writer.join().unwrap();
        let found = sleeper.join().unwrap().unwrap();
        assert_eq!(found.list()[0].kind, hmmap_core::peer::AddressKind::Process);
        card.last().confirm();
    });
}

#[test]
fn readers_by_address_never_see_a_kernel_write() {
    each_rung(|mem| {
        const PAGES: usize = 4;
        let mut y = SharedVec::<u32>::new(mem, PAGES * PAGE).unwrap();
        let x = SharedVec::from_slice(mem, &vec![1u32; PAGES * PAGE]).unwrap();
        let cards = [Card::honest(), Card::honest()];
        let mappings: Vec<PeerMapping> =
            cards.iter().map(|card| y.map_peer(card.clone(), ..).unwrap()).collect();
        let over = AtomicBool::new(false);
        /// Ends the readers also when the writer fails.
        struct Ends<'a>(&'a AtomicBool);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.store(true, SeqCst);
            }
        }
        thread::scope(|scope| {
            let ends = Ends(&over);
            let readers: Vec<_> = cards
                .iter()
                .zip(&mappings)
                .map(|(card, mapping)| {
                    scope.spawn(|| {
                        let mut reads = 0;
                        while !over.load(SeqCst) {
                            let Some(words) = card.read(mapping) else { continue };
                            // Whoever writes, writes all of it.
                            assert!(words.iter().all(|word| *word == words[0]));
                            reads += 1;
                        }
                        reads
                    })
                })
                .collect();
            let mut random = fastrand::Rng::with_seed(7);
            let mut value = 0;
            for _ in 0..100 {
                // (What the host writes through a slice a peer may see half done: nobody knows when a slice ends.)
                let on = device(random.usize(0..2));
                mem.launch_on(on, PAGES * PAGE, Add { x: x.read(), y: y.update() }).unwrap();
                value += 1;
                assert_eq!(y.host(..).unwrap()[PAGE], value);
                thread::sleep(Duration::from_micros(300));
            }
            drop(ends);
            let reads: Vec<u32> = readers.into_iter().map(|one| one.join().unwrap()).collect();
            assert!(reads.iter().all(|reads| *reads > 0), "{reads:?}");
        });
        assert_eq!(mem.stats().late_peers, 0);
    });
}

#[test]
fn a_stamp_costs_no_lock() {
    let mem = runtime(RUNGS[0], EmbeddedMemory::Own, 1);
    let y = counted(&mem, 0);
    let mapping = y.map_peer(Card::honest(), ..).unwrap();
    let started = Instant::now();
    for _ in 0..1000 {
        let stamp = mapping.begin().unwrap();
        assert!(!mapping.retry(stamp));
    }
    println!("begin and retry: {:?} each", started.elapsed() / 1000);
}
