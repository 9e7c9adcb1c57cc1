//! A device that the program made already, and the program's own command buffers.
//!
//! The program lends its instance, device and queues ([`VulkanProvider::from_existing`]); it destroys them, after everything of hmmap that uses
//! them is gone. What it did not enable is not used. The end of the device waits until the queues that were lent are idle.
//!
//! **Own command buffers.** `Runtime::acquire` gives addresses and fences to wait for; the program submits on a queue of its own and gives the signal to
//! `release`. The pieces for that are here:
//!
//! ```text
//! waits:   VulkanDevice::semaphore(point.timeline)        the VkSemaphore to wait for, at point.value
//! signal:  VulkanDevice::adopt_timeline(own semaphore)    once: its number as a timeline
//!          FencePoint { timeline, value }                 what `release` takes
//! memory:  VulkanDevice::buffer_at(address)               where an address is, for copies
//! queue:   VulkanDevice::lock_queue(role)                 while the program uses a queue that it lent
//! ```
//! A wait or a signal of a timeline semaphore orders and makes available; the program's command buffer needs no barrier for what comes before and after it.
//! Work on a queue that was lent must not wait there for a fence whose own work is not submitted yet: [`VulkanDevice::settle`] first.
#![allow(unsafe_code, reason = "takes handles that the program made")]

use std::{fmt, sync::Arc, time::Duration};

use ash::vk;
use hmmap_core::{
    backend::DeviceError,
    fence::{FencePoint, FenceState, TimelineId},
};
use parking_lot::MutexGuard;

use crate::{
    device::VulkanDevice,
    discover::VulkanProvider,
    error::LeftOutReason,
    features::Features,
    gpu::{QueueHandle, Queues},
    instance::Instance,
    options::Options,
    physical::Physical,
    queue::Names as _,
    queue_plan::Family,
    timeline::Timeline,
    uses::Uses,
};

/// A queue of the program's device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExistingQueue {
    /// The queue.
    pub queue: vk::Queue,
    /// Its family.
    pub family: u32,
}

/// A device of the program's.
#[derive(Clone)]
pub struct Existing {
    /// The instance.
    pub instance: ash::Instance,
    /// The version that the instance was made for, at least 1.2.
    pub api_version: u32,
    /// The physical device.
    pub physical: vk::PhysicalDevice,
    /// The device.
    pub device: ash::Device,
    /// What was enabled when the device was made: at least [`Features::REQUIRED`] (`timelineSemaphore`, `bufferDeviceAddress`, `shaderInt64`). The more
    /// of the rest, the more kernels run and the less is copied by hand: [`Features::HOST_IMPORT`] stands for the extension
    /// `VK_EXT_external_memory_host`, [`Features::SPARSE`] and [`Features::SPARSE_RESIDENCY`] for sparse binding,
    /// [`Features::MEMORY_FD`] for `VK_KHR_external_memory_fd`, by which other devices reach its memory.
    pub enabled: Features,
    /// Runs kernels.
    pub compute: ExistingQueue,
    /// Copies beside the kernels; `None` to copy on the same queue.
    pub transfer: Option<ExistingQueue>,
    /// Binds sparse memory; `None` to do without. It may be one of the others.
    pub sparse_binding: Option<ExistingQueue>,
}

impl fmt::Debug for Existing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Existing")
            .field("physical", &self.physical)
            .field("enabled", &self.enabled)
            .field("compute", &self.compute)
            .field("transfer", &self.transfer)
            .field("sparse_binding", &self.sparse_binding)
            .finish_non_exhaustive()
    }
}

/// What a queue is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum QueueRole {
    /// Kernels, and copies where nothing else copies.
    Compute,
    /// Copies.
    Transfer,
    /// Sparse binding.
    SparseBinding,
}

/// A queue that nobody else uses for as long as this lives.
#[derive(Debug)]
pub struct QueueGuard<'a> {
    queue: vk::Queue,
    _lock: MutexGuard<'a, ()>,
}

impl QueueGuard<'_> {
    /// The queue.
    pub fn queue(&self) -> vk::Queue {
        self.queue
    }
}

impl VulkanProvider {
    /// A provider over a device that the program made.
    ///
    /// # Errors
    /// A required feature is not enabled, or a queue cannot do what it is for.
    ///
    /// # Safety
    /// 1. Every handle is live and belongs to the others, and stays so until this provider and every device opened from it are gone.
    /// 2. The device was made with every feature and extension of [`Existing::enabled`], and the instance for
    ///    [`Existing::api_version`].
    /// 3. The program uses the queues only under [`VulkanDevice::lock_queue`].
    pub unsafe fn from_existing(
        existing: Existing,
        options: Options,
    ) -> Result<Self, LeftOutReason> {
        // SAFETY: (1) of this function.
        let instance = unsafe { Instance::of_program(existing.instance, existing.api_version) };
        let mut physical = Physical::query(&instance, existing.physical);
        physical.features = physical.features.and(existing.enabled);
        physical.external = physical.external.with(physical.features);
        if let Some(limit) = options.memory_limit_bytes {
            physical.summary.memory_bytes = physical.summary.memory_bytes.min(limit);
        }
        physical.plan()?;
        let family = |queue: &ExistingQueue| {
            physical.families.iter().find(|family| family.index == queue.family)
        };
        let can = |queue: &ExistingQueue, uses| {
            family(queue).is_some_and(|family: &Family| family.can.contains(uses))
        };
        if !can(&existing.compute, Uses::SHADER.or(Uses::TRANSFER)) {
            return Err(LeftOutReason::NoComputeQueue);
        }
        if existing.transfer.as_ref().is_some_and(|queue| !can(queue, Uses::TRANSFER)) {
            return Err(LeftOutReason::WrongQueue { role: QueueRole::Transfer });
        }
        let binds = |queue: &ExistingQueue| family(queue).is_some_and(|family| family.binds);
        if existing.sparse_binding.as_ref().is_some_and(|queue| !binds(queue)) {
            return Err(LeftOutReason::WrongQueue { role: QueueRole::SparseBinding });
        }
        let queues = handles(&existing.compute, existing.transfer, existing.sparse_binding);
        Ok(Self::lent(instance, physical, existing.device, queues, options))
    }
}

/// One handle per queue, so that one queue has one lock.
fn handles(
    compute: &ExistingQueue,
    transfer: Option<ExistingQueue>,
    bind: Option<ExistingQueue>,
) -> Queues {
    let compute = QueueHandle::new(compute.queue, compute.family);
    let known = |queue: ExistingQueue, others: &[&Arc<QueueHandle>]| {
        let same = others.iter().find(|other| other.raw == queue.queue);
        same.map_or_else(|| QueueHandle::new(queue.queue, queue.family), |same| Arc::clone(same))
    };
    // A transfer queue that is the compute queue is none.
    let transfer = transfer.map(|queue| known(queue, &[&compute]));
    let transfer = transfer.filter(|queue| !Arc::ptr_eq(queue, &compute));
    let bind = bind.map(|queue| {
        let others: Vec<_> = [Some(&compute), transfer.as_ref()].into_iter().flatten().collect();
        known(queue, &others)
    });
    Queues { compute, transfer, bind }
}

impl VulkanDevice {
    /// The semaphore of one of this device's timelines. It lives as long as the device; only the device signals it.
    pub fn semaphore(&self, timeline: TimelineId) -> Option<vk::Semaphore> {
        let known = timeline.device() == self.shared().device;
        let timeline = self.shared().timeline(timeline.queue()).filter(|_| known);
        timeline.map(Timeline::semaphore)
    }

    /// Makes a timeline semaphore of the program's one of this device's timelines, for as long as the device lives: fences on it can be
    /// waited for like any other.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] when the program has lent 28 already.
    ///
    /// # Safety
    /// 1. A live timeline semaphore of the same Vulkan device, which the program destroys after this device.
    /// 2. A fence is named on it (to `release`, in `waits`) only when the work that signals its value was submitted, and
    ///    values keep the promises of [`hmmap_core::fence`].
    pub unsafe fn adopt_timeline(
        &self,
        semaphore: vk::Semaphore,
    ) -> Result<TimelineId, DeviceError> {
        // SAFETY: (1) of this function.
        let timeline = unsafe { Timeline::of_program(&self.shared().gpu, semaphore) };
        let number = self.shared().adopt(timeline)?;
        Ok(TimelineId::new(self.shared().device, number))
    }

    /// The buffer that a device address of this device lies in, and the offset there: for the program's own copies.
    pub fn buffer_at(&self, address: u64) -> Option<(vk::Buffer, u64)> {
        let shared = self.shared();
        shared.memory.buffer_at(address).or_else(|| shared.windows.buffer_at(address))
    }

    /// Keeps everybody else from a queue. Do not hold it longer than a submission takes, and call nothing of this device meanwhile.
    pub fn lock_queue(&self, role: QueueRole) -> Option<QueueGuard<'_>> {
        let queues = self.shared().gpu.queues();
        let handle = match role {
            QueueRole::Compute => Some(&queues.compute),
            QueueRole::Transfer => queues.transfer.as_ref(),
            QueueRole::SparseBinding => queues.bind.as_ref(),
        };
        handle.map(|handle| QueueGuard { queue: handle.raw, _lock: handle.lock.lock() })
    }

    /// Waits until the work of these fences is with the driver, so that work on a queue may wait for them on the device. Copies by hand
    /// ([`crate::HostCopies::Staging`]) are there only when they have ended; everything else is there at once.
    ///
    /// Returns the first state that ends the waiting: `Ok`, a failure, `Lost`, or `Pending` when the time is over.
    pub fn settle(&self, fences: &[FencePoint], timeout: Duration) -> FenceState {
        for fence in fences {
            let timeline = self.shared().timeline(fence.timeline.queue());
            let Some(timeline) = timeline else { return FenceState::Lost };
            if timeline.submitted() < fence.value {
                let state = timeline.wait(fence.value, timeout);
                if state != FenceState::Ok {
                    return state;
                }
            }
        }
        FenceState::Ok
    }
}

#[cfg(test)]
mod tests {
    use ash::vk::Handle as _;

    use super::*;

    fn queue(raw: u64, family: u32) -> ExistingQueue {
        ExistingQueue { queue: vk::Queue::from_raw(raw), family }
    }

    #[test]
    fn one_queue_has_one_lock_whatever_it_is_for() {
        let all = handles(&queue(1, 0), Some(queue(1, 0)), Some(queue(1, 0)));
        assert!(all.transfer.is_none());
        assert!(all.bind.is_some_and(|bind| Arc::ptr_eq(&bind, &all.compute)));
        let two = handles(&queue(1, 0), Some(queue(2, 0)), Some(queue(2, 0)));
        let (transfer, bind) = (two.transfer.unwrap(), two.bind.unwrap());
        assert!(Arc::ptr_eq(&transfer, &bind) && !Arc::ptr_eq(&transfer, &two.compute));
    }
}
