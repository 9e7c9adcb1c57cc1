//! Devices that go away, or begin anew, while they are used.

use std::{fs, io::ErrorKind, path::Path, time::Duration};

use hmmap_core::{Access, SharedVec};
use hmmap_vfio::{VfioDomain, VfioError, VfioPeer};

use super::{
    ADDRESS_BITS, Edu, TRANSFER_BYTES, WORDS, iova, pattern, pci_device, q7::obedient, runtime,
};

/// Takes the device out of the tree as an unplugged one is taken out: the kernel waits until its user lets go.
#[test]
fn a_device_that_was_unplugged_has_no_group_any_more() {
    let Some(edu) = Edu::find() else { return };
    let name = pci_device("0x1234", "0x11e8");
    let at = Path::new("/sys/bus/pci/devices").join(&name);
    let runtime = runtime(Default::default());
    let x = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap();
    let mapping = x.map_peer(obedient(&edu), ..).unwrap();
    let remove = at.join("remove");
    let leaver = std::thread::spawn(move || fs::write(remove, "1"));
    // Until it is closed, what is mapped can be taken back as ever.
    std::thread::sleep(Duration::from_millis(300));
    drop(mapping);
    assert_eq!(edu.domain.mapping_count(), 0);
    let domain = edu.domain.clone();
    drop(edu);
    leaver.join().unwrap().unwrap();
    assert!(!at.exists());
    let gone = domain.device(&name).unwrap_err();
    let VfioError::NoGroup { source, .. } = gone else { panic!("{gone}") };
    assert_eq!(source.kind(), ErrorKind::NotFound);
    let gone = VfioDomain::open(&[&name]).unwrap_err();
    assert!(matches!(gone, VfioError::NoGroup { .. }), "{gone}");
    // The table without a device is a table still, and empty.
    let peer = VfioPeer::new("gone", domain.clone(), ADDRESS_BITS, |revoked| revoked.confirm());
    drop(x.map_peer(peer, ..));
    assert_eq!(domain.mapping_count(), 0);
    drop(domain);
    // Plugged in again.
    fs::write("/sys/bus/pci/rescan", "1").unwrap();
    fs::write(at.join("driver_override"), "vfio-pci").unwrap();
    fs::write("/sys/bus/pci/drivers_probe", &name).unwrap();
    let edu = Edu::find().unwrap();
    let mapping = x.map_peer(obedient(&edu), ..).unwrap();
    edu.read_from(iova(&mapping), TRANSFER_BYTES);
}

/// Its registers begin anew; the IOMMU's table, which is not in the device, stays, and so does what the library promised about it.
#[test]
fn a_device_that_is_reset_keeps_its_mappings() {
    let Some(edu) = Edu::find() else { return };
    let name = pci_device("0x1234", "0x11e8");
    let runtime = runtime(Default::default());
    let x = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap();
    let y = SharedVec::<u32>::new(&runtime, WORDS).unwrap().lend().unwrap();
    let reads = x.map_peer(obedient(&edu), ..).unwrap();
    let writes = y.map_peer(obedient(&edu), .., Access::Update).unwrap();
    edu.start_read_from(iova(&reads), TRANSFER_BYTES);
    fs::write(format!("/sys/bus/pci/devices/{name}/reset"), "1").unwrap();
    assert_eq!(edu.domain.mapping_count(), 2);
    edu.enable_dma();
    edu.finish();
    edu.read_from(iova(&reads) + TRANSFER_BYTES, TRANSFER_BYTES);
    edu.write_to(iova(&writes), TRANSFER_BYTES);
    drop((reads, writes));
    assert_eq!(edu.domain.mapping_count(), 0);
    let found = y.take_back().unwrap().to_vec().unwrap();
    let (words, bytes) = ((TRANSFER_BYTES / 4) as usize, found.len() * 4);
    for (i, word) in found.into_iter().enumerate() {
        assert_eq!(word, if i < words { pattern(i + words) } else { 0 }, "word {i}");
    }
    println!("HMMAP-COUNT: 3 transfers, 1 resets, {bytes} bytes compared");
}
