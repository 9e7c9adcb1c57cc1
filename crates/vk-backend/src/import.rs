//! Host memory as a Vulkan buffer (`VK_EXT_external_memory_host`): owned handles.
//!
//! Only the library's own mapping of the arena is ever imported, never a user's pointer. Imported memory is never bound
//! into a sparse buffer: there are drivers that accept that and then corrupt file descriptor 0.
#![allow(unsafe_code, reason = "imports host memory")]

use std::{
    ffi::c_void,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ash::vk;
use hmmap_core::{
    backend::DeviceError,
    host::{HostSpan, ServiceView},
};

use crate::{buffer::Buffer, gpu::Gpu};

const HANDLE: vk::ExternalMemoryHandleTypeFlags =
    vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;

/// An imported span: memory and the buffer over it.
///
/// # Invariants
/// The span's bytes stay mapped while `_host` lives; the buffer goes before the memory, the memory before the mapping.
#[derive(Debug)]
pub(crate) struct Import {
    span: HostSpan,
    buffer: Option<Buffer>,
    memory: vk::DeviceMemory,
    pinned: Arc<AtomicU64>,
    gpu: Arc<Gpu>,
    _host: Arc<ServiceView>,
}

/// What imported memory is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// Copies.
    Copies,
    /// Copies, and kernels by device address.
    Window,
}

impl Import {
    /// Imports a span of the arena. `pinned` counts the bytes for as long as they are imported.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] when the device cannot import this span as coherent memory.
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        host: &Arc<ServiceView>,
        span: HostSpan,
        purpose: Purpose,
        pinned: &Arc<AtomicU64>,
    ) -> Result<Self, DeviceError> {
        let limits = gpu.physical().limits;
        let align = limits.import_align_bytes;
        let start = host.pointer(span);
        if !(start.addr() as u64).is_multiple_of(align) || !span.len_bytes.is_multiple_of(align) {
            return Err(DeviceError::Unsupported { what: "import at the alignment of a page" });
        }
        if span.len_bytes > limits.buffer_bytes {
            let (asked_bytes, limit_bytes) = (span.len_bytes, limits.buffer_bytes);
            return Err(DeviceError::OutOfAddresses { asked_bytes, limit_bytes });
        }
        let memory_types = importable(gpu, start.cast())?;
        let mut usage = vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST;
        if purpose == Purpose::Window {
            usage |=
                vk::BufferUsageFlags::STORAGE_BUFFER | vk::BufferUsageFlags::SHADER_DEVICE_ADDRESS;
        }
        let buffer = Buffer::external(gpu, span.len_bytes, usage, HANDLE)?;
        let requirements = buffer.requirements();
        let coherent =
            vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
        let wishes = [coherent | vk::MemoryPropertyFlags::HOST_CACHED, coherent];
        let allowed = memory_types & requirements.memory_type_bits;
        let kind = gpu
            .physical()
            .memory_type(allowed, &wishes)
            .ok_or(DeviceError::Unsupported { what: "import of host memory as coherent memory" })?;
        if requirements.size > span.len_bytes {
            return Err(DeviceError::Unsupported {
                what: "import of exactly the bytes of a buffer",
            });
        }
        gpu.count_allocation(span.len_bytes)?;
        let mut import = vk::ImportMemoryHostPointerInfoEXT::default()
            .handle_type(HANDLE)
            .host_pointer(start.cast());
        let mut flags = vk::MemoryAllocateFlagsInfo::default();
        if purpose == Purpose::Window {
            flags = flags.flags(vk::MemoryAllocateFlags::DEVICE_ADDRESS);
        }
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(span.len_bytes)
            .memory_type_index(kind)
            .push_next(&mut import)
            .push_next(&mut flags);
        // SAFETY: (1) the pointer and the length are aligned as the device demands, checked above, (2) the bytes stay mapped while the
        // import lives, which holds the view, (3) the extension is enabled, else `importable` failed.
        let memory = unsafe { gpu.raw().allocate_memory(&info, None) };
        let memory =
            gpu.done_for("vkAllocateMemory", span.len_bytes, memory).inspect_err(|_| {
                gpu.uncount_allocation();
            })?;
        // Relaxed: a plain count, nothing is published through it.
        pinned.fetch_add(span.len_bytes, Ordering::Relaxed);
        let (gpu, _host, pinned) = (Arc::clone(gpu), Arc::clone(host), Arc::clone(pinned));
        let import = Self { span, buffer: Some(buffer), memory, pinned, gpu, _host };
        if let Some(buffer) = &import.buffer {
            // SAFETY: the memory was just imported for this buffer: its type is among the allowed, it is as long, and bound once.
            unsafe { buffer.bind(memory, 0)? };
        }
        Ok(import)
    }

    /// The arena span.
    pub(crate) fn span(&self) -> HostSpan {
        self.span
    }

    /// The buffer over it.
    pub(crate) fn buffer(&self) -> vk::Buffer {
        self.buffer.as_ref().map_or(vk::Buffer::null(), Buffer::raw)
    }

    /// The device address of the first byte; for windows only.
    pub(crate) fn address(&self) -> u64 {
        self.buffer.as_ref().map_or(0, Buffer::address)
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        self.buffer = None;
        // SAFETY: allocated here, freed once, after its buffer; slots hold the import until their submission has ended. Freeing an import
        // leaves the host's bytes alone.
        unsafe { self.gpu.raw().free_memory(self.memory, None) };
        self.gpu.uncount_allocation();
        self.pinned.fetch_sub(self.span.len_bytes, Ordering::Relaxed);
    }
}

/// The memory types that a host pointer can be imported as.
fn importable(gpu: &Gpu, start: *mut c_void) -> Result<u32, DeviceError> {
    let Some(extension) = gpu.import() else {
        return Err(DeviceError::Unsupported { what: "VK_EXT_external_memory_host" });
    };
    let mut found = vk::MemoryHostPointerPropertiesEXT::default();
    let query = extension.fp().get_memory_host_pointer_properties_ext;
    // SAFETY: the extension is enabled, the device is live, and the pointer is that of a live mapping.
    let asked = unsafe { query(extension.device(), HANDLE, start, &raw mut found) };
    gpu.done("vkGetMemoryHostPointerPropertiesEXT", asked.result())?;
    Ok(found.memory_type_bits)
}
