//! A program that uses Vulkan itself, and lends its device.

use ash::{ext, vk};
use hmmap_vulkan::{Existing, ExistingQueue, Features};

/// What a program has that uses Vulkan: instance, device, one queue, one command pool.
pub(crate) struct Program {
    _entry: ash::Entry,
    pub(crate) instance: ash::Instance,
    pub(crate) physical: vk::PhysicalDevice,
    pub(crate) device: ash::Device,
    pub(crate) queue: ExistingQueue,
    pub(crate) pool: vk::CommandPool,
    pub(crate) timeline: vk::Semaphore,
}

impl Program {
    pub(crate) fn new() -> Option<Self> {
        if std::env::var_os("VK_DRIVER_FILES").is_none() {
            println!("HMMAP-SKIP: no Vulkan driver is named by VK_DRIVER_FILES");
            return None;
        }
        // SAFETY: the library is the system's loader; every handle below is used while what it was made from lives.
        unsafe {
            let entry = ash::Entry::load().ok()?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
            let info = vk::InstanceCreateInfo::default().application_info(&application);
            let instance = entry.create_instance(&info, None).unwrap();
            let physical = instance.enumerate_physical_devices().unwrap()[0];
            let families = instance.get_physical_device_queue_family_properties(physical);
            let computes = |found: &vk::QueueFamilyProperties| {
                found.queue_flags.contains(vk::QueueFlags::COMPUTE)
            };
            let family = families.iter().position(computes).unwrap() as u32;
            let priorities = [1.0];
            let queues = [vk::DeviceQueueCreateInfo::default()
                .queue_family_index(family)
                .queue_priorities(&priorities)];
            let mut v12 = vk::PhysicalDeviceVulkan12Features::default()
                .timeline_semaphore(true)
                .buffer_device_address(true);
            let v10 = vk::PhysicalDeviceFeatures::default().shader_int64(true);
            let extensions = [ext::external_memory_host::NAME.as_ptr()];
            let info = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&extensions)
                .enabled_features(&v10)
                .push_next(&mut v12);
            let device = instance.create_device(physical, &info, None).unwrap();
            let queue = ExistingQueue { queue: device.get_device_queue(family, 0), family };
            let info = vk::CommandPoolCreateInfo::default().queue_family_index(family);
            let pool = device.create_command_pool(&info, None).unwrap();
            let mut kind =
                vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
            let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
            let timeline = device.create_semaphore(&info, None).unwrap();
            Some(Self { _entry: entry, instance, physical, device, queue, pool, timeline })
        }
    }

    pub(crate) fn existing(&self) -> Existing {
        Existing {
            instance: self.instance.clone(),
            api_version: vk::API_VERSION_1_2,
            physical: self.physical,
            device: self.device.clone(),
            enabled: Features::REQUIRED.with(Features::HOST_IMPORT),
            compute: self.queue,
            transfer: None,
            sparse_binding: None,
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the tests close their labs first; everything was made here and is destroyed once.
        unsafe {
            self.device.device_wait_idle().unwrap();
            self.device.destroy_semaphore(self.timeline, None);
            self.device.destroy_command_pool(self.pool, None);
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}
