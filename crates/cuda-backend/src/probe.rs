//! Proves what the driver says, by trying it, before anybody relies on it.
//!
//! A device is opened over a small arena of the probes' own, as if everything that the driver offers worked; each capability is used once with
//! known bytes through the same methods that the engine calls; what comes back decides.
#![allow(unsafe_code, reason = "writes and reads the probe's own arena")]

use std::{sync::Arc, time::Duration};

use hmmap_core::{
    access::Access,
    backend::{
        Across, AcrossWork, ArrayArgument, Capabilities, Capability, Copy, Device, DeviceError,
        DeviceFacts, Direction, LaunchWork, MemoryId, OpenContext, TransferWork,
    },
    fence::{FencePoint, FenceState},
    host::{Arena, HostSpan},
    kernel::{Field, FieldKind, ParamLayout, Source},
    node::DeviceId,
    p2p::{DriverView, HandleKinds, Opaque},
    units::{BLOCK_BYTES, PAGE_BYTES},
};

use crate::{
    context::Context,
    device::CudaDevice,
    memory::CUDA_DRIVER,
    options::{Backing, HostCopies, Options},
    physical::Physical,
};

/// How long a driver has for the few pages of a probe.
const PATIENCE: Duration = Duration::from_secs(10);

/// `y = a * x + y`, which reads and writes.
static SAXPY: Source = Source {
    name: "saxpy",
    spirv: &[],
    ptx: include_str!("../../../shaders/out/saxpy.ptx"),
    workgroup: [256, 1, 1],
    twin: None,
};

/// What a probe found instead of what it looked for.
enum Found {
    /// A driver call failed.
    Error(DeviceError),
    /// Something else.
    Wrong(String),
}

impl From<DeviceError> for Found {
    fn from(error: DeviceError) -> Self {
        Self::Error(error)
    }
}

/// A device over an arena of the probes' own.
struct Bench {
    device: CudaDevice,
    arena: Arena,
    pages: HostSpan,
}

/// Tries what the driver offers, as far as the options want it, and says what the device is.
pub(crate) fn facts(
    context: &Arc<Context>,
    physical: &Physical,
    options: &Options,
) -> Result<DeviceFacts, DeviceError> {
    let copies = Options { host_copies: HostCopies::Registered, ..options.clone() };
    let direct_copy = match options.host_copies {
        HostCopies::Staging => Capability::Masked,
        _ if !physical.can_register => Capability::none("the driver registers no host memory"),
        _ => try_on(context, physical, &copies, Bench::copies)?,
    };
    let staging = Options { host_copies: HostCopies::Staging, ..options.clone() };
    let rest = if direct_copy.is_proved() { copies } else { staging };
    let host_window = match physical.can_register {
        true => try_on(context, physical, &rest, Bench::window)?,
        false => Capability::none("the driver registers no host memory"),
    };
    let sparse = match options.backing {
        Backing::Whole => Capability::Masked,
        Backing::Blocks => try_on(context, physical, &rest, Bench::blocks)?,
    };
    let whole = Options { backing: Backing::Whole, ..rest };
    let export = match physical.can_share {
        true => try_on(context, physical, &whole, |bench| bench.shared(HandleKinds::OPAQUE_FD))?,
        false => Capability::none("the driver gives out no descriptors of memory"),
    };
    let dma_buf = match physical.has_dma_buf {
        true => try_on(context, physical, &whole, |bench| bench.shared(HandleKinds::DMA_BUF))?,
        false => Capability::none("the driver gives out no dma-bufs"),
    };
    let transfer_queue = match physical.has_copy_engine {
        true => Capability::Proved,
        false => Capability::none("no copy engine"),
    };
    let capabilities = Capabilities {
        host_window,
        direct_copy,
        sparse,
        transfer_queue,
        long_loops: Capability::Proved,
        export,
        dma_buf,
    };
    Ok(facts_with(physical, capabilities))
}

/// Tries many copies in one call.
pub(crate) fn batches(
    context: &Arc<Context>,
    physical: &Physical,
    options: &Options,
    facts: &DeviceFacts,
) -> Result<Capability, DeviceError> {
    if !facts.capabilities.direct_copy.is_proved() {
        return Ok(Capability::none("copies go through staging memory"));
    }
    if context.api().cuMemcpyBatchAsync.is_none() {
        return Ok(Capability::none(
            "the driver has no cuMemcpyBatchAsync, which CUDA 12.8 brought",
        ));
    }
    let copies = Options { host_copies: HostCopies::Registered, ..options.clone() };
    try_on(context, physical, &copies, Bench::batches)
}

fn facts_with(physical: &Physical, capabilities: Capabilities) -> DeviceFacts {
    let proved = |capability: &Capability, kind| match capability.is_proved() {
        true => kind,
        false => HandleKinds::NONE,
    };
    let imports = proved(&capabilities.export, HandleKinds::OPAQUE_FD);
    let exports = imports.or(proved(&capabilities.dma_buf, HandleKinds::DMA_BUF));
    let (driver, opaque) = (CUDA_DRIVER, Opaque::SameDevice);
    let view = DriverView { driver, opaque, exports, imports };
    DeviceFacts {
        summary: physical.summary.clone(),
        shares_host_memory: physical.is_integrated,
        external: (!exports.is_empty()).then_some(view),
        max_groups: physical.max_groups,
        rates: None,
        capabilities,
    }
}

/// Opens a device over a fresh arena as if everything worked, and tries one thing.
fn try_on(
    context: &Arc<Context>,
    physical: &Physical,
    options: &Options,
    what: impl FnOnce(&Bench) -> Result<(), Found>,
) -> Result<Capability, DeviceError> {
    let tried = Bench::new(context, physical, options).and_then(|bench| what(&bench));
    match tried {
        Ok(()) => Ok(Capability::Proved),
        Err(Found::Error(DeviceError::Lost)) => Err(DeviceError::Lost),
        Err(Found::Error(DeviceError::Unsupported { what })) => {
            Ok(Capability::Absent { reason: what.to_owned() })
        }
        Err(Found::Error(error)) => Ok(Capability::Refuted { reason: error.to_string() }),
        Err(Found::Wrong(reason)) => Ok(Capability::Refuted { reason }),
    }
}

fn word(index: u64) -> u32 {
    (index as u32).wrapping_mul(0x9e37_79b9) ^ 0x5a5a_a5a5
}

impl Bench {
    fn new(context: &Arc<Context>, physical: &Physical, options: &Options) -> Result<Self, Found> {
        let told = |error: hmmap_core::host::HostError| Found::Wrong(error.to_string());
        let arena = Arena::new().map_err(told)?;
        let pages = arena.allocate(4 * PAGE_BYTES).map_err(told)?;
        let yes = || Capability::Proved;
        let capabilities = Capabilities {
            host_window: yes(),
            direct_copy: yes(),
            sparse: yes(),
            transfer_queue: yes(),
            long_loops: yes(),
            export: if physical.can_share { yes() } else { Capability::Masked },
            dma_buf: Capability::Masked,
        };
        let facts = facts_with(physical, capabilities);
        let missing = || Found::Wrong("there is no first device".to_owned());
        let number = DeviceId::new(0).ok_or_else(missing)?;
        let opening = OpenContext { device: number, host: Arc::clone(arena.view()) };
        let device = CudaDevice::open(context, physical, (facts, yes()), options, &opening)?;
        Ok(Self { device, arena, pages })
    }

    fn page(&self, number: u64) -> HostSpan {
        self.pages.part(number * PAGE_BYTES, PAGE_BYTES)
    }

    fn write(&self, page: u64, word: impl Fn(u64) -> u32) {
        let start = self.arena.view().pointer(self.page(page)).cast::<u32>();
        for index in 0..PAGE_BYTES / 4 {
            // SAFETY: inside of a page that only this probe uses, aligned to a page; no submission is under way.
            unsafe { start.add(index as usize).write(word(index)) };
        }
    }

    /// An error unless a page holds these words.
    fn holds(&self, page: u64, word: impl Fn(u64) -> u32) -> Result<(), Found> {
        let start = self.arena.view().pointer(self.page(page)).cast::<u32>();
        for index in 0..PAGE_BYTES / 4 {
            // SAFETY: as in `write`; the fence of the last submission has ended.
            let (found, wanted) = (unsafe { start.add(index as usize).read() }, word(index));
            if found != wanted {
                let text = format!("word {index} came back as {found:#010x}, not {wanted:#010x}");
                return Err(Found::Wrong(text));
            }
        }
        Ok(())
    }

    fn ended(&self, fence: FencePoint) -> Result<(), Found> {
        match self.device.wait(fence, PATIENCE) {
            FenceState::Ok => Ok(()),
            FenceState::Lost => Err(Found::Error(DeviceError::Lost)),
            other => Err(Found::Wrong(format!("the work is {other:?} after {PATIENCE:?}"))),
        }
    }

    /// Copies a page, and waits.
    fn copy(
        &self,
        direction: Direction,
        page: u64,
        memory: MemoryId,
        offset_bytes: u64,
    ) -> Result<(), Found> {
        let copy = Copy { direction, host: self.page(page), memory, offset_bytes };
        let work = TransferWork { waits: &[], copies: &[copy], zeros: &[] };
        self.ended(self.device.submit_transfer(&work)?)
    }

    /// Up, and down to another page.
    fn there_and_back(&self, memory: MemoryId, offset_bytes: u64) -> Result<(), Found> {
        self.write(0, word);
        self.write(1, |_| 0xdead_beef);
        self.copy(Direction::HostToDevice, 0, memory, offset_bytes)?;
        self.copy(Direction::DeviceToHost, 1, memory, offset_bytes)?;
        self.holds(1, word)
    }

    fn copies(&self) -> Result<(), Found> {
        let reserved = self.device.reserve(PAGE_BYTES)?;
        self.device.back(reserved.memory, &[std::ops::Range { start: 0, end: PAGE_BYTES }])?;
        self.there_and_back(reserved.memory, 0)
    }

    /// Two pages up, crossed over, and down again.
    fn batches(&self) -> Result<(), Found> {
        let reserved = self.device.reserve(2 * PAGE_BYTES)?;
        self.device.back(reserved.memory, &[std::ops::Range { start: 0, end: 2 * PAGE_BYTES }])?;
        let memory = reserved.memory;
        let copy = |direction, page, offset_bytes| Copy {
            direction,
            host: self.page(page),
            memory,
            offset_bytes,
        };
        self.write(0, word);
        self.write(1, |index| !word(index));
        let (up, down) = (Direction::HostToDevice, Direction::DeviceToHost);
        for copies in [
            [copy(up, 0, PAGE_BYTES), copy(up, 1, 0)],
            [copy(down, 2, 0), copy(down, 3, PAGE_BYTES)],
        ] {
            let work = TransferWork { waits: &[], copies: &copies, zeros: &[] };
            self.ended(self.device.submit_transfer(&work)?)?;
        }
        self.holds(2, |index| !word(index))?;
        self.holds(3, word)
    }

    /// The second of three blocks alone.
    fn blocks(&self) -> Result<(), Found> {
        let reserved = self.device.reserve(3 * BLOCK_BYTES)?;
        let second = BLOCK_BYTES..2 * BLOCK_BYTES;
        self.device.back(reserved.memory, std::slice::from_ref(&second))?;
        self.there_and_back(reserved.memory, 2 * BLOCK_BYTES - PAGE_BYTES)?;
        self.device.unback(reserved.memory, std::slice::from_ref(&second));
        self.device.back(reserved.memory, std::slice::from_ref(&second))?;
        self.there_and_back(reserved.memory, BLOCK_BYTES)
    }

    /// A kernel adds one page of the host to another, in place.
    fn window(&self) -> Result<(), Found> {
        let value = |index: u64| index as f32;
        self.write(2, |index| value(index).to_bits());
        self.write(3, |_| 1.0_f32.to_bits());
        let window = self.device.open_window(self.pages)?;
        let words = PAGE_BYTES / 4;
        let address = |page: u64| window.address + page * PAGE_BYTES;
        let array = |page, access| ArrayArgument {
            address: address(page),
            len_bytes: PAGE_BYTES,
            access,
            scattered: None,
        };
        let field = |at: u32, kind| Field { offset_bytes: at, kind };
        let wide = |at| field(at, FieldKind::U64);
        let arrays = [array(2, Access::Read), array(3, Access::Update)];
        let layout = ParamLayout::new([
            field(0, FieldKind::Address),
            wide(8),
            field(16, FieldKind::Address),
            wide(24),
            wide(32),
            wide(40),
            field(48, FieldKind::F32),
        ]);
        let mut params = Vec::new();
        for number in [address(2), words, address(3), words, words, words] {
            params.extend(number.to_ne_bytes());
        }
        params.extend(2.0_f32.to_ne_bytes());
        let groups = [(words / 256) as u32, 1, 1];
        let kernel = self.device.prepare(&SAXPY, &layout)?;
        let fence = self.device.submit_launch(&LaunchWork {
            kernel,
            source: &SAXPY,
            groups,
            params: &params,
            layout: &layout,
            arrays: &arrays,
            waits: &[],
        })?;
        self.ended(fence)?;
        self.device.close_window(window.window);
        self.holds(3, |index| (2.0 * value(index) + 1.0).to_bits())
    }

    /// Memory given out and taken in again is the same memory.
    fn shared(&self, kind: HandleKinds) -> Result<(), Found> {
        let whole = 0..BLOCK_BYTES;
        let [ours, other] = [self.device.reserve(BLOCK_BYTES)?, self.device.reserve(BLOCK_BYTES)?];
        for reserved in [ours, other] {
            self.device.back(reserved.memory, std::slice::from_ref(&whole))?;
        }
        let exported = self.device.export(ours.memory, kind)?;
        if kind == HandleKinds::DMA_BUF {
            // The driver takes none in on cards of its own; that it gave one out is all that can be seen here.
            return Ok(());
        }
        self.write(0, word);
        self.write(1, |_| 0xdead_beef);
        self.copy(Direction::HostToDevice, 0, ours.memory, PAGE_BYTES)?;
        let imported = self.device.import(&exported)?;
        let across = Across {
            from: imported.memory,
            from_bytes: PAGE_BYTES,
            to: other.memory,
            to_bytes: 0,
            len_bytes: PAGE_BYTES,
        };
        let work = AcrossWork { waits: &[], copies: &[across] };
        self.ended(self.device.submit_between(&work)?)?;
        self.copy(Direction::DeviceToHost, 1, other.memory, 0)?;
        self.device.release(imported.memory);
        self.holds(1, word)
    }
}
