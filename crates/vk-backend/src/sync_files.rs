//! Fences that other drivers understand: a point of this device's as a sync file, and a sync file as a point.
//!
//! **Problem.** A timeline semaphore is the driver's own. Other drivers, and dma-bufs, know the kernel's fences. Vulkan has binary semaphores whose payload is
//! one (SYNC_FD), if the driver has them: lavapipe has where the kernel has DRM's fences.
//!
//! ```text
//! sync_file(point)    an empty submission behind the point signals a semaphore, whose payload is taken out as a descriptor
//! fence_of(file)      an empty submission waits for a semaphore that the descriptor was put into, and has a point of its own
//! ```
//!
//! **Rules.** The kernel lets nobody wait for what was not given to a driver yet, so a point is given out only then. A sync file ends, since a driver made it,
//! and may be waited for in a queue; an ordinary promise of somebody else's may not.
#![allow(unsafe_code, reason = "owns semaphores, and takes descriptors from the driver")]

use std::{
    os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use ash::{khr, vk};
use hmmap_core::{
    backend::{Device as _, DeviceError},
    fence::{Failure, FencePoint, FenceState},
    host::SyncFile,
};

use crate::{
    VulkanDevice,
    dependencies::{After, HostSees},
    gpu::Gpu,
    instance::Instance,
    queue::{Names as _, Slot},
    record,
};

const SYNC_FD: vk::ExternalSemaphoreHandleTypeFlags = vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD;
/// How long a wait for the device's own work lasts at a time.
const PATIENCE: Duration = Duration::from_secs(3600);
const NONE: DeviceError =
    DeviceError::Unsupported { what: "semaphores that are sync files, both ways" };

/// Whether the driver's semaphores can be sync files, given out and taken in.
pub(crate) fn supported(instance: &Instance, physical: vk::PhysicalDevice) -> bool {
    let info = vk::PhysicalDeviceExternalSemaphoreInfo::default().handle_type(SYNC_FD);
    let mut found = vk::ExternalSemaphoreProperties::default();
    // SAFETY: the handle came from this live instance, which is of version 1.1 at least, since the extension needs it.
    unsafe {
        instance
            .raw()
            .get_physical_device_external_semaphore_properties(physical, &info, &mut found);
    }
    let both = vk::ExternalSemaphoreFeatureFlags::EXPORTABLE
        | vk::ExternalSemaphoreFeatureFlags::IMPORTABLE;
    found.external_semaphore_features.contains(both)
}

/// A binary semaphore, destroyed when dropped: after the submission that uses it.
#[derive(Debug)]
pub(crate) struct BinarySemaphore {
    raw: vk::Semaphore,
    gpu: Arc<Gpu>,
}

/// What a submission does with a binary semaphore, beside its timelines.
#[derive(Clone, Debug)]
pub(crate) enum Binary {
    Signals(Arc<BinarySemaphore>),
    WaitsFor(Arc<BinarySemaphore>),
}

impl BinarySemaphore {
    fn new(gpu: &Arc<Gpu>) -> Result<Self, DeviceError> {
        let mut export = vk::ExportSemaphoreCreateInfo::default().handle_types(SYNC_FD);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut export);
        // SAFETY: the device is live, and its semaphores can be given out like this, as was asked before.
        let made = unsafe { gpu.raw().create_semaphore(&info, None) };
        Ok(Self { raw: gpu.done("vkCreateSemaphore", made)?, gpu: Arc::clone(gpu) })
    }

    /// The handle; it lives as long as the value.
    pub(crate) fn raw(&self) -> vk::Semaphore {
        self.raw
    }

    /// Takes its payload out. `None`: it has ended.
    fn take(
        &self,
        extension: &khr::external_semaphore_fd::Device,
    ) -> Result<Option<OwnedFd>, DeviceError> {
        let info = vk::SemaphoreGetFdInfoKHR::default().semaphore(self.raw).handle_type(SYNC_FD);
        // SAFETY: the semaphore was made to be given out, and a submission that signals it is with the driver, as is all that it waits for.
        let fd = unsafe { extension.get_semaphore_fd(&info) };
        let fd = self.gpu.done("vkGetSemaphoreFdKHR", fd)?;
        // SAFETY: the driver made this descriptor for us.
        Ok((fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Puts a sync file into it, for one wait.
    fn put(
        &self,
        extension: &khr::external_semaphore_fd::Device,
        file: SyncFile,
    ) -> Result<(), DeviceError> {
        let fd = OwnedFd::from(file).into_raw_fd();
        let info = vk::ImportSemaphoreFdInfoKHR::default()
            .semaphore(self.raw)
            .handle_type(SYNC_FD)
            .flags(vk::SemaphoreImportFlags::TEMPORARY)
            .fd(fd);
        // SAFETY: the semaphore is in no submission yet; the driver takes the descriptor if it succeeds.
        let put = unsafe { extension.import_semaphore_fd(&info) };
        self.gpu.done("vkImportSemaphoreFdKHR", put).inspect_err(|_| {
            // SAFETY: the driver did not take it, so it is ours still.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        })
    }
}

impl Drop for BinarySemaphore {
    fn drop(&mut self) {
        // SAFETY: made here and destroyed once, when the submission that uses it has ended (its slot keeps it), or was never made.
        unsafe { self.gpu.raw().destroy_semaphore(self.raw, None) };
    }
}

/// Records nothing but what comes before.
fn nothing(slot: &mut Slot, after: &After<'_>) {
    let Slot { stream, visible, semaphores, .. } = slot;
    *semaphores = record::transfer(stream, after, visible, HostSees::No, [], []);
}

impl VulkanDevice {
    /// A point of this device's as a fence of the kernel's, for other drivers and for dma-bufs ([`hmmap_core::host::add_fence`]). `None` when it has ended. What is not with the
    /// driver yet, since earlier copies are made by hand, is waited for here; and lavapipe waits for the work itself, and gives out a fence that has ended.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] where the driver has no such semaphores; [`DeviceError::Misuse`] for a point of another device; what became of the work:
    /// [`DeviceError::Lost`], [`DeviceError::Driver`].
    pub fn sync_file(&self, point: FencePoint) -> Result<Option<SyncFile>, DeviceError> {
        let shared = self.shared();
        let extension = shared.gpu.semaphore_fd().ok_or(NONE)?;
        shared.check_waits(&[point])?;
        let queue = &shared.compute;
        let mut opening = queue.open();
        if opening.must_defer() || !shared.can_submit_after(&[point]) {
            drop(opening);
            return self.ended(point).map(|()| None);
        }
        let semaphore = Arc::new(BinarySemaphore::new(&shared.gpu)?);
        let mut slot = opening.slot()?;
        let ended = shared.ended();
        nothing(&mut slot, &opening.after(&[point], &ended));
        slot.binary = Some(Binary::Signals(Arc::clone(&semaphore)));
        opening.submit(slot, shared)?;
        let Some(fd) = semaphore.take(extension)? else { return Ok(None) };
        let file = SyncFile::new(fd);
        file.map(Some)
            .map_err(|_| DeviceError::Unsupported { what: "a descriptor that is no sync file" })
    }

    /// Work of this device's that has ended when a fence of the kernel's has: what waits for the point waits for it, on the device. The driver takes the file.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] where the driver has no such semaphores; [`DeviceError::Lost`], [`DeviceError::Driver`].
    pub fn fence_of(&self, file: SyncFile) -> Result<FencePoint, DeviceError> {
        let shared = self.shared();
        let extension = shared.gpu.semaphore_fd().ok_or(NONE)?;
        let semaphore = BinarySemaphore::new(&shared.gpu)?;
        semaphore.put(extension, file)?;
        self.submit(&shared.compute, &[], |slot, after| {
            nothing(slot, after);
            slot.binary = Some(Binary::WaitsFor(Arc::new(semaphore)));
            Ok(())
        })
    }

    /// Waits for own work, while the device lives.
    fn ended(&self, point: FencePoint) -> Result<(), DeviceError> {
        loop {
            match self.wait(point, PATIENCE) {
                FenceState::Pending => {}
                FenceState::Ok => return Ok(()),
                FenceState::Failed(Failure::Driver(code)) => {
                    return Err(DeviceError::Driver { call: "vkQueueSubmit", code });
                }
                FenceState::Failed(_) | FenceState::Lost => return Err(DeviceError::Lost),
            }
        }
    }
}
