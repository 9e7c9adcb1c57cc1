//! Vectors that peers write in a device's memory.
#![allow(unsafe_code, reason = "writes by address, as a card does")]

use std::sync::{Arc, atomic::Ordering::SeqCst};

use hmmap_core::{
    Access, Error, Hint, NodeId, Options, Runtime, SharedVec,
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    host::HostFaults,
    peer::{MappingState, Participation, PeerError, PeerEvent, PeerMapping},
};

use crate::{
    card::{Card, Manners},
    exporter::PAGE,
    kernels::{Add, Count},
    rig::{device, each_rung, runtime},
};

const N: usize = 100_000;

/// Writes the mapping's first word by address.
fn poke(mapping: &PeerMapping, word: u32) {
    let segments = mapping.segments().unwrap();
    let first = segments.list()[0].addr as *mut u32;
    // SAFETY: the library gave the address for writing, and the test takes the vector back after this.
    unsafe { first.write_volatile(word) };
}

#[test]
fn peers_write_where_it_is_until_the_owner_takes_it_back() {
    each_rung(|mem| {
        let node = mem.node(device(1)).unwrap();
        let mut y = SharedVec::<u32>::new(mem, N).unwrap();
        mem.launch_on(device(0), N, Count { y: y.write(), seed: 5, pause_ms: 10 }).unwrap();
        y[PAGE + 2] = 77;
        // Whoever lends it there has said where it goes.
        y.hint(.., Hint::PreferredLocation(NodeId::HOST)).unwrap();
        let y = y.lend_on(device(1)).unwrap();
        let all = y.residency(..).unwrap();
        assert!(all.iter().all(|run| run.nodes[..] == [node]), "{all:?}");
        let card = Card::honest();
        let mapping = y.map_peer(card.clone(), PAGE..3 * PAGE, Access::Write).unwrap();
        poke(&mapping, 1);
        let (first, read) = (mapping.segments().unwrap(), card.read(&mapping).unwrap());
        assert_eq!(read[..4], [1, PAGE as u32 + 6, 77, PAGE as u32 + 8]);
        // Who does not reach it gets nothing, and nothing moves for him.
        if !node.is_host() {
            for access in [Access::Read, Access::Update] {
                let far = Arc::new(Card { reaches_devices: false, ..Card::new(Manners::Honest) });
                let refused = y.map_peer(far, .., access).unwrap_err();
                let unreachable =
                    matches!(&refused, Error::Peer { source: PeerError::Unreachable { .. }, .. });
                assert!(unreachable, "{refused}");
            }
        }
        poke(&mapping, 3);
        assert_eq!(mapping.segments().unwrap(), first, "it stayed where it was");
        assert!(card.told.lock().is_empty(), "nobody is asked for single writes");

        let mut y = y.take_back().unwrap();
        assert_eq!(card.last().event(), PeerEvent::Protect);
        assert_eq!((mapping.state(), card.mapped.load(SeqCst)), (MappingState::Unmapped, 0));
        let refused = mapping.segments().unwrap_err();
        assert!(matches!(refused, Error::Peer { source: PeerError::NotLent, .. }), "{refused}");
        assert_eq!((y[PAGE], y[PAGE + 1], y[N - 1]), (3, 6 + PAGE as u32, 4 + N as u32));
        y.hint(.., Hint::NoPreferredLocation).unwrap();
        let x = SharedVec::from_fn(mem, N, |_| 1).unwrap();
        mem.launch_on(device(0), N, Add { x: x.read(), y: y.update() }).unwrap();
        assert_eq!(y[PAGE], 4, "devices see what the peer wrote");

        let y = y.lend().unwrap();
        poke(&mapping, 9);
        assert_eq!(y.load(PAGE).unwrap(), 9, "lent again, on the host");
    });
}

fn small() -> Runtime {
    let options = EmbeddedOptions { memory: EmbeddedMemory::Own, ..EmbeddedOptions::default() };
    let device_memory_limit_bytes = Some(6 * N as u64);
    let provider = Arc::new(EmbeddedProvider::new(options));
    let options = Options { device_memory_limit_bytes, ..Options::default() };
    Runtime::new(vec![provider], options).unwrap()
}

#[test]
fn nothing_makes_room_at_its_expense() {
    let mem = small();
    let mut z = SharedVec::<u32>::new(&mem, N).unwrap();
    let y = SharedVec::from_fn(&mem, N, |i| i as u32).unwrap().lend_on(device(0)).unwrap();
    let launch = |z: &mut SharedVec<u32>| {
        mem.launch(N, Count { y: z.write(), seed: 5, pause_ms: 0 }).map(drop)
    };
    let refused = launch(&mut z).unwrap_err();
    assert!(matches!(refused, Error::OutOfDeviceMemory { .. }), "{refused}");
    let y = y.take_back().unwrap();
    launch(&mut z).unwrap();
    assert_eq!((y[N - 1], z[1]), (N as u32 - 1, 6));
    // What does not fit is given back as it was.
    let w = SharedVec::from_fn(&mem, 2 * N, |i| i as u32).unwrap();
    let refused = w.lend_on(device(0)).unwrap_err();
    assert!(matches!(refused.source, Error::OutOfDeviceMemory { .. }), "{refused}");
    assert_eq!(refused.value[2 * N - 1], 2 * N as u32 - 1);
}

#[test]
fn a_static_writer_keeps_it_lent() {
    let mem = small();
    let y = SharedVec::from_fn(&mem, N, |i| i as u32).unwrap().lend_on(device(0)).unwrap();
    let participation = Participation::Static;
    let card = Arc::new(Card { participation, ..Card::new(Manners::Panics) });
    let pin = y.map_peer(card, .., Access::Update).unwrap();
    poke(&pin, 41);
    let refused = y.take_back().unwrap_err();
    assert!(matches!(&refused.source, Error::Pinned { peer, .. } if peer == "card"), "{refused}");
    poke(&pin, 42);
    drop(pin);
    let y = refused.value.take_back().unwrap();
    assert_eq!((y[0], y[1]), (42, 1));
    // Where the host has to own what it reads, nobody pins on a device.
    let mem = runtime(HostFaults::NoSharing, EmbeddedMemory::Own, 1);
    let y = SharedVec::from_fn(&mem, N, |i| i as u32).unwrap().lend_on(device(0)).unwrap();
    let card = Arc::new(Card { participation, ..Card::new(Manners::Panics) });
    let refused = y.map_peer(card, .., Access::Update).unwrap_err();
    let Error::Peer { source: PeerError::Unreachable { reason, .. }, .. } = refused else {
        panic!("{refused}")
    };
    assert!(reason.contains("host could not read"), "{reason}");
    assert_eq!(y.take_back().unwrap()[1], 1);
    // Without elements there is nothing to move.
    let empty = SharedVec::<u32>::new(&mem, 0).unwrap().lend_on(device(0)).unwrap();
    assert_eq!((empty.len(), empty.device()), (0, device(0)));
    empty.take_back().unwrap();
}
