//! What cannot be had is refused with its reason, and leaves nothing mapped.

use std::{fs, io::ErrorKind, sync::Arc};

use hmmap_core::{
    Access, Error, SharedVec,
    peer::{Peer, PeerAddress, PeerError, PeerMemory, Place, Reach, Revoked},
};
use hmmap_vfio::{BarMemory, VfioDevice, VfioDomain, VfioError, VfioPeer, WindowFault};

use super::{
    Edu, TRANSFER_BYTES, WORDS, iova, pattern, pci_device,
    q7::{MEMORY_WINDOW, buffer_of, obedient, runtime_with, window, window_name},
    runtime,
};

#[test]
fn a_device_in_use_and_one_of_another_driver_are_refused() {
    let Some(_edu) = Edu::find() else { return };
    let again = VfioDomain::open(&[&pci_device("0x1234", "0x11e8")]);
    let Err(VfioError::NotOpened { source, .. }) = again else { panic!("{again:?}") };
    assert_eq!(source.kind(), ErrorKind::ResourceBusy);
    // One of the machine's own, which the kernel drives.
    let virtio = VfioDomain::open(&[&pci_device("0x1af4", "0x1009")]);
    let Err(VfioError::NotOpened { source, .. }) = virtio else { panic!("{virtio:?}") };
    assert_eq!(source.kind(), ErrorKind::NotFound);
}

/// Two devices behind one bridge are one group, and the kernel has the other one.
#[test]
fn a_group_with_a_device_of_the_kernels_is_refused() {
    let Some(_edu) = Edu::find() else { return };
    let name = pci_device("0x1b36", "0x0005");
    let devices = format!("/sys/bus/pci/devices/{name}/iommu_group/devices");
    let others = fs::read_dir(devices).unwrap().flatten().map(|entry| entry.path());
    assert!(others.filter(|path| path.join("driver").exists()).count() > 1, "it is alone");
    let refused = VfioDomain::open(&[&name]);
    assert!(matches!(refused, Err(VfioError::NotViable { .. })), "{refused:?}");
    // Refused again, and not for being open already.
    let refused = VfioDomain::open(&[&name]);
    assert!(matches!(refused, Err(VfioError::NotViable { .. })), "{refused:?}");
}

#[test]
fn a_window_that_is_none_is_refused() {
    let Some(edu) = Edu::find() else { return };
    for index in [1, 5] {
        assert_eq!(why(edu.window_of(index)), WindowFault::None, "{index}");
    }
    // Configuration space, by its number among VFIO's regions.
    assert_eq!(why(edu.window_of(7)), WindowFault::NotMappable);
    assert!(matches!(edu.window_of(99), Err(VfioError::Call { .. })));
    let name = pci_device("0x8086", "0x100e");
    let card = VfioDomain::open(&[&name]).unwrap().device(&name).unwrap();
    assert_eq!(why(card.window(1)), WindowFault::IoPorts);
    assert_eq!(why(card.memory(1)), WindowFault::IoPorts);
}

fn why<T: std::fmt::Debug>(refused: Result<T, VfioError>) -> WindowFault {
    match refused {
        Err(VfioError::NoWindow { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

fn ivshmem() -> VfioDevice {
    let name = window_name();
    VfioDomain::open(&[&name]).unwrap().device(&name).unwrap()
}

#[test]
fn what_is_no_memory_is_refused_as_memory() {
    let Some(edu) = Edu::find() else { return };
    let device = ivshmem();
    let short = why(device.memory(0));
    assert!(matches!(short, WindowFault::TooShort { len_bytes: 256 | 4096, .. }), "{short:?}");
    assert_eq!(why(device.memory(1)), WindowFault::None);
    assert_eq!(why(device.memory(4)), WindowFault::None);
    let registers = pci_device("0x1234", "0x11e8");
    // Used as registers already.
    let device = edu.domain.device(&registers).unwrap();
    assert_eq!(why(device.memory(0)), WindowFault::InUse);
    let domain = edu.domain.clone();
    drop((edu, device));
    let again = domain.device(&registers).unwrap();
    assert_eq!(why(again.memory(0)), WindowFault::NotMemory);
    // What was refused is not in use.
    again.window(0).unwrap();
}

#[test]
fn a_window_is_claimed_once() {
    let Some(_edu) = Edu::find() else { return };
    let device = ivshmem();
    let memory: Arc<BarMemory> = device.memory(MEMORY_WINDOW).unwrap();
    assert_eq!(why(device.memory(MEMORY_WINDOW)), WindowFault::InUse);
    assert_eq!(why(device.window(MEMORY_WINDOW)), WindowFault::InUse);
    device.window(0).unwrap();
    let (runtime, ..) = runtime_with(memory);
    assert_eq!(why(device.window(MEMORY_WINDOW)), WindowFault::InUse);
    drop(runtime);
    let registers = device.window(MEMORY_WINDOW).unwrap();
    let more = device.window(MEMORY_WINDOW).unwrap();
    assert_eq!(why(device.memory(MEMORY_WINDOW)), WindowFault::InUse);
    drop(registers);
    assert_eq!(why(device.memory(MEMORY_WINDOW)), WindowFault::InUse);
    drop(more);
    device.memory(MEMORY_WINDOW).unwrap();
}

#[test]
fn legs_too_short_for_the_range_leave_nothing_mapped() {
    let Some(edu) = Edu::find() else { return };
    let runtime = runtime(Default::default());
    let x = SharedVec::from_fn(&runtime, WORDS, |i| i as u32).unwrap();
    let peer = VfioPeer::new("edu", edu.domain.clone(), 16, |revoked| revoked.confirm());
    let refused = x.map_peer(peer.clone(), ..).err();
    assert!(
        matches!(refused, Some(Error::Peer { source: PeerError::NotMapped { .. }, .. })),
        "{refused:?}"
    );
    assert_eq!(edu.domain.mapping_count(), 0);
    let fits = x.map_peer(peer, ..WORDS / 8).unwrap();
    assert_eq!(edu.domain.mapping_count(), 1);
    drop(fits);
    assert_eq!(edu.domain.mapping_count(), 0);
}

/// A device with 20 address bits, of which the first page is left alone: three quarters of a mebibyte are mapped, another quarter has no address until one of them is given back.
#[test]
fn addresses_that_ran_out_are_refused_with_numbers_and_come_back() {
    let Some(edu) = Edu::find() else { return };
    let runtime = runtime(Default::default());
    let peer = || VfioPeer::new("edu", edu.domain.clone(), 20, |revoked| revoked.confirm());
    let vectors = [(); 4].map(|()| SharedVec::from_fn(&runtime, WORDS, pattern).unwrap());
    let [x, y, z, more] = &vectors;
    let [x, y, z] = [x, y, z].map(|vec| vec.map_peer(peer(), ..).unwrap());
    let refused = more.map_peer(peer(), ..).unwrap_err();
    let Error::Peer { source: PeerError::NotMapped { reason, .. }, .. } = refused else {
        panic!("{refused}")
    };
    let numbers = format!("no {} neighbouring I/O addresses are free up to 0xfffff", 4 * WORDS);
    assert!(reason.contains(&numbers), "{reason}");
    assert_eq!(edu.domain.mapping_count(), 3, "what was refused is mapped, or others are not");
    let given_back = iova(&y);
    drop(y);
    let fits = more.map_peer(peer(), ..).unwrap();
    assert_eq!((iova(&fits), edu.domain.mapping_count()), (given_back, 3));
    edu.read_from(iova(&fits), TRANSFER_BYTES);
    drop((x, z, fits));
    assert_eq!(edu.domain.mapping_count(), 0);
    println!("HMMAP-COUNT: 1 transfers, 1 refusals");
}

/// Has another peer map for it, and would forget to unmap.
struct PassesOn(Arc<dyn Peer>);

impl Peer for PassesOn {
    fn name(&self) -> &str {
        "passes on"
    }

    fn reach(&self, place: &Place<'_>) -> Reach {
        self.0.reach(place)
    }

    fn map(&self, memory: PeerMemory<'_>) -> Result<PeerAddress, String> {
        self.0.map(memory)
    }

    fn revoke(&self, revoked: Revoked) {
        revoked.confirm();
    }
}

#[test]
fn nobody_maps_what_was_given_to_another_peer() {
    let Some(edu) = Edu::find() else { return };
    let (runtime, device, _) = runtime_with(window());
    let x = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap();
    let passes_on = || Arc::new(PassesOn(obedient(&edu)));
    let refused = |refused: Error| {
        let Error::Peer { source: PeerError::NotMapped { reason, .. }, .. } = refused else {
            panic!("{refused}")
        };
        assert!(reason.contains("another peer"), "{reason}");
    };
    refused(x.map_peer(passes_on(), ..).unwrap_err());
    let x = x.lend_on(device).unwrap();
    refused(x.map_peer(passes_on(), .., Access::Update).unwrap_err());
    assert_eq!(edu.domain.mapping_count(), 0);
}

/// How many mappings the kernel lets a container have, for containers that are made while this lives.
struct EntryLimit(String);

impl EntryLimit {
    const FILE: &str = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";

    fn of(count: u32) -> Self {
        let before = fs::read_to_string(Self::FILE).unwrap();
        fs::write(Self::FILE, count.to_string()).unwrap();
        Self(before)
    }
}

impl Drop for EntryLimit {
    fn drop(&mut self) {
        fs::write(Self::FILE, &self.0).unwrap();
    }
}

/// A range in three pieces of the window, of which the kernel maps two and refuses the third.
#[test]
fn what_is_mapped_in_part_is_unmapped_whole() {
    let limit = std::env::var_os("HMMAP_LAB").map(|_| EntryLimit::of(2));
    let Some(edu) = Edu::find() else { return };
    drop(limit);
    let (runtime, device, _) = runtime_with(window());
    let page = 64 << 10 >> 2;
    let placed = |pages: usize| {
        let vec = SharedVec::from_fn(&runtime, pages * page, pattern).unwrap();
        vec.prefetch(.., device).unwrap().wait().unwrap();
        vec
    };
    let [hole, _between, other_hole, _after] = [1, 1, 1, 1].map(placed);
    drop((hole, other_hole));
    let x = placed(4);
    let refused = x.map_peer(obedient(&edu), ..).unwrap_err();
    let Error::Peer { source: PeerError::NotMapped { reason, .. }, .. } = refused else {
        panic!("{refused}")
    };
    assert!(reason.contains("VFIO_IOMMU_MAP_DMA"), "{reason}");
    assert_eq!(edu.domain.mapping_count(), 0);
    // Both are free again: two pieces fit.
    let fits = x.map_peer(obedient(&edu), page / 2..2 * page).unwrap();
    assert_eq!(edu.domain.mapping_count(), 1);
    edu.read_from(iova(&fits) + 4 * (page / 2 - 100) as u64, TRANSFER_BYTES);
    drop(fits);
    let words = (TRANSFER_BYTES / 4) as usize;
    let expected: Vec<u32> = (page - 100..page - 100 + words).map(pattern).collect();
    assert_eq!(buffer_of(&edu, &runtime), expected);
    assert_eq!(edu.domain.mapping_count(), 0);
}
