//! A vector in a Vulkan device's memory, read and written by a PCI device that does DMA behind an IOMMU.

use std::{os::fd::AsFd, sync::Arc};

use hmmap::{
    MemoryModel, Options, Runtime, SharedVec,
    core::{
        Access,
        peer::{Peer, PeerMapping},
    },
    kernels::Saxpy,
    vfio::{VfioError, VfioPeer},
    vulkan,
};
use rustix::io::Errno;

use crate::{
    edu::{ADDRESS_BITS, Edu, KernelLog, TRANSFER_BYTES},
    runtime,
};

/// Elements: 8 MiB, which have an allocation of their own; and those of one transfer.
const N: usize = 2 << 20;
const WORDS: usize = TRANSFER_BYTES as usize / 4;

fn value(i: usize) -> f32 {
    (i % 10_007) as f32
}

fn obedient(edu: &Edu) -> Arc<dyn Peer> {
    VfioPeer::new("edu", edu.domain.clone(), ADDRESS_BITS, |revoked| revoked.confirm())
}

fn iova(mapping: &PeerMapping) -> u64 {
    let segments = mapping.segments().unwrap();
    let [segment] = segments.list() else { panic!("{:?}", segments.list()) };
    segment.addr
}

/// A kernel writes, the device copies what it wrote elsewhere in the same memory, a kernel goes on with that. Nothing is carried by the host.
#[test]
fn q7_edu_reads_and_writes_a_vulkan_devices_memory() {
    let Some((mem, device)) = runtime(Options::default()) else { return };
    let edu = Edu::find().unwrap();
    let x = SharedVec::from_fn(&mem, N, value).unwrap();
    let mut y = SharedVec::from_fn(&mem, N, |_| 1.0).unwrap();
    mem.launch_on(device, N, Saxpy { a: 2.0, x: x.read(), y: y.update() }).unwrap();
    let lent = y.lend_on(device).unwrap();
    let on_device = lent.residency(..).unwrap();
    assert!(on_device.iter().all(|run| !run.nodes[0].is_host()), "{on_device:?}");
    // Neither at the beginning of a page of the library's, nor at one of the IOMMU's.
    let (from, to) = (1000, N - 3000);
    let reads = lent.map_peer(obedient(&edu), from..from + WORDS, Access::Read).unwrap();
    let writes = lent.map_peer(obedient(&edu), to..to + WORDS, Access::Update).unwrap();
    assert_eq!(edu.domain.mapping_count(), 2);
    let before = mem.stats().total();
    edu.read_from(iova(&reads), TRANSFER_BYTES);
    edu.write_to(iova(&writes), TRANSFER_BYTES);
    let mut y = lent.take_back().unwrap();
    // Who reads keeps its addresses until somebody writes.
    assert_eq!(edu.domain.mapping_count(), 1);
    mem.launch_on(device, N, Saxpy { a: 1.0, x: x.read(), y: y.update() }).unwrap().wait().unwrap();
    assert_eq!(edu.domain.mapping_count(), 0);
    assert_eq!(mem.stats().total(), before, "the host carried bytes");
    let found = y.host(..).unwrap();
    for (i, found) in found.iter().enumerate() {
        let inside = (to..to + WORDS).contains(&i);
        let copied = if inside { i - to + from } else { i };
        assert_eq!(*found, 2.0 * value(copied) + 1.0 + value(i), "element {i}");
    }
    println!("HMMAP-COUNT: 2 transfers, {} bytes compared", N * 4);
}

/// A kernel that writes takes the range back first, and from then on the IOMMU blocks the device.
#[test]
fn q4_a_kernel_takes_a_vulkan_devices_memory_back_from_edu() {
    let Some((mem, device)) = runtime(Options::default()) else { return };
    let edu = Edu::find().unwrap();
    let x = SharedVec::from_fn(&mem, N, value).unwrap();
    let mut y = SharedVec::from_fn(&mem, N, value).unwrap();
    y.prefetch(.., device).unwrap().wait().unwrap();
    // So that the device is the nearer one of two that have it, or the only one.
    mem.launch_on(device, N, Saxpy { a: 1.0, x: x.read(), y: y.update() }).unwrap();
    let mapping = y.map_peer(obedient(&edu), ..).unwrap();
    let at = iova(&mapping);
    edu.read_from(at, TRANSFER_BYTES);
    mem.launch_on(device, N, Saxpy { a: 1.0, x: x.read(), y: y.update() }).unwrap();
    assert_eq!(edu.domain.mapping_count(), 0, "still mapped");
    let mut log = KernelLog::from_now();
    let faults = log.faults_of(|| edu.write_to(at, TRANSFER_BYTES));
    let found = y.host(..).unwrap();
    assert!((0..N).all(|i| found[i] == 3.0 * value(i)));
    drop(mapping);
    println!("HMMAP-COUNT: 2 transfers, 1 revocations, {faults} faults, {} bytes compared", N * 4);
}

/// The same by host memory that the device works on in place: what a card writes, the next kernel sees, and nothing moves.
#[test]
fn q7_edu_and_kernels_work_on_host_memory_in_place() {
    if runtime(Options::default()).is_none() {
        return;
    }
    let edu = Edu::find().unwrap();
    let found = vulkan::discover(&vulkan::Options::default()).unwrap();
    let options = Options { memory_model: MemoryModel::Unified, ..Options::default() };
    let mem = Runtime::new(vec![found.providers[0].clone()], options).unwrap();
    let device = mem.default_device().unwrap();
    let x = SharedVec::from_fn(&mem, N, value).unwrap();
    let mut y = SharedVec::from_fn(&mem, N, |_| 1.0).unwrap();
    mem.launch_on(device, N, Saxpy { a: 2.0, x: x.read(), y: y.update() }).unwrap();
    let lent = y.lend_on(device).unwrap();
    let mapping = lent.map_peer(obedient(&edu), .., Access::Update).unwrap();
    let at = iova(&mapping);
    edu.read_from(at, TRANSFER_BYTES);
    edu.write_to(at + TRANSFER_BYTES, TRANSFER_BYTES);
    let mut y = lent.take_back().unwrap();
    mem.launch_on(device, N, Saxpy { a: 1.0, x: x.read(), y: y.update() }).unwrap();
    let found = y.host(..).unwrap();
    for (i, found) in found.iter().enumerate() {
        let copied = if (WORDS..2 * WORDS).contains(&i) { i - WORDS } else { i };
        assert_eq!(*found, 2.0 * value(copied) + 1.0 + value(i), "element {i}");
    }
    println!("HMMAP-COUNT: 2 transfers, {} bytes compared", N * 4);
}

/// What the kernel does not do: a mapping of the dma-buf itself has no pages that Type1 could pin. That is the reason for the ways above.
#[test]
fn a_dma_buf_of_device_memory_is_refused_by_the_iommu_with_its_reason() {
    let Some((mem, device)) = runtime(Options::default()) else { return };
    let edu = Edu::find().unwrap();
    let lent = SharedVec::from_fn(&mem, N, value).unwrap().lend_on(device).unwrap();
    let buffer = lent.dma_buf().unwrap();
    let refused = edu.domain.try_dma_buf(&buffer).unwrap_err();
    let VfioError::DmaBuf { what: "VFIO_IOMMU_MAP_DMA", source } = refused else {
        panic!("{refused}: now that it can be done, do it")
    };
    assert_eq!(source, Errno::FAULT);
    assert_eq!(edu.domain.mapping_count(), 0);
    // What is no memory at all is told apart, and ordinary memory taken.
    let refused = edu.domain.try_dma_buf(std::fs::File::open("/dev/null").unwrap()).unwrap_err();
    assert!(matches!(refused, VfioError::DmaBuf { what: "mmap", .. }), "{refused}");
    let file = rustix::fs::memfd_create("memory", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, 1 << 16).unwrap();
    edu.domain.try_dma_buf(file.as_fd()).unwrap();
    assert_eq!(edu.domain.mapping_count(), 0);
}
