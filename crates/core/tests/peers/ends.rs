//! Peers that do not answer, panic, or are forgotten.

use std::{sync::Arc, time::Duration};

use hmmap_core::{
    DeviceId, Error, NodeId, Options, Runtime, SharedVec,
    backend::Provider,
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    peer::{MappingState, PeerError, PeerEvent},
    simulated::{SimulatedOptions, SimulatedProvider},
};

use crate::{
    card::{Card, Manners, unsafe_words},
    kernels::Count,
    rig::each_rung,
};

const N: usize = 60_000;

/// Own memory, and little patience with peers.
fn impatient() -> Runtime {
    let memory = EmbeddedOptions { memory: EmbeddedMemory::Own, ..EmbeddedOptions::default() };
    let provider: Arc<dyn Provider> = Arc::new(EmbeddedProvider::new(memory));
    let peer_deadline = Some(Duration::from_millis(50));
    Runtime::new(vec![provider], Options { peer_deadline, ..Options::default() }).unwrap()
}

fn counted(mem: &Runtime) -> SharedVec<u32> {
    let mut y = SharedVec::<u32>::new(mem, N).unwrap();
    mem.launch(N, Count { y: y.write(), seed: 0, pause_ms: 0 }).unwrap();
    y
}

#[test]
fn who_is_late_keeps_the_page_where_it_is_and_is_not_waited_for_twice() {
    let mem = impatient();
    let mut y = counted(&mem);
    let card = Arc::new(Card::new(Manners::Silent));
    let mapping = y.map_peer(card.clone(), ..).unwrap();
    let before = y.residency(..).unwrap();
    for _ in 0..2 {
        let error = y.host_mut(..).unwrap_err();
        assert!(matches!(&error, Error::PeerLate { peer, .. } if peer == "card"), "{error}");
    }
    let launched = mem.launch(N, Count { y: y.write(), seed: 1, pause_ms: 0 }).unwrap_err();
    assert!(matches!(launched, Error::PeerLate { .. }), "{launched}");
    assert_eq!(card.told.lock().len(), 1, "asked once");
    assert_eq!(y.residency(..).unwrap(), before, "the pages stay");
    assert_eq!((mapping.state(), mem.stats().late_peers), (MappingState::Late, 1));
    let error = mapping.segments().unwrap_err();
    assert!(matches!(error, Error::Peer { source: PeerError::StillLate { .. }, .. }), "{error}");
    assert_eq!(y[9], 9, "readers are not concerned");
    card.last().confirm();
    y.host_mut(..).unwrap().fill(1);
    assert_eq!(mapping.state(), MappingState::Unmapped);
    assert!(mapping.segments().is_ok(), "better late than never");
    card.told.lock().iter().for_each(hmmap_core::peer::Revoked::confirm);
}

#[test]
fn a_fault_waits_for_one_deadline_and_goes_on() {
    let mem = impatient();
    assert!(mem.host_faults().is_some());
    let mut y = counted(&mem);
    let card = Arc::new(Card::new(Manners::Silent));
    let mapping = y.map_peer(card.clone(), ..).unwrap();
    let segments = mapping.segments().unwrap();
    y[3] = 77;
    y[4] = 78;
    assert_eq!(card.told.lock().len(), 1);
    assert_eq!((y[3], y[4], y[5]), (77, 78, 5));
    // What the late one still reads is stale, and still there.
    let words = unsafe_words(&segments.list()[0]);
    assert!(words.iter().enumerate().all(|(i, word)| *word == i as u32));
    assert_eq!(mapping.state(), MappingState::Late);
    card.last().confirm();
}

#[test]
fn memory_that_a_late_peer_reads_goes_to_nobody_else() {
    let mem = impatient();
    let y = SharedVec::from_slice(&mem, &vec![3u32; N]).unwrap();
    let card = Arc::new(Card::new(Manners::Silent));
    let mapping = y.map_peer(card.clone(), ..).unwrap();
    let segments = mapping.segments().unwrap();
    drop(y);
    let others = || -> Vec<_> {
        (0..8).map(|_| SharedVec::from_slice(&mem, &vec![9u32; N]).unwrap()).collect()
    };
    drop(others());
    let again = (others(), others());
    assert!(unsafe_words(&segments.list()[0]).iter().all(|word| *word == 3));
    drop(again);
    card.last().confirm();
    mem.trim();
    drop(mapping);
    let kept = others();
    assert!(kept.iter().all(|other| other[N - 1] == 9));
}

#[test]
fn a_peer_that_panics_is_late_at_once() {
    let mem = impatient();
    let mut y = counted(&mem);
    let card = Arc::new(Card::new(Manners::Panics));
    let mapping = y.map_peer(card.clone(), ..).unwrap();
    let error = y.host_mut(..).unwrap_err();
    assert!(matches!(error, Error::PeerLate { .. }), "{error}");
    drop(mapping);
    y.host_mut(..).unwrap().fill(2);
}

#[test]
fn a_forgotten_mapping_is_taken_back_like_any_other() {
    let mem = impatient();
    let mut y = counted(&mem);
    let card = Card::honest();
    std::mem::forget(y.map_peer(card.clone(), ..).unwrap());
    y.host_mut(..).unwrap().fill(2);
    assert_eq!(card.told.lock().len(), 1);
    let mapping = y.map_peer(card.clone(), ..).unwrap();
    assert!(card.read(&mapping).unwrap().iter().all(|word| *word == 2));
    drop(y);
    drop(mapping);
}

/// An acquisition that is forgotten keeps its pages marked for good. Its peers get an answer by their deadline, each time they ask, and everybody else goes on.
#[test]
fn peers_of_a_forgotten_acquisition_are_answered_by_their_deadline() {
    let mem = impatient();
    let mut y = counted(&mem);
    let card = Card::honest();
    let mapping = y.map_peer(card.clone(), ..).unwrap();
    let stamp = mapping.segments().unwrap().stamp();
    let first = DeviceId::new(0).unwrap();
    std::mem::forget(mem.acquire(first, [y.update().into()]).unwrap());
    assert!(mapping.retry(stamp), "its addresses are not good any more");
    assert_eq!(mapping.state(), MappingState::Unmapped, "and it has none");
    let deadline = Duration::from_millis(50);
    for _ in 0..2 {
        let waits = [mapping.begin().err(), mapping.segments().err()];
        for error in waits {
            let Some(Error::Peer { source: PeerError::TimedOut { waited }, .. }) = error else {
                panic!("{error:?}")
            };
            assert_eq!(waited, deadline);
        }
    }
    let refused = y.map_peer(card.clone(), ..).unwrap_err();
    assert!(matches!(refused, Error::Peer { source: PeerError::TimedOut { .. }, .. }), "{refused}");
    // The vector itself is as usable as it was, and so are other vectors' mappings.
    y.host_mut(..).unwrap().fill(2);
    mem.launch(N, Count { y: y.write(), seed: 1, pause_ms: 0 }).unwrap();
    assert_eq!(y.host(..).unwrap()[9], 10);
    let other = counted(&mem);
    let its = other.map_peer(card.clone(), ..).unwrap();
    assert_eq!(card.read(&its).unwrap()[9], 9);
}

/// A peer maps again without a borrow of the vector, so the host's writes have to take it back each time: plain ones where they fault, and those of a guard
/// everywhere.
#[test]
fn q3_each_write_takes_back_what_was_mapped_again() {
    each_rung(|mem| {
        let mut y = SharedVec::<u32>::new(mem, N).unwrap();
        y[0] = 1;
        let mapping = y.map_peer(Card::honest(), ..).unwrap();
        for round in 2..8 {
            let stamp = mapping.segments().unwrap().stamp();
            assert!(!mapping.retry(stamp));
            if round % 2 == 0 && mem.host_faults().is_some() {
                y[7] = round;
            } else {
                y.host_mut(7..8).unwrap()[0] = round;
            }
            assert!(mapping.retry(stamp), "round {round}: written under the peer");
        }
    });
}

/// Nobody waits for anybody there: the memory is gone whatever they do.
#[test]
fn q3_peers_of_a_lost_device_hear_of_it_and_get_what_is_left() {
    let provider = SimulatedProvider::new(SimulatedOptions::default());
    let control = provider.control();
    let mem = Runtime::new(vec![Arc::new(provider)], Options::default()).unwrap();
    let first = DeviceId::new(0).unwrap();
    let (gone, there, mut other) = (counted(&mem), counted(&mem), counted(&mem));
    assert_eq!(there.host(..).unwrap()[9], 9, "this one is at home, too");
    let cards = [Card::new(Manners::Silent), Card::new(Manners::Silent)].map(Arc::new);
    let mappings = [&gone, &there].map(|vec| vec.residency(..).unwrap()[0].nodes.len());
    assert_eq!(mappings, [1, 2]);
    let lost = gone.map_peer(cards[0].clone(), ..).unwrap();
    let kept = there.map_peer(cards[1].clone(), ..).unwrap();
    let stamps = [&lost, &kept].map(|mapping| mapping.segments().unwrap().stamp());
    control.lose();
    let launched = mem.launch(N, Count { y: other.write(), seed: 1, pause_ms: 0 });
    assert!(launched.is_err(), "{launched:?}");
    for (card, (mapping, stamp)) in cards.iter().zip([(&lost, stamps[0]), (&kept, stamps[1])]) {
        assert_eq!(card.told.lock().len(), 1, "told once");
        let (event, initiator) = (card.last().event(), card.last().initiator());
        assert_eq!((event, initiator), (PeerEvent::Unmap, NodeId::of_device(first)));
        assert!(mapping.retry(stamp));
        assert_eq!(mapping.state(), MappingState::Unmapped);
    }
    let answer = lost.segments().unwrap_err();
    assert!(matches!(answer, Error::DataLost { .. }), "{answer}");
    let words = unsafe_words(&kept.segments().unwrap().list()[0]);
    assert!(words.iter().enumerate().all(|(i, word)| *word == i as u32), "from the host");
    drop((lost, kept));
    let mapped = cards.map(|card| card.mapped.load(std::sync::atomic::Ordering::SeqCst));
    assert_eq!(mapped, [0, 0], "addresses were not given back");
}
