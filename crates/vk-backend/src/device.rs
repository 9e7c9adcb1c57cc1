//! The open Vulkan device: the contract of [`Device`] over queues, memory, imports and kernels.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
    time::Duration,
};

use hmmap_core::{
    backend::{
        AcrossWork, Capabilities, Capability, Copy, Device, DeviceError, DeviceFacts, DeviceKind,
        Exported, Imported, LaunchWork, MemoryId, OpenContext, Reservation, TransferWork, Window,
        WindowId,
    },
    fence::{FencePoint, FenceState, TimelineId},
    host::HostSpan,
    kernel::{KernelId, ParamLayout, Source},
    p2p::{DriverView, HandleKinds, Opaque},
};
use parking_lot::Mutex;

use crate::{
    dependencies::{After, HostSees},
    gpu::Gpu,
    options::{Backing, HostCopies, Options},
    physical::Physical,
    probe,
    queue::{Names as _, Queue, Slot},
    record,
    shared::{STAGING, Shared},
    worker::Worker,
};

/// An open Vulkan device.
#[derive(Debug)]
pub struct VulkanDevice {
    facts: DeviceFacts,
    host_copies: HostCopies,
    staging_bytes: u64,
    /// Started by the first copy that needs it. Before `shared`: it ends what is in its line first.
    worker: OnceLock<Worker>,
    starting: Mutex<()>,
    shared: Arc<Shared>,
}

impl VulkanDevice {
    /// Opens a device over a logical device and its queues, and tries what it can do.
    pub(crate) fn open(
        gpu: &Arc<Gpu>,
        options: &Options,
        context: &OpenContext,
    ) -> Result<Self, DeviceError> {
        let shared = Shared::new(gpu, options, context)?;
        let summary = gpu.physical().summary.clone();
        let capabilities = try_all(&shared, options)?;
        let facts = DeviceFacts {
            external: external(gpu.physical(), &capabilities),
            shares_host_memory: matches!(summary.kind, DeviceKind::Cpu | DeviceKind::IntegratedGpu),
            max_groups: gpu.physical().limits.groups,
            rates: None,
            capabilities,
            summary,
        };
        if facts.capabilities.sparse.is_proved() {
            shared.memory.set_sparse_proved();
        }
        Ok(Self {
            facts,
            host_copies: options.host_copies,
            staging_bytes: options.staging_bytes,
            worker: OnceLock::new(),
            starting: Mutex::new(()),
            shared: Arc::new(shared),
        })
    }

    /// Makes the device lost, as if a driver call had answered so. Work that was given to the driver does not run on behind it.
    #[cfg(feature = "test-doubles")]
    pub fn lose(&self) {
        let gpu = &self.shared.gpu;
        gpu.lose("a test");
        gpu.rest();
    }

    /// What the methods work on.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
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

/// How a batch gets from and to the arena.
enum Path {
    Import,
    Staging,
    None,
}

impl VulkanDevice {
    fn path(&self, copies: &[Copy]) -> Path {
        if copies.is_empty() {
            return Path::Import;
        }
        let imports = self.facts.capabilities.direct_copy.is_proved();
        match self.host_copies {
            HostCopies::Import if imports => Path::Import,
            HostCopies::Import => Path::None,
            HostCopies::Auto if imports && self.shared.slabs.can_hold(copies) => Path::Import,
            HostCopies::Auto | HostCopies::Staging => Path::Staging,
        }
    }

    /// Records and submits, or leaves that to the worker when what comes before is with the worker.
    pub(crate) fn submit(
        &self,
        queue: &Queue,
        waits: &[FencePoint],
        record: impl FnOnce(&mut Slot, &After<'_>) -> Result<(), DeviceError>,
    ) -> Result<FencePoint, DeviceError> {
        let shared = &*self.shared;
        let mut opening = queue.open();
        let mut slot = opening.slot()?;
        let ended = shared.ended();
        if let Err(error) = record(&mut slot, &opening.after(waits, &ended)) {
            opening.discard(slot);
            return Err(error);
        }
        let value = match self.worker.get() {
            Some(worker) if opening.must_defer() || !shared.can_submit_after(waits) => {
                let number = queue.shape().timeline;
                opening.defer(slot, |slot, value| worker.submit(number, slot, value, waits))
            }
            _ => opening.submit(slot, shared)?,
        };
        Ok(shared.point(queue, value))
    }

    /// Leaves a batch to the worker.
    fn stage(&self, work: &TransferWork<'_>) -> Result<FencePoint, DeviceError> {
        self.shared.gpu.alive()?;
        let staged = self.shared.find_staged(work)?;
        let value = self.worker()?.stage(staged);
        let timeline = TimelineId::new(self.shared.device, STAGING);
        Ok(FencePoint { timeline, value })
    }

    fn worker(&self) -> Result<&Worker, DeviceError> {
        let _one = self.starting.lock();
        if self.worker.get().is_none() {
            let started = Worker::start(&self.shared, self.staging_bytes)?;
            // Under the lock, so nobody else set it.
            let _ = self.worker.set(started);
        }
        self.worker.get().ok_or(DeviceError::Lost)
    }
}

impl Device for VulkanDevice {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn lost_by(&self) -> Option<&'static str> {
        self.shared.gpu.lost_by()
    }

    fn reserve(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        self.shared.gpu.alive()?;
        self.shared.memory.reserve(len_bytes)
    }

    fn reserve_whole(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        self.shared.gpu.alive()?;
        self.shared.memory.reserve_committed(len_bytes)
    }

    fn back(&self, memory: MemoryId, ranges: &[Range<u64>]) -> Result<(), DeviceError> {
        self.shared.gpu.alive()?;
        let kept = self.shared.memory.back(memory, ranges)?;
        self.shared.read_kept(&kept);
        Ok(())
    }

    fn unback(&self, memory: MemoryId, ranges: &[Range<u64>]) {
        noticed("unback", self.shared.memory.unback(memory, ranges));
    }

    fn release(&self, memory: MemoryId) {
        self.shared.await_reads();
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
        shared.check_waits(work.waits)?;
        match self.path(work.copies) {
            Path::Import => {
                let queue = shared.copies();
                let record =
                    |slot: &mut Slot, after: &After<'_>| shared.record_transfer(slot, after, work);
                match self.submit(queue, work.waits, record) {
                    // The driver takes no more imports: this batch goes by hand.
                    Err(DeviceError::OutOfMemory { .. })
                        if self.host_copies == HostCopies::Auto =>
                    {
                        self.stage(work)
                    }
                    other => other,
                }
            }
            Path::Staging => self.stage(work),
            Path::None => Err(DeviceError::Unsupported { what: "import of host memory" }),
        }
    }

    fn submit_launch(&self, work: &LaunchWork<'_>) -> Result<FencePoint, DeviceError> {
        let shared = &*self.shared;
        shared.check_waits(work.waits)?;
        if shared.kernels.get(work.kernel).is_none() {
            return Err(DeviceError::Misuse { what: "a launch of a kernel that was not prepared" });
        }
        let queue = &shared.compute;
        let host = if shared.windows.any() { HostSees::Yes } else { HostSees::No };
        self.submit(queue, work.waits, |slot, after| {
            let Slot { stream, visible, .. } = slot;
            slot.semaphores = record::launch(stream, after, visible, work, host);
            Ok(())
        })
    }

    fn export(&self, memory: MemoryId, kinds: HandleKinds) -> Result<Exported, DeviceError> {
        self.shared.gpu.alive()?;
        self.shared.memory.export(memory, kinds)
    }

    fn import(&self, exported: &Exported) -> Result<Imported, DeviceError> {
        self.shared.gpu.alive()?;
        self.shared.memory.import(exported)
    }

    fn submit_between(&self, work: &AcrossWork<'_>) -> Result<FencePoint, DeviceError> {
        let shared = &*self.shared;
        shared.check_waits(work.waits)?;
        self.submit(shared.copies(), work.waits, |slot, after| {
            shared.record_across(slot, after, work)
        })
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

/// Tries what the driver offers, as far as the options want it.
fn try_all(shared: &Shared, options: &Options) -> Result<Capabilities, DeviceError> {
    // First: the other probes take plain memory, which stays for the first vectors.
    let export = probe::external(shared, HandleKinds::OPAQUE_FD)?;
    let dma_buf = probe::external(shared, HandleKinds::DMA_BUF)?;
    if export.is_proved() || dma_buf.is_proved() {
        shared.memory.set_sharing_proved();
    }
    let direct_copy = match options.host_copies {
        HostCopies::Staging => Capability::Masked,
        HostCopies::Auto | HostCopies::Import => probe::direct_copy(shared)?,
    };
    let sparse = match options.backing {
        Backing::Committed => Capability::Masked,
        Backing::Auto | Backing::Sparse => probe::sparse(shared)?,
    };
    let transfer_queue = match shared.transfer {
        Some(_) => Capability::Proved,
        None => Capability::Absent { reason: "no queue that only copies".to_owned() },
    };
    let host_window = probe::host_window(shared)?;
    let long_loops = probe::long_loops(shared)?;
    Ok(Capabilities {
        host_window,
        direct_copy,
        sparse,
        transfer_queue,
        long_loops,
        export,
        dma_buf,
    })
}

/// What was proved about giving memory out, which is proved for taking it in too.
fn external(physical: &Physical, capabilities: &Capabilities) -> Option<DriverView> {
    let kinds = [
        (&capabilities.export, HandleKinds::OPAQUE_FD),
        (&capabilities.dma_buf, HandleKinds::DMA_BUF),
    ];
    let proved = kinds.into_iter().filter(|(capability, _)| capability.is_proved());
    let proved = proved.fold(HandleKinds::NONE, |all, (_, kind)| all.or(kind));
    // Software devices have such memory mapped, of the process's own pages.
    let mapped = if physical.is_llvmpipe() { HandleKinds::MAPPED } else { HandleKinds::NONE };
    let (driver, opaque) = (physical.driver_uuid, Opaque::SameDriver);
    let view = DriverView { driver, opaque, exports: proved.or(mapped), imports: proved };
    (!proved.is_empty()).then_some(view)
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
