//! The logical device: owned handle, results, loss.
//!
//! Every driver call goes through [`Gpu::done`], which turns a result into an error and notices a lost device. Once lost, a device stays
//! lost: no call reaches the driver any more but those that destroy.
#![allow(unsafe_code, reason = "owns the logical device")]

use std::{
    ffi::CStr,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use ash::{ext, khr, vk};
use hmmap_core::backend::DeviceError;
use parking_lot::Mutex;

use crate::{features::Features, instance::Instance, physical::Physical, queue_plan::QueuePlan};

/// Who destroys the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// We do.
    Library,
    /// The program that handed it in.
    Program,
}

/// A logical device.
///
/// # Invariants
/// `raw` is live for the life of the value. Every object made from it holds the `Arc` of this.
pub(crate) struct Gpu {
    raw: ash::Device,
    import: Option<ext::external_memory_host::Device>,
    memory_fd: Option<khr::external_memory_fd::Device>,
    semaphore_fd: Option<khr::external_semaphore_fd::Device>,
    physical: Physical,
    queues: Queues,
    /// The families of the queues that touch buffers, which are shared by all of them.
    families: Vec<u32>,
    lost: AtomicBool,
    lost_by: OnceLock<&'static str>,
    allocations: AtomicU32,
    owner: Owner,
    instance: Arc<Instance>,
}

/// A queue, and the lock that every use of it takes.
#[derive(Debug)]
pub(crate) struct QueueHandle {
    pub(crate) raw: vk::Queue,
    pub(crate) family: u32,
    pub(crate) lock: Mutex<()>,
}

impl QueueHandle {
    pub(crate) fn new(raw: vk::Queue, family: u32) -> Arc<Self> {
        Arc::new(Self { raw, family, lock: Mutex::new(()) })
    }
}

/// The queues in use. One queue may have several of the roles; then it is one handle with one lock.
#[derive(Clone, Debug)]
pub(crate) struct Queues {
    /// Runs kernels.
    pub(crate) compute: Arc<QueueHandle>,
    /// Copies beside the kernels.
    pub(crate) transfer: Option<Arc<QueueHandle>>,
    /// Binds sparse memory.
    pub(crate) bind: Option<Arc<QueueHandle>>,
}

impl Queues {
    /// The families whose queues touch buffers, in ascending order.
    fn families(&self) -> Vec<u32> {
        let mut all = vec![self.compute.family];
        all.extend(self.transfer.as_ref().map(|queue| queue.family));
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Gpu {
    /// Makes a logical device with one queue of each family and every optional feature that kernels may need.
    pub(crate) fn create(
        instance: Arc<Instance>,
        physical: Physical,
        plan: QueuePlan,
    ) -> Result<Self, DeviceError> {
        let families = plan.families();
        let has = |feature: Features| u32::from(physical.features.contains(feature));
        let v10 = vk::PhysicalDeviceFeatures {
            shader_int64: has(Features::INT64),
            shader_float64: has(Features::FLOAT64),
            shader_int16: has(Features::INT16),
            sparse_binding: has(Features::SPARSE),
            sparse_residency_buffer: has(Features::SPARSE_RESIDENCY),
            ..Default::default()
        };
        let mut v11 = vk::PhysicalDeviceVulkan11Features {
            storage_buffer16_bit_access: has(Features::STORAGE16),
            ..Default::default()
        };
        let mut v12 = vk::PhysicalDeviceVulkan12Features {
            timeline_semaphore: has(Features::TIMELINE),
            buffer_device_address: has(Features::ADDRESS),
            shader_int8: has(Features::INT8),
            shader_float16: has(Features::FLOAT16),
            storage_buffer8_bit_access: has(Features::STORAGE8),
            shader_buffer_int64_atomics: has(Features::ATOMIC_INT64),
            shader_shared_int64_atomics: has(Features::SHARED_ATOMIC_INT64),
            vulkan_memory_model: has(Features::MEMORY_MODEL),
            vulkan_memory_model_device_scope: has(Features::MEMORY_MODEL_DEVICE),
            scalar_block_layout: has(Features::SCALAR_LAYOUT),
            ..Default::default()
        };
        let mut atomics = vk::PhysicalDeviceShaderAtomicFloatFeaturesEXT {
            shader_buffer_float32_atomics: has(Features::FLOAT_ATOMICS),
            shader_buffer_float32_atomic_add: has(Features::FLOAT_ATOMIC_ADD),
            ..Default::default()
        };
        let mut extensions: Vec<&CStr> = Vec::new();
        let mut chain = vk::PhysicalDeviceFeatures2::default()
            .features(v10)
            .push_next(&mut v11)
            .push_next(&mut v12);
        if has(Features::FLOAT_ATOMICS) | has(Features::FLOAT_ATOMIC_ADD) != 0 {
            chain = chain.push_next(&mut atomics);
            extensions.push(ext::shader_atomic_float::NAME);
        }
        extensions.extend(memory_extensions(physical.features));
        let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
        let priorities = [1.0];
        let queue = |family: &u32| {
            vk::DeviceQueueCreateInfo::default()
                .queue_family_index(*family)
                .queue_priorities(&priorities)
        };
        let queues: Vec<_> = families.iter().map(queue).collect();
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&names)
            .push_next(&mut chain);
        // SAFETY: (1) the handle came from this live instance, (2) everything that `info` points to outlives the call, (3) only
        // features and extensions are asked for that the device reports.
        let raw = unsafe { instance.raw().create_device(physical.handle, &info, None) };
        let raw = raw.map_err(|result| error_of("vkCreateDevice", result, 0))?;
        let handle = |family: u32| {
            // SAFETY: the device was made with one queue of this family.
            QueueHandle::new(unsafe { raw.get_device_queue(family, 0) }, family)
        };
        let handles: Vec<_> = families.iter().map(|family| handle(*family)).collect();
        let of = |family: u32| handles.iter().find(|queue| queue.family == family).cloned();
        let missing = DeviceError::Unsupported { what: "a queue of the family that was chosen" };
        let queues = Queues {
            compute: of(plan.compute).ok_or(missing)?,
            transfer: plan.transfer.and_then(of),
            bind: plan.bind.and_then(of),
        };
        Ok(Self::around(instance, raw, physical, queues, Owner::Library))
    }

    /// Wraps a logical device. `physical.features` is what was enabled.
    pub(crate) fn around(
        instance: Arc<Instance>,
        raw: ash::Device,
        physical: Physical,
        queues: Queues,
        owner: Owner,
    ) -> Self {
        let imports = physical.features.contains(Features::HOST_IMPORT);
        let import = imports.then(|| ext::external_memory_host::Device::new(instance.raw(), &raw));
        let shares = physical.features.contains(Features::MEMORY_FD);
        let memory_fd = shares.then(|| khr::external_memory_fd::Device::new(instance.raw(), &raw));
        let gives_fences = physical.features.contains(Features::SYNC_FD);
        let semaphore_fd =
            gives_fences.then(|| khr::external_semaphore_fd::Device::new(instance.raw(), &raw));
        let families = queues.families();
        let (lost, lost_by) = (AtomicBool::new(false), OnceLock::new());
        Self {
            raw,
            import,
            memory_fd,
            semaphore_fd,
            physical,
            queues,
            families,
            lost,
            lost_by,
            allocations: AtomicU32::new(0),
            owner,
            instance,
        }
    }

    /// The handle. Whoever uses it holds the `Arc`.
    pub(crate) fn raw(&self) -> &ash::Device {
        &self.raw
    }

    /// Host memory import, where the device has it.
    pub(crate) fn import(&self) -> Option<&ext::external_memory_host::Device> {
        self.import.as_ref()
    }

    /// Memory as file descriptors, where the device has it.
    pub(crate) fn memory_fd(&self) -> Option<&khr::external_memory_fd::Device> {
        self.memory_fd.as_ref()
    }

    /// Semaphores as sync files, where the device has them.
    pub(crate) fn semaphore_fd(&self) -> Option<&khr::external_semaphore_fd::Device> {
        self.semaphore_fd.as_ref()
    }

    /// What the device is; the features are those that are enabled.
    pub(crate) fn physical(&self) -> &Physical {
        &self.physical
    }

    /// The instance.
    pub(crate) fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// The queues in use.
    pub(crate) fn queues(&self) -> &Queues {
        &self.queues
    }

    /// How the queues in use share a buffer: the mode and the families for it.
    pub(crate) fn sharing(&self) -> (vk::SharingMode, &[u32]) {
        if self.families.len() > 1 {
            (vk::SharingMode::CONCURRENT, &self.families)
        } else {
            (vk::SharingMode::EXCLUSIVE, &[])
        }
    }

    /// The result of a driver call that asks for no memory.
    pub(crate) fn done<T>(
        &self,
        call: &'static str,
        result: Result<T, vk::Result>,
    ) -> Result<T, DeviceError> {
        self.done_for(call, 0, result)
    }

    /// The result of a driver call on behalf of a request for `asked_bytes`.
    pub(crate) fn done_for<T>(
        &self,
        call: &'static str,
        asked_bytes: u64,
        result: Result<T, vk::Result>,
    ) -> Result<T, DeviceError> {
        result.map_err(|result| {
            let error = error_of(call, result, asked_bytes);
            if error == DeviceError::Lost {
                self.lose(call);
            }
            error
        })
    }

    /// An error when the device is lost.
    pub(crate) fn alive(&self) -> Result<(), DeviceError> {
        if self.is_lost() { Err(DeviceError::Lost) } else { Ok(()) }
    }

    /// True once any call found the device lost.
    pub(crate) fn is_lost(&self) -> bool {
        // Acquire pairs with the Release in `lose`: who sees the loss sees what came before it.
        self.lost.load(Ordering::Acquire)
    }

    /// From now on the device is lost.
    pub(crate) fn lose(&self, call: &'static str) {
        if self.lost_by.set(call).is_ok() {
            self.lost.store(true, Ordering::Release);
        }
    }

    /// The call that found the device lost. No event tells of it here, since the caller may hold locks.
    pub(crate) fn lost_by(&self) -> Option<&'static str> {
        self.lost_by.get().copied()
    }

    /// Waits until every queue is at rest, before something goes that submissions have used. To have seen their last value is not enough: on a lost device it means
    /// nothing, and Mesa's emulated timelines (before their state was counted by reference; 25.0 and 22.3 are) are looked at once more by the thread of the queue
    /// after a submission that waited for them has signalled its end.
    pub(crate) fn rest(&self) {
        let Queues { compute, transfer, bind } = &self.queues;
        for queue in [Some(compute), transfer.as_ref(), bind.as_ref()].into_iter().flatten() {
            let _one = queue.lock.lock();
            // SAFETY: the queue is live and used under its lock alone.
            let rested = unsafe { self.raw.queue_wait_idle(queue.raw) };
            tracing::trace!(?rested, "a queue was waited for");
        }
    }

    /// Counts an allocation, or says that the driver takes no more.
    pub(crate) fn count_allocation(&self, asked_bytes: u64) -> Result<(), DeviceError> {
        let limit = self.physical.limits.allocations;
        // Relaxed: a plain count, nothing is published through it.
        let below = |count| (count < limit).then_some(count + 1);
        let counted = self.allocations.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below);
        counted.map(drop).map_err(|_| DeviceError::OutOfMemory { asked_bytes })
    }

    /// Undoes [`Gpu::count_allocation`].
    pub(crate) fn uncount_allocation(&self) {
        self.allocations.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.owner == Owner::Library {
            // SAFETY: (1) made here and destroyed once, (2) everything made from it holds the `Arc`, so nothing is left, and queues
            // are idle because each waited for its last submission before it let go.
            unsafe { self.raw.destroy_device(None) };
        }
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").field("name", &self.physical.summary.name).finish_non_exhaustive()
    }
}

/// The extensions behind the features of memory and fences that others share.
fn memory_extensions(features: Features) -> impl Iterator<Item = &'static CStr> {
    [
        (Features::HOST_IMPORT, ext::external_memory_host::NAME),
        (Features::MEMORY_FD, khr::external_memory_fd::NAME),
        (Features::DMA_BUF, ext::external_memory_dma_buf::NAME),
        (Features::SYNC_FD, khr::external_semaphore_fd::NAME),
    ]
    .into_iter()
    .filter_map(move |(feature, name)| features.contains(feature).then_some(name))
}

/// What a driver's result means.
fn error_of(call: &'static str, result: vk::Result, asked_bytes: u64) -> DeviceError {
    match result {
        vk::Result::ERROR_DEVICE_LOST => DeviceError::Lost,
        vk::Result::ERROR_OUT_OF_DEVICE_MEMORY | vk::Result::ERROR_OUT_OF_HOST_MEMORY
            if asked_bytes > 0 =>
        {
            DeviceError::OutOfMemory { asked_bytes }
        }
        other => DeviceError::Driver { call, code: other.as_raw() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_meaning() {
        let lost = error_of("f", vk::Result::ERROR_DEVICE_LOST, 5);
        assert_eq!(lost, DeviceError::Lost);
        let memory = error_of("f", vk::Result::ERROR_OUT_OF_DEVICE_MEMORY, 5);
        assert_eq!(memory, DeviceError::OutOfMemory { asked_bytes: 5 });
        let without = error_of("f", vk::Result::ERROR_OUT_OF_DEVICE_MEMORY, 0);
        assert_eq!(without, DeviceError::Driver { call: "f", code: -2 });
    }
}
