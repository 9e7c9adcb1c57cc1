//! Peers that take no part: what they map stays.

use std::{panic::AssertUnwindSafe, sync::Arc};

use hmmap_core::{
    Error, NodeId, Options, Runtime, SharedVec,
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    peer::{Participation, PeerError},
};

use crate::{
    card::{Card, Manners},
    kernels::{Add, Count},
    rig::{RUNGS, device, each_rung, runtime},
};

const N: usize = 50_000;

fn fixed(reaches_devices: bool) -> Arc<Card> {
    let participation = Participation::Static;
    Arc::new(Card { participation, reaches_devices, ..Card::new(Manners::Panics) })
}

fn pinned_by(error: &Error) -> bool {
    matches!(error, Error::Pinned { peer, bytes } if peer == "card" && *bytes == (0..4 * N as u64))
}

#[test]
fn q5_what_is_pinned_stays_and_every_refusal_says_by_whom() {
    each_rung(|mem| {
        let mut y = SharedVec::from_slice(mem, &vec![3u32; N]).unwrap();
        let card = fixed(false);
        let mapping = y.map_peer(card.clone(), ..).unwrap();
        let runs = y.residency(..).unwrap();
        assert!(runs.iter().all(|run| run.pinned && run.peers == 1), "{runs:?}");
        let launched = mem.launch(N, Count { y: y.write(), seed: 0, pause_ms: 0 });
        let own_memory = mem.node(device(0)).unwrap() != NodeId::HOST;
        // A device on the host's memory writes in place.
        assert_eq!(launched.as_ref().err().is_some_and(pinned_by), own_memory, "{launched:?}");
        // So does the host; the peer sees it, as an RDMA card does.
        y.host_mut(..).unwrap().fill(4);
        assert!(card.read(&mapping).unwrap().iter().all(|word| *word == 4));
        y[100] = 5;
        assert_eq!(card.read(&mapping).unwrap()[100], 5);
        assert!(pinned_by(&y.discard(..).unwrap_err()));
        let before = y.as_ptr();
        let words = y.capacity() - y.len();
        assert!(pinned_by(&y.reserve(words + 1).unwrap_err()));
        y.reserve(words).unwrap();
        assert_eq!(y.as_ptr(), before, "what fits moves nothing");
        drop(mapping);
        mem.launch(N, Count { y: y.write(), seed: 0, pause_ms: 0 }).unwrap();
        assert_eq!(y.host(..).unwrap()[9], 9);
        assert!(card.told.lock().is_empty(), "nobody asked it");
    });
}

#[test]
fn q5_the_host_cannot_write_what_is_pinned_on_a_device() {
    for rung in RUNGS {
        let mem = runtime(rung, EmbeddedMemory::Own, 2);
        let mut y = SharedVec::<u32>::new(&mem, N).unwrap();
        let x = SharedVec::from_slice(&mem, &vec![1u32; N]).unwrap();
        mem.launch(N, Count { y: y.write(), seed: 0, pause_ms: 0 }).unwrap();
        let card = fixed(true);
        let mapping = y.map_peer(card.clone(), ..).unwrap();
        // Where pages cannot be shared it is pinned at home.
        let on_device = mem.host_faults().is_none_or(|facts| facts.write_protect);
        if on_device {
            assert!(pinned_by(&y.host_mut(..).unwrap_err()));
            let write = std::panic::catch_unwind(AssertUnwindSafe(|| y[0] = 1));
            let said = *write.unwrap_err().downcast::<String>().unwrap();
            assert!(said.contains("pinned by peer card"), "{said}");
        } else {
            y.host_mut(..).unwrap()[0] = 0;
        }
        assert_eq!(y[9], 9, "reading is free");
        assert_eq!(card.read(&mapping).unwrap()[9], 9);
        // The device that has it may write it; the other may not.
        let there = mem.launch(N, Add { x: x.read(), y: y.update() });
        assert_eq!(there.is_ok(), on_device);
        let elsewhere = mem.launch_on(device(1), N, Add { x: x.read(), y: y.update() });
        assert!(pinned_by(&elsewhere.unwrap_err()));
        drop(mapping);
        mem.launch_on(device(1), N, Add { x: x.read(), y: y.update() }).unwrap();
        y[0] = 1;
    }
}

#[test]
fn q5_a_forgotten_pin_stays_and_a_dropped_vector_keeps_its_memory() {
    let mem = runtime(RUNGS[0], EmbeddedMemory::Own, 1);
    let y = SharedVec::from_slice(&mem, &vec![3u32; N]).unwrap();
    let card = fixed(false);
    let mapping = y.map_peer(card.clone(), ..).unwrap();
    let segments = mapping.segments().unwrap();
    std::mem::forget(mapping);
    drop(y);
    let others = || -> Vec<_> {
        (0..8).map(|_| SharedVec::from_slice(&mem, &vec![9u32; N]).unwrap()).collect()
    };
    drop(others());
    let others = (others(), others());
    let words = crate::card::unsafe_words(&segments.list()[0]);
    assert!(words.iter().all(|word| *word == 3), "nobody else got the memory");
    drop(others);
}

#[test]
fn q5_pins_are_refused_by_quota_with_numbers_and_the_statistics_have_them() {
    let page = 65_536u64;
    let provider = Arc::new(EmbeddedProvider::new(EmbeddedOptions::default()));
    let max_pinned_bytes = Some(3 * page);
    let options = Options { max_pinned_bytes, ..Options::default() };
    let mem = Runtime::new(vec![provider], options).unwrap();
    let y = SharedVec::from_slice(&mem, &vec![3u32; N]).unwrap();
    let words = page as usize / 4;
    // Two pages, by one word in each.
    let first = y.map_peer(fixed(false), words - 1..words + 1).unwrap();
    assert_eq!((mem.stats().pinned_bytes, mem.stats().refused_pins), (2 * page, 0));
    let refused = y.map_peer(fixed(false), ..words + 1).unwrap_err();
    let Error::Peer { peer, source } = &refused else { panic!("{refused}") };
    let (asked_bytes, pinned_bytes, limit_bytes) = (2 * page, 2 * page, 3 * page);
    assert_eq!(*source, PeerError::PinQuota { asked_bytes, pinned_bytes, limit_bytes });
    assert_eq!(peer, "card");
    assert!(source.to_string().contains("131072 of 196608"), "{source}");
    assert_eq!((mem.stats().pinned_bytes, mem.stats().refused_pins), (2 * page, 1));
    assert_eq!(y.residency(..).unwrap()[0].peers, 1, "the refused one left nothing behind");
    // Who takes part pins nothing, and one page is left.
    let dynamic = y.map_peer(Card::honest(), ..).unwrap();
    let second = y.map_peer(fixed(false), ..1).unwrap();
    assert_eq!(mem.stats().pinned_bytes, 3 * page);
    // What cannot be mapped at all gives its part back.
    drop(second);
    let nowhere = Arc::new(Card { reaches_host: false, ..Card::new(Manners::Panics) });
    let nowhere = Arc::into_inner(nowhere).unwrap();
    let nowhere = Card { participation: Participation::Static, reaches_devices: false, ..nowhere };
    let refused = y.map_peer(Arc::new(nowhere), ..1).unwrap_err();
    assert!(matches!(refused, Error::Peer { source: PeerError::Unreachable { .. }, .. }));
    // Forgotten, it stays for good; dropped, it comes back.
    std::mem::forget(y.map_peer(fixed(false), ..1).unwrap());
    drop((dynamic, first));
    drop(y);
    assert_eq!(mem.stats().pinned_bytes, page);
}

#[test]
fn q5_a_device_that_pins_fill_says_so() {
    let memory = EmbeddedOptions { memory: EmbeddedMemory::Own, ..EmbeddedOptions::default() };
    let limit = Some(4 << 20);
    let options = Options { device_memory_limit_bytes: limit, ..Options::default() };
    let mem = Runtime::new(vec![Arc::new(EmbeddedProvider::new(memory))], options).unwrap();
    let words = (4 << 20) / 4;
    let mut full = SharedVec::<u32>::new(&mem, words).unwrap();
    mem.launch(words, Count { y: full.write(), seed: 0, pause_ms: 0 }).unwrap().wait().unwrap();
    let pin = full.map_peer(fixed(true), ..).unwrap();
    if !full
        .residency(..)
        .unwrap()
        .iter()
        .all(|run| run.nodes.contains(&mem.node(device(0)).unwrap()))
    {
        println!("HMMAP-SKIP: pages cannot be shared here, so they are pinned at home");
        return;
    }
    let mut other = SharedVec::<u32>::new(&mem, words).unwrap();
    let launched = mem.launch(words, Count { y: other.write(), seed: 0, pause_ms: 0 });
    let error = launched.unwrap_err();
    let pinned = 4 << 20;
    assert!(
        matches!(error, Error::OutOfDeviceMemory { pinned_bytes, .. } if pinned_bytes == pinned),
        "{error}"
    );
    assert!(error.to_string().contains("4194304 are pinned"), "{error}");
    drop(pin);
    mem.launch(words, Count { y: other.write(), seed: 0, pause_ms: 0 }).unwrap();
}
