//! A device that works on host memory, runs the shipped shaders on a Vulkan driver, and gives each array of a launch a place between guards.
//!
//! ```text
//! | guard, 16 GiB and more, PROT_NONE | array | guard | array | guard | ...       one span of an arena of its own
//!                                      ^ flush with the guard before it, or with the one behind it
//! ```
//!
//! Each array's place is a window: host memory imported through `VK_EXT_external_memory_host`, as the library does it for kernels that work on host
//! memory. On a driver in software a device address is a host address, so a kernel that reaches over an end meets the guard, and the process
//! dies of it. A guard is as long as 32 bits of index reach over 4-byte elements: no such index leaps over it.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use hmmap_core::{
    backend::{
        Capabilities, Capability, Device, DeviceError, DeviceFacts, DeviceSummary, LaunchWork,
        MemoryId, OpenContext, Provider, Reservation, TransferWork, Window, WindowId,
    },
    fence::{FencePoint, FenceState, TimelineId},
    host::{Arena, HostSpan, ServiceView},
    kernel::{FieldKind, KernelId, ParamLayout, Source},
    node::DeviceId,
};
use hmmap_vulkan::VulkanProvider;
use rustix::mm::{MprotectFlags, mprotect};

/// The most arrays of a kernel.
const PLACES: u64 = 6;
/// How long an array may be.
const PLACE_BYTES: u64 = 256 << 10;
const GUARD_BYTES: u64 = (16 << 30) + (2 << 20);
const STEP_BYTES: u64 = GUARD_BYTES + PLACE_BYTES;
/// What lies in a place beside the array.
const SLACK: u8 = 0xd7;

/// Which guard the arrays of a launch touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Before,
    Behind,
}

/// What a kernel is told that is not so: what a kernel would do that compared nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lie {
    /// About which array.
    pub(crate) array: usize,
    /// It is so many elements longer.
    pub(crate) longer: u64,
    /// It begins so many bytes earlier.
    pub(crate) earlier_bytes: u64,
}

#[derive(Debug)]
pub(crate) struct GuardedProvider {
    vulkan: Arc<VulkanProvider>,
    side: Side,
    lie: Option<Lie>,
}

#[derive(Debug)]
struct Guarded {
    facts: DeviceFacts,
    device: DeviceId,
    host: Arc<ServiceView>,
    vulkan: Arc<dyn Device>,
    arena: Arena,
    /// The window and the place of each array.
    places: Vec<(Window, HostSpan)>,
    side: Side,
    lie: Option<Lie>,
    launches: Mutex<u64>,
}

impl GuardedProvider {
    pub(crate) fn new(vulkan: Arc<VulkanProvider>, side: Side, lie: Option<Lie>) -> Self {
        Self { vulkan, side, lie }
    }
}

impl Provider for GuardedProvider {
    fn summary(&self) -> &DeviceSummary {
        self.vulkan.summary()
    }

    fn open(&self, context: OpenContext) -> Result<Arc<dyn Device>, DeviceError> {
        let arena = Arena::new().expect("an address window");
        let (device, host) = (context.device, Arc::clone(arena.view()));
        let vulkan = self.vulkan.open(OpenContext { device, host })?;
        let whole = arena.allocate(PLACES * STEP_BYTES + GUARD_BYTES).expect("room for guards");
        protect(&arena, whole, MprotectFlags::empty());
        let place = |number| whole.part(number * STEP_BYTES + GUARD_BYTES, PLACE_BYTES);
        let opened = (0..PLACES).map(place).map(|place| {
            let window = vulkan.open_window(place)?;
            if window.address != arena.view().pointer(place).addr() as u64 {
                return Err(DeviceError::Unsupported {
                    what: "device addresses that are the host's",
                });
            }
            Ok((window, place))
        });
        let places = opened.collect::<Result<_, _>>()?;
        let own = vulkan.facts();
        let capabilities = Capabilities {
            host_window: Capability::Proved,
            direct_copy: Capability::Masked,
            sparse: Capability::Masked,
            transfer_queue: Capability::Masked,
            long_loops: own.capabilities.long_loops.clone(),
            export: Capability::Masked,
            dma_buf: Capability::Masked,
        };
        let facts =
            DeviceFacts { capabilities, shares_host_memory: true, external: None, ..own.clone() };
        let host = context.host;
        let (side, lie, launches) = (self.side, self.lie, Mutex::new(0));
        Ok(Arc::new(Guarded { facts, device, host, vulkan, arena, places, side, lie, launches }))
    }
}

fn protect(arena: &Arena, span: HostSpan, access: MprotectFlags) {
    let start = arena.view().pointer(span);
    // SAFETY: (1) the span is a part of a mapping of this test's own, aligned to pages, (2) whoever touches it while it is protected dies
    // of it, which is what the test looks for; nothing but kernels and `Guarded` knows its address.
    unsafe { mprotect(start.cast(), span.len_bytes as usize, access) }.expect("mprotect");
}

impl Guarded {
    /// The array in its place, with the rest of its last page on the other side.
    fn array(&self, number: usize, len_bytes: u64) -> (HostSpan, u64) {
        let place = self.places[number].1;
        assert!(len_bytes <= PLACE_BYTES, "an array of {len_bytes} bytes");
        let pages = len_bytes.next_multiple_of(4096);
        match self.side {
            Side::Before => (place.part(0, pages), 0),
            Side::Behind => (place.part(PLACE_BYTES - pages, pages), pages - len_bytes),
        }
    }

    /// The bytes of the pages that an array lies in, which must be accessible.
    #[expect(clippy::mut_from_ref, reason = "behind a raw mapping; one launch at a time has it")]
    fn bytes(&self, pages: HostSpan) -> &mut [u8] {
        let start = self.arena.view().pointer(pages);
        // SAFETY: (1) mapped for the life of the arena and made accessible by the caller, (2) launches hold the lock of `launches` and wait for
        // their kernel, so nobody else touches it, (3) any bytes are bytes.
        unsafe { std::slice::from_raw_parts_mut(start, pages.len_bytes as usize) }
    }

    /// What the runtime gave: host memory, since its windows are at their own addresses.
    #[expect(
        clippy::mut_from_ref,
        reason = "a kernel's argument is the device's during the launch"
    )]
    fn given(&self, address: u64, len_bytes: u64) -> &mut [u8] {
        let base = self.host.pointer(HostSpan { offset_bytes: 0, len_bytes: 0 });
        let at = address - base.addr() as u64;
        // SAFETY: (1) an argument of a launch lies in the runtime's arena, at the address that `open_window` gave, (2) it is the device's until
        // the launch has ended, and this device ends it before it returns, (3) any bytes are bytes.
        unsafe { std::slice::from_raw_parts_mut(base.add(at as usize), len_bytes as usize) }
    }

    /// The parameters with the addresses of the places, and with the lie.
    fn params(&self, work: &LaunchWork<'_>, addresses: &[u64]) -> Vec<u8> {
        let mut params = work.params.to_vec();
        let is_address = |field: &&hmmap_core::kernel::Field| field.kind == FieldKind::Address;
        let fields = work.layout.fields().iter().filter(is_address);
        for (number, (field, address)) in fields.zip(addresses).enumerate() {
            let at = field.offset_bytes as usize;
            let mut address = *address;
            if let Some(lie) = self.lie.filter(|lie| lie.array == number) {
                address -= lie.earlier_bytes;
                // A length follows each address.
                let len: &mut [u8; 8] = (&mut params[at + 8..at + 16]).try_into().unwrap();
                *len = (u64::from_ne_bytes(*len) + lie.longer).to_ne_bytes();
            }
            params[at..at + 8].copy_from_slice(&address.to_ne_bytes());
        }
        params
    }
}

impl Device for Guarded {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn submit_launch(&self, work: &LaunchWork<'_>) -> Result<FencePoint, DeviceError> {
        let mut launches = self.launches.lock().unwrap();
        let (mut arrays, mut addresses, mut placed) =
            (work.arrays.to_vec(), Vec::new(), Vec::new());
        for (number, array) in arrays.iter_mut().enumerate() {
            let (pages, offset) = self.array(number, array.len_bytes);
            let at = offset as usize..(offset + array.len_bytes) as usize;
            if array.len_bytes > 0 {
                protect(&self.arena, pages, MprotectFlags::READ | MprotectFlags::WRITE);
                let bytes = self.bytes(pages);
                bytes.fill(SLACK);
                bytes[at.clone()].copy_from_slice(self.given(array.address, array.len_bytes));
                placed.push((pages, at, array.address));
                array.address = self.arena.view().pointer(pages).addr() as u64 + offset;
            }
            addresses.push(array.address);
        }
        let params = self.params(work, &addresses);
        let there = LaunchWork { params: &params, arrays: &arrays, waits: &[], ..*work };
        let point = self.vulkan.submit_launch(&there)?;
        if self.vulkan.wait(point, Duration::from_secs(60)) != FenceState::Ok {
            return Err(DeviceError::Misuse { what: "a launch that does not end well" });
        }
        for (pages, at, address) in placed {
            let bytes = self.bytes(pages);
            let beside = bytes[..at.start].iter().chain(&bytes[at.end..]);
            assert!(
                beside.into_iter().all(|byte| *byte == SLACK),
                "{}: wrote beside an array",
                work.source.name
            );
            self.given(address, at.len() as u64).copy_from_slice(&bytes[at]);
            protect(&self.arena, pages, MprotectFlags::empty());
        }
        *launches += 1;
        Ok(FencePoint { timeline: TimelineId::new(self.device, 0), value: *launches })
    }

    fn poll(&self, _point: FencePoint) -> FenceState {
        FenceState::Ok
    }

    fn wait(&self, _point: FencePoint, _timeout: Duration) -> FenceState {
        FenceState::Ok
    }

    fn open_window(&self, span: HostSpan) -> Result<Window, DeviceError> {
        let address = self.host.pointer(span).addr() as u64;
        Ok(Window { window: WindowId(span.offset_bytes), address })
    }

    fn close_window(&self, _window: WindowId) {}

    fn host_released(&self, _span: HostSpan) {}

    fn prepare(
        &self,
        source: &'static Source,
        layout: &ParamLayout,
    ) -> Result<KernelId, DeviceError> {
        self.vulkan.prepare(source, layout)
    }

    fn reserve(&self, _len_bytes: u64) -> Result<Reservation, DeviceError> {
        Err(NO_MEMORY)
    }

    fn back(&self, _memory: MemoryId, _ranges: &[Range<u64>]) -> Result<(), DeviceError> {
        Err(NO_MEMORY)
    }

    fn unback(&self, _memory: MemoryId, _ranges: &[Range<u64>]) {}

    fn release(&self, _memory: MemoryId) {}

    fn submit_transfer(&self, _work: &TransferWork<'_>) -> Result<FencePoint, DeviceError> {
        Err(NO_MEMORY)
    }
}

const NO_MEMORY: DeviceError = DeviceError::Unsupported { what: "memory of its own" };

impl Drop for Guarded {
    fn drop(&mut self) {
        for (window, _) in &self.places {
            self.vulkan.close_window(window.window);
        }
    }
}
