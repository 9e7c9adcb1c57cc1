//! One device with a queue for copies and one for kernels, and how work is submitted and waited for.

use std::{
    cell::Cell,
    ffi::CStr,
    fmt,
    rc::Rc,
    time::{Duration, Instant},
};

use ash::{Entry, Instance, khr, vk};
use hmmap::core::backend::DeviceSummary;

use super::{RawError, failed};

/// A device. Clones are the same one.
#[derive(Clone)]
pub struct Device(Rc<Open>);

/// Which queue runs the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Copies: on a queue of their own where there is one.
    Copies,
    /// Kernels.
    Kernels,
}

/// The handles. Destroyed with the last clone; by then nothing runs, since every submission is waited for.
pub(super) struct Open {
    pub(super) device: ash::Device,
    pub(super) memory: vk::PhysicalDeviceMemoryProperties,
    families: Vec<u32>,
    queues: [Queue; 2],
    /// Its memory can be given out as descriptors.
    pub(super) shares: bool,
    instance: Instance,
    /// Keeps the loader's library in memory.
    _entry: Entry,
}

/// One queue with one command buffer, used by one call at a time.
struct Queue {
    queue: vk::Queue,
    pool: vk::CommandPool,
    commands: vk::CommandBuffer,
    timeline: vk::Semaphore,
    value: Cell<u64>,
}

/// The loader.
pub(super) fn load() -> Result<Entry, RawError> {
    // SAFETY: the library that is loaded is the system's Vulkan loader, whose initialisers we trust as every Vulkan program does.
    unsafe { Entry::load() }.map_err(|error| RawError::NoLoader { reason: error.to_string() })
}

impl Device {
    /// Opens the device that hmmap calls by this summary.
    ///
    /// # Errors
    /// [`RawError::NoDevice`] when Vulkan knows no such device; what a call answered.
    pub fn open(summary: &DeviceSummary) -> Result<Self, RawError> {
        let entry = load()?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let info = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: the structs are complete, and outlive the call.
        let instance =
            unsafe { entry.create_instance(&info, None) }.map_err(failed("vkCreateInstance"))?;
        match Self::on(entry, &instance, summary) {
            Ok(device) => Ok(device),
            Err(error) => {
                // SAFETY: made above, and nothing was made of it that is still there.
                unsafe { instance.destroy_instance(None) };
                Err(error)
            }
        }
    }

    fn on(entry: Entry, instance: &Instance, summary: &DeviceSummary) -> Result<Self, RawError> {
        let physical = find(instance, summary)?;
        // SAFETY: the physical device is one of this instance's.
        let (memory, families) = unsafe {
            (
                instance.get_physical_device_memory_properties(physical),
                instance.get_physical_device_queue_family_properties(physical),
            )
        };
        let [copies, kernels] = choose(&families)?;
        let priority = [1.0];
        let mut unique = vec![copies, kernels];
        unique.dedup();
        let queues: Vec<_> = unique
            .iter()
            .map(|family| {
                let info = vk::DeviceQueueCreateInfo::default().queue_family_index(*family);
                info.queue_priorities(&priority)
            })
            .collect();
        let core = vk::PhysicalDeviceFeatures::default().shader_int64(true);
        let mut twelve = vk::PhysicalDeviceVulkan12Features::default()
            .buffer_device_address(true)
            .timeline_semaphore(true);
        let shares = has(instance, physical, khr::external_memory_fd::NAME);
        let names = [khr::external_memory_fd::NAME.as_ptr()];
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(if shares { &names } else { &[] });
        let info = info.enabled_features(&core).push_next(&mut twelve);
        // SAFETY: the physical device is this instance's, the families exist, the structs are complete and outlive the call.
        let device = unsafe { instance.create_device(physical, &info, None) };
        let device = device.map_err(failed("vkCreateDevice"))?;
        let queues = Queue::new(&device, copies)
            .and_then(|first| Ok([first, Queue::new(&device, kernels)?]));
        match queues {
            Ok(queues) => {
                let (instance, families) = (instance.clone(), unique);
                let _entry = entry;
                let open = Open { device, memory, families, queues, shares, instance, _entry };
                Ok(Self(Rc::new(open)))
            }
            Err(error) => {
                // SAFETY: made above; what little was made of it is lost to a program that cannot go on anyway.
                unsafe { device.destroy_device(None) };
                Err(error)
            }
        }
    }

    pub(super) fn open_handles(&self) -> &Open {
        &self.0
    }

    /// The queue families in use: more than one, and buffers have to be shared between them.
    pub(super) fn families(&self) -> &[u32] {
        &self.0.families
    }

    /// Records commands, submits them and waits for their end; says how long all three took.
    ///
    /// # Errors
    /// What a call answered.
    ///
    /// # Safety
    /// `record` records only commands that are valid outside a render pass on the queue that `work` means, on handles of this
    /// device that live until this call returns.
    pub unsafe fn run(
        &self,
        work: Work,
        record: impl FnOnce(&ash::Device, vk::CommandBuffer),
    ) -> Result<Duration, RawError> {
        let device = &self.0.device;
        let queue = &self.0.queues[work as usize];
        let started = Instant::now();
        let begin = vk::CommandBufferBeginInfo::default()
            .flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        let commands = [queue.commands];
        let (signal, value) = ([queue.timeline], [queue.value.get() + 1]);
        let mut times = vk::TimelineSemaphoreSubmitInfo::default().signal_semaphore_values(&value);
        let submit = vk::SubmitInfo::default().command_buffers(&commands);
        let submit = submit.signal_semaphores(&signal).push_next(&mut times);
        let wait = vk::SemaphoreWaitInfo::default().semaphores(&signal).values(&value);
        // SAFETY: (1) the command buffer is not in use: this function waits for all it submits, and the value is not Sync, so nobody
        // else is in it; its pool resets buffers one by one, which begin does; (2) the caller vouches for what is recorded;
        // (3) queue, buffer and semaphore are this device's; the signalled value is above the last one, since
        // `value` grows with every accepted submission; (4) the wait names a value that was submitted.
        unsafe {
            device
                .begin_command_buffer(queue.commands, &begin)
                .map_err(failed("vkBeginCommandBuffer"))?;
            record(device, queue.commands);
            device.end_command_buffer(queue.commands).map_err(failed("vkEndCommandBuffer"))?;
            device
                .queue_submit(queue.queue, &[submit], vk::Fence::null())
                .map_err(failed("vkQueueSubmit"))?;
            queue.value.set(value[0]);
            device.wait_semaphores(&wait, u64::MAX).map_err(failed("vkWaitSemaphores"))?;
        }
        Ok(started.elapsed())
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("families", &self.0.families).finish_non_exhaustive()
    }
}

impl Queue {
    fn new(device: &ash::Device, family: u32) -> Result<Self, RawError> {
        let mut timeline = vk::SemaphoreTypeCreateInfo::default()
            .semaphore_type(vk::SemaphoreType::TIMELINE)
            .initial_value(0);
        let semaphore = vk::SemaphoreCreateInfo::default().push_next(&mut timeline);
        let pool = vk::CommandPoolCreateInfo::default()
            .queue_family_index(family)
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER);
        // SAFETY: the family is one that the device was made with, and has a queue 0; the structs are complete; the pool is this
        // device's. What was made stays with the device when a later call fails.
        unsafe {
            let queue = device.get_device_queue(family, 0);
            let pool =
                device.create_command_pool(&pool, None).map_err(failed("vkCreateCommandPool"))?;
            let allocate = vk::CommandBufferAllocateInfo::default()
                .command_pool(pool)
                .level(vk::CommandBufferLevel::PRIMARY)
                .command_buffer_count(1);
            let commands = device
                .allocate_command_buffers(&allocate)
                .map_err(failed("vkAllocateCommandBuffers"))?[0];
            let timeline =
                device.create_semaphore(&semaphore, None).map_err(failed("vkCreateSemaphore"))?;
            Ok(Self { queue, pool, commands, timeline, value: Cell::new(0) })
        }
    }
}

impl Open {
    pub(super) fn instance(&self) -> &Instance {
        &self.instance
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: nothing runs (every submission was waited for, or the device is lost), and buffers and kernels, which hold
        // the device, are gone; so these are the last handles, in the order in which they depend on each other.
        unsafe {
            for queue in &self.queues {
                self.device.destroy_semaphore(queue.timeline, None);
                self.device.destroy_command_pool(queue.pool, None);
            }
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}

fn has(instance: &Instance, physical: vk::PhysicalDevice, name: &CStr) -> bool {
    // SAFETY: the physical device is one of this instance's.
    let found = unsafe { instance.enumerate_device_extension_properties(physical) };
    found.unwrap_or_default().iter().any(|known| known.extension_name_as_c_str() == Ok(name))
}

/// The physical device with the summary's identifier, or its name.
fn find(instance: &Instance, summary: &DeviceSummary) -> Result<vk::PhysicalDevice, RawError> {
    // SAFETY: the instance lives.
    let all = unsafe { instance.enumerate_physical_devices() };
    let all = all.map_err(failed("vkEnumeratePhysicalDevices"))?;
    let fits = |physical: &vk::PhysicalDevice| {
        let mut ids = vk::PhysicalDeviceIDProperties::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut ids);
        // SAFETY: the physical device is this instance's; the chain holds structs of Vulkan 1.1.
        unsafe { instance.get_physical_device_properties2(*physical, &mut properties) };
        let name = properties.properties.device_name_as_c_str().map(CStr::to_string_lossy);
        let same_name = name.is_ok_and(|name| name == summary.name.as_str());
        summary.uuid.map_or(same_name, |uuid| ids.device_uuid == uuid)
    };
    let found = all.into_iter().find(fits);
    found.ok_or_else(|| RawError::NoDevice { asked: summary.name.clone() })
}

/// The families for copies and for kernels: one that can only copy, where there is one.
fn choose(families: &[vk::QueueFamilyProperties]) -> Result<[u32; 2], RawError> {
    let with = |wanted: vk::QueueFlags, unwanted: vk::QueueFlags| {
        let fits = |family: &vk::QueueFamilyProperties| {
            family.queue_flags.contains(wanted) && !family.queue_flags.intersects(unwanted)
        };
        families.iter().position(fits).map(|family| family as u32)
    };
    let kernels = with(vk::QueueFlags::COMPUTE, vk::QueueFlags::empty());
    let kernels = kernels.ok_or(RawError::Lacks { what: "compute queue" })?;
    let busy = vk::QueueFlags::GRAPHICS | vk::QueueFlags::COMPUTE;
    let copies = with(vk::QueueFlags::TRANSFER, busy).unwrap_or(kernels);
    Ok([copies, kernels])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(queue_flags: vk::QueueFlags) -> vk::QueueFamilyProperties {
        vk::QueueFamilyProperties { queue_flags, queue_count: 1, ..Default::default() }
    }

    #[test]
    fn copies_go_to_a_queue_of_their_own_where_there_is_one() {
        use vk::QueueFlags as Flags;
        let all = family(Flags::GRAPHICS | Flags::COMPUTE | Flags::TRANSFER);
        let compute = family(Flags::COMPUTE | Flags::TRANSFER);
        let copies = family(Flags::TRANSFER | Flags::SPARSE_BINDING);
        assert_eq!(choose(&[all]), Ok([0, 0]));
        assert_eq!(choose(&[all, compute, copies]), Ok([2, 0]));
        assert_eq!(choose(&[copies, compute]), Ok([0, 1]));
        assert_eq!(choose(&[copies]), Err(RawError::Lacks { what: "compute queue" }));
    }
}
