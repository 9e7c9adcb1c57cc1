//! Buffers: owned handles.
#![allow(unsafe_code, reason = "owns buffers")]

use std::sync::Arc;

use ash::vk;
use hmmap_core::backend::DeviceError;

use crate::gpu::Gpu;

/// What every buffer over device memory can be used for.
pub(crate) const USAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::TRANSFER_SRC.as_raw()
        | vk::BufferUsageFlags::TRANSFER_DST.as_raw()
        | vk::BufferUsageFlags::STORAGE_BUFFER.as_raw()
        | vk::BufferUsageFlags::SHADER_DEVICE_ADDRESS.as_raw(),
);

/// A buffer, destroyed when dropped. Whoever submits work on it keeps it until the work has ended.
#[derive(Debug)]
pub(crate) struct Buffer {
    raw: vk::Buffer,
    len_bytes: u64,
    gpu: Arc<Gpu>,
}

impl Buffer {
    /// A plain buffer.
    pub(crate) fn plain(
        gpu: &Arc<Gpu>,
        len_bytes: u64,
        usage: vk::BufferUsageFlags,
    ) -> Result<Self, DeviceError> {
        Self::create(gpu, len_bytes, vk::BufferCreateInfo::default().usage(usage))
    }

    /// A buffer whose memory is bound block by block.
    pub(crate) fn sparse(gpu: &Arc<Gpu>, len_bytes: u64) -> Result<Self, DeviceError> {
        let flags = vk::BufferCreateFlags::SPARSE_BINDING | vk::BufferCreateFlags::SPARSE_RESIDENCY;
        Self::create(gpu, len_bytes, vk::BufferCreateInfo::default().usage(USAGE).flags(flags))
    }

    /// A buffer over memory of this external kind.
    pub(crate) fn external(
        gpu: &Arc<Gpu>,
        len_bytes: u64,
        usage: vk::BufferUsageFlags,
        kind: vk::ExternalMemoryHandleTypeFlags,
    ) -> Result<Self, DeviceError> {
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(kind);
        let info = vk::BufferCreateInfo::default().usage(usage).push_next(&mut external);
        Self::create(gpu, len_bytes, info)
    }

    fn create(
        gpu: &Arc<Gpu>,
        len_bytes: u64,
        info: vk::BufferCreateInfo<'_>,
    ) -> Result<Self, DeviceError> {
        let (mode, families) = gpu.sharing();
        let info = info.size(len_bytes).sharing_mode(mode).queue_family_indices(families);
        // SAFETY: the device is live; the length was checked against its limits, and the flags against its features.
        let made = unsafe { gpu.raw().create_buffer(&info, None) };
        let raw = gpu.done_for("vkCreateBuffer", len_bytes, made)?;
        Ok(Self { raw, len_bytes, gpu: Arc::clone(gpu) })
    }

    /// The handle.
    pub(crate) fn raw(&self) -> vk::Buffer {
        self.raw
    }

    /// What memory it wants.
    pub(crate) fn requirements(&self) -> vk::MemoryRequirements {
        // SAFETY: the buffer is live.
        unsafe { self.gpu.raw().get_buffer_memory_requirements(self.raw) }
    }

    /// Puts memory under the whole of a plain buffer.
    ///
    /// # Safety
    /// The memory is of an allowed type, aligned, long enough from the offset on, not freed before the buffer is destroyed, and
    /// no memory was bound before.
    pub(crate) unsafe fn bind(
        &self,
        memory: vk::DeviceMemory,
        offset_bytes: u64,
    ) -> Result<(), DeviceError> {
        // SAFETY: by the contract of this function.
        let bound = unsafe { self.gpu.raw().bind_buffer_memory(self.raw, memory, offset_bytes) };
        self.gpu.done_for("vkBindBufferMemory", self.len_bytes, bound)
    }

    /// The device address of byte 0. The buffer was made for it, and memory is bound if it is plain.
    pub(crate) fn address(&self) -> u64 {
        let info = vk::BufferDeviceAddressInfo::default().buffer(self.raw);
        // SAFETY: the buffer is live and the feature is one that every device here has enabled.
        unsafe { self.gpu.raw().get_buffer_device_address(&info) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: made here, destroyed once, after its last use by the contract of the type.
        unsafe { self.gpu.raw().destroy_buffer(self.raw, None) };
    }
}
