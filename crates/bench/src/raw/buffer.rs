//! A buffer with memory of its own.

use std::time::Duration;

use ash::vk;
use bytemuck::Pod;

use super::{Device, RawError, Work, failed};

/// Which side a buffer's memory is best for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Host-visible, coherent, and cached where there is such memory.
    Host,
    /// Device-local.
    Device,
}

/// A buffer with memory of its own and a device address.
#[derive(Debug)]
pub struct Buffer {
    device: Device,
    buffer: vk::Buffer,
    memory: vk::DeviceMemory,
    address: u64,
    bytes: u64,
}

impl Buffer {
    /// A buffer of so many bytes. What is in it is the driver's to say.
    ///
    /// # Errors
    /// What a call answered.
    pub fn new(device: &Device, side: Side, bytes: u64) -> Result<Self, RawError> {
        let mut made = Self::create(device, bytes, None)?;
        made.bind(side, None::<&mut vk::ExportMemoryAllocateInfo<'_>>)?;
        Ok(made)
    }

    /// The buffer without its memory.
    pub(super) fn create(
        device: &Device,
        bytes: u64,
        external: Option<&mut vk::ExternalMemoryBufferCreateInfo<'_>>,
    ) -> Result<Self, RawError> {
        let open = device.open_handles();
        let mut info = vk::BufferCreateInfo::default().size(bytes).usage(
            vk::BufferUsageFlags::TRANSFER_SRC
                | vk::BufferUsageFlags::TRANSFER_DST
                | vk::BufferUsageFlags::STORAGE_BUFFER
                | vk::BufferUsageFlags::SHADER_DEVICE_ADDRESS,
        );
        if device.families().len() > 1 {
            info = info
                .sharing_mode(vk::SharingMode::CONCURRENT)
                .queue_family_indices(device.families());
        }
        if let Some(external) = external {
            info = info.push_next(external);
        }
        // SAFETY: the struct is complete, the families are the device's, and the usage needs no other feature than the one enabled.
        let buffer = unsafe { open.device.create_buffer(&info, None) };
        let buffer = buffer.map_err(failed("vkCreateBuffer"))?;
        let memory = vk::DeviceMemory::null();
        Ok(Self { device: device.clone(), buffer, memory, address: 0, bytes })
    }

    /// Memory for it, with what `chain` adds.
    pub(super) fn bind(
        &mut self,
        side: Side,
        chain: Option<&mut impl vk::ExtendsMemoryAllocateInfo>,
    ) -> Result<(), RawError> {
        let open = self.device.open_handles();
        // SAFETY: the buffer is this device's.
        let needs = unsafe { open.device.get_buffer_memory_requirements(self.buffer) };
        let kind = memory_type(&open.memory, needs.memory_type_bits, side)
            .ok_or(RawError::Lacks { what: "memory of the kind that is needed" })?;
        let mut flags =
            vk::MemoryAllocateFlagsInfo::default().flags(vk::MemoryAllocateFlags::DEVICE_ADDRESS);
        let mut allocate = vk::MemoryAllocateInfo::default()
            .allocation_size(needs.size)
            .memory_type_index(kind)
            .push_next(&mut flags);
        if let Some(chain) = chain {
            allocate = allocate.push_next(chain);
        }
        let info = vk::BufferDeviceAddressInfo::default().buffer(self.buffer);
        // SAFETY: the type is one of the device's and fits the buffer; the memory is as long as the buffer needs, is bound
        // to it alone, once, at offset 0; the address is asked for after that, of a buffer made for it.
        unsafe {
            self.memory =
                open.device.allocate_memory(&allocate, None).map_err(failed("vkAllocateMemory"))?;
            open.device
                .bind_buffer_memory(self.buffer, self.memory, 0)
                .map_err(failed("vkBindBufferMemory"))?;
            self.address = open.device.get_buffer_device_address(&info);
        }
        Ok(())
    }

    /// The device address of the first byte.
    pub fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn memory(&self) -> vk::DeviceMemory {
        self.memory
    }

    pub(super) fn raw(&self) -> vk::Buffer {
        self.buffer
    }

    /// How many bytes.
    pub fn len_bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives the elements of a [`Side::Host`] buffer to `work`.
    ///
    /// # Errors
    /// What a call answered.
    pub fn with<T: Pod, R>(&mut self, work: impl FnOnce(&mut [T]) -> R) -> Result<R, RawError> {
        let open = self.device.open_handles();
        let flags = vk::MemoryMapFlags::empty();
        // SAFETY: (1) the memory is not mapped: this is the only place that maps it, and it unmaps before it returns; (2) host-visible or
        // the call fails; (3) the mapping is as long as the slice, any bytes are a T, which is Pod; mappings are aligned to 64 bytes at least; nobody else touches them: `self`
        // is borrowed exclusively and no work runs between calls; (4) coherent, so no flush is due.
        unsafe {
            let start = open
                .device
                .map_memory(self.memory, 0, vk::WHOLE_SIZE, flags)
                .map_err(failed("vkMapMemory"))?;
            let len = self.bytes as usize / size_of::<T>().max(1);
            let result = work(std::slice::from_raw_parts_mut(start.cast::<T>(), len));
            open.device.unmap_memory(self.memory);
            Ok(result)
        }
    }

    /// Copies the first `bytes` of this buffer to another and waits; says how long it took. At most as many as both have.
    ///
    /// # Errors
    /// What a call answered.
    pub fn copy_to(&self, to: &mut Self, bytes: u64) -> Result<Duration, RawError> {
        let size = bytes.min(self.bytes).min(to.bytes);
        let region = [vk::BufferCopy { src_offset: 0, dst_offset: 0, size }];
        let for_host = [vk::MemoryBarrier::default()
            .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
            .dst_access_mask(vk::AccessFlags::HOST_READ)];
        let (from, to) = (self.buffer, to.buffer);
        // SAFETY: both buffers live, are this device's, are bound, and have `size` bytes; a copy and a barrier are valid on any queue.
        unsafe {
            self.device.run(Work::Copies, |device, commands| {
                device.cmd_copy_buffer(commands, from, to, &region);
                device.cmd_pipeline_barrier(
                    commands,
                    vk::PipelineStageFlags::TRANSFER,
                    vk::PipelineStageFlags::HOST,
                    vk::DependencyFlags::empty(),
                    &for_host,
                    &[],
                    &[],
                );
            })
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let open = self.device.open_handles();
        // SAFETY: ours alone, and nothing runs between calls. Freeing no memory is allowed.
        unsafe {
            open.device.destroy_buffer(self.buffer, None);
            open.device.free_memory(self.memory, None);
        }
    }
}

/// The first type that is best for the side, or else good enough.
fn memory_type(
    memory: &vk::PhysicalDeviceMemoryProperties,
    allowed: u32,
    side: Side,
) -> Option<u32> {
    use vk::MemoryPropertyFlags as Flags;
    let visible = Flags::HOST_VISIBLE | Flags::HOST_COHERENT;
    let wanted: &[Flags] = match side {
        Side::Host => &[visible | Flags::HOST_CACHED, visible],
        Side::Device => &[Flags::DEVICE_LOCAL, Flags::empty()],
    };
    let types = memory.memory_types_as_slice();
    let fits = |index: usize, flags: Flags| {
        allowed & (1 << index) != 0 && types[index].property_flags.contains(flags)
    };
    wanted
        .iter()
        .find_map(|flags| (0..types.len()).find(|index| fits(*index, *flags)))
        .map(|index| index as u32)
}
