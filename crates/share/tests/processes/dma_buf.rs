//! Dma-bufs that one process serves and another opens: host pages, the kernel's brackets and fences. Where the kernel has no udmabuf, what is refused.

use std::{os::fd::AsFd, time::Duration};

use hmmap_core::{
    Access, Error, Lent, SharedVec,
    backend::Handle,
    host::{
        DmaBuf, FenceStatus, HostAccess, HostError, ShareFault, Sharing, SyncFault, add_fence,
        dma_buf_bytes, fences_of, udmabuf,
    },
    peer::PeerFence,
};
use hmmap_share::{Exporter, ExporterOptions, Importer, ImporterOptions, ShareError, wire::Code};
use rustix::io::Errno;

use crate::{
    BLOCK, PAGE,
    harness::{Other, hear, part, say, socket_path},
    runtime,
    stranger::Stranger,
    vgem::Vgem,
};

const N: usize = BLOCK + 3 * PAGE + 5;
/// Longer than anything here takes, on a machine that is emulated and busy.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(20);

fn pattern(i: usize) -> u32 {
    (i as u32).wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995
}

/// In the lab there is one, or the lab is broken.
fn vgem() -> Option<Vgem> {
    let found = Vgem::open();
    assert!(found.is_ok() || std::env::var_os("HMMAP_LAB").is_none(), "{:?}", found.err());
    found.ok()
}

/// The process that opens it: reads, writes, and leaves another driver's fence in it.
fn guest(socket: &std::path::Path) {
    let importer = Importer::connect(socket, ImporterOptions::default()).unwrap();
    let refused = importer.open::<u32>(&runtime(), "whole").unwrap_err();
    assert!(matches!(refused, ShareError::Refused { code: Code::Otherwise }), "{refused}");
    let refused = importer.open_dma_buf("pages").unwrap_err();
    assert!(matches!(refused, ShareError::Refused { code: Code::Otherwise }), "{refused}");
    let refused = importer.open_dma_buf("nothing").unwrap_err();
    assert!(matches!(refused, ShareError::Refused { code: Code::Unknown }), "{refused}");
    let buffer = importer.open_dma_buf("whole").unwrap();
    assert_eq!((buffer.offset_bytes(), buffer.used_bytes()), (0, N as u64 * 4));
    assert_eq!(dma_buf_bytes(&buffer), Ok(buffer.len_bytes()));
    let again = importer.open_dma_buf("whole").unwrap().exported().unwrap();
    let exported = buffer.exported().unwrap();
    assert!(matches!(exported.handle, Handle::Fd(_)));
    assert_eq!(exported.allocation, again.allocation, "two descriptors of one dma-buf");
    let memory = Stranger::map(buffer.as_fd(), buffer.len_bytes(), true).unwrap();
    let turn = HostAccess::begin(buffer.as_fd(), Access::Update, LONG).unwrap();
    for i in 0..N {
        assert_eq!(memory.load(i), pattern(i), "word {i}");
        memory.store(i, !pattern(i));
    }
    drop(turn);
    // The connection is not what keeps it.
    drop(importer);
    if let Some(driver) = vgem() {
        let work = driver.begin().unwrap();
        let fence = fences_of(&driver.buffer, Access::Update).unwrap();
        add_fence(&buffer, &fence, Access::Update).unwrap();
        say("fence");
        hear("waiting");
        driver.end(&work).unwrap();
        assert!(fence.wait(LONG));
    } else {
        say("no fence");
    }
    say("written");
    hear("again");
    let turn = HostAccess::begin(buffer.as_fd(), Access::Read, LONG).unwrap();
    assert!((0..N).all(|i| memory.load(i) == pattern(i).rotate_left(7)));
    drop(turn);
    say("read");
}

/// Bytes go both ways, and a fence of the other process's driver keeps this one out.
fn host(lent: &Lent<u32>, socket: &std::path::Path, name: &str) -> usize {
    let buffer = lent.dma_buf().unwrap();
    let exporter = Exporter::bind(socket, ExporterOptions::default()).unwrap();
    exporter.export_dma_buf("whole", &buffer).unwrap();
    exporter.export_lent("pages", lent).unwrap();
    let taken = exporter.export_dma_buf("whole", &buffer).unwrap_err();
    assert!(matches!(taken, ShareError::Name { .. }), "{taken}");
    let mut fences = 0;
    let mut other = Other::start(name, socket);
    if other.says() == "fence" {
        let seen = fences_of(&buffer, Access::Read).unwrap();
        assert_eq!(seen.status(), Ok(FenceStatus::Pending));
        let late = HostAccess::begin(buffer.as_fd(), Access::Read, SHORT).unwrap_err();
        assert_eq!(late, SyncFault::TimedOut { waited: SHORT });
        other.tell("waiting");
        assert!(seen.wait(LONG));
        assert_eq!(seen.status(), Ok(FenceStatus::Done));
        fences = 1;
    }
    other.expect("written");
    let turn = HostAccess::begin(buffer.as_fd(), Access::Update, LONG).unwrap();
    let mut words = vec![0; N];
    lent.copy_to(0, &mut words).unwrap();
    for (i, word) in words.iter_mut().enumerate() {
        assert_eq!(*word, !pattern(i), "word {i}");
        *word = pattern(i).rotate_left(7);
    }
    lent.copy_from(0, &words).unwrap();
    drop(turn);
    assert!(exporter.withdraw("whole"));
    other.tell("again");
    other.expect("read");
    other.join();
    fences
}

#[test]
fn a_dma_buf_of_host_pages_goes_to_another_process_and_fences_come_back() {
    const NAME: &str =
        "dma_buf::a_dma_buf_of_host_pages_goes_to_another_process_and_fences_come_back";
    if let Some(socket) = part() {
        return guest(&socket);
    }
    let mem = runtime();
    let mut x = SharedVec::<u32>::shareable(&mem, N).unwrap();
    x.host_mut(..).unwrap().iter_mut().enumerate().for_each(|(i, word)| *word = pattern(i));
    let lent = x.lend().unwrap();
    if let Err(fault) = udmabuf() {
        println!("HMMAP-SKIP: {fault}");
        let refused = lent.dma_buf().unwrap_err();
        let is_said =
            matches!(refused, Error::Host(HostError::NotShared(ShareFault::NoUdmabuf(_))));
        assert!(is_said, "{refused}");
        return;
    }
    let socket = socket_path(NAME);
    let fences = host(&lent, &socket, NAME);
    std::fs::remove_file(socket).unwrap();
    // A dma-buf of host pages is for good.
    let pinned = lent.take_back().unwrap_err();
    assert!(matches!(pinned.source, Error::Pinned { .. }), "{pinned}");
    println!(
        "HMMAP-COUNT: {} bytes compared, 1 dma-bufs to another process, {fences} kernel fences waited for",
        3 * N * 4
    );
}

#[test]
fn what_is_no_dma_buf_is_not_served_as_one() {
    let mem = runtime();
    let x = SharedVec::<u32>::shareable(&mem, N).unwrap().lend().unwrap();
    let memory = x.share_memory(Sharing::Write).unwrap();
    let exporter = Exporter::new(ExporterOptions::default()).unwrap();
    let buffer = DmaBuf { fd: memory.fd, offset_bytes: 0, used_bytes: N as u64 * 4 };
    let refused = exporter.export_dma_buf("x", buffer).unwrap_err();
    let ShareError::NotDmaBuf { source: SyncFault::Refused { source, .. } } = refused else {
        panic!("{refused}")
    };
    assert_eq!(source, Errno::NOTTY);
    assert!(!exporter.withdraw("x"), "nothing is served");
}
