//! What cannot be had is refused with its reason, and leaves nothing mapped.

use std::io::ErrorKind;

use hmmap_core::{Error, SharedVec, peer::PeerError};
use hmmap_vfio::{VfioDomain, VfioError, VfioPeer};

use super::{Edu, WORDS, pci_device, runtime};

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

#[test]
fn a_window_that_is_none_is_refused() {
    let Some(edu) = Edu::find() else { return };
    for index in [1, 5] {
        assert!(matches!(edu.window_of(index), Err(VfioError::NoWindow { .. })), "{index}");
    }
    assert!(matches!(edu.window_of(99), Err(VfioError::Call { .. })));
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
