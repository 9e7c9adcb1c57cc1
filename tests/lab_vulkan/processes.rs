//! A vector in a Vulkan device's memory, in the hands of another process.

use std::{os::fd::AsFd, path::Path, time::Duration};

use hmmap::{
    Options, SharedVec,
    core::{
        Access,
        host::{FenceStatus, HostAccess, add_fence, fences_of},
        peer::PeerFence,
    },
    kernels::Saxpy,
    share::{Exporter, ExporterOptions, Importer, ImporterOptions},
};

use crate::{
    LONG,
    harness::{Other, hear, part, say, socket_path},
    runtime,
    stranger::Stranger,
    vgem::Vgem,
};

/// Elements: 8 MiB, which have an allocation of their own.
const N: usize = 2 << 20;

fn value(i: usize) -> f32 {
    (i % 10_007) as f32
}

/// What the other process makes of an element.
fn doubled(i: usize) -> f32 {
    2.0 * (2.0 * value(i) + 1.0)
}

fn guest(socket: &Path) {
    let importer = Importer::connect(socket, ImporterOptions::default()).unwrap();
    let buffer = importer.open_dma_buf("image").unwrap();
    assert_eq!(buffer.used_bytes(), N as u64 * 4);
    let memory = Stranger::map(buffer.as_fd(), buffer.len_bytes(), true).unwrap();
    let first = buffer.offset_bytes() as usize / 4;
    let turn = HostAccess::begin(buffer.as_fd(), Access::Update, LONG).unwrap();
    for i in 0..N {
        let found = f32::from_bits(memory.load(first + i));
        assert_eq!(found, 2.0 * value(i) + 1.0, "element {i}");
        memory.store(first + i, doubled(i).to_bits());
    }
    drop(turn);
    // Its own driver is at work yet.
    let driver = Vgem::open().unwrap();
    let work = driver.begin().unwrap();
    let fence = fences_of(&driver.buffer, Access::Update).unwrap();
    add_fence(&buffer, &fence, Access::Update).unwrap();
    say("written");
    hear("taking");
    // The owner waits meanwhile.
    std::thread::sleep(Duration::from_millis(200));
    memory.store(first + 7, 77.0_f32.to_bits());
    driver.end(&work).unwrap();
    hear("taken");
    // Too late: this memory is nobody's any more.
    memory.store(first + 8, 88.0_f32.to_bits());
    say("late");
}

#[test]
fn device_memory_goes_to_another_process_and_its_fence_is_waited_for() {
    const NAME: &str =
        "processes::device_memory_goes_to_another_process_and_its_fence_is_waited_for";
    if let Some(socket) = part() {
        return guest(&socket);
    }
    let options = Options { peer_deadline: Some(LONG), ..Options::default() };
    let Some((mem, device)) = runtime(options) else { return };
    let x = SharedVec::from_fn(&mem, N, value).unwrap();
    let mut y = SharedVec::from_fn(&mem, N, |_| 1.0).unwrap();
    mem.launch_on(device, N, Saxpy { a: 2.0, x: x.read(), y: y.update() }).unwrap();
    let lent = y.lend_on(device).unwrap();
    let buffer = lent.dma_buf().unwrap();
    let socket = socket_path(NAME);
    let exporter = Exporter::bind(&socket, ExporterOptions::default()).unwrap();
    exporter.export_dma_buf("image", &buffer).unwrap();
    let mut other = Other::start(NAME, &socket);
    other.expect("written");
    let pending = fences_of(&buffer, Access::Read).unwrap();
    assert_eq!(pending.status(), Ok(FenceStatus::Pending));
    other.tell("taking");
    let mut y = lent.take_back().unwrap();
    assert_eq!(pending.status(), Ok(FenceStatus::Done), "it was not waited for");
    assert!(pending.wait(Duration::ZERO));
    other.tell("taken");
    other.expect("late");
    other.join();
    let expected = |i| if i == 7 { 77.0 } else { doubled(i) };
    let found = y.host(..).unwrap();
    assert!((0..N).all(|i| found[i] == expected(i)), "{:?}", &found[..16]);
    // It is a vector as before, on the device as well.
    mem.launch_on(device, N, Saxpy { a: 1.0, x: x.read(), y: y.update() }).unwrap();
    let found = y.host(..).unwrap();
    assert!((0..N).all(|i| found[i] == expected(i) + value(i)));
    assert!(exporter.withdraw("image"));
    std::fs::remove_file(socket).unwrap();
    println!(
        "HMMAP-COUNT: {} bytes compared, 1 dma-bufs to another process, 1 kernel fences waited for",
        3 * N * 4
    );
}

/// Another process's driver never ends: the owner has its vector back at the deadline, and what is written later goes nowhere.
#[test]
fn who_is_late_with_device_memory_is_left_with_what_is_nobodys() {
    let options = Options { peer_deadline: Some(Duration::from_millis(50)), ..Options::default() };
    let Some((mem, device)) = runtime(options) else { return };
    let driver = Vgem::open().unwrap();
    let lent = SharedVec::from_fn(&mem, N, value).unwrap().lend_on(device).unwrap();
    let buffer = lent.dma_buf().unwrap();
    let memory = Stranger::map(buffer.as_fd(), buffer.len_bytes(), true).unwrap();
    let work = driver.begin().unwrap();
    let fence = fences_of(&driver.buffer, Access::Update).unwrap();
    add_fence(&buffer, &fence, Access::Update).unwrap();
    let y = lent.take_back().unwrap();
    assert_eq!(fence.status(), Ok(FenceStatus::Pending));
    (0..memory.words()).for_each(|at| memory.store(at, 0xdead_beef));
    driver.end(&work).unwrap();
    let found = y.host(..).unwrap();
    assert!((0..N).all(|i| found[i] == value(i)));
    println!(
        "HMMAP-COUNT: 1 revocations, 1 dma-bufs that were left behind, {} bytes compared",
        N * 4
    );
}

#[test]
fn what_has_no_allocation_of_its_own_is_not_given_out() {
    let Some((mem, device)) = runtime(Options::default()) else { return };
    let lent = SharedVec::from_fn(&mem, 1000, value).unwrap().lend_on(device).unwrap();
    let refused = lent.dma_buf().unwrap_err();
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert!(why.contains("other vectors may be in"), "{why}");
    let x = lent.take_back().unwrap();
    assert!(x.host(..).unwrap().iter().enumerate().all(|(i, found)| *found == value(i)));
}
