//! What a physical device is and can do, as its driver says.
#![allow(unsafe_code, reason = "queries a physical device")]

use std::ffi::CStr;

use ash::{ext, khr, vk};
use hmmap_core::backend::{DeviceKind, DeviceSummary, PciAddress};

use crate::{
    error::LeftOutReason,
    external::Support,
    features::Features,
    instance::Instance,
    queue_plan::{Family, QueuePlan},
    sync_files,
    uses::Uses,
};

/// A physical device's facts. Plain data, but for the handle.
#[derive(Clone, Debug)]
pub(crate) struct Physical {
    pub(crate) handle: vk::PhysicalDevice,
    pub(crate) summary: DeviceSummary,
    pub(crate) api_version: u32,
    pub(crate) driver: vk::DriverId,
    pub(crate) features: Features,
    pub(crate) families: Vec<Family>,
    pub(crate) memory: vk::PhysicalDeviceMemoryProperties,
    pub(crate) limits: Limits,
    /// The identifiers of the driver and of the physical device, by which drivers know their own handles.
    pub(crate) driver_uuid: [u8; 16],
    pub(crate) device_uuid: [u8; 16],
    /// What the driver says of buffers over memory that is given out or taken in.
    pub(crate) external: Support,
}

/// The limits that matter here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The largest buffer, in bytes.
    pub(crate) buffer_bytes: u64,
    /// The largest allocation, in bytes.
    pub(crate) allocation_bytes: u64,
    /// How many allocations there may be.
    pub(crate) allocations: u32,
    /// All sparse buffers together, in bytes.
    pub(crate) sparse_bytes: u64,
    /// The unit of flushes and invalidations of memory that is not coherent, in bytes.
    pub(crate) atom_bytes: u64,
    /// What imported host memory must be aligned to, in bytes.
    pub(crate) import_align_bytes: u64,
    /// The most workgroups per axis.
    pub(crate) groups: [u32; 3],
    /// The largest workgroup per axis.
    pub(crate) workgroup: [u32; 3],
    /// The most invocations in a workgroup.
    pub(crate) invocations: u32,
}

impl Physical {
    /// Queries a physical device of the instance.
    pub(crate) fn query(instance: &Instance, handle: vk::PhysicalDevice) -> Self {
        let raw = instance.raw();
        // SAFETY: the handle came from this instance, which is live; so in every query below.
        let first = unsafe { raw.get_physical_device_properties(handle) };
        let api_version = first.api_version.min(instance.api_version());
        let extensions = extensions(instance, handle);
        let has = |name: &CStr| extensions.iter().any(|known| known.as_c_str() == name);

        let (mut ids, mut drivers) = (
            vk::PhysicalDeviceIDProperties::default(),
            vk::PhysicalDeviceDriverProperties::default(),
        );
        let mut sizes = vk::PhysicalDeviceMaintenance3Properties::default();
        let mut largest = vk::PhysicalDeviceMaintenance4Properties::default();
        let mut import = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
        let mut pci = vk::PhysicalDevicePCIBusInfoPropertiesEXT::default();
        let mut subgroups = vk::PhysicalDeviceSubgroupProperties::default();
        let mut all = vk::PhysicalDeviceProperties2::default()
            .push_next(&mut ids)
            .push_next(&mut sizes)
            .push_next(&mut subgroups);
        if api_version >= vk::API_VERSION_1_2 {
            all = all.push_next(&mut drivers);
        }
        if api_version >= vk::API_VERSION_1_3 {
            all = all.push_next(&mut largest);
        }
        if has(ext::external_memory_host::NAME) {
            all = all.push_next(&mut import);
        }
        if has(ext::pci_bus_info::NAME) {
            all = all.push_next(&mut pci);
        }
        if api_version >= vk::API_VERSION_1_1 {
            // SAFETY: as above; each structure of the chain is known to this version or extension.
            unsafe { raw.get_physical_device_properties2(handle, &mut all) };
        }
        let properties = all.properties;
        // SAFETY: as above.
        let memory = unsafe { raw.get_physical_device_memory_properties(handle) };

        let mut features = query_features(instance, handle, api_version, &has);
        features = features.with(subgroup_features(&subgroups));
        let limits = limits(&properties.limits, &sizes, &largest, &import);
        let pci = has(ext::pci_bus_info::NAME).then(|| pci_address(&pci));
        let summary = DeviceSummary {
            name: text(properties.device_name_as_c_str()),
            api: "vulkan",
            driver: driver_name(&drivers),
            kind: kind(properties.device_type),
            uuid: (ids.device_uuid != [0; 16]).then_some(ids.device_uuid),
            pci,
            memory_bytes: local_bytes(&memory),
        };
        let families = families(instance, handle);
        let driver = drivers.driver_id;
        let (driver_uuid, device_uuid) = (ids.driver_uuid, ids.device_uuid);
        let external = Support::query(instance, handle, features);
        Self {
            handle,
            summary,
            api_version,
            driver,
            features,
            families,
            memory,
            limits,
            driver_uuid,
            device_uuid,
            external,
        }
    }

    /// The queues to use, or why the device cannot be used.
    pub(crate) fn plan(&self) -> Result<QueuePlan, LeftOutReason> {
        if self.api_version < vk::API_VERSION_1_2 {
            let (major, minor) =
                (vk::api_version_major(self.api_version), vk::api_version_minor(self.api_version));
            return Err(LeftOutReason::OldDriver { major, minor });
        }
        if let Some(name) = self.features.first_missing(Features::REQUIRED) {
            return Err(LeftOutReason::NoFeature { name });
        }
        QueuePlan::choose(&self.families).ok_or(LeftOutReason::NoComputeQueue)
    }

    /// True for Mesa's software driver, whose memory is the process's own.
    pub(crate) fn is_llvmpipe(&self) -> bool {
        self.driver == vk::DriverId::MESA_LLVMPIPE
    }

    /// The flags of a memory type.
    pub(crate) fn memory_flags(&self, index: u32) -> vk::MemoryPropertyFlags {
        let types = self.memory.memory_types_as_slice();
        types
            .get(index as usize)
            .map_or(vk::MemoryPropertyFlags::empty(), |found| found.property_flags)
    }

    /// The first memory type among `allowed` that has every flag of the earliest entry of `wishes` that any has.
    pub(crate) fn memory_type(
        &self,
        allowed: u32,
        wishes: &[vk::MemoryPropertyFlags],
    ) -> Option<u32> {
        let types = self.memory.memory_type_count;
        wishes.iter().find_map(|wish| {
            (0..types).find(|index| {
                allowed & 1 << index != 0 && self.memory_flags(*index).contains(*wish)
            })
        })
    }
}

fn text<E>(text: Result<&CStr, E>) -> String {
    text.map(CStr::to_string_lossy).unwrap_or_default().into_owned()
}

fn driver_name(driver: &vk::PhysicalDeviceDriverProperties<'_>) -> String {
    let (name, version) = (driver.driver_name_as_c_str(), driver.driver_info_as_c_str());
    format!("{} {}", text(name), text(version)).trim().to_owned()
}

fn pci_address(pci: &vk::PhysicalDevicePCIBusInfoPropertiesEXT<'_>) -> PciAddress {
    PciAddress {
        domain: pci.pci_domain,
        bus: pci.pci_bus as u8,
        device: pci.pci_device as u8,
        function: pci.pci_function as u8,
    }
}

fn limits(
    base: &vk::PhysicalDeviceLimits,
    sizes: &vk::PhysicalDeviceMaintenance3Properties<'_>,
    largest: &vk::PhysicalDeviceMaintenance4Properties<'_>,
    import: &vk::PhysicalDeviceExternalMemoryHostPropertiesEXT<'_>,
) -> Limits {
    Limits {
        buffer_bytes: Some(largest.max_buffer_size).filter(|bytes| *bytes > 0).unwrap_or(u64::MAX),
        allocation_bytes: sizes.max_memory_allocation_size,
        allocations: base.max_memory_allocation_count,
        sparse_bytes: base.sparse_address_space_size,
        atom_bytes: base.non_coherent_atom_size.max(1),
        import_align_bytes: import.min_imported_host_pointer_alignment.max(1),
        groups: base.max_compute_work_group_count,
        workgroup: base.max_compute_work_group_size,
        invocations: base.max_compute_work_group_invocations,
    }
}

fn extensions(instance: &Instance, handle: vk::PhysicalDevice) -> Vec<std::ffi::CString> {
    // SAFETY: the handle came from this live instance.
    let found = unsafe { instance.raw().enumerate_device_extension_properties(handle) };
    let names = found.unwrap_or_default();
    names
        .iter()
        .filter_map(|known| known.extension_name_as_c_str().ok().map(CStr::to_owned))
        .collect()
}

fn query_features(
    instance: &Instance,
    handle: vk::PhysicalDevice,
    api_version: u32,
    has: &dyn Fn(&CStr) -> bool,
) -> Features {
    if api_version < vk::API_VERSION_1_2 {
        return Features::NONE;
    }
    let mut v11 = vk::PhysicalDeviceVulkan11Features::default();
    let mut v12 = vk::PhysicalDeviceVulkan12Features::default();
    let mut atomics = vk::PhysicalDeviceShaderAtomicFloatFeaturesEXT::default();
    let mut all = vk::PhysicalDeviceFeatures2::default().push_next(&mut v11).push_next(&mut v12);
    if has(ext::shader_atomic_float::NAME) {
        all = all.push_next(&mut atomics);
    }
    // SAFETY: the handle came from this live instance, and the driver knows each structure of the chain.
    unsafe { instance.raw().get_physical_device_features2(handle, &mut all) };
    let v10 = all.features;
    let found = [
        (v10.shader_int64, Features::INT64),
        (v12.timeline_semaphore, Features::TIMELINE),
        (v12.buffer_device_address, Features::ADDRESS),
        (v10.shader_float64, Features::FLOAT64),
        (v10.shader_int16, Features::INT16),
        (v12.shader_int8, Features::INT8),
        (v12.shader_float16, Features::FLOAT16),
        (v12.storage_buffer8_bit_access, Features::STORAGE8),
        (v11.storage_buffer16_bit_access, Features::STORAGE16),
        (v12.shader_buffer_int64_atomics, Features::ATOMIC_INT64),
        (v12.shader_shared_int64_atomics, Features::SHARED_ATOMIC_INT64),
        (v12.vulkan_memory_model, Features::MEMORY_MODEL),
        (v12.vulkan_memory_model_device_scope, Features::MEMORY_MODEL_DEVICE),
        (v12.scalar_block_layout, Features::SCALAR_LAYOUT),
        (atomics.shader_buffer_float32_atomic_add, Features::FLOAT_ATOMIC_ADD),
        (atomics.shader_buffer_float32_atomics, Features::FLOAT_ATOMICS),
        (v10.sparse_binding, Features::SPARSE),
        (v10.sparse_residency_buffer, Features::SPARSE_RESIDENCY),
        (u32::from(has(ext::external_memory_host::NAME)), Features::HOST_IMPORT),
        (u32::from(has(khr::external_memory_fd::NAME)), Features::MEMORY_FD),
        (u32::from(has(ext::external_memory_dma_buf::NAME)), Features::DMA_BUF),
        (
            u32::from(
                has(khr::external_semaphore_fd::NAME) && sync_files::supported(instance, handle),
            ),
            Features::SYNC_FD,
        ),
    ];
    let present = found.iter().filter(|(flag, _)| *flag != vk::FALSE);
    present.fold(Features::NONE, |set, (_, feature)| set.with(*feature))
}

fn subgroup_features(subgroups: &vk::PhysicalDeviceSubgroupProperties<'_>) -> Features {
    use vk::SubgroupFeatureFlags as Flag;
    if !subgroups.supported_stages.contains(vk::ShaderStageFlags::COMPUTE) {
        return Features::NONE;
    }
    let found = [
        (Flag::BASIC, Features::SUBGROUP_BASIC),
        (Flag::VOTE, Features::SUBGROUP_VOTE),
        (Flag::ARITHMETIC, Features::SUBGROUP_ARITHMETIC),
        (Flag::BALLOT, Features::SUBGROUP_BALLOT),
        (Flag::SHUFFLE, Features::SUBGROUP_SHUFFLE),
        (Flag::SHUFFLE_RELATIVE, Features::SUBGROUP_SHUFFLE_RELATIVE),
        (Flag::CLUSTERED, Features::SUBGROUP_CLUSTERED),
        (Flag::QUAD, Features::SUBGROUP_QUAD),
    ];
    let present = found.iter().filter(|(flag, _)| subgroups.supported_operations.contains(*flag));
    present.fold(Features::NONE, |set, (_, feature)| set.with(*feature))
}

fn families(instance: &Instance, handle: vk::PhysicalDevice) -> Vec<Family> {
    // SAFETY: the handle came from this live instance.
    let found = unsafe { instance.raw().get_physical_device_queue_family_properties(handle) };
    let family = |(index, found): (usize, &vk::QueueFamilyProperties)| {
        let flag = |flag| found.queue_flags.contains(flag);
        let computes = flag(vk::QueueFlags::COMPUTE);
        let copies = computes || flag(vk::QueueFlags::GRAPHICS) || flag(vk::QueueFlags::TRANSFER);
        let can = |can: bool, uses| if can { uses } else { Uses::NONE };
        Family {
            index: index as u32,
            can: can(computes, Uses::SHADER).or(can(copies, Uses::TRANSFER)),
            draws: flag(vk::QueueFlags::GRAPHICS),
            binds: flag(vk::QueueFlags::SPARSE_BINDING),
        }
    };
    found.iter().enumerate().filter(|(_, found)| found.queue_count > 0).map(family).collect()
}

fn kind(kind: vk::PhysicalDeviceType) -> DeviceKind {
    match kind {
        vk::PhysicalDeviceType::DISCRETE_GPU => DeviceKind::DiscreteGpu,
        vk::PhysicalDeviceType::INTEGRATED_GPU => DeviceKind::IntegratedGpu,
        vk::PhysicalDeviceType::CPU => DeviceKind::Cpu,
        _ => DeviceKind::VirtualGpu,
    }
}

fn local_bytes(memory: &vk::PhysicalDeviceMemoryProperties) -> u64 {
    let heaps = memory.memory_heaps_as_slice().iter();
    let local = heaps.filter(|heap| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL));
    local.map(|heap| heap.size).max().unwrap_or(0)
}
