//! What a device's methods, its probes and its worker work on.

use std::sync::Arc;

use ash::vk;
use hmmap_core::{
    backend::{DeviceError, Direction, OpenContext, TransferWork, Zero},
    fence::{FencePoint, TimelineId},
    kernel::KernelId,
    node::DeviceId,
};

use smallvec::SmallVec;

use crate::{
    dependencies::{HostSees, QueueShape},
    gpu::Gpu,
    kernels::Kernels,
    memory::DeviceMemory,
    options::Options,
    play::Playable,
    queue::{Names, Queue, Slot},
    queue_plan::QueuePlan,
    record::{self, Piece},
    slabs::{self, Slabs},
    stream::Region,
    timeline::Timeline,
    windows::Windows,
};

/// The timeline of the queue that runs kernels, and copies where there is no other.
pub(crate) const COMPUTE: u8 = 0;
/// The timeline of the queue that only copies.
pub(crate) const TRANSFER: u8 = 1;

/// What the device's methods work on. The order of the fields is the order of their end: queues wait for their work first.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) device: DeviceId,
    pub(crate) compute: Queue,
    pub(crate) transfer: Option<Queue>,
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
        plan: QueuePlan,
        options: &Options,
        context: &OpenContext,
    ) -> Result<Self, DeviceError> {
        let queue = |family, shape| Queue::new(gpu, &Arc::new(gpu.queue(family)), family, shape);
        let compute = queue(plan.compute, QueueShape::compute(COMPUTE))?;
        let transfer = plan.transfer.map(|family| queue(family, QueueShape::transfer(TRANSFER)));
        let limit_bytes = options.max_pinned_bytes.unwrap_or_else(quarter_of_memory);
        let slabs = Slabs::new(gpu, &context.host, limit_bytes);
        Ok(Self {
            device: context.device,
            compute,
            transfer: transfer.transpose()?,
            windows: Windows::new(gpu, &context.host, slabs.pinned()),
            slabs,
            memory: DeviceMemory::new(gpu, options.memory_limit_bytes)?,
            kernels: Kernels::new(gpu)?,
            gpu: Arc::clone(gpu),
        })
    }

    /// The queue that copies.
    pub(crate) fn copies(&self) -> &Queue {
        self.transfer.as_ref().unwrap_or(&self.compute)
    }

    /// A value of a queue as the engine names it.
    pub(crate) fn point(&self, queue: &Queue, value: u64) -> FencePoint {
        FencePoint { timeline: TimelineId::new(self.device, queue.shape().timeline), value }
    }

    /// Records a batch that reads and writes imported host memory.
    pub(crate) fn record_transfer(
        &self,
        slot: &mut Slot,
        shape: QueueShape,
        work: &TransferWork<'_>,
    ) -> Result<(), DeviceError> {
        let mut pieces = SmallVec::<[Piece<vk::Buffer>; 16]>::new();
        let mut host = HostSees::No;
        for copy in work.copies {
            let region = self.memory.region(copy.memory)?;
            let (buffer, start) = region.place(copy.offset_bytes, copy.host.len_bytes)?;
            for part in slabs::parts(copy.host) {
                let import = self.slabs.get(slabs::slab_of(part))?;
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
        let mut fills = SmallVec::<[_; 8]>::new();
        for zero in work.zeros {
            let (buffer, offset_bytes) =
                self.memory.region(zero.memory)?.place(zero.offset_bytes, zero.len_bytes)?;
            fills.push((buffer, Zero { offset_bytes, ..*zero }));
        }
        slot.semaphores =
            record::transfer(&mut slot.stream, shape, work.waits, host, pieces, fills);
        Ok(())
    }
}

impl Names for Shared {
    fn kernel(&self, id: KernelId) -> Option<Playable> {
        self.kernels.get(id)
    }

    fn timeline(&self, number: u8) -> Option<Arc<Timeline>> {
        match number {
            COMPUTE => Some(self.compute.timeline()),
            TRANSFER => self.transfer.as_ref().map(Queue::timeline),
            _ => None,
        }
        .cloned()
    }
}

/// The default limit of imported host memory.
fn quarter_of_memory() -> u64 {
    let system = rustix::system::sysinfo();
    system.totalram as u64 * u64::from(system.mem_unit) / 4
}
