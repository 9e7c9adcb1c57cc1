//! A device that cannot be asked to stop: what it maps is pinned.

use hmmap_core::{Access, Error, Options, Runtime, SharedVec, peer::PeerError};
use hmmap_vfio::VfioPeer;

use super::{
    ADDRESS_BITS, Edu, TRANSFER_BYTES, WORDS, iova, pattern,
    q7::{WINDOW_BYTES, buffer_of, runtime_with, window},
    runtime,
};

const WORDS_READ: usize = (TRANSFER_BYTES / 4) as usize;

fn is_pinned(error: &Error) -> bool {
    matches!(error, Error::Pinned { peer, .. } if peer == "edu")
}

#[test]
fn q5_a_static_importer_of_the_window_pins_it() {
    let Some(edu) = Edu::find() else { return };
    let (runtime, device, node) = runtime_with(window());
    let peer = VfioPeer::pinning("edu", edu.domain.clone(), ADDRESS_BITS);
    // Six tenths of the window, so that a second one does not fit beside it.
    let len = WINDOW_BYTES / 4 * 6 / 10;
    let mut x = SharedVec::from_fn(&runtime, len, pattern).unwrap();
    x.prefetch(.., device).unwrap().wait().unwrap();
    let mapping = x.map_peer(peer, ..).unwrap();
    let at = iova(&mapping);
    let whole_bytes = x.residency(..).unwrap().iter().map(|run| run.pages.end).max().unwrap() << 16;
    assert_eq!(runtime.stats().pinned_bytes, whole_bytes);
    let stays = |x: &SharedVec<u32>| {
        let runs = x.residency(..).unwrap();
        runs.iter().all(|run| run.pinned && run.nodes.contains(&node))
    };
    assert!(stays(&x));
    // The host may not write it, nor anybody discard it.
    let refused = x.host_mut(..).map(drop).unwrap_err();
    assert!(is_pinned(&refused), "{refused}");
    let refused = x.discard(..).unwrap_err();
    assert!(is_pinned(&refused), "{refused}");
    // Nothing makes room at its expense, and the error says how much is pinned.
    let y = SharedVec::from_fn(&runtime, len, |i| !pattern(i)).unwrap();
    let refused = y.prefetch(.., device).map(drop).unwrap_err();
    let Error::OutOfDeviceMemory { pinned_bytes, .. } = refused else { panic!("{refused}") };
    assert_eq!(pinned_bytes, whole_bytes);
    // All the while edu reads.
    assert!(stays(&x) && iova(&mapping) == at);
    edu.read_from(at, TRANSFER_BYTES);
    let expected: Vec<u32> = (0..WORDS_READ).map(pattern).collect();
    assert_eq!(buffer_of(&edu, &runtime), expected);
    drop(mapping);
    assert_eq!((runtime.stats().pinned_bytes, edu.domain.mapping_count()), (0, 0));
    y.prefetch(.., device).unwrap().wait().unwrap();
    x.host_mut(..).unwrap().fill(1);
    println!("HMMAP-COUNT: 2 transfers, 3 refusals, {whole_bytes} bytes pinned");
}

#[test]
fn q5_a_static_importer_of_host_memory_pins_it() {
    let Some(edu) = Edu::find() else { return };
    let (runtime, device, _) = runtime_with(window());
    let peer = VfioPeer::pinning("edu", edu.domain.clone(), ADDRESS_BITS);
    let x = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap().lend().unwrap();
    let mapping = x.map_peer(peer, .., Access::Update).unwrap();
    let refused = x.take_back().unwrap_err();
    assert!(is_pinned(&refused.source), "{refused}");
    assert_eq!(edu.domain.mapping_count(), 1, "it still has it");
    edu.read_from(iova(&mapping) + TRANSFER_BYTES, TRANSFER_BYTES);
    edu.write_to(iova(&mapping), TRANSFER_BYTES);
    drop(mapping);
    let x = refused.value.take_back().unwrap();
    let found = x.to_vec().unwrap();
    let moved = |i: usize| if i < WORDS_READ { i + WORDS_READ } else { i };
    assert!(found.iter().enumerate().all(|(i, word)| *word == pattern(moved(i))));
    // For reading it pins as well: pages do not migrate for good.
    let reads = VfioPeer::pinning("edu", edu.domain.clone(), ADDRESS_BITS);
    let mapping = x.map_peer(reads, ..WORDS_READ).unwrap();
    let refused = x.lend_on(device).unwrap_err();
    assert!(is_pinned(&refused.source), "{refused}");
    drop(mapping);
    refused.value.lend_on(device).unwrap().take_back().unwrap();
    assert_eq!((runtime.stats().pinned_bytes, edu.domain.mapping_count()), (0, 0));
    println!("HMMAP-COUNT: 2 transfers, 2 refusals, {} bytes compared", found.len() * 4);
}

#[test]
fn q5_pins_have_a_quota() {
    let Some(edu) = Edu::find() else { return };
    let max_pinned_bytes = Some(128 << 10);
    let runtime: Runtime = runtime(Options { max_pinned_bytes, ..Options::default() });
    let x = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap();
    let pinning = || VfioPeer::pinning("edu", edu.domain.clone(), ADDRESS_BITS);
    let first = x.map_peer(pinning(), ..WORDS_READ).unwrap();
    let refused = x.map_peer(pinning(), ..).unwrap_err();
    let asked_bytes = 4 * WORDS as u64;
    let source =
        PeerError::PinQuota { asked_bytes, pinned_bytes: 64 << 10, limit_bytes: 128 << 10 };
    assert_eq!(refused, Error::Peer { peer: "edu".to_owned(), source });
    assert_eq!(edu.domain.mapping_count(), 1, "the refused one left something");
    assert_eq!((runtime.stats().pinned_bytes, runtime.stats().refused_pins), (64 << 10, 1));
    drop(first);
    assert_eq!((runtime.stats().pinned_bytes, edu.domain.mapping_count()), (0, 0));
    x.map_peer(pinning(), ..2 * WORDS_READ).unwrap();
}
