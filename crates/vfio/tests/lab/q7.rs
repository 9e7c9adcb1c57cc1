//! Another device's memory: pages of a vector in its window, reached there peer to peer.

use std::{sync::Arc, time::Duration};

use hmmap_core::{
    Access, DeviceId, NodeId, Options, Runtime, SharedVec, backend::Provider, peer::Peer,
};
use hmmap_vfio::{BarMemory, VfioDomain, VfioError, VfioPeer, WindowFault};
use parking_lot::Mutex;

use super::{
    ADDRESS_BITS, Edu, KernelLog, TRANSFER_BYTES, WORDS, flat, iova, pattern, pci_device, spy::Spy,
};

/// How long it is.
pub(crate) const WINDOW_BYTES: usize = 16 << 20;
/// Which of ivshmem's windows is memory.
pub(crate) const MEMORY_WINDOW: u32 = 2;

pub(crate) fn window_name() -> String {
    pci_device("0x1af4", "0x1110")
}

pub(crate) fn window() -> Arc<BarMemory> {
    let name = window_name();
    let domain = VfioDomain::open(&[&name]).unwrap();
    domain.device(&name).unwrap().memory(MEMORY_WINDOW).unwrap()
}

pub(crate) fn runtime_with(window: Arc<dyn Provider>) -> (Runtime, DeviceId, NodeId) {
    let runtime = Runtime::new(vec![window], Options::default()).unwrap();
    let device = runtime.default_device().unwrap();
    let node = runtime.node(device).unwrap();
    (runtime, device, node)
}

/// A peer that confirms at once.
pub(crate) fn obedient(edu: &Edu) -> Arc<dyn Peer> {
    VfioPeer::new("edu", edu.domain.clone(), ADDRESS_BITS, |revoked| revoked.confirm())
}

/// What edu has in its buffer, by way of a vector on the host that nobody else writes.
pub(crate) fn buffer_of(edu: &Edu, runtime: &Runtime) -> Vec<u32> {
    let words = (TRANSFER_BYTES / 4) as usize;
    let target = SharedVec::<u32>::new(runtime, words).unwrap().lend().unwrap();
    let writes = target.map_peer(obedient(edu), .., Access::Update).unwrap();
    edu.write_to(iova(&writes), TRANSFER_BYTES);
    drop(writes);
    target.take_back().unwrap().to_vec().unwrap()
}

#[test]
fn q7_edu_reads_the_other_devices_window_and_loses_it_on_revoke() {
    let Some(edu) = Edu::find() else { return };
    let (runtime, device, node) = runtime_with(window());
    let mut x = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap();
    x.prefetch(.., device).unwrap().wait().unwrap();
    // Not at the beginning of a page, so that an offset which is lost shows.
    let (from, words) = (33_000, (TRANSFER_BYTES / 4) as usize);
    let mapping = x.map_peer(obedient(&edu), from..from + words).unwrap();
    assert_eq!(edu.domain.mapping_count(), 1);
    let residency = x.residency(from..from + words).unwrap();
    assert!(residency.iter().all(|run| run.nodes.contains(&node) && run.peers == 1));
    let at = iova(&mapping);
    edu.read_from(at, TRANSFER_BYTES);
    let expected: Vec<u32> = (from..from + words).map(pattern).collect();
    assert_eq!(buffer_of(&edu, &runtime), expected);
    // It is the window that it reads, and not the host's copy: a word that only the window has.
    let spy = Spy::on(WINDOW_BYTES);
    let place = spy.find(&expected).expect("the range is not in the window");
    spy.write(place, 0xfeed);
    edu.read_from(at, TRANSFER_BYTES);
    let seen = buffer_of(&edu, &runtime);
    assert_eq!((seen[0], &seen[1..]), (0xfeed, &expected[1..]));
    spy.write(place, expected[0]);
    // The host writes: the range is taken back, and reads give nothing.
    let mut log = KernelLog::from_now();
    x.host_mut(..).unwrap().fill(7);
    assert_eq!(edu.domain.mapping_count(), 0, "still mapped");
    let faults = log.faults_of(|| edu.read_from(at, TRANSFER_BYTES));
    let after = buffer_of(&edu, &runtime);
    assert!(after.iter().all(|word| !expected.contains(word) && *word != 7), "read late");
    drop(mapping);
    println!("HMMAP-COUNT: 3 transfers, {faults} faults, {} bytes compared", 12 * words);
}

/// The words that edu has in its buffer after it read a vector of its own.
fn load(edu: &Edu, runtime: &Runtime, seed: usize) -> Vec<u32> {
    let words: Vec<u32> = (seed..seed + (TRANSFER_BYTES / 4) as usize).map(pattern).collect();
    let source = SharedVec::from_fn(runtime, words.len(), |i| words[i]).unwrap();
    let mapping = source.map_peer(obedient(edu), ..).unwrap();
    edu.read_from(iova(&mapping), TRANSFER_BYTES);
    words
}

#[test]
fn q7_edu_writes_the_other_devices_window_and_nothing_else() {
    let Some(edu) = Edu::find() else { return };
    let (runtime, device, node) = runtime_with(window());
    let x = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap().lend_on(device).unwrap();
    let residency = x.residency(..).unwrap();
    assert!(residency.iter().all(|run| run.nodes[..] == [node]), "{residency:?}");
    // Across the end of a page, and not at the beginning of one of the IOMMU's.
    let (to, words) = (3 * (64 << 10) / 4 - 100, (TRANSFER_BYTES / 4) as usize);
    let mapping = x.map_peer(obedient(&edu), to..to + words, Access::Update).unwrap();
    let brought = load(&edu, &runtime, 1_000_000);
    let before = runtime.stats().total();
    edu.write_to(iova(&mapping), TRANSFER_BYTES);
    let spy = Spy::on(WINDOW_BYTES);
    assert!(spy.find(&brought).is_some(), "what edu wrote is not in the window");
    let x = x.take_back().unwrap();
    assert_eq!(edu.domain.mapping_count(), 0);
    assert_eq!(runtime.stats().total(), before, "the host carried bytes");
    let found = x.to_vec().unwrap();
    for (i, word) in found.iter().enumerate() {
        let inside = (to..to + words).contains(&i);
        assert_eq!(*word, if inside { brought[i - to] } else { pattern(i) }, "word {i}");
    }
    println!("HMMAP-COUNT: 2 transfers, {} bytes compared", found.len() * 4);
}

/// A write to the window is queued when the vector is taken back, and its driver never answers.
#[test]
fn q7_a_late_write_to_the_window_is_blocked() {
    const ROUNDS: usize = 10;
    let Some(edu) = Edu::find() else { return };
    let peer_deadline = Some(Duration::from_millis(5));
    let options = Options { peer_deadline, ..Options::default() };
    let runtime = Runtime::new(vec![window()], options).unwrap();
    let device = runtime.default_device().unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeps = kept.clone();
    let silent = move |revoked| keeps.lock().push(revoked);
    let peer = VfioPeer::new("edu", edu.domain.clone(), ADDRESS_BITS, silent);
    load(&edu, &runtime, 2_000_000);
    let mut log = KernelLog::from_now();
    let (mut faults, mut in_flight) = (0, 0);
    let mut x = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap();
    for round in 0..ROUNDS {
        let lent = x.lend_on(device).unwrap();
        let mapping = lent.map_peer(peer.clone(), .., Access::Update).unwrap();
        edu.start_write_to(iova(&mapping) + TRANSFER_BYTES * (round as u64 % 8), TRANSFER_BYTES);
        x = lent.take_back().unwrap();
        assert_eq!(edu.domain.mapping_count(), 0, "round {round}: still mapped");
        in_flight += usize::from(edu.is_busy());
        edu.finish();
        faults += log.iommu_faults().len();
        let found = x.to_vec().unwrap();
        let unchanged = found.iter().enumerate().all(|(i, word)| *word == pattern(i));
        assert!(unchanged, "round {round}: written late");
        drop(mapping);
    }
    assert_eq!(kept.lock().len(), ROUNDS);
    if faults == 0 {
        // The kernel leaves records out when there were many before.
        let lent = x.lend_on(device).unwrap();
        let mapping = lent.map_peer(peer, .., Access::Update).unwrap();
        let at = iova(&mapping);
        x = lent.take_back().unwrap();
        faults = log.faults_of(|| edu.write_to(at, TRANSFER_BYTES));
        assert!(x.to_vec().unwrap().iter().enumerate().all(|(i, word)| *word == pattern(i)));
    }
    assert!(in_flight > 0 && faults > 0, "{in_flight} in flight, {faults} faults");
    let bytes = ROUNDS * WORDS * 4;
    println!(
        "HMMAP-COUNT: {ROUNDS} revocations, {in_flight} revocations with a transfer queued, {faults} faults, {bytes} bytes compared"
    );
}

/// The device is taken from `vfio-pci` until this goes.
struct Unbound(String);

impl Unbound {
    const DRIVER: &str = "/sys/bus/pci/drivers/vfio-pci";

    fn new(device: String) -> Self {
        std::fs::write(format!("{}/unbind", Self::DRIVER), &device).unwrap();
        Self(device)
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        std::fs::write(format!("{}/bind", Self::DRIVER), &self.0).unwrap();
    }
}

#[test]
fn q7_a_window_by_way_of_sysfs_is_reached_as_well() {
    let Some(edu) = Edu::find() else { return };
    let name = window_name();
    let refused = BarMemory::of_resource(&name, MEMORY_WINDOW).unwrap_err();
    let in_use = matches!(refused, VfioError::NoWindow { why: WindowFault::InUse, .. });
    assert!(in_use, "{refused}: vfio-pci has it");
    let unbound = Unbound::new(name);
    let window = BarMemory::of_resource(&unbound.0, MEMORY_WINDOW).unwrap();
    let again = BarMemory::of_resource(&unbound.0, MEMORY_WINDOW).unwrap_err();
    let in_use = matches!(again, VfioError::NoWindow { why: WindowFault::InUse, .. });
    assert!(in_use, "{again}: it is in use here");
    copy_within(&edu, window);
    drop(unbound);
    // Nothing of it is left: the window can be had as before.
    drop(self::window());
}

/// A file in the place of a window is host memory, and is mapped as that.
#[test]
fn q7_a_double_of_a_window_is_reached_as_well() {
    let Some(edu) = Edu::find() else { return };
    copy_within(&edu, BarMemory::double(WINDOW_BYTES as u64).unwrap());
}

/// Edu copies the beginning of a vector that is lent in a window to what follows, and then loses it.
fn copy_within(edu: &Edu, window: Arc<BarMemory>) {
    let (runtime, device, _) = runtime_with(window);
    let x = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap().lend_on(device).unwrap();
    let words = (TRANSFER_BYTES / 4) as usize;
    let mapping = x.map_peer(obedient(edu), .., Access::Update).unwrap();
    let at = iova(&mapping);
    edu.read_from(at, TRANSFER_BYTES);
    edu.write_to(at + TRANSFER_BYTES, TRANSFER_BYTES);
    let x = x.take_back().unwrap();
    let moved = |i: usize| if (words..2 * words).contains(&i) { i - words } else { i };
    let found = x.to_vec().unwrap();
    assert!(found.iter().enumerate().all(|(i, word)| *word == pattern(moved(i))));
    assert_eq!(edu.domain.mapping_count(), 0);
    let mut log = KernelLog::from_now();
    log.faults_of(|| edu.write_to(at + TRANSFER_BYTES, TRANSFER_BYTES));
    assert_eq!(x.to_vec().unwrap(), found);
    println!("HMMAP-COUNT: 3 transfers, {} bytes compared", 2 * 4 * WORDS);
}

/// The same programs as on a file in the window's place, on the device's own memory.
#[test]
fn q7_vectors_are_flat_arrays_with_pages_in_a_real_window() {
    if Edu::find().is_none() {
        return;
    }
    let cases = if std::env::var_os("HMMAP_DEEP").is_some() { 60 } else { 8 };
    println!(
        "HMMAP-COUNT: {} steps with pages in a window",
        flat::play(cases, || runtime_with(window()))
    );
}

/// Two vectors that do not fit the window together.
#[test]
fn q7_room_is_made_in_the_window_though_a_peer_reads_there() {
    let Some(edu) = Edu::find() else { return };
    let (runtime, device, node) = runtime_with(window());
    let len = WINDOW_BYTES / 4 * 6 / 10;
    let x = SharedVec::from_fn(&runtime, len, pattern).unwrap();
    x.prefetch(.., device).unwrap().wait().unwrap();
    let mapping = x.map_peer(obedient(&edu), ..).unwrap();
    let at = iova(&mapping);
    let y = SharedVec::from_fn(&runtime, len, |i| !pattern(i)).unwrap();
    y.prefetch(.., device).unwrap().wait().unwrap();
    assert_eq!(edu.domain.mapping_count(), 0, "still mapped");
    let mut log = KernelLog::from_now();
    log.faults_of(|| edu.read_from(at, TRANSFER_BYTES));
    let on = |node, vec: &SharedVec<u32>| {
        let runs = vec.residency(..).unwrap();
        runs.into_iter()
            .filter(|run| run.nodes[..].contains(&node))
            .map(|run| run.pages.count())
            .sum::<usize>()
    };
    let pages = len.div_ceil(16 << 10);
    assert!(on(node, &y) == pages && on(node, &x) < pages, "{:?}", x.residency(..));
    // It maps again: what left the window is reached on the host, and the rest where it is, at neighbouring addresses.
    let words = (TRANSFER_BYTES / 4) as usize;
    let at = iova(&mapping);
    for first in [0, len - words] {
        edu.read_from(at + 4 * first as u64, TRANSFER_BYTES);
        let expected: Vec<u32> = (first..first + words).map(pattern).collect();
        assert_eq!(buffer_of(&edu, &runtime), expected);
    }
    println!("HMMAP-COUNT: 3 transfers, {} bytes compared", 2 * TRANSFER_BYTES);
}
