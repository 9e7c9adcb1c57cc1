//! Devices that go away, or begin anew, while they are used.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use hmmap_core::{
    Access, Error, Options, SharedVec,
    backend::DeviceError,
    peer::{MappingState, PeerError},
};
use hmmap_vfio::{VfioDomain, VfioError, VfioPeer};

use super::{
    ADDRESS_BITS, Edu, KernelLog, TRANSFER_BYTES, WORDS, iova, pattern, pci_device,
    q7::{MEMORY_WINDOW, WINDOW_BYTES, obedient, runtime_with, window, window_name},
    runtime,
    spy::Spy,
};

/// A device that is being taken out of the tree, as an unplugged one is.
struct Leaver {
    name: String,
    at: PathBuf,
    /// Nothing once it has left.
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Leaver {
    fn start(name: &str) -> Self {
        let at = Path::new("/sys/bus/pci/devices").join(name);
        let remove = at.join("remove");
        let thread = std::thread::spawn(move || fs::write(remove, "1"));
        Self { name: name.to_owned(), at, thread: Some(thread) }
    }

    /// Waits until it has left.
    fn has_left(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
            assert!(!self.at.exists());
        }
    }

    /// When it has left, it is plugged in again.
    fn comes_back(mut self) {
        self.has_left();
        fs::write("/sys/bus/pci/rescan", "1").unwrap();
        fs::write(self.at.join("driver_override"), "vfio-pci").unwrap();
        fs::write("/sys/bus/pci/drivers_probe", &self.name).unwrap();
    }
}

/// Takes the device out of the tree as an unplugged one is taken out: the kernel waits until its user lets go.
#[test]
fn a_device_that_was_unplugged_has_no_group_any_more() {
    let Some(edu) = Edu::find() else { return };
    let name = pci_device("0x1234", "0x11e8");
    let runtime = runtime(Default::default());
    let x = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap();
    let mapping = x.map_peer(obedient(&edu), ..).unwrap();
    let mut leaver = Leaver::start(&name);
    // Until it is closed, what is mapped can be taken back as ever.
    std::thread::sleep(Duration::from_millis(300));
    drop(mapping);
    assert_eq!(edu.domain.mapping_count(), 0);
    let domain = edu.domain.clone();
    drop(edu);
    leaver.has_left();
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
    leaver.comes_back();
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

/// Who meets the loss first is told of the device, then perhaps of work that went with it; from then on it is said of the bytes.
fn is_lost(vec: &SharedVec<u32>) {
    let told = [(); 3].map(|()| vec.host(..).map(<[u32]>::len).unwrap_err());
    let is_of_device = |error: &Error| {
        matches!(error, Error::Device { source: DeviceError::Lost, .. } | Error::DeviceLost { .. })
    };
    let is_of_bytes = |error: &Error| matches!(error, Error::DataLost { .. });
    let is_loss = |error: &Error| is_of_device(error) || is_of_bytes(error);
    assert!(told.iter().all(is_loss) && is_of_bytes(&told[2]), "{told:?}");
}

/// The kernel asks for the device while a transfer is queued and its driver answers nothing: it has no address any more, nobody waits for it, and nothing is mapped again.
#[test]
fn an_unplugged_device_is_a_peer_that_has_ended() {
    let Some(edu) = Edu::find() else { return };
    // Whoever waits for it waits far too long.
    let peer_deadline = Some(Duration::from_secs(3600));
    let runtime = runtime(Options { peer_deadline, ..Options::default() });
    let asked = Arc::new(AtomicUsize::new(0));
    let counts = asked.clone();
    let silent = move |revoked| {
        counts.fetch_add(1, SeqCst);
        std::mem::forget(revoked);
    };
    let peer = VfioPeer::new("edu", edu.domain.clone(), ADDRESS_BITS, silent);
    let lent = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap().lend().unwrap();
    let mapping = lent.map_peer(peer.clone(), .., Access::Update).unwrap();
    let at = iova(&mapping);
    let (told, tells) = mpsc::channel();
    let watch = edu.watch_unplug(move || told.send(()).unwrap());
    assert!(!watch.is_asked() && !edu.domain.is_over());
    let mut log = KernelLog::from_now();
    edu.start_write_to(at, TRANSFER_BYTES);
    let leaver = Leaver::start(&pci_device("0x1234", "0x11e8"));
    tells.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(edu.domain.is_over());
    assert_eq!(edu.domain.mapping_count(), 0, "still mapped");
    edu.finish();
    let faults = log.faults_of(|| edu.write_to(at, TRANSFER_BYTES));
    let x = lent.take_back().unwrap();
    assert_eq!(asked.load(SeqCst), 0, "it was asked, and is not there any more");
    assert_eq!(mapping.state(), MappingState::Unmapped);
    let refused = x.map_peer(peer, ..).unwrap_err();
    let Error::Peer { source: PeerError::Unreachable { reason, .. }, .. } = &refused else {
        panic!("{refused}")
    };
    assert!(reason.contains("unplugged"), "{reason}");
    let found = x.to_vec().unwrap();
    assert!(found.iter().enumerate().all(|(i, word)| *word == pattern(i)), "written late");
    drop((mapping, watch, edu));
    leaver.comes_back();
    let edu = Edu::find().unwrap();
    let mapping = x.map_peer(obedient(&edu), ..).unwrap();
    edu.read_from(iova(&mapping), TRANSFER_BYTES);
    println!(
        "HMMAP-COUNT: 3 transfers, {faults} faults, 1 unplugged, {} bytes compared",
        found.len() * 4
    );
}

/// What the application brings home when it is told is safe; what is only in the window is lost, and said to be, and the runtime goes on.
#[test]
fn what_is_only_in_a_window_that_was_unplugged_is_lost() {
    let Some(edu) = Edu::find() else { return };
    let name = window_name();
    let domain = VfioDomain::open(&[&name]).unwrap();
    let card = domain.device(&name).unwrap();
    let (runtime, device, _) = runtime_with(card.memory(MEMORY_WINDOW).unwrap());
    let vector = || SharedVec::from_fn(&runtime, WORDS, pattern).unwrap();
    let only_there = |vec: SharedVec<u32>| vec.lend_on(device).unwrap().take_back().unwrap();
    let (mut lost, saved, both) = (only_there(vector()), only_there(vector()), vector());
    both.prefetch(.., device).unwrap().wait().unwrap();
    let mapping = lost.map_peer(obedient(&edu), ..).unwrap();
    edu.read_from(iova(&mapping), TRANSFER_BYTES);
    let (told, tells) = mpsc::channel();
    let (done, dones) = mpsc::channel();
    let watch = card.watch_unplug(move || {
        told.send(()).unwrap();
        dones.recv_timeout(Duration::from_secs(60)).unwrap();
    });
    let leaver = Leaver::start(&name);
    tells.recv_timeout(Duration::from_secs(60)).unwrap();
    let is_right = |found: &[u32]| found.iter().enumerate().all(|(i, word)| *word == pattern(i));
    assert!(is_right(saved.host(..).unwrap()), "the window is there as long as it takes");
    done.send(()).unwrap();
    drop(watch);
    is_lost(&lost);
    assert!(lost.residency(..).unwrap().iter().all(|run| run.lost), "{:?}", lost.residency(..));
    assert!(is_right(saved.host(..).unwrap()) && is_right(both.host(..).unwrap()));
    // A peer that read there is told, and loses it.
    let refused = mapping.segments().unwrap_err();
    assert!(matches!(refused, Error::DataLost { .. }), "{refused}");
    assert_eq!(edu.domain.mapping_count(), 0, "still mapped");
    // The kernel has the device back while the runtime lives.
    drop((card, domain));
    leaver.comes_back();
    lost.discard(..).unwrap();
    lost.host_mut(..).unwrap().fill(5);
    assert!(lost.iter().all(|word| *word == 5));
    let refused = saved.prefetch(.., device).map(|fetched| fetched.wait());
    assert!(!matches!(refused, Ok(Ok(_))), "pages go to a window that is not there");
    drop((mapping, lost, saved, both, runtime, edu));
    // And it can be used again.
    drop(runtime_with(window()));
    println!("HMMAP-COUNT: 1 transfers, 1 unplugged, {} bytes compared", 5 * 4 * WORDS);
}

/// A reset that takes what is in the window. QEMU's device keeps it, so after a reset of the kernel's all is well, and what another card's reset does is done by hand.
#[test]
fn what_is_only_in_a_window_that_was_reset_is_lost_and_not_zeros() {
    let Some(edu) = Edu::find() else { return };
    let (runtime, device, _) = runtime_with(window());
    let x = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap();
    let x = x.lend_on(device).unwrap().take_back().unwrap();
    let both = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap();
    both.prefetch(.., device).unwrap().wait().unwrap();
    let reset = Path::new("/sys/bus/pci/devices").join(window_name()).join("reset");
    let resets = usize::from(reset.exists());
    if resets > 0 {
        fs::write(reset, "1").unwrap();
    }
    assert_eq!(x[..100], (0..100).map(pattern).collect::<Vec<_>>());
    let spy = Spy::on(WINDOW_BYTES);
    (0..WINDOW_BYTES / 4).for_each(|at| spy.write(at, 0));
    is_lost(&x);
    // What the host had of it before is good; what it had not is lost, page by page.
    let runs = x.residency(..).unwrap();
    assert!(runs.iter().any(|run| run.lost) && !runs[0].lost, "{runs:?}");
    assert!(both.host(..).unwrap().iter().enumerate().all(|(i, word)| *word == pattern(i)));
    let refused = x.map_peer(obedient(&edu), ..).unwrap_err();
    assert!(matches!(refused, Error::DataLost { .. }), "{refused}");
    println!("HMMAP-COUNT: {} resets, {} bytes compared", resets + 1, 4 * WORDS);
}
