//! Real dma-bufs: a Vulkan device's memory in another process's hands, host pages in a Vulkan device's, and fences of Vulkan's and of another driver's in the buffers of both.
//! Runs in the lab's machine (`cargo xtask lab`); elsewhere where the kernel has udmabuf, which lavapipe makes its own dma-bufs with.
#![allow(unsafe_code, reason = "calls Vulkan, and maps memory as another process would")]

mod lab;
#[allow(dead_code, reason = "shared with the tests of lent devices")]
mod program;
#[path = "../../core/tests/shared_memory/stranger.rs"]
#[allow(dead_code, reason = "shared with the tests of shared memory")]
mod stranger;
#[path = "../../core/tests/dma_buf/vgem.rs"]
mod vgem;

use std::{
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd},
    process::Command,
    sync::Arc,
    time::Duration,
};

use ash::{khr, vk};
use hmmap_core::{
    Access, Options, Runtime, SharedVec,
    backend::{DeviceError, Exported, Handle},
    host::{FenceStatus, HostAccess, SyncFile, add_fence, fences_of, udmabuf},
    p2p::HandleKinds,
    peer::PeerFence as _,
    units::PAGE_BYTES,
};
use hmmap_vulkan::{Backing, Options as VulkanOptions};
use lab::{Lab, lab, skip, watched};
use program::Program;
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
        device: [0; 16],
        allocation: u64::MAX,
        memory_type: 0,
        allocation_bytes: buffer.len_bytes(),
        offset_bytes: 0,
        len_bytes: 2 * PAGE_BYTES,
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
        device: [0; 16],
        allocation: u64::MAX - 1,
        memory_type: 0,
        allocation_bytes: 2 * PAGE_BYTES,
        offset_bytes: 0,
        len_bytes: 2 * PAGE_BYTES,
    };
    let refused = lab.device.import(&exported).unwrap_err();
    let short = DeviceError::Misuse { what: "a dma-buf shorter than was said" };
    // Where the driver takes none in at all, it is refused for that.
    let none = DeviceError::Unsupported { what: "a handle of this kind" };
    assert!([short, none].contains(&refused), "{refused}");
    lab.close();
}

/// A device with semaphores that are sync files.
struct Semaphores {
    program: Program,
    device: ash::Device,
    fd: khr::external_semaphore_fd::Device,
    queue: vk::Queue,
}

const SYNC_FD: vk::ExternalSemaphoreHandleTypeFlags = vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD;

impl Semaphores {
    fn open() -> Option<Self> {
        let program = Program::new()?;
        let info = vk::PhysicalDeviceExternalSemaphoreInfo::default().handle_type(SYNC_FD);
        let mut found = vk::ExternalSemaphoreProperties::default();
        let (instance, physical) = (&program.instance, program.physical);
        // SAFETY: handles of the program's, which live as long as it.
        unsafe {
            instance.get_physical_device_external_semaphore_properties(physical, &info, &mut found);
        }
        let can = found.external_semaphore_features;
        let both = vk::ExternalSemaphoreFeatureFlags::EXPORTABLE
            | vk::ExternalSemaphoreFeatureFlags::IMPORTABLE;
        if !can.contains(both) {
            skip(&format!("the driver's semaphores are no sync files: {can:?}"));
            return None;
        }
        let family = program.queue.family;
        let priorities = [1.0];
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(family)
            .queue_priorities(&priorities)];
        let extensions = [khr::external_semaphore_fd::NAME.as_ptr()];
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions);
        // SAFETY: as above; the driver has the extension, since it says what such semaphores can do.
        let device = unsafe { instance.create_device(physical, &info, None) }.unwrap();
        let fd = khr::external_semaphore_fd::Device::new(instance, &device);
        // SAFETY: a queue that the device was made with.
        let queue = unsafe { device.get_device_queue(family, 0) };
        Some(Self { program, device, fd, queue })
    }

    fn semaphore(&self, exportable: bool) -> vk::Semaphore {
        let mut export = vk::ExportSemaphoreCreateInfo::default().handle_types(SYNC_FD);
        let mut info = vk::SemaphoreCreateInfo::default();
        if exportable {
            info = info.push_next(&mut export);
        }
        // SAFETY: the device is live.
        unsafe { self.device.create_semaphore(&info, None) }.unwrap()
    }

    /// The fence of work that this device does.
    fn own_fence(&self) -> SyncFile {
        let semaphores = [self.semaphore(true)];
        let work = vk::SubmitInfo::default().signal_semaphores(&semaphores);
        let get =
            vk::SemaphoreGetFdInfoKHR::default().semaphore(semaphores[0]).handle_type(SYNC_FD);
        // SAFETY: handles of this device; the semaphore has a signal pending when it is given out, and is destroyed when its work has ended.
        let fd = unsafe {
            self.device.queue_submit(self.queue, &[work], vk::Fence::null()).unwrap();
            let fd = self.fd.get_semaphore_fd(&get).unwrap();
            self.device.queue_wait_idle(self.queue).unwrap();
            self.device.destroy_semaphore(semaphores[0], None);
            assert!(fd >= 0, "it had ended already, says the driver");
            OwnedFd::from_raw_fd(fd)
        };
        SyncFile::new(fd).unwrap()
    }

    /// Submits work that waits for another driver's fence, and gives the fence of that.
    fn work_after(&self, file: SyncFile) -> vk::Fence {
        let semaphores = [self.semaphore(false)];
        let import = vk::ImportSemaphoreFdInfoKHR::default()
            .semaphore(semaphores[0])
            .handle_type(SYNC_FD)
            .flags(vk::SemaphoreImportFlags::TEMPORARY)
            .fd(OwnedFd::from(file).into_raw_fd());
        let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
        let work =
            vk::SubmitInfo::default().wait_semaphores(&semaphores).wait_dst_stage_mask(&stages);
        // SAFETY: handles of this device; the driver takes the descriptor.
        unsafe {
            self.fd.import_semaphore_fd(&import).unwrap();
            let fence = self.device.create_fence(&vk::FenceCreateInfo::default(), None).unwrap();
            self.device.queue_submit(self.queue, &[work], fence).unwrap();
            fence
        }
    }
}

impl Drop for Semaphores {
    fn drop(&mut self) {
        // SAFETY: its work is waited for; what was made from it and is not destroyed goes with the process.
        let _ = unsafe { self.device.device_wait_idle() };
        let _ = &self.program;
    }
}

#[test]
fn a_vulkan_fence_goes_into_a_dma_buf_of_host_pages() {
    if !has_udmabuf() {
        return;
    }
    let Some(vulkan) = Semaphores::open() else { return };
    let runtime = Runtime::new(Vec::new(), Options::default()).unwrap();
    let lent = SharedVec::<f32>::shareable(&runtime, PAGE).unwrap().lend().unwrap();
    let buffer = lent.dma_buf().unwrap();
    let fence = vulkan.own_fence();
    add_fence(&buffer, &fence, Access::Update).unwrap();
    let seen = fences_of(&buffer, Access::Read).unwrap();
    assert!(seen.wait(LONG) && fence.wait(LONG));
    assert_eq!((seen.status(), fence.status()), (Ok(FenceStatus::Done), Ok(FenceStatus::Done)));
    println!("HMMAP-COUNT: 1 kernel fences waited for");
}

#[test]
fn work_of_vulkan_waits_for_another_drivers_fence() {
    let Some(vulkan) = Semaphores::open() else { return };
    let driver = match Vgem::open() {
        Ok(driver) => driver,
        Err(error) => return skip(&format!("no vgem at /dev/dri/card0: {error}")),
    };
    let work = driver.begin().unwrap();
    let fence = vulkan.work_after(fences_of(&driver.buffer, Access::Update).unwrap());
    std::thread::sleep(Duration::from_millis(100));
    // SAFETY: a fence of this device.
    let status = || unsafe { vulkan.device.get_fence_status(fence) }.unwrap();
    assert!(!status(), "it did not wait");
    driver.end(&work).unwrap();
    // SAFETY: as above.
    unsafe { vulkan.device.wait_for_fences(&[fence], true, LONG.as_nanos() as u64) }.unwrap();
    assert!(status());
    println!("HMMAP-COUNT: 1 kernel fences waited for");
}
