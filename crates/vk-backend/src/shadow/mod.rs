//! A test double: a device whose memory is not coherent.
//!
//! The software drivers that tests run on have one queue and coherent memory, so they cannot show a dependency that was left out. [`NonCoherent`] can: it records every submission with
//! the same functions as the Vulkan device and plays the same streams, but over shadow memory behind simulated caches, late, and in any order that the
//! recorded waits and barriers allow. Kernels run as their Rust twins, over what the caches let them see.
//!
//! | module | is |
//! |---|---|
//! | `line`, `caches` | private caches per queue and stage: written bytes stay, read bytes go stale |
//! | `store` | device memory, the arena as the device sees it, a staging ring that must be flushed and invalidated |
//! | `run` | which submission runs next, and what each command does |
//!
//! What it does not cover is what turns a stream into driver calls (`play`, `queue`, `worker`): that is tested on a driver.

mod caches;
mod line;
mod run;
mod store;
#[cfg(test)]
mod tests;

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use hmmap_core::{
    backend::{
        Capabilities, Capability, Device, DeviceError, DeviceFacts, DeviceKind, DeviceSummary,
        Direction, LaunchWork, MemoryId, OpenContext, Provider, Reservation, TransferWork, Window,
        WindowId, Zero,
    },
    fence::{FencePoint, FenceState, TimelineId},
    host::HostSpan,
    kernel::{KernelId, ParamLayout, Source},
    node::DeviceId,
    units::PAGE_BYTES,
};
use parking_lot::Mutex;

use self::{
    run::{Machine, Work},
    store::{ARENA, Store},
};
use crate::{
    dependencies::{HostSees, QueueShape},
    options::{Backing, HostCopies},
    record::{self, Piece},
    ring::Found,
    stream::Region,
};

const COMPUTE: u8 = 0;
const TRANSFER: u8 = 1;
const STAGING: u8 = 2;

/// How the double behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShadowOptions {
    /// Decides what runs when.
    pub seed: u64,
    /// Whether copies have a queue of their own.
    pub queues: Queues,
    /// Whether blocks are backed one by one (any but [`Backing::Committed`]).
    pub backing: Backing,
    /// Whether copies go through a ring (only [`HostCopies::Staging`]).
    pub host_copies: HostCopies,
    /// How much memory there is, in bytes.
    pub memory_bytes: u64,
}

/// How many queues the double has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queues {
    /// One for all.
    One,
    /// One for kernels and one for copies.
    Two,
}

impl Default for ShadowOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            queues: Queues::Two,
            backing: Backing::Auto,
            host_copies: HostCopies::Auto,
            memory_bytes: 1 << 30,
        }
    }
}

/// Opens [`NonCoherent`].
#[derive(Debug)]
pub struct ShadowProvider {
    options: ShadowOptions,
    summary: DeviceSummary,
    last: Mutex<std::sync::Weak<NonCoherent>>,
}

impl ShadowProvider {
    /// A double that behaves so.
    pub fn new(options: ShadowOptions) -> Self {
        let summary = DeviceSummary {
            name: "non-coherent double".to_owned(),
            api: "vulkan",
            driver: "test double".to_owned(),
            kind: DeviceKind::Simulated,
            uuid: None,
            pci: None,
            memory_bytes: options.memory_bytes,
        };
        Self { options, summary, last: Mutex::default() }
    }

    /// The double that was opened last, while it is open.
    pub fn device(&self) -> Option<Arc<NonCoherent>> {
        self.last.lock().upgrade()
    }
}

impl Provider for ShadowProvider {
    fn summary(&self) -> &DeviceSummary {
        &self.summary
    }

    fn open(&self, context: OpenContext) -> Result<Arc<dyn Device>, DeviceError> {
        let device = Arc::new(NonCoherent::new(self.options, self.summary.clone(), context));
        *self.last.lock() = Arc::downgrade(&device);
        Ok(device)
    }
}

/// The double.
#[derive(Debug)]
pub struct NonCoherent {
    facts: DeviceFacts,
    options: ShadowOptions,
    device: DeviceId,
    machine: Mutex<Machine>,
    used_bytes: Mutex<u64>,
}

impl NonCoherent {
    fn new(options: ShadowOptions, summary: DeviceSummary, context: OpenContext) -> Self {
        let only = |proved: bool| if proved { Capability::Proved } else { Capability::Masked };
        let capabilities = Capabilities {
            host_window: Capability::Proved,
            direct_copy: only(options.host_copies != HostCopies::Staging),
            sparse: only(options.backing != Backing::Committed),
            transfer_queue: only(options.queues == Queues::Two),
            long_loops: Capability::Proved,
            export: Capability::Masked,
            dma_buf: Capability::Masked,
        };
        let facts = DeviceFacts {
            summary,
            capabilities,
            shares_host_memory: false,
            external: None,
            max_groups: [65_535; 3],
            rates: None,
        };
        let machine = Mutex::new(Machine::new(context.host, options.seed));
        Self { facts, options, device: context.device, machine, used_bytes: Mutex::new(0) }
    }

    /// Leaves out the `n`-th barrier that is recorded from now on; 1 is the next. A test that passes all the same does not look.
    pub fn omit_barrier(&self, n: u64) {
        let mut machine = self.machine.lock();
        (machine.omit_barrier, machine.omitted) = ((n > 0).then_some(n), false);
    }

    /// True when the barrier of the last [`NonCoherent::omit_barrier`] came and was left out.
    pub fn has_omitted(&self) -> bool {
        self.machine.lock().omitted
    }

    fn copies(&self) -> QueueShape {
        match self.options.queues {
            Queues::One => QueueShape::compute(COMPUTE),
            Queues::Two => QueueShape::transfer(TRANSFER),
        }
    }

    fn point(&self, timeline: u8, value: u64) -> FencePoint {
        FencePoint { timeline: TimelineId::new(self.device, timeline), value }
    }

    fn take(&self, bytes: u64) -> Result<(), DeviceError> {
        let mut used = self.used_bytes.lock();
        if *used + bytes > self.options.memory_bytes {
            return Err(DeviceError::OutOfMemory { asked_bytes: bytes });
        }
        *used += bytes;
        Ok(())
    }

    fn check_waits(&self, machine: &Machine, waits: &[FencePoint]) -> Result<(), DeviceError> {
        let known =
            |wait: &FencePoint| wait.timeline.device() == self.device && machine.knows(*wait);
        if waits.iter().all(known) {
            return Ok(());
        }
        Err(DeviceError::Misuse { what: "a wait for a fence unknown here" })
    }
}

fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

impl Device for NonCoherent {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn reserve(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        let limit_bytes = 1 << 40;
        if len_bytes == 0 || !len_bytes.is_multiple_of(PAGE_BYTES) || len_bytes > limit_bytes {
            return Err(DeviceError::OutOfAddresses { asked_bytes: len_bytes, limit_bytes });
        }
        let (buffer, address) = self.machine.lock().store.reserve(len_bytes);
        let backs_whole = self.options.backing == Backing::Committed;
        Ok(Reservation { memory: MemoryId(u64::from(buffer)), address, backs_whole })
    }

    fn back(&self, memory: MemoryId, ranges: &[Range<u64>]) -> Result<(), DeviceError> {
        self.take(total(ranges))?;
        let mut machine = self.machine.lock();
        let buffer = Store::buffer_of(memory);
        let backed =
            ranges.iter().try_for_each(|range| machine.store.set_backed(buffer, range, true));
        backed.inspect_err(|_| *self.used_bytes.lock() -= total(ranges))
    }

    fn unback(&self, memory: MemoryId, ranges: &[Range<u64>]) {
        let mut machine = self.machine.lock();
        let buffer = Store::buffer_of(memory);
        machine.forget(buffer);
        for range in ranges {
            let unbacked = machine.store.set_backed(buffer, range, false);
            debug_assert!(unbacked.is_ok(), "{unbacked:?}");
        }
        *self.used_bytes.lock() -= total(ranges);
    }

    fn release(&self, memory: MemoryId) {
        let mut machine = self.machine.lock();
        let buffer = Store::buffer_of(memory);
        machine.forget(buffer);
        let backed_bytes = machine.store.backed_bytes(buffer);
        let released = machine.store.release(buffer);
        debug_assert!(released.is_ok(), "{released:?}");
        *self.used_bytes.lock() -= backed_bytes;
    }

    fn open_window(&self, span: HostSpan) -> Result<Window, DeviceError> {
        let (window, address) = self.machine.lock().store.open_window(span);
        Ok(Window { window: WindowId(window), address })
    }

    fn close_window(&self, window: WindowId) {
        let closed = self.machine.lock().store.close_window(window.0);
        debug_assert!(closed.is_ok(), "{closed:?}");
    }

    fn host_released(&self, _span: HostSpan) {}

    fn prepare(
        &self,
        source: &'static Source,
        layout: &ParamLayout,
    ) -> Result<KernelId, DeviceError> {
        if source.twin.is_none() {
            return Err(DeviceError::NoShader { kernel: source.name, format: "a Rust twin" });
        }
        Ok(self.machine.lock().prepare(source, layout))
    }

    fn submit_transfer(&self, work: &TransferWork<'_>) -> Result<FencePoint, DeviceError> {
        let mut machine = self.machine.lock();
        self.check_waits(&machine, work.waits)?;
        let mut found = Vec::new();
        for copy in work.copies {
            let buffer = Store::buffer_of(copy.memory);
            machine.store.check(buffer, copy.offset_bytes, copy.host.len_bytes)?;
            let (direction, host, offset_bytes) = (copy.direction, copy.host, copy.offset_bytes);
            found.push(Found { direction, host, buffer, offset_bytes });
        }
        let mut fills: Vec<(u32, Zero)> = Vec::new();
        for zero in work.zeros {
            let buffer = Store::buffer_of(zero.memory);
            machine.store.check(buffer, zero.offset_bytes, zero.len_bytes)?;
            fills.push((buffer, *zero));
        }
        if self.options.host_copies == HostCopies::Staging && !found.is_empty() {
            let semaphores: Vec<_> =
                work.waits.iter().map(|wait| (wait.timeline.queue(), wait.value)).collect();
            let queue = QueueShape::transfer(STAGING);
            let staged = Work::Staged { copies: found, fills };
            let value = machine.submit(queue, &semaphores, work.waits, staged);
            return Ok(self.point(STAGING, value));
        }
        let queue = self.copies();
        let down = found.iter().any(|copy| copy.direction == Direction::DeviceToHost);
        let host = if down { HostSees::Yes } else { HostSees::No };
        let pieces = found.iter().map(piece);
        let (stream, semaphores) = machine.record(queue, work.waits, |stream, after, visible| {
            record::transfer(stream, after, visible, host, pieces, fills)
        });
        let value = machine.submit(queue, &semaphores, work.waits, Work::Stream(stream));
        Ok(self.point(queue.timeline, value))
    }

    fn submit_launch(&self, work: &LaunchWork<'_>) -> Result<FencePoint, DeviceError> {
        let mut machine = self.machine.lock();
        self.check_waits(&machine, work.waits)?;
        if !machine.is_prepared(work.kernel, work.source) {
            return Err(DeviceError::Misuse { what: "a launch of a kernel that was not prepared" });
        }
        for array in work.arrays.iter().filter(|array| array.len_bytes > 0) {
            machine.store.locate(array.address, array.len_bytes)?;
        }
        let queue = QueueShape::compute(COMPUTE);
        let host = if machine.store.has_windows() { HostSees::Yes } else { HostSees::No };
        let (stream, semaphores) = machine.record(queue, work.waits, |stream, after, visible| {
            record::launch(stream, after, visible, work, host)
        });
        let value = machine.submit(queue, &semaphores, work.waits, Work::Stream(stream));
        Ok(self.point(queue.timeline, value))
    }

    fn poll(&self, point: FencePoint) -> FenceState {
        let mut machine = self.machine.lock();
        // Nobody else runs work: who polls for long enough gets everything done.
        machine.step();
        machine.look(point)
    }

    fn wait(&self, point: FencePoint, timeout: Duration) -> FenceState {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let mut machine = self.machine.lock();
            let state = machine.look(point);
            if state.has_ended() {
                return state;
            }
            let ran = machine.step();
            drop(machine);
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return FenceState::Pending;
            }
            if !ran {
                // Only another thread's submission can help.
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }
}

impl Drop for NonCoherent {
    fn drop(&mut self) {
        while self.machine.get_mut().step() {}
    }
}

/// A copy between the arena and a reservation, as a driver with imported host memory would do it.
fn piece(copy: &Found<u32>) -> Piece<u32> {
    let (host, device, len_bytes) =
        (copy.host.offset_bytes, copy.offset_bytes, copy.host.len_bytes);
    match copy.direction {
        Direction::HostToDevice => Piece {
            from: ARENA,
            to: copy.buffer,
            region: Region { from_bytes: host, to_bytes: device, len_bytes },
        },
        Direction::DeviceToHost => Piece {
            from: copy.buffer,
            to: ARENA,
            region: Region { from_bytes: device, to_bytes: host, len_bytes },
        },
    }
}
