//! Vectors that peers write while their owner uses them.
#![allow(unsafe_code, reason = "writes by address, as a card does")]

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    thread,
    time::Duration,
};

use hmmap_core::{
    Access, Error, Lent, Options, Runtime, SharedVec,
    embedded::{EmbeddedOptions, EmbeddedProvider},
    host::{HostError, ShareFault, Sharing},
    peer::{MappingState, Participation, PeerError, PeerEvent, PeerMapping},
};

use crate::{
    card::{Card, Manners},
    exporter::PAGE,
    kernels::{Add, Count},
    rig::{device, each_rung},
    stranger::Stranger,
};

const N: usize = 100_000;

fn lent(mem: &Runtime, seed: u32) -> Lent<u32> {
    let mut y = SharedVec::<u32>::new(mem, N).unwrap();
    mem.launch_on(device(0), N, Count { y: y.write(), seed, pause_ms: 10 }).unwrap();
    y.lend().unwrap()
}

/// Writes the mapping's first word by address.
fn poke(mapping: &PeerMapping, word: u32) {
    let segments = mapping.segments().unwrap();
    let first = segments.list()[0].addr as *mut u32;
    // SAFETY: the library gave the address for writing, and the test takes the vector back after this.
    unsafe { first.write_volatile(word) };
}

#[test]
fn owner_and_peer_write_at_once_until_the_owner_takes_it_back() {
    each_rung(|mem| {
        let y = lent(mem, 5);
        assert_eq!(y.load(N - 1).unwrap(), 5 + N as u32 - 1, "kernels were waited for");
        let card = Card::honest();
        let mapping = y.map_peer(card.clone(), PAGE..3 * PAGE, Access::Write).unwrap();
        poke(&mapping, 1);
        y.store(PAGE + 1, 2).unwrap();
        assert_eq!(y.load(PAGE).unwrap(), 1);
        assert_eq!(card.read(&mapping).unwrap()[..2], [1, 2]);
        poke(&mapping, 3);
        assert!(card.told.lock().is_empty(), "nobody is asked for single writes");
        assert!(y.map_peer(card.clone(), ..N + 1, Access::Read).is_err());

        let mut y = y.take_back().unwrap();
        assert_eq!(card.told.lock().len(), 1);
        assert_eq!(card.last().event(), PeerEvent::Protect);
        assert_eq!((mapping.state(), card.mapped.load(SeqCst)), (MappingState::Unmapped, 0));
        let refused = mapping.segments().unwrap_err();
        assert!(matches!(refused, Error::Peer { source: PeerError::NotLent, .. }), "{refused}");
        assert_eq!((y[PAGE], y[PAGE + 1], y[PAGE + 2]), (3, 2, 5 + PAGE as u32 + 2));
        let x = SharedVec::from_fn(mem, N, |_| 1).unwrap();
        mem.launch_on(device(1), N, Add { x: x.read(), y: y.update() }).unwrap();
        assert_eq!(y[PAGE], 4, "devices see what the peer wrote");

        let y = y.lend().unwrap();
        poke(&mapping, 9);
        assert_eq!(y.load(PAGE).unwrap(), 9, "lent again");
    });
}

#[test]
fn a_static_writer_pins_until_its_mapping_goes() {
    each_rung(|mem| {
        let y = lent(mem, 1);
        let card = Card { participation: Participation::Static, ..Card::new(Manners::Honest) };
        let card = Arc::new(card);
        let mapping = y.map_peer(card.clone(), .., Access::Update).unwrap();
        assert!(y.residency(..).unwrap().iter().all(|run| run.pinned));
        let refused = y.take_back().unwrap_err();
        assert!(matches!(refused.source, Error::Pinned { .. }), "{refused}");
        poke(&mapping, 8);
        let y = refused.value;
        assert_eq!(y.load(0).unwrap(), 8, "lent as before");
        drop(mapping);
        assert_eq!(y.take_back().unwrap()[0], 8);
    });
}

#[test]
fn whoever_is_late_keeps_it_lent() {
    let options = Options { peer_deadline: Some(Duration::from_millis(30)), ..Options::default() };
    let provider = Arc::new(EmbeddedProvider::new(EmbeddedOptions::default()));
    let mem = Runtime::new(vec![provider], options).unwrap();
    let y = lent(&mem, 1);
    let card = Arc::new(Card::new(Manners::Silent));
    let mapping = y.map_peer(card.clone(), .., Access::Update).unwrap();
    poke(&mapping, 4);
    let refused = y.take_back().unwrap_err();
    assert!(matches!(refused.source, Error::PeerLate { .. }), "{refused}");
    assert_eq!(mapping.state(), MappingState::Late);
    let refused = refused.value.take_back().unwrap_err();
    assert!(matches!(refused.source, Error::PeerLate { .. }), "{refused}");
    card.last().confirm();
    assert_eq!(refused.value.take_back().unwrap()[0], 4);
}

#[test]
fn only_what_reaches_the_host_can_write() {
    each_rung(|mem| {
        let y = lent(mem, 1);
        let card = Arc::new(Card { reaches_host: false, ..Card::new(Manners::Honest) });
        let refused = y.map_peer(card, .., Access::Update).unwrap_err();
        assert!(matches!(refused, Error::Peer { source: PeerError::Unreachable { .. }, .. }));
        assert_eq!(y.take_back().unwrap()[3], 4);
    });
}

#[test]
fn forgotten() {
    each_rung(|mem| {
        let card = Card::honest();
        let y = lent(mem, 1);
        let mapping = y.map_peer(card.clone(), .., Access::Update).unwrap();
        poke(&mapping, 2);
        std::mem::forget(mapping);
        let y = y.take_back().unwrap().lend().unwrap();
        assert_eq!((y.load(0).unwrap(), card.mapped.load(SeqCst)), (2, 0));
        let mapping = y.map_peer(card.clone(), .., Access::Update).unwrap();
        std::mem::forget(y);
        poke(&mapping, 3);
        assert_eq!(card.read(&mapping).unwrap()[0], 3, "its memory is nobody else's");
        let mut z = SharedVec::<u32>::new(mem, N).unwrap();
        mem.launch(N, Count { y: z.write(), seed: 1, pause_ms: 0 }).unwrap();
        assert_eq!((z[0], card.read(&mapping).unwrap()[0]), (1, 3));
    });
}

/// The memory of a lent vector that was dropped stays until whoever writes has given it back.
#[test]
fn dropped_under_a_writer() {
    each_rung(|mem| {
        let y = lent(mem, 1);
        let card = Arc::new(Card::new(Manners::Silent));
        let mapping = y.map_peer(card.clone(), .., Access::Update).unwrap();
        let address = mapping.segments().unwrap().list()[0].addr as *mut u32;
        drop(y);
        mem.trim();
        assert_eq!(card.last().event(), PeerEvent::Release);
        let z = SharedVec::<u32>::new(mem, N).unwrap();
        // SAFETY: the card has not confirmed, so the memory is still there, for it alone.
        unsafe { address.write_volatile(77) };
        assert!(z.iter().all(|word| *word == 0));
        card.last().confirm();
        drop(z);
        mem.trim();
        drop(mapping);
    });
}

#[test]
fn a_punch_takes_pages_from_another_mapping_and_keeps_the_bytes() {
    each_rung(|mem| {
        let mut y = SharedVec::<u32>::shareable(mem, N).unwrap();
        mem.launch(N, Count { y: y.write(), seed: 7, pause_ms: 0 }).unwrap();
        assert_eq!(y[PAGE], 7 + PAGE as u32, "the user view has an entry as well");
        let y = y.lend().unwrap();
        let memory = y.share_memory(Sharing::Write).unwrap();
        let other = Stranger::map(memory.fd, memory.len_bytes, true).unwrap();
        for page in 0..4 {
            other.store(page * PAGE, 50 + page as u32);
            assert!(other.has_entry(page * PAGE));
        }
        y.punch().punch(1..3).unwrap();
        let entries: Vec<bool> = (0..4).map(|page| other.has_entry(page * PAGE)).collect();
        assert_eq!(entries, [true, false, false, true]);
        assert_eq!(
            (y.load(PAGE).unwrap(), y.load(2 * PAGE + 1).unwrap()),
            (51, 8 + 2 * PAGE as u32)
        );
        let y = y.take_back().unwrap();
        assert_eq!((y[PAGE], y[2 * PAGE], y[PAGE + 1]), (51, 52, 8 + PAGE as u32), "by touch, too");
        let punch = y.lend().unwrap().punch();
        punch.punch(0..1).unwrap();
    });
}

/// Whoever has the descriptor can write the file for ever, so what is taken back is elsewhere.
#[test]
fn who_kept_the_file_does_not_write_what_was_taken_back() {
    each_rung(|mem| {
        let mut y = SharedVec::<u32>::shareable(mem, N).unwrap();
        mem.launch(N, Count { y: y.write(), seed: 7, pause_ms: 0 }).unwrap();
        let y = y.lend().unwrap();
        let memory = y.share_memory(Sharing::Write).unwrap();
        let other = Stranger::map(memory.fd, memory.len_bytes, true).unwrap();
        other.store(1, 100);
        let mapping = y.map_peer(Card::honest(), .., Access::Update).unwrap();
        let mut y = y.take_back().unwrap();
        assert!(mapping.segments().is_err());
        other.store(2, 100);
        assert_eq!((y[0], y[1], y[2], y[N - 1]), (7, 100, 9, N as u32 + 6));
        y[3] = 55;
        assert_ne!(other.load(3), 55);
        // Lent for peers of this process, or given out to be read, it stays where it is.
        let place = y.as_ptr();
        let y = y.lend().unwrap();
        y.share_memory(Sharing::Read).unwrap();
        let y = y.take_back().unwrap();
        assert_eq!((y.as_ptr(), y[1]), (place, 100));
    });
}

#[test]
fn a_file_sealed_for_reading_is_not_punched() {
    each_rung(|mem| {
        let y = SharedVec::<u32>::shareable(mem, N).unwrap().lend().unwrap();
        y.share_memory(Sharing::Read).unwrap();
        let fault = ShareFault::SharedBefore { before: Sharing::Read };
        let refused = Error::Host(HostError::NotShared(fault));
        assert_eq!(y.punch().punch(0..1).unwrap_err(), refused);
        let ordinary = SharedVec::<u32>::new(mem, N).unwrap().lend().unwrap();
        let refused = Error::Host(HostError::NotShared(ShareFault::NotShareable));
        assert_eq!(ordinary.punch().punch(0..1).unwrap_err(), refused);
    });
}

#[test]
fn a_peer_and_its_owner_pass_frames_to_each_other() {
    each_rung(|mem| {
        let y = lent(mem, 0);
        y.copy_from(0, &vec![0; N]).unwrap();
        let card = Card::honest();
        let mapping = y.map_peer(card, .., Access::Update).unwrap();
        let start = mapping.segments().unwrap().list()[0].addr;
        thread::scope(|scope| {
            scope.spawn(move || {
                let words = start as *mut u32;
                for frame in 1..200u32 {
                    // SAFETY: addresses of the mapping, which the test keeps; volatile on both sides.
                    unsafe {
                        while words.read_volatile() != frame {
                            thread::yield_now();
                        }
                        (2..100).for_each(|i| words.add(i).write_volatile(frame));
                        words.add(1).write_volatile(frame);
                    }
                }
            });
            for frame in 1..200 {
                y.store(0, frame).unwrap();
                while y.load(1).unwrap() != frame {
                    thread::yield_now();
                }
                let mut words = [0; 98];
                y.copy_to(2, &mut words).unwrap();
                assert_eq!(words, [frame; 98]);
            }
        });
        drop(mapping);
        assert_eq!(y.take_back().unwrap()[50], 199);
    });
}

#[test]
fn nothing_is_punched_under_a_pin() {
    each_rung(|mem| {
        let y = SharedVec::<u32>::shareable(mem, N).unwrap().lend().unwrap();
        y.store(PAGE, 7).unwrap();
        let memory = y.share_memory(Sharing::Write).unwrap();
        let other = Stranger::map(memory.fd, memory.len_bytes, true).unwrap();
        assert_eq!(other.load(PAGE), 7);
        let participation = Participation::Static;
        let card = Arc::new(Card { participation, ..Card::new(Manners::Panics) });
        let pin = y.map_peer(card, PAGE..PAGE + 1, Access::Read).unwrap();
        let refused = y.punch().punch(0..3).unwrap_err();
        assert!(matches!(&refused, Error::Pinned { peer, .. } if peer == "card"), "{refused}");
        assert!(other.has_entry(PAGE), "it is where it was");
        drop(pin);
        y.punch().punch(0..3).unwrap();
        assert!(!other.has_entry(PAGE));
        assert_eq!(y.load(PAGE).unwrap(), 7);
    });
}

#[test]
fn owner_and_peer_count_together() {
    each_rung(|mem| {
        let y = lent(mem, 0);
        y.store(3, 0).unwrap();
        let mapping = y.map_peer(Card::honest(), .., Access::Update).unwrap();
        let start = mapping.segments().unwrap().list()[0].addr;
        let rounds = 20_000;
        thread::scope(|scope| {
            scope.spawn(move || {
                // SAFETY: an address of the mapping, which the test keeps, aligned as words are; atomic on both sides.
                let word =
                    unsafe { std::sync::atomic::AtomicU32::from_ptr((start as *mut u32).add(3)) };
                for _ in 0..rounds {
                    word.fetch_add(1, SeqCst);
                }
            });
            for _ in 0..rounds {
                y.atomic_add(3, 1).unwrap();
            }
        });
        assert_eq!(y.atomic_load(3).unwrap(), 2 * rounds);
        assert_eq!(y.atomic_exchange(3, 1, 9).unwrap(), 2 * rounds, "not what is there");
        assert_eq!(y.atomic_exchange(3, 2 * rounds, u32::MAX).unwrap(), 2 * rounds);
        assert_eq!(y.atomic_add(3, 2).unwrap(), u32::MAX, "and round the end");
        assert_eq!((y.atomic_swap(3, 5).unwrap(), y.load(3).unwrap()), (1, 5));
        let out = y.atomic_load(N).unwrap_err();
        assert!(matches!(out, Error::OutOfRange { start: N, .. }), "{out}");
        assert!(y.atomic_swap(usize::MAX, 0).is_err());
        drop(mapping);
        assert_eq!(y.take_back().unwrap()[3], 5);
    });
}

/// Without the kernel's udmabuf nothing changes; with it the vector is pinned until somebody vouches for the descriptor's end.
#[test]
fn a_dma_buf_of_host_pages_pins_the_vector_or_says_why_there_is_none() {
    each_rung(|mem| {
        let y = SharedVec::<u32>::shareable(mem, N).unwrap().lend().unwrap();
        y.store(9, 99).unwrap();
        let made = match (y.dma_buf(), hmmap_core::host::udmabuf()) {
            (made, Ok(())) => made.unwrap(),
            (Err(Error::Host(HostError::NotShared(refused))), Err(fault)) => {
                assert_eq!(refused, fault);
                assert!(matches!(fault, ShareFault::NoUdmabuf(_)), "{fault}");
                assert!(y.residency(..).unwrap().iter().all(|run| !run.pinned));
                assert!(y.share_memory(Sharing::Read).is_ok(), "no seal was made final");
                assert!(y.take_back().is_ok());
                return;
            }
            (made, probed) => panic!("{made:?} where probing said {probed:?}"),
        };
        let other = Stranger::map(std::os::fd::AsFd::as_fd(&made), made.len_bytes(), true).unwrap();
        assert_eq!(other.load(9), 99);
        other.store(10, 100);
        assert_eq!(y.load(10).unwrap(), 100);
        assert!(matches!(y.punch().punch(0..1), Err(Error::Pinned { .. })));
        let y = y.take_back().unwrap_err();
        assert!(matches!(&y.source, Error::Pinned { peer, .. } if peer == "dma-buf"), "{y}");
    });
}
