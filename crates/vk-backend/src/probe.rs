//! Proves what the driver says, by trying it, before anybody relies on it.
//!
//! Drivers exist that accept a call and then do something else: lavapipe answers success when imported memory is bound into a sparse
//! buffer, and maps file descriptor 0 instead. So each capability is used once with known bytes when a device is opened; what comes back
//! decides. Every probe works on a small arena of its own.
#![allow(unsafe_code, reason = "writes and reads the probe's own arena")]

use std::{sync::Arc, time::Duration};

use hmmap_core::{
    access::Access,
    backend::{ArrayArgument, Capability, DeviceError, LaunchWork, MemoryId},
    fence::FenceState,
    host::{Arena, HostSpan},
    kernel::{Field, FieldKind, ParamLayout, Source},
    p2p::HandleKinds,
    units::{BLOCK_BYTES, PAGE_BYTES},
};

use crate::{
    dependencies::{HostSees, acquire},
    import::{Import, Purpose},
    mapped::Mapped,
    queue::{Names as _, Slot},
    record,
    shared::Shared,
    stream::{Barrier, Region, Stream},
    uses::Uses,
};

/// How long a driver has for the few pages of a probe.
const PATIENCE: Duration = Duration::from_secs(10);

/// `y = a * x + y`, which reads and writes.
static SAXPY: Source = Source {
    name: "saxpy",
    spirv: include_bytes!("../../../shaders/out/saxpy.spv"),
    ptx: "",
    workgroup: [256, 1, 1],
    twin: None,
};

/// Counts the turns of a loop.
static MANDELBROT: Source = Source {
    name: "mandelbrot_u32",
    spirv: include_bytes!("../../../shaders/out/mandelbrot_u32.spv"),
    ptx: "",
    workgroup: [16, 16, 1],
    twin: None,
};

/// More turns than fit into 16 bits.
const LONG_LOOP_TURNS: u32 = 70_000;

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

/// Host memory of a probe.
struct Host {
    arena: Arena,
    pages: HostSpan,
}

impl Host {
    fn new(count: u64) -> Result<Self, Found> {
        let told = |error: hmmap_core::host::HostError| Found::Wrong(error.to_string());
        let arena = Arena::new().map_err(told)?;
        let pages = arena.allocate(count * PAGE_BYTES).map_err(told)?;
        Ok(Self { arena, pages })
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

    /// The first word of a page that is not as expected.
    fn differs(&self, page: u64, word: impl Fn(u64) -> u32) -> Result<(), Found> {
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
}

/// Turns what was found into a capability. A lost device is no capability but the end.
fn verdict(found: Result<(), Found>) -> Result<Capability, DeviceError> {
    match found {
        Ok(()) => Ok(Capability::Proved),
        Err(Found::Error(DeviceError::Lost)) => Err(DeviceError::Lost),
        Err(Found::Error(DeviceError::Unsupported { what })) => {
            Ok(Capability::Absent { reason: what.to_owned() })
        }
        Err(Found::Error(error)) => Ok(Capability::Refuted { reason: error.to_string() }),
        Err(Found::Wrong(reason)) => Ok(Capability::Refuted { reason }),
    }
}

/// A memory reservation that goes with the probe.
struct Scratch<'a> {
    shared: &'a Shared,
    memory: MemoryId,
    address: u64,
}

impl<'a> Scratch<'a> {
    fn new(shared: &'a Shared, len_bytes: u64) -> Result<Self, Found> {
        let reservation = shared.memory.reserve_committed(len_bytes)?;
        let scratch = Self { shared, memory: reservation.memory, address: reservation.address };
        shared.memory.back(scratch.memory, &[std::ops::Range { start: 0, end: len_bytes }])?;
        Ok(scratch)
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.shared.memory.release(self.memory) {
            tracing::error!(%error, "a probe could not release its memory");
        }
    }
}

/// Copies through imported host memory: up, and down to another page.
pub(crate) fn direct_copy(shared: &Shared) -> Result<Capability, DeviceError> {
    verdict(try_direct_copy(shared))
}

fn try_direct_copy(shared: &Shared) -> Result<(), Found> {
    let host = Host::new(2)?;
    let word = |index: u64| (index as u32).wrapping_mul(0x9e37_79b9) ^ 0x5a5a_a5a5;
    host.write(0, word);
    host.write(1, |_| 0xdead_beef);
    let view = host.arena.view();
    let pinned = shared.slabs.pinned();
    let import = Import::new(&shared.gpu, view, host.pages, Purpose::Copies, pinned)?;
    let scratch = Scratch::new(shared, PAGE_BYTES)?;
    let (buffer, start) = shared.memory.region(scratch.memory)?.place(0, PAGE_BYTES)?;
    let imported = import.buffer();
    let import = Arc::new(import);
    run(shared, |stream, keeps| {
        keeps.push(import);
        let region = |from_bytes, to_bytes| Region { from_bytes, to_bytes, len_bytes: PAGE_BYTES };
        stream.copy(imported, buffer, region(0, start));
        stream.barrier(Barrier { from: Uses::TRANSFER_WRITE, to: Uses::TRANSFER });
        stream.copy(buffer, imported, region(start, PAGE_BYTES));
        stream.barrier(Barrier { from: Uses::TRANSFER_WRITE, to: Uses::HOST_READ });
    })?;
    host.differs(1, word)
}

/// Records, submits on the queue that copies, and waits.
fn run(
    shared: &Shared,
    record: impl FnOnce(&mut Stream<ash::vk::Buffer>, &mut Vec<Arc<Import>>),
) -> Result<(), Found> {
    let queue = shared.copies();
    let mut opening = queue.open();
    let mut slot = opening.slot()?;
    let seen = shared.ended();
    let before = acquire(&opening.after(&[], &seen), &mut slot.visible, Uses::TRANSFER);
    slot.semaphores = before.semaphores;
    if let Some(barrier) = before.barrier {
        slot.stream.barrier(barrier);
    }
    record(&mut slot.stream, &mut slot.keeps);
    let value = opening.submit(slot, shared)?;
    ended(queue.timeline().wait(value, PATIENCE))
}

fn ended(state: FenceState) -> Result<(), Found> {
    match state {
        FenceState::Ok => Ok(()),
        FenceState::Lost => Err(Found::Error(DeviceError::Lost)),
        other => Err(Found::Wrong(format!("the work is {other:?} after {PATIENCE:?}"))),
    }
}

/// A kernel reads and writes host memory in place.
pub(crate) fn host_window(shared: &Shared) -> Result<Capability, DeviceError> {
    verdict(try_host_window(shared))
}

fn try_host_window(shared: &Shared) -> Result<(), Found> {
    let host = Host::new(2)?;
    host.write(0, |index| (index as f32).to_bits());
    host.write(1, |_| 1.0f32.to_bits());
    let view = host.arena.view();
    let import =
        Import::new(&shared.gpu, view, host.pages, Purpose::Window, shared.slabs.pinned())?;
    launch_saxpy(shared, import.address(), import.address() + PAGE_BYTES)?;
    host.differs(1, |index| (2.0 * index as f32 + 1.0).to_bits())
}

/// `y = 2 * x + y` over a page each.
fn launch_saxpy(shared: &Shared, x: u64, y: u64) -> Result<(), Found> {
    use FieldKind::{Address, F32, U64};
    let n = PAGE_BYTES / 4;
    let mut params: Vec<u8> = [x, n, y, n, n, n].into_iter().flat_map(u64::to_ne_bytes).collect();
    params.extend_from_slice(&2.0f32.to_ne_bytes());
    let array =
        |address, access| ArrayArgument { address, len_bytes: PAGE_BYTES, access, scattered: None };
    let arrays = [array(x, Access::Read), array(y, Access::Update)];
    let fields = [Address, U64, Address, U64, U64, U64, F32];
    launch(shared, &SAXPY, (n / 256) as u32, &fields, &params, &arrays)
}

/// Launches along one axis and waits.
fn launch(
    shared: &Shared,
    source: &'static Source,
    groups: u32,
    fields: &[FieldKind],
    params: &[u8],
    arrays: &[ArrayArgument],
) -> Result<(), Found> {
    let mut at = 0;
    let fields = fields.iter().map(|&kind| {
        let field = Field { offset_bytes: at, kind };
        at += kind.size_bytes();
        field
    });
    let layout = ParamLayout::new(fields);
    let kernel = shared.kernels.prepare(source, &layout)?;
    let groups = [groups, 1, 1];
    let work = LaunchWork { kernel, source, groups, params, layout: &layout, arrays, waits: &[] };
    let queue = &shared.compute;
    let mut opening = queue.open();
    let mut slot = opening.slot()?;
    let seen = shared.ended();
    let after = opening.after(&[], &seen);
    let Slot { stream, visible, .. } = &mut slot;
    slot.semaphores = record::launch(stream, &after, visible, &work, HostSees::Yes);
    let value = opening.submit(slot, shared)?;
    ended(queue.timeline().wait(value, PATIENCE))
}

/// A kernel's loop ends where it says. (Mesa 22.3's lavapipe leaves all loops of an invocation after 65,535 turns in all,
/// and says nothing: results of long rows and long sums are wrong.)
pub(crate) fn long_loops(shared: &Shared) -> Result<Capability, DeviceError> {
    let verdict = verdict(try_long_loops(shared))?;
    if let Capability::Refuted { reason } = &verdict {
        let name = &shared.gpu.physical().summary.name;
        tracing::warn!(name, %reason, "this driver ends a kernel's long loops early; use a newer one");
    }
    Ok(verdict)
}

fn try_long_loops(shared: &Shared) -> Result<(), Found> {
    use FieldKind::{Address, F32, U32, U64};
    let scratch = Scratch::new(shared, PAGE_BYTES)?;
    let out = scratch.address;
    // The origin never escapes, so its one pixel takes every step.
    let mut params: Vec<u8> = [out, 1, 1, 1].into_iter().flat_map(u64::to_ne_bytes).collect();
    params.extend([0f32; 4].into_iter().flat_map(f32::to_ne_bytes));
    params.extend_from_slice(&LONG_LOOP_TURNS.to_ne_bytes());
    let fields = [Address, U64, U64, U64, F32, F32, F32, F32, U32];
    let array =
        ArrayArgument { address: out, len_bytes: 4, access: Access::Write, scattered: None };
    launch(shared, &MANDELBROT, 1, &fields, &params, &[array])?;
    let mapped = Mapped::new(&shared.gpu, PAGE_BYTES)?;
    let (buffer, at) = shared.memory.region(scratch.memory)?.place(0, PAGE_BYTES)?;
    run(shared, |stream, _| {
        stream.copy(buffer, mapped.buffer(), Region { from_bytes: at, to_bytes: 0, len_bytes: 4 });
        stream.barrier(Barrier { from: Uses::TRANSFER_WRITE, to: Uses::HOST_READ });
    })?;
    mapped.invalidate(0..4)?;
    let mut turns = 0u32;
    // SAFETY: a word of our own, and no submission is under way.
    unsafe { mapped.get(0, (&raw mut turns).cast(), 4) };
    if turns == LONG_LOOP_TURNS {
        return Ok(());
    }
    Err(Found::Wrong(format!("a loop of {LONG_LOOP_TURNS} turns was left after {turns}")))
}

/// Blocks get memory, one after the other and again; kernels and copies see what is bound and nothing else.
pub(crate) fn sparse(shared: &Shared) -> Result<Capability, DeviceError> {
    verdict(try_sparse(shared))
}

fn try_sparse(shared: &Shared) -> Result<(), Found> {
    let reserved = shared.memory.reserve_sparse(3 * BLOCK_BYTES)?;
    let scratch = Scratch { shared, memory: reserved.memory, address: reserved.address };
    let block = |number: u64| number * BLOCK_BYTES..(number + 1) * BLOCK_BYTES;
    let mapped = Mapped::new(&shared.gpu, 2 * PAGE_BYTES)?;
    let trial = Trial { shared, memory: reserved.memory, step_bytes: BLOCK_BYTES, mapped: &mapped };
    // The third block first, so that an offset that is ignored shows.
    shared.memory.back(scratch.memory, &[block(2)])?;
    shared.memory.back(scratch.memory, &[block(0)])?;
    trial.write(2, 1.0)?;
    trial.write(0, 10.0)?;
    trial.holds(2, 1.0)?;
    trial.holds(0, 10.0)?;
    launch_saxpy(shared, reserved.address, reserved.address + 2 * BLOCK_BYTES)?;
    trial.holds(2, 21.0)?;
    shared.memory.unback(scratch.memory, &[block(0)])?;
    trial.holds(2, 21.0)?;
    shared.memory.back(scratch.memory, &[block(0), block(1)])?;
    trial.write(1, 3.0)?;
    trial.write(0, 4.0)?;
    trial.holds(0, 4.0)?;
    trial.holds(1, 3.0)?;
    trial.holds(2, 21.0)
}

/// Reads and writes the first page of each step of a reservation through a mapped buffer.
#[derive(Clone, Copy)]
struct Trial<'a> {
    shared: &'a Shared,
    memory: MemoryId,
    step_bytes: u64,
    mapped: &'a Mapped,
}

impl Trial<'_> {
    fn write(&self, block: u64, value: f32) -> Result<(), Found> {
        let words = vec![value; (PAGE_BYTES / 4) as usize];
        // SAFETY: the vector is a page long, and no submission is under way.
        unsafe { self.mapped.put(0, words.as_ptr().cast(), PAGE_BYTES) };
        self.mapped.flush(0..PAGE_BYTES)?;
        let (buffer, at) = self.place(block)?;
        let region = Region { from_bytes: 0, to_bytes: at, len_bytes: PAGE_BYTES };
        run(self.shared, |stream, _| stream.copy(self.mapped.buffer(), buffer, region))
    }

    fn holds(&self, block: u64, value: f32) -> Result<(), Found> {
        let (buffer, at) = self.place(block)?;
        let region = Region { from_bytes: at, to_bytes: PAGE_BYTES, len_bytes: PAGE_BYTES };
        run(self.shared, |stream, _| {
            stream.copy(buffer, self.mapped.buffer(), region);
            stream.barrier(Barrier { from: Uses::TRANSFER_WRITE, to: Uses::HOST_READ });
        })?;
        self.mapped.invalidate(PAGE_BYTES..2 * PAGE_BYTES)?;
        let mut words = vec![0f32; (PAGE_BYTES / 4) as usize];
        // SAFETY: the vector is a page long, and no submission is under way.
        unsafe { self.mapped.get(PAGE_BYTES, words.as_mut_ptr().cast(), PAGE_BYTES) };
        match words.iter().position(|word| *word != value) {
            None => Ok(()),
            Some(at) => {
                let found = words.get(at).copied().unwrap_or_default();
                let text = format!("word {at} of step {block} is {found}, not {value}");
                Err(Found::Wrong(text))
            }
        }
    }

    fn place(&self, block: u64) -> Result<(ash::vk::Buffer, u64), Found> {
        Ok(self.shared.memory.region(self.memory)?.place(block * self.step_bytes, PAGE_BYTES)?)
    }
}

/// Memory that is given out in one way and taken in again shows the same bytes to kernels and to copies, both ways. One device does both: what
/// another device of the driver is given is the same descriptor.
pub(crate) fn external(shared: &Shared, kind: HandleKinds) -> Result<Capability, DeviceError> {
    let support = shared.gpu.physical().external;
    if support.exports.contains(kind) && !support.of_one_allocation().contains(kind) {
        let reason = format!("an allocation is given out as a dma-buf here, and not as {kind} too");
        return Ok(Capability::Absent { reason });
    }
    if !support.exports.contains(kind) {
        let imports =
            if support.imports.contains(kind) { "; it says that it imports it" } else { "" };
        let reason = format!("the driver does not say that it exports a buffer's {kind}{imports}");
        return Ok(Capability::Absent { reason });
    }
    if !support.imports.contains(kind) {
        let reason = format!("the driver does not say that it imports a buffer's {kind}");
        return Ok(Capability::Absent { reason });
    }
    verdict(try_external(shared, kind))
}

fn try_external(shared: &Shared, kind: HandleKinds) -> Result<(), Found> {
    let reserved = shared.memory.reserve_shared(2 * PAGE_BYTES)?;
    let scratch = Scratch { shared, memory: reserved.memory, address: reserved.address };
    shared.memory.back(scratch.memory, &[std::ops::Range { start: 0, end: 2 * PAGE_BYTES }])?;
    let exported = shared.memory.export(scratch.memory, kind)?;
    let imported = shared.memory.import(&exported)?;
    let taken = Scratch { shared, memory: imported.memory, address: imported.address };
    let mapped = Mapped::new(&shared.gpu, 2 * PAGE_BYTES)?;
    let given = Trial { shared, memory: scratch.memory, step_bytes: PAGE_BYTES, mapped: &mapped };
    given.write(0, 1.0)?;
    given.write(1, 10.0)?;
    launch_saxpy(shared, taken.address, taken.address + PAGE_BYTES)?;
    given.holds(1, 12.0)?;
    let seen = Trial { memory: taken.memory, ..given };
    seen.holds(0, 1.0)?;
    seen.write(0, 5.0)?;
    given.holds(0, 5.0)
}
