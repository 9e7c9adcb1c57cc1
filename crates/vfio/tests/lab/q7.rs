//! Another device's memory: pages of a vector in its window, reached there peer to peer.

use std::sync::Arc;

use hmmap_core::{DeviceId, NodeId, Options, Runtime, SharedVec, backend::Provider, peer::Peer};
use hmmap_vfio::{BarMemory, VfioDomain, VfioPeer};

use super::{
    ADDRESS_BITS, Edu, KernelLog, TRANSFER_BYTES, WORDS, iova, pattern, pci_device, spy::Spy,
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
fn buffer_of(edu: &Edu, runtime: &Runtime) -> Vec<u32> {
    let words = (TRANSFER_BYTES / 4) as usize;
    let target = SharedVec::<u32>::new(runtime, words).unwrap().lend().unwrap();
    let writes = target.map_peer(obedient(edu), .., hmmap_core::Access::Update).unwrap();
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
    edu.read_from(at, TRANSFER_BYTES);
    let faults = log.iommu_faults();
    assert!(!faults.is_empty(), "the IOMMU saw no fault");
    let after = buffer_of(&edu, &runtime);
    assert!(after.iter().all(|word| !expected.contains(word) && *word != 7), "read late");
    drop(mapping);
    println!("HMMAP-COUNT: 3 transfers, {} faults, {} bytes compared", faults.len(), 12 * words);
}
