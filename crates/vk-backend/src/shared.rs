//! What a device's methods, its probes and its worker work on.

use std::{
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ash::vk;
use hmmap_core::{
    backend::{AcrossWork, DeviceError, Direction, OpenContext, TransferWork, Zero},
    fence::{FencePoint, TimelineId},
    host::ServiceView,
    kernel::KernelId,
    node::DeviceId,
};

use smallvec::SmallVec;

use crate::{
    dependencies::{After, HostSees, Point, QueueShape},
    gpu::Gpu,
    kernels::Kernels,
    memory::DeviceMemory,
    options::Options,
    play::Playable,
    queue::{Names, Queue, Slot},
    record::{self, Piece},
    ring::Found,
    slabs::Slabs,
    stream::Region,
    timeline::Timeline,
    windows::Windows,
    worker::{Staged, Waits},
};

/// The timeline of the queue that runs kernels, and copies where there is no other.
pub(crate) const COMPUTE: u8 = 0;
/// The timeline of the queue that only copies.
pub(crate) const TRANSFER: u8 = 1;
/// The timeline of copies by hand, which the worker signals.
pub(crate) const STAGING: u8 = 2;
/// The timeline of the worker's own submissions; no fence of it is ever handed out.
pub(crate) const RING: u8 = 3;
/// Timelines of the program's own begin here.
const FIRST_ADOPTED: u8 = 4;
/// How long a wait for the device lasts before it is said that it does.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most timelines that a program can lend.
const MOST_ADOPTED: usize = 28;

/// What the device's methods work on. The order of the fields is the order of their end: queues wait for their work first.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) device: DeviceId,
    pub(crate) compute: Queue,
    pub(crate) transfer: Option<Queue>,
    pub(crate) staging: Timeline,
    /// The last value of [`Shared::copies`] that only read pages.
    read: AtomicU64,
    adopted: [OnceLock<Timeline>; MOST_ADOPTED],
    pub(crate) host: Arc<ServiceView>,
    pub(crate) slabs: Slabs,
    pub(crate) windows: Windows,
    pub(crate) memory: DeviceMemory,
    pub(crate) kernels: Kernels,
    pub(crate) gpu: Arc<Gpu>,
}

impl Shared {
    /// Queues, memory and tables over a logical device.
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        options: &Options,
        context: &OpenContext,
    ) -> Result<Self, DeviceError> {
        let queues = gpu.queues();
        let compute = Queue::new(gpu, &queues.compute, QueueShape::compute(COMPUTE))?;
        let shape = QueueShape::transfer(TRANSFER);
        let transfer = queues.transfer.as_ref().map(|handle| Queue::new(gpu, handle, shape));
        let bind = queues.bind.as_ref();
        let memory_bytes =
            options.memory_limit_bytes.unwrap_or(gpu.physical().summary.memory_bytes);
        let limit_bytes = options.max_pinned_bytes.unwrap_or_else(quarter_of_memory);
        let slabs = Slabs::new(gpu, &context.host, limit_bytes);
        Ok(Self {
            device: context.device,
            compute,
            transfer: transfer.transpose()?,
            windows: Windows::new(gpu, &context.host, slabs.pinned()),
            slabs,
            memory: DeviceMemory::new(gpu, bind, options.backing, memory_bytes)?,
            staging: Timeline::new(gpu)?,
            read: AtomicU64::new(0),
            adopted: [const { OnceLock::new() }; MOST_ADOPTED],
            host: Arc::clone(&context.host),
            kernels: Kernels::new(gpu)?,
            gpu: Arc::clone(gpu),
        })
    }

    /// The queue whose submissions signal this timeline.
    pub(crate) fn queue(&self, timeline: u8) -> Option<&Queue> {
        match timeline {
            COMPUTE => Some(&self.compute),
            TRANSFER => self.transfer.as_ref(),
            _ => None,
        }
    }

    /// Takes a timeline of the program's own, and returns its number.
    pub(crate) fn adopt(&self, timeline: Timeline) -> Result<u8, DeviceError> {
        let mut timeline = Some(timeline);
        for (number, place) in (FIRST_ADOPTED..).zip(&self.adopted) {
            let Some(offered) = timeline.take() else { break };
            match place.set(offered) {
                Ok(()) => return Ok(number),
                Err(refused) => timeline = Some(refused),
            }
        }
        Err(DeviceError::Unsupported { what: "more timelines of the program's own" })
    }

    /// An error unless every wait names a value that was handed out.
    pub(crate) fn check_waits(&self, waits: &[FencePoint]) -> Result<(), DeviceError> {
        let known = |wait: &FencePoint| {
            let timeline = self.timeline(wait.timeline.queue());
            wait.timeline.device() == self.device
                && timeline.is_some_and(|timeline| wait.value <= timeline.handed_out())
        };
        if waits.iter().all(known) {
            return Ok(());
        }
        Err(DeviceError::Misuse { what: "a wait for a fence unknown here" })
    }

    /// True when work that waits for these can be given to the driver now: all of it is with the driver, and none has failed.
    pub(crate) fn can_submit_after(&self, waits: &[FencePoint]) -> bool {
        waits.iter().all(|wait| {
            let timeline = self.timeline(wait.timeline.queue());
            timeline.is_some_and(|timeline| {
                timeline.submitted() >= wait.value && !timeline.has_failed(wait.value)
            })
        })
    }

    /// The queue that copies.
    pub(crate) fn copies(&self) -> &Queue {
        self.transfer.as_ref().unwrap_or(&self.compute)
    }

    /// Has the device read a bit of every sixteen pages, before anything writes them: a read fault of a shared mapping maps sixteen pages around it, writable, and a
    /// write fault maps one. Without it everything works, and takes longer.
    pub(crate) fn read_kept(&self, kept: &[(vk::Buffer, Range<u64>)]) {
        const SIXTEEN_BYTES: usize = 16 * 4096;
        let queue = self.copies();
        let mut opening = queue.open();
        if kept.is_empty() || opening.must_defer() {
            return;
        }
        let Ok(mut slot) = opening.slot() else { return };
        let piece = |buffer, from_bytes| {
            let region = Region { from_bytes, to_bytes: from_bytes + 64, len_bytes: 4 };
            Piece { from: buffer, to: buffer, region }
        };
        let pieces = kept.iter().flat_map(|(buffer, bytes)| {
            bytes.clone().step_by(SIXTEEN_BYTES).map(|at| piece(*buffer, at))
        });
        let (ended, visible) = (self.ended(), &mut slot.visible);
        let after = opening.after(&[], &ended);
        slot.semaphores =
            record::transfer(&mut slot.stream, &after, visible, HostSees::No, pieces, []);
        match opening.submit(slot, self) {
            Ok(value) => drop(self.read.fetch_max(value, Ordering::Relaxed)),
            Err(error) => tracing::debug!(%error, "pages are mapped one by one"),
        }
    }

    /// Waits for the last of those, before a buffer goes.
    pub(crate) fn await_reads(&self) {
        let timeline = self.copies().timeline();
        while !timeline.wait(self.read.load(Ordering::Relaxed), PATIENCE).has_ended() {
            tracing::warn!("still waiting for pages to be read");
        }
    }

    /// A value of a queue as the engine names it.
    pub(crate) fn point(&self, queue: &Queue, value: u64) -> FencePoint {
        FencePoint { timeline: TimelineId::new(self.device, queue.shape().timeline), value }
    }

    /// Finds the device side of what is to be copied by hand.
    pub(crate) fn find_staged(&self, work: &TransferWork<'_>) -> Result<Staged, DeviceError> {
        let mut staged =
            Staged { waits: Waits::from_slice(work.waits), copies: Vec::new(), fills: Vec::new() };
        for copy in work.copies {
            let region = self.memory.region(copy.memory)?;
            let (buffer, offset_bytes) = region.place(copy.offset_bytes, copy.host.len_bytes)?;
            let (direction, host) = (copy.direction, copy.host);
            staged.copies.push(Found { direction, host, buffer, offset_bytes });
        }
        staged.fills.extend(self.find_fills(work)?);
        Ok(staged)
    }

    fn find_fills(
        &self,
        work: &TransferWork<'_>,
    ) -> Result<SmallVec<[(vk::Buffer, Zero); 8]>, DeviceError> {
        let found = work.zeros.iter().map(|zero| {
            let region = self.memory.region(zero.memory)?;
            let (buffer, offset_bytes) = region.place(zero.offset_bytes, zero.len_bytes)?;
            Ok((buffer, Zero { offset_bytes, ..*zero }))
        });
        found.collect()
    }

    /// Records copies between reservations and other devices' memory.
    pub(crate) fn record_across(
        &self,
        slot: &mut Slot,
        after: &After<'_>,
        work: &AcrossWork<'_>,
    ) -> Result<(), DeviceError> {
        let mut pieces = SmallVec::<[Piece<vk::Buffer>; 16]>::new();
        for copy in work.copies {
            let len_bytes = copy.len_bytes;
            let (from, from_bytes) =
                self.memory.region(copy.from)?.place(copy.from_bytes, len_bytes)?;
            let (to, to_bytes) = self.memory.region(copy.to)?.place(copy.to_bytes, len_bytes)?;
            pieces.push(Piece { from, to, region: Region { from_bytes, to_bytes, len_bytes } });
        }
        let visible = &mut slot.visible;
        slot.semaphores =
            record::transfer(&mut slot.stream, after, visible, HostSees::No, pieces, []);
        Ok(())
    }

    /// Records a batch that reads and writes imported host memory.
    pub(crate) fn record_transfer(
        &self,
        slot: &mut Slot,
        after: &After<'_>,
        work: &TransferWork<'_>,
    ) -> Result<(), DeviceError> {
        let mut pieces = SmallVec::<[Piece<vk::Buffer>; 16]>::new();
        let mut host = HostSees::No;
        for copy in work.copies {
            let region = self.memory.region(copy.memory)?;
            let (buffer, start) = region.place(copy.offset_bytes, copy.host.len_bytes)?;
            let mut rest = copy.host;
            while rest.len_bytes > 0 {
                let (import, part) = self.slabs.get(rest)?;
                rest = rest.part(part.len_bytes, rest.len_bytes - part.len_bytes);
                let within = part.offset_bytes - import.span().offset_bytes;
                let at = start + (part.offset_bytes - copy.host.offset_bytes);
                let len_bytes = part.len_bytes;
                pieces.push(match copy.direction {
                    Direction::HostToDevice => Piece {
                        from: import.buffer(),
                        to: buffer,
                        region: Region { from_bytes: within, to_bytes: at, len_bytes },
                    },
                    Direction::DeviceToHost => {
                        host = HostSees::Yes;
                        let region = Region { from_bytes: at, to_bytes: within, len_bytes };
                        Piece { from: buffer, to: import.buffer(), region }
                    }
                });
                if slot.keeps.last().is_none_or(|last| !Arc::ptr_eq(last, &import)) {
                    slot.keeps.push(import);
                }
            }
        }
        let fills = self.find_fills(work)?;
        slot.semaphores =
            record::transfer(&mut slot.stream, after, &mut slot.visible, host, pieces, fills);
        Ok(())
    }
}

impl Names for Shared {
    fn kernel(&self, id: KernelId) -> Option<Playable> {
        self.kernels.get(id)
    }

    fn ended(&self) -> SmallVec<[Point; 8]> {
        let queues = [COMPUTE, TRANSFER, STAGING].into_iter();
        let adopted = (FIRST_ADOPTED..)
            .zip(&self.adopted)
            .map_while(|(number, timeline)| timeline.get().map(|_| number));
        let known =
            |number| self.timeline(number).map(|timeline| (number, timeline.known_completed()));
        queues.chain(adopted).filter_map(known).filter(|(_, value)| *value > 0).collect()
    }

    fn pending_binds(&self) -> Option<(vk::Semaphore, u64)> {
        self.memory.pending_binds()
    }

    fn timeline(&self, number: u8) -> Option<&Timeline> {
        match number {
            STAGING => Some(&self.staging),
            COMPUTE | TRANSFER => self.queue(number).map(Queue::timeline),
            other => self.adopted.get(usize::from(other.checked_sub(FIRST_ADOPTED)?))?.get(),
        }
    }
}

/// The default limit of imported host memory.
fn quarter_of_memory() -> u64 {
    let system = rustix::system::sysinfo();
    system.totalram as u64 * u64::from(system.mem_unit) / 4
}
