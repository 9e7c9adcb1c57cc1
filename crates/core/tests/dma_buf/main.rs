//! Host pages as real dma-bufs: read and written by another process, kept apart from other drivers by the kernel's fences. Runs in the lab's machine
//! (`cargo xtask lab`), and elsewhere where the kernel has udmabuf and vgem; else skips.

#[path = "../shared_memory/stranger.rs"]
#[allow(dead_code, reason = "shared with the tests of shared memory")]
mod stranger;
mod vgem;

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use hmmap_core::{
    Access, Lent, Options, Runtime, SharedVec,
    host::{FenceStatus, HostAccess, SyncFault, SyncFile, add_fence, fences_of, udmabuf},
    peer::{AddressKind, Peer, PeerAddress, PeerFence, PeerMemory, Place, Reach, Revoked},
};
use rustix::{
    io::{Errno, FdFlags},
    mm::{MapFlags, ProtFlags},
};
use stranger::Stranger;
use vgem::Vgem;

/// Elements: two blocks, so that the kernel's list of pages is longer than one piece.
const N: usize = 2 * (2 << 20) / 4;
/// Longer than anything here takes, on a machine that is emulated and busy.
const LONG: Duration = Duration::from_secs(8);

fn pattern(i: usize) -> u32 {
    (i as u32).wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995
}

/// `None`, and a line that says so, without the kernel's udmabuf.
fn vector() -> Option<(Runtime, Lent<u32>)> {
    if let Err(fault) = udmabuf() {
        println!("HMMAP-SKIP: {fault}");
        return None;
    }
    let runtime = Runtime::new(Vec::new(), Options::default()).unwrap();
    let mut x = SharedVec::<u32>::shareable(&runtime, N).unwrap();
    x.host_mut(..).unwrap().iter_mut().enumerate().for_each(|(i, word)| *word = pattern(i));
    let lent = x.lend().unwrap();
    Some((runtime, lent))
}

fn vgem() -> Option<Vgem> {
    let found = Vgem::open();
    if let Err(error) = &found {
        println!("HMMAP-SKIP: no vgem at /dev/dri/card0: {error}");
    }
    found.ok()
}

/// Says to a test that it plays the other part, and which descriptor it was given.
const DESCRIPTOR: &str = "HMMAP_TEST_DESCRIPTOR";

/// The other part: whoever was handed a dma-buf and knows nothing else.
fn stranger(number: i32) {
    // SAFETY: it was left open for this process.
    #[allow(unsafe_code, reason = "a descriptor by its number")]
    let buffer = unsafe { BorrowedFd::borrow_raw(number) };
    let link = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
    assert!(link.to_string_lossy().starts_with("/dmabuf"), "{link:?}");
    let memory = Stranger::map(buffer, N as u64 * 4, true).unwrap();
    let turn = HostAccess::begin(buffer, Access::Update, LONG).unwrap();
    for i in 0..N {
        assert_eq!(memory.load(i), pattern(i), "word {i}");
        memory.store(i, !pattern(i));
    }
    drop(turn);
}

#[test]
fn another_process_reads_and_writes_host_pages_through_a_dma_buf() {
    if let Ok(number) = std::env::var(DESCRIPTOR) {
        return stranger(number.parse().unwrap());
    }
    let Some((_runtime, x)) = vector() else { return };
    let buffer = x.dma_buf().unwrap();
    assert_eq!(buffer.len_bytes(), N as u64 * 4);
    let handed = rustix::io::dup(&buffer).unwrap();
    rustix::io::fcntl_setfd(&handed, FdFlags::empty()).unwrap();
    let name = "another_process_reads_and_writes_host_pages_through_a_dma_buf";
    let other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(DESCRIPTOR, handed.as_raw_fd().to_string())
        .output()
        .unwrap();
    assert!(other.status.success(), "{}", String::from_utf8_lossy(&other.stdout));
    drop(handed);
    for i in 0..N {
        assert_eq!(x.load(i).unwrap(), !pattern(i), "word {i}");
    }
    println!("HMMAP-COUNT: {} bytes compared, 1 dma-bufs to another process", 2 * N * 4);
}

#[test]
fn fences_of_others_keep_the_host_out_of_a_dma_buf() {
    let Some((_runtime, x)) = vector() else { return };
    let Some(driver) = vgem() else { return };
    let buffer = x.dma_buf().unwrap();
    let buffer = buffer.as_fd();
    let turn = |access| HostAccess::begin(buffer, access, Duration::from_millis(20)).map(drop);
    let waited = Duration::from_millis(20);
    assert_eq!(fences_of(buffer, Access::Update).unwrap().status(), Ok(FenceStatus::Done));
    assert_eq!(turn(Access::Update), Ok(()));
    // A driver that reads keeps writers out, and nobody else.
    let work = driver.begin().unwrap();
    let file = fences_of(&driver.buffer, Access::Read).unwrap();
    assert_eq!(file.status(), Ok(FenceStatus::Pending));
    add_fence(buffer, &file, Access::Read).unwrap();
    assert_eq!(turn(Access::Read), Ok(()));
    assert_eq!(turn(Access::Update), Err(SyncFault::TimedOut { waited }));
    assert_eq!(fences_of(buffer, Access::Read).unwrap().status(), Ok(FenceStatus::Done));
    assert_eq!(fences_of(buffer, Access::Write).unwrap().status(), Ok(FenceStatus::Pending));
    // One that writes keeps everybody out.
    add_fence(buffer, &file, Access::Update).unwrap();
    assert_eq!(turn(Access::Read), Err(SyncFault::TimedOut { waited }));
    driver.end(&work).unwrap();
    assert!(file.wait(LONG));
    assert_eq!(file.status(), Ok(FenceStatus::Done));
    assert_eq!(turn(Access::Update), Ok(()));
    println!("HMMAP-COUNT: 1 kernel fences waited for");
}

#[test]
fn another_driver_sees_the_fences_that_are_left_in_its_buffer() {
    let (Some(one), Some(other)) = (vgem(), vgem()) else { return };
    let work = one.begin().unwrap();
    let file = fences_of(&one.buffer, Access::Update).unwrap();
    add_fence(&other.buffer, &file, Access::Update).unwrap();
    // vgem refuses work on a buffer that somebody else works on.
    assert_eq!(other.begin().err(), Some(Errno::BUSY));
    one.end(&work).unwrap();
    let own = other.begin().unwrap();
    other.end(&own).unwrap();
}

/// Another device's driver as a peer: addresses of the process, and confirms at once.
struct Driver;

impl Peer for Driver {
    fn name(&self) -> &str {
        "vgem"
    }

    fn reach(&self, place: &Place<'_>) -> Reach {
        if place.node.is_host() { Reach::Hops(1) } else { Reach::No { reason: "far".into() } }
    }

    fn map(&self, memory: PeerMemory<'_>) -> Result<PeerAddress, String> {
        let address = memory.address();
        Ok(PeerAddress { address, kind: AddressKind::Process, token: 0 })
    }

    fn unmap(&self, _address: PeerAddress) {}

    fn revoke(&self, revoked: Revoked) {
        revoked.confirm();
    }
}

#[test]
fn q4_a_range_is_taken_back_after_the_kernels_fence_and_not_before() {
    const ROUNDS: u32 = 5;
    let Some(driver) = vgem() else { return };
    let options = Options { peer_deadline: Some(LONG), ..Options::default() };
    let runtime = Runtime::new(Vec::new(), options).unwrap();
    let mut x = SharedVec::from_fn(&runtime, 1000, pattern).unwrap();
    for round in 0..ROUNDS {
        let mapping = x.map_peer(Arc::new(Driver), ..).unwrap();
        let stamp = mapping.segments().unwrap().stamp();
        let work = driver.begin().unwrap();
        let fence = fences_of(&driver.buffer, Access::Update).unwrap();
        assert!(mapping.attach(stamp, Arc::new(fence)));
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                ended.store(true, SeqCst);
                driver.end(&work).unwrap();
            });
            x.host_mut(..).unwrap().fill(round);
            assert!(ended.load(SeqCst), "round {round}: written while a driver read");
        });
        drop(mapping);
    }
    println!("HMMAP-COUNT: {ROUNDS} revocations, {ROUNDS} kernel fences waited for");
}

/// vgem's fences end after ten seconds, without an error: whoever would have ended one hears that it was late, and nobody else does.
#[test]
fn a_fence_that_nobody_ends_is_ended_by_the_kernel() {
    if std::env::var_os("HMMAP_DEEP").is_none() {
        println!("HMMAP-SKIP: takes ten seconds (cargo xtask deep)");
        return;
    }
    let Some(driver) = vgem() else { return };
    let work = driver.begin().unwrap();
    let file = fences_of(&driver.buffer, Access::Update).unwrap();
    assert!(!file.wait(Duration::from_secs(1)), "it is nobody's to end yet");
    assert!(file.wait(3 * LONG));
    assert_eq!(file.status(), Ok(FenceStatus::Done));
    assert_eq!(driver.end(&work), Err(Errno::TIMEDOUT));
    println!("HMMAP-COUNT: 1 kernel fences waited for");
}

/// What the kernel of the lab cannot: a dma-buf of host pages is no memory that a device is given by the host's address.
#[test]
fn a_mapping_of_a_dma_buf_is_no_memory_for_io() {
    let Some((_runtime, x)) = vector() else { return };
    let buffer = x.dma_buf().unwrap();
    let memory = Stranger::map(buffer.as_fd(), buffer.len_bytes(), true).unwrap();
    assert_eq!(memory.load(1), pattern(1));
    // A descriptor of another kind is refused by name.
    let file = SyncFile::new(rustix::io::dup(&buffer).unwrap()).unwrap_err();
    let source = Errno::NOTTY;
    assert_eq!(file, SyncFault::Refused { call: "SYNC_IOC_FILE_INFO", source });
    let rights = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: nothing is replaced.
    #[allow(unsafe_code, reason = "mmap")]
    let private = unsafe {
        rustix::mm::mmap(std::ptr::null_mut(), 4096, rights, MapFlags::PRIVATE, &buffer, 0)
    };
    assert_eq!(private.err(), Some(Errno::INVAL), "a private copy of a dma-buf");
}
