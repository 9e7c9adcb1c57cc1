//! Peers that take no part: what they map stays.

use std::{panic::AssertUnwindSafe, sync::Arc};

use hmmap_core::{Error, NodeId, SharedVec, embedded::EmbeddedMemory, peer::Participation};

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
