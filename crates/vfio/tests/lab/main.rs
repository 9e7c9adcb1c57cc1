//! A PCI device that does DMA behind an IOMMU works on vectors. Runs in the lab's machine (`cargo xtask lab`), and skips elsewhere.

// The example is the package's that stands on this one; it finds here what it uses of it.
extern crate self as hmmap;
pub use hmmap_core::{Access, Options, Runtime, SharedVec};
pub use hmmap_vfio as vfio;

mod bad_input;
mod edu;
#[path = "../../../../examples/12_peer_to_peer.rs"]
#[allow(dead_code, reason = "its own `main` is not called here")]
mod example;
mod flat;
mod goes_away;
mod privilege;
mod q5;
mod q7;
mod spy;

use std::{sync::Arc, time::Duration};

use edu::{ADDRESS_BITS, Edu, KernelLog, TRANSFER_BYTES, pci_device};
use hmmap_core::{
    p2p::{MapType, P2p, PciAddress},
    peer::PeerMapping,
};
use hmmap_vfio::VfioPeer;
use parking_lot::Mutex;

const WORDS: usize = 64 << 10;

fn pattern(i: usize) -> u32 {
    (i as u32).wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995
}

fn runtime(options: Options) -> Runtime {
    Runtime::new(Vec::new(), options).unwrap()
}

/// The first address of a mapping that is one segment.
fn iova(mapping: &PeerMapping) -> u64 {
    let segments = mapping.segments().unwrap();
    let [segment] = segments.list() else { panic!("{:?}", segments.list()) };
    assert!(segment.addr + segment.len_bytes <= 1 << ADDRESS_BITS, "beyond the device's reach");
    segment.addr
}

#[test]
fn q2_edu_reads_and_writes_pages_by_iova() {
    let Some(edu) = Edu::find() else { return };
    let runtime = runtime(Options::default());
    let peer = VfioPeer::new("edu", edu.domain.clone(), ADDRESS_BITS, |revoked| revoked.confirm());
    let source = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap();
    let target = SharedVec::<u32>::new(&runtime, WORDS).unwrap().lend().unwrap();
    // Not at the beginning of a page, so that an offset which is lost shows.
    let (from, to) = (1000, 33_000);
    let words = (4 * TRANSFER_BYTES / 4) as usize;
    let reads = source.map_peer(peer.clone(), from..from + words).unwrap();
    let writes = target.map_peer(peer, to..to + words, Access::Update).unwrap();
    assert_eq!(edu.domain.mapping_count(), 2);
    let (read_at, write_at) = (iova(&reads), iova(&writes));
    let mut transfers = 0;
    for step in (0..4).map(|step| step * TRANSFER_BYTES) {
        edu.read_from(read_at + step, TRANSFER_BYTES);
        edu.write_to(write_at + step, TRANSFER_BYTES);
        transfers += 2;
    }
    drop((reads, writes));
    assert_eq!(edu.domain.mapping_count(), 0);
    let target = target.take_back().unwrap();
    let found = target.to_vec().unwrap();
    for (i, word) in found.iter().enumerate() {
        let inside = (to..to + words).contains(&i);
        let expected = if inside { pattern(i - to + from) } else { 0 };
        assert_eq!(*word, expected, "word {i}");
    }
    println!("HMMAP-COUNT: {transfers} transfers, {} bytes compared", found.len() * 4);
}

#[test]
fn q2_a_mapping_for_reading_blocks_the_devices_writes() {
    let Some(edu) = Edu::find() else { return };
    let runtime = runtime(Options::default());
    let peer = VfioPeer::new("edu", edu.domain.clone(), ADDRESS_BITS, |revoked| revoked.confirm());
    let x = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap();
    let zeros = SharedVec::<u32>::new(&runtime, WORDS).unwrap();
    let of_zeros = zeros.map_peer(peer.clone(), ..).unwrap();
    edu.read_from(iova(&of_zeros), TRANSFER_BYTES);
    let mapping = x.map_peer(peer, ..).unwrap();
    let mut log = KernelLog::from_now();
    let at = iova(&mapping);
    let faults = log.faults_of(|| edu.write_to(at, TRANSFER_BYTES));
    let found = x.to_vec().unwrap();
    assert!(found.iter().enumerate().all(|(i, word)| *word == pattern(i)), "a byte was written");
    println!("HMMAP-COUNT: 2 transfers, {faults} faults, {} bytes compared", found.len() * 4);
}

/// The transfer is queued when the range is taken back, and its driver never answers.
#[test]
fn q3_a_late_device_is_cut_off_by_the_iommu() {
    let rounds: usize = if std::env::var_os("HMMAP_DEEP").is_some() { 200 } else { 20 };
    let Some(edu) = Edu::find() else { return };
    let peer_deadline = Some(Duration::from_millis(5));
    let runtime = runtime(Options { peer_deadline, ..Options::default() });
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeps = kept.clone();
    let silent = move |revoked| keeps.lock().push(revoked);
    let peer = VfioPeer::new("edu", edu.domain.clone(), ADDRESS_BITS, silent);
    let mut log = KernelLog::from_now();
    let mut x = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap();
    let (mut faults, mut in_flight) = (0, 0);
    for round in 0..rounds {
        let lent = x.lend().unwrap();
        let mapping = lent.map_peer(peer.clone(), .., Access::Update).unwrap();
        let at = iova(&mapping) + TRANSFER_BYTES * (round as u64 % 8);
        edu.start_write_to(at, TRANSFER_BYTES);
        x = lent.take_back().unwrap();
        assert_eq!(edu.domain.mapping_count(), 0, "round {round}: still mapped");
        in_flight += usize::from(edu.is_busy());
        edu.finish();
        faults += log.iommu_faults().len();
        let found = x.to_vec().unwrap();
        assert!(
            found.iter().enumerate().all(|(i, word)| *word == pattern(i)),
            "round {round}: written late"
        );
        drop(mapping);
    }
    assert_eq!(kept.lock().len(), rounds);
    if faults == 0 {
        // The kernel leaves records out when there were many before.
        let lent = x.lend().unwrap();
        let mapping = lent.map_peer(peer, .., Access::Update).unwrap();
        let at = iova(&mapping);
        x = lent.take_back().unwrap();
        faults = log.faults_of(|| edu.write_to(at, TRANSFER_BYTES));
        assert!(x.to_vec().unwrap().iter().enumerate().all(|(i, word)| *word == pattern(i)));
    }
    // A host that is busy elsewhere may let a transfer end before the range is taken back; not all of them.
    assert!(in_flight > 0 && faults > 0, "{in_flight} in flight, {faults} faults");
    let bytes = rounds * WORDS * 4;
    println!(
        "HMMAP-COUNT: {rounds} revocations, {in_flight} revocations with a transfer queued, {faults} faults, {rounds} transfers, {bytes} bytes compared"
    );
}

/// The driver confirms and says what is queued; the host writes only when that has ended.
#[test]
fn q4_a_queued_transfer_is_waited_for() {
    const ROUNDS: usize = 10;
    let Some(edu) = Edu::find().map(Arc::new) else { return };
    // Far longer than a transfer, so that nobody is cut off.
    let peer_deadline = Some(Duration::from_secs(20));
    let runtime = runtime(Options { peer_deadline, ..Options::default() });
    let peer = VfioPeer::new("edu", edu.domain.clone(), ADDRESS_BITS, |revoked| revoked.confirm());
    let mut source = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap();
    let words = (TRANSFER_BYTES / 4) as usize;
    for round in 0..ROUNDS {
        let mapping = source.map_peer(peer.clone(), ..words).unwrap();
        let segments = mapping.segments().unwrap();
        edu.start_read_from(segments.list()[0].addr, TRANSFER_BYTES);
        assert!(mapping.attach(segments.stamp(), edu.clone()));
        let old = source.first().copied();
        source.host_mut(..words).unwrap().fill(round as u32);
        assert!(!edu.is_busy(), "round {round}: written while it was being read");
        drop(mapping);
        // What the device read is what was there before.
        let target = SharedVec::<u32>::new(&runtime, words).unwrap().lend().unwrap();
        let writes = target.map_peer(peer.clone(), .., Access::Update).unwrap();
        edu.write_to(iova(&writes), TRANSFER_BYTES);
        drop(writes);
        let found = target.take_back().unwrap().to_vec().unwrap();
        let before = |i| if round == 0 { pattern(i) } else { round as u32 - 1 };
        assert_eq!(old, Some(before(0)));
        assert!(found.iter().enumerate().all(|(i, word)| *word == before(i)), "round {round}");
    }
    assert_eq!(edu.domain.mapping_count(), 0);
    let bytes = u64::try_from(ROUNDS).unwrap() * TRANSFER_BYTES;
    println!(
        "HMMAP-COUNT: {ROUNDS} revocations, {ROUNDS} revocations with a transfer queued, {} transfers, {bytes} bytes compared",
        2 * ROUNDS
    );
}

#[test]
fn q6_the_live_tree_says_how_far_two_devices_are() {
    let Some(_edu) = Edu::find() else { return };
    let address = |vendor, device| PciAddress::parse(&pci_device(vendor, device)).unwrap();
    let (edu, window) = (address("0x1234", "0x11e8"), address("0x1af4", "0x1110"));
    let way = P2p::live().way(window, edu).unwrap();
    // Two ports of one switch, without access control.
    assert_eq!((way.map_type, way.distance), (MapType::BusAddress, 4));
}

#[test]
fn q7_the_example_runs() {
    // Its devices are taken by nobody else meanwhile.
    let Some(edu) = Edu::find() else { return };
    drop(edu);
    assert_eq!(example::run().unwrap(), Some(512));
}
