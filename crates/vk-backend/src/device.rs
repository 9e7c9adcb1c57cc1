//! The open Vulkan device: the contract of [`Device`] over queues, memory, imports and kernels.

use std::{ops::Range, sync::Arc, time::Duration};

use hmmap_core::{
    backend::{
        Capabilities, Capability, Device, DeviceError, DeviceFacts, DeviceKind, LaunchWork,
        MemoryId, OpenContext, Reservation, TransferWork, Window, WindowId,
    },
    fence::{FencePoint, FenceState},
    host::HostSpan,
    kernel::{KernelId, ParamLayout, Source},
};

use crate::{
    dependencies::HostSees, gpu::Gpu, options::Options, probe, queue::Names as _,
    queue_plan::QueuePlan, record, shared::Shared,
};

/// An open Vulkan device.
#[derive(Debug)]
pub struct VulkanDevice {
    facts: DeviceFacts,
    shared: Arc<Shared>,
}

impl VulkanDevice {
    /// Opens a device over a logical device and its queues.
    pub(crate) fn open(
        gpu: &Arc<Gpu>,
        plan: QueuePlan,
        options: &Options,
        context: &OpenContext,
    ) -> Result<Self, DeviceError> {
        let shared = Shared::new(gpu, plan, options, context)?;
        let summary = gpu.physical().summary.clone();
        let shares_host_memory =
            matches!(summary.kind, DeviceKind::Cpu | DeviceKind::IntegratedGpu);
        let facts = DeviceFacts {
            shares_host_memory,
            max_groups: gpu.physical().limits.groups,
            capabilities: Capabilities {
                host_window: probe::host_window(&shared)?,
                direct_copy: probe::direct_copy(&shared)?,
                sparse: Capability::Absent { reason: "not built yet".to_owned() },
                transfer_queue: match shared.transfer {
                    Some(_) => Capability::Proved,
                    None => Capability::Absent { reason: "no queue that only copies".to_owned() },
                },
            },
            summary,
        };
        Ok(Self { facts, shared: Arc::new(shared) })
    }

    /// What the validation layer said, of every device of the same discovery.
    pub fn messages(&self) -> Arc<crate::Messages> {
        Arc::clone(self.shared.gpu.instance().messages())
    }

    /// Host memory that is imported now, in bytes: slabs, windows, and what submissions under way still keep.
    pub fn pinned_bytes(&self) -> u64 {
        self.shared.slabs.pinned_bytes()
    }

    /// Device memory that is accounted now, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.shared.memory.used_bytes()
    }
}

impl Device for VulkanDevice {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn reserve(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        self.shared.gpu.alive()?;
        self.shared.memory.reserve(len_bytes)
    }

    fn back(&self, memory: MemoryId, ranges: &[Range<u64>]) -> Result<(), DeviceError> {
        self.shared.gpu.alive()?;
        self.shared.memory.back(memory, ranges)
    }

    fn unback(&self, memory: MemoryId, ranges: &[Range<u64>]) {
        noticed("unback", self.shared.memory.unback(memory, ranges));
    }

    fn release(&self, memory: MemoryId) {
        noticed("release", self.shared.memory.release(memory));
    }

    fn open_window(&self, span: HostSpan) -> Result<Window, DeviceError> {
        self.shared.gpu.alive()?;
        if !self.facts.capabilities.host_window.is_proved() {
            return Err(DeviceError::Unsupported { what: "kernels that reach host memory" });
        }
        self.shared.windows.open(span)
    }

    fn close_window(&self, window: WindowId) {
        noticed("close_window", self.shared.windows.close(window));
    }

    fn host_released(&self, span: HostSpan) {
        self.shared.slabs.forget(span);
        self.shared.copies().tidy();
    }

    fn prepare(
        &self,
        source: &'static Source,
        layout: &ParamLayout,
    ) -> Result<KernelId, DeviceError> {
        self.shared.kernels.prepare(source, layout)
    }

    fn submit_transfer(&self, work: &TransferWork<'_>) -> Result<FencePoint, DeviceError> {
        let shared = &*self.shared;
        let queue = shared.copies();
        let mut opening = queue.open();
        let mut slot = opening.slot()?;
        if let Err(error) = shared.record_transfer(&mut slot, queue.shape(), work) {
            opening.discard(slot);
            return Err(error);
        }
        opening.submit(slot, shared).map(|value| shared.point(queue, value))
    }

    fn submit_launch(&self, work: &LaunchWork<'_>) -> Result<FencePoint, DeviceError> {
        let shared = &*self.shared;
        if shared.kernels.get(work.kernel).is_none() {
            return Err(DeviceError::Misuse { what: "a launch of a kernel that was not prepared" });
        }
        let queue = &shared.compute;
        let host = if shared.windows.any() { HostSees::Yes } else { HostSees::No };
        let mut opening = queue.open();
        let mut slot = opening.slot()?;
        slot.semaphores = record::launch(&mut slot.stream, queue.shape(), work, host);
        opening.submit(slot, shared).map(|value| shared.point(queue, value))
    }

    fn poll(&self, point: FencePoint) -> FenceState {
        let timeline = self.shared.timeline(point.timeline.queue());
        timeline.map_or(FenceState::Lost, |timeline| timeline.poll(point.value))
    }

    fn wait(&self, point: FencePoint, timeout: Duration) -> FenceState {
        let timeline = self.shared.timeline(point.timeline.queue());
        timeline.map_or(FenceState::Lost, |timeline| timeline.wait(point.value, timeout))
    }
}

/// The methods that give things back have no error to return.
fn noticed(call: &'static str, result: Result<(), DeviceError>) {
    if let Err(error) = result {
        tracing::error!(call, %error, "a device method that cannot fail did");
        debug_assert!(
            !matches!(error, DeviceError::Misuse { .. }),
            "{call} broke the device contract: {error}"
        );
    }
}
