//! Real dma-bufs: a Vulkan device's memory in another process's hands, host pages in a Vulkan device's, and fences of Vulkan's and of another driver's in the buffers of both.
//! Runs in the lab's machine (`cargo xtask lab`); elsewhere where the kernel has udmabuf, which lavapipe makes its own dma-bufs with.
#![allow(unsafe_code, reason = "maps memory as another process would")]

mod lab;
#[path = "../../core/tests/shared_memory/stranger.rs"]
#[allow(dead_code, reason = "shared with the tests of shared memory")]
mod stranger;
#[path = "../../core/tests/dma_buf/vgem.rs"]
mod vgem;

use std::{
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use hmmap_core::{
    Access, Options, Runtime, SharedVec,
    backend::{DeviceError, Exported, Handle},
    fence::{FencePoint, FenceState, TimelineId},
    host::{FenceStatus, HostAccess, add_fence, fences_of, udmabuf},
    node::DeviceId,
    p2p::HandleKinds,
    peer::PeerFence as _,
    units::PAGE_BYTES,
};
use hmmap_vulkan::{Backing, Options as VulkanOptions};
use lab::{Lab, lab, skip, watched};
use stranger::Stranger;
use vgem::Vgem;

const LONG: Duration = Duration::from_secs(8);
/// Says to a test that it plays the other part: which descriptor, how many bytes, and from where on.
const PART: &str = "HMMAP_TEST_DMA_BUF";
/// Elements in a page.
const PAGE: usize = PAGE_BYTES as usize / 4;

fn has_udmabuf() -> bool {
    udmabuf().map_err(|fault| skip(&fault.to_string())).is_ok()
}

/// A device whose memory is given out as dma-bufs.
fn exporter() -> Option<Lab> {
    let lab = lab(VulkanOptions { backing: Backing::Committed, ..watched() })?;
    let can = lab.device.facts().capabilities.dma_buf.clone();
    if can.is_proved() {
        return Some(lab);
    }
    // With the kernel's udmabuf lavapipe says so, and what it says is true.
    assert!(udmabuf().is_err(), "{can}");
    skip(&format!("a dma-buf of device memory: {can}"));
    lab.close();
    None
}

/// Whoever was handed the descriptor: doubles what a kernel wrote.
fn stranger(part: &str) {
    let numbers: Vec<u64> = part.split(' ').map(|word| word.parse().unwrap()).collect();
    let [number, len_bytes, first] = numbers[..] else { panic!("{part}") };
    let link = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
    assert!(link.to_string_lossy().starts_with("/dmabuf"), "{link:?}");
    // SAFETY: it was left open for this process.
    let buffer = unsafe { BorrowedFd::borrow_raw(number as i32) };
    let memory = Stranger::map(buffer, len_bytes, true).unwrap();
    let turn = HostAccess::begin(buffer, Access::Update, LONG).unwrap();
    for i in 0..PAGE {
        let at = first as usize + i;
        let value = f32::from_bits(memory.load(at));
        assert_eq!(value, 2.0 * i as f32 + 3.0, "element {i}");
        memory.store(at, (2.0 * value).to_bits());
    }
    drop(turn);
}

#[test]
fn another_process_reads_and_writes_device_memory_through_a_dma_buf() {
    if let Ok(part) = std::env::var(PART) {
        return stranger(&part);
    }
    let Some(lab) = exporter() else { return };
    let (x, y) = (lab.reserve_backed(PAGE_BYTES), lab.reserve_backed(PAGE_BYTES));
    let host = lab.span(PAGE_BYTES);
    let floats = |value: &dyn Fn(u64) -> f32| {
        lab.write(host, |at| value(at / 4).to_ne_bytes()[(at % 4) as usize]);
    };
    floats(&|i| i as f32);
    lab.move_now(&[lab.up(host, x.memory, 0)]);
    floats(&|_| 3.0);
    lab.move_now(&[lab.up(host, y.memory, 0)]);
    lab.finish(lab.saxpy(2.0, x.address, y.address, PAGE as u64, &[]).unwrap());
    let given = lab.device.export(y.memory, HandleKinds::DMA_BUF).unwrap();
    let Handle::Fd(fd) = &given.handle else { panic!("no descriptor") };
    let handed = rustix::io::dup(fd).unwrap();
    rustix::io::fcntl_setfd(&handed, rustix::io::FdFlags::empty()).unwrap();
    let name = "another_process_reads_and_writes_device_memory_through_a_dma_buf";
    let part = [handed.as_raw_fd() as u64, given.allocation_bytes, given.offset_bytes / 4];
    let other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(PART, part.map(|number| number.to_string()).join(" "))
        .output()
        .unwrap();
    assert!(other.status.success(), "{}", String::from_utf8_lossy(&other.stdout));
    lab.move_now(&[lab.down(host, y.memory, 0)]);
    for (i, value) in lab::floats(&lab.read(host)).iter().enumerate() {
        assert_eq!(*value, 2.0 * (2.0 * i as f32 + 3.0), "element {i}");
    }
    lab.device.release(x.memory);
    lab.device.release(y.memory);
    lab.close();
    println!("HMMAP-COUNT: {} bytes compared, 1 dma-bufs to another process", 2 * PAGE_BYTES);
}

/// Memory that lost its backing and got it again: the descriptor shows the bytes that kernels see.
#[test]
fn a_dma_buf_shows_memory_that_was_backed_again() {
    let Some(lab) = exporter() else { return };
    let y = lab.reserve_backed(PAGE_BYTES);
    let host = lab.span(PAGE_BYTES);
    lab.write(host, |at| at as u8);
    lab.move_now(&[lab.up(host, y.memory, 0)]);
    let whole = std::slice::from_ref(&(0..PAGE_BYTES));
    lab.device.unback(y.memory, whole);
    lab.device.back(y.memory, whole).unwrap();
    lab.write(host, |at| (at as u8).wrapping_mul(3) ^ 0x55);
    lab.move_now(&[lab.up(host, y.memory, 0)]);
    let given = lab.device.export(y.memory, HandleKinds::DMA_BUF).unwrap();
    let Handle::Fd(fd) = &given.handle else { panic!("no descriptor") };
    let memory = Stranger::map(fd.as_fd(), given.allocation_bytes, true).unwrap();
    let turn = HostAccess::begin(fd.as_fd(), Access::Read, LONG).unwrap();
    let first = given.offset_bytes as usize / 4;
    let expected = lab.read(host);
    for (i, word) in expected.chunks_exact(4).enumerate() {
        assert_eq!(memory.load(first + i).to_ne_bytes(), word, "word {i}");
    }
    drop(turn);
    lab.device.release(y.memory);
    lab.close();
    println!("HMMAP-COUNT: {PAGE_BYTES} bytes compared");
}

#[test]
fn a_kernel_works_in_host_pages_through_a_dma_buf() {
    if !has_udmabuf() {
        return;
    }
    let Some(lab) = lab(watched()) else { return };
    let runtime = Runtime::new(Vec::new(), Options::default()).unwrap();
    let mut vec = SharedVec::<f32>::shareable(&runtime, 2 * PAGE).unwrap();
    vec.host_mut(..).unwrap().iter_mut().enumerate().for_each(|(i, x)| *x = (i % PAGE) as f32);
    let lent = vec.lend().unwrap();
    let buffer = lent.dma_buf().unwrap();
    let exported = Exported {
        handle: Handle::Fd(Arc::new(buffer.as_fd().try_clone_to_owned().unwrap())),
        kind: HandleKinds::DMA_BUF,
        driver: [0; 16],
        opaque: hmmap_core::p2p::Opaque::SameDriver,
        device: [0; 16],
        allocation: u64::MAX,
        memory_type: 0,
        allocation_bytes: buffer.len_bytes(),
        offset_bytes: 0,
        len_bytes: 2 * PAGE_BYTES,
        is_alone: false,
    };
    let taken = lab.device.import(&exported).unwrap();
    let (x, y) = (taken.address, taken.address + PAGE_BYTES);
    lab.finish(lab.saxpy(2.0, x, y, PAGE as u64, &[]).unwrap());
    for i in 0..PAGE {
        assert_eq!(lent.load(PAGE + i).unwrap(), 3.0 * i as f32, "element {i}");
        assert_eq!(lent.load(i).unwrap(), i as f32, "element {i}");
    }
    lab.device.release(taken.memory);
    lab.close();
    println!("HMMAP-COUNT: {} bytes compared, 1 dma-bufs taken in", 2 * PAGE_BYTES);
}

/// Mesa's lavapipe refuses it too, and closes the descriptor, which stays the caller's where a driver refuses.
#[test]
fn a_dma_buf_that_is_shorter_than_was_said_is_refused() {
    let Some(lab) = lab(watched()) else { return };
    let file = rustix::fs::memfd_create("short", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, PAGE_BYTES).unwrap();
    let exported = Exported {
        handle: Handle::Fd(Arc::new(file)),
        kind: HandleKinds::DMA_BUF,
        driver: [0; 16],
        opaque: hmmap_core::p2p::Opaque::SameDriver,
        device: [0; 16],
        allocation: u64::MAX - 1,
        memory_type: 0,
        allocation_bytes: 2 * PAGE_BYTES,
        offset_bytes: 0,
        len_bytes: 2 * PAGE_BYTES,
        is_alone: false,
    };
    let refused = lab.device.import(&exported).unwrap_err();
    let short = DeviceError::Misuse { what: "a dma-buf shorter than was said" };
    // Where the driver takes none in at all, it is refused for that.
    let none = DeviceError::Unsupported { what: "a handle of this kind" };
    assert!([short, none].contains(&refused), "{refused}");
    lab.close();
}

/// A device whose fences are sync files, and another driver, where the test can be had.
fn two_drivers() -> Option<(Lab, Vgem)> {
    let lab = lab(watched())?;
    let end = FencePoint { timeline: TimelineId::new(DeviceId::new(3).unwrap(), 0), value: 0 };
    match (lab.vulkan.sync_file(end), Vgem::open()) {
        (Ok(_), Ok(driver)) => Some((lab, driver)),
        (Err(error), vgem) => {
            // The reason is a typed one; and where there is another driver's fence, the kernel has what lavapipe needs.
            assert!(matches!(error, DeviceError::Unsupported { .. }), "{error}");
            assert!(vgem.is_err() || std::env::var_os("HMMAP_LAB").is_none(), "{error}");
            skip(&error.to_string());
            lab.close();
            None
        }
        (Ok(_), Err(error)) => {
            skip(&format!("no vgem at /dev/dri/card0: {error}"));
            lab.close();
            None
        }
    }
}

/// A chain of three: another driver's work, a kernel that waits for it on the device, and whoever waits for the kernel by the dma-buf.
#[test]
fn fences_of_vulkan_and_of_another_driver_wait_for_each_other() {
    if !has_udmabuf() {
        return;
    }
    let Some((lab, driver)) = two_drivers() else { return };
    let runtime = Runtime::new(Vec::new(), Options::default()).unwrap();
    let lent = SharedVec::<f32>::shareable(&runtime, PAGE).unwrap().lend().unwrap();
    let buffer = lent.dma_buf().unwrap();
    let (x, y) = (lab.reserve_backed(PAGE_BYTES), lab.reserve_backed(PAGE_BYTES));
    let work = driver.begin().unwrap();
    let theirs = fences_of(&driver.buffer, Access::Update).unwrap();
    let after = lab.vulkan.fence_of(theirs).unwrap();
    let kernel = lab.saxpy(2.0, x.address, y.address, PAGE as u64, &[after]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(lab.device.poll(kernel), FenceState::Pending, "it did not wait");
    let ending = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            ending.store(true, SeqCst);
            driver.end(&work).unwrap();
        });
        // lavapipe gives out no fence of work that has not ended: it waits for it here.
        let ours = lab.vulkan.sync_file(kernel).unwrap().expect("a fence, pending or ended");
        add_fence(&buffer, &ours, Access::Update).unwrap();
        let turn = HostAccess::begin(buffer.as_fd(), Access::Read, LONG).map(drop);
        assert_eq!((turn, ours.status()), (Ok(()), Ok(FenceStatus::Done)));
        assert!(ending.load(SeqCst), "the kernel's fence ended before what the kernel waits for");
    });
    lab.finish(kernel);
    // Of what has ended there is one that has ended, or none.
    let ended = lab.vulkan.sync_file(kernel).unwrap();
    assert!(ended.is_none_or(|file| file.wait(LONG)));
    lab.device.release(x.memory);
    lab.device.release(y.memory);
    lab.close();
    println!("HMMAP-COUNT: 2 kernel fences waited for");
}

#[test]
fn fences_that_are_not_the_devices_are_not_given_out() {
    let Some((lab, _)) = two_drivers() else { return };
    let point = |device, value| {
        let timeline = TimelineId::new(DeviceId::new(device).unwrap(), 0);
        lab.vulkan.sync_file(FencePoint { timeline, value }).unwrap_err()
    };
    let unknown = DeviceError::Misuse { what: "a wait for a fence unknown here" };
    assert_eq!([point(2, 0), point(3, 1_000_000)], [unknown.clone(), unknown]);
    lab.close();
}
