//! A buffer in host-visible memory, mapped for good: the staging ring.
//!
//! Its memory need not be coherent. Then writes of the CPU are flushed before the device reads, and the CPU's caches forget the range
//! before it reads what the device wrote, both in whole atoms of the device's own size.
#![allow(unsafe_code, reason = "maps memory and copies bytes into it")]

use std::{ops::Range, ptr::NonNull, sync::Arc};

use ash::vk;
use hmmap_core::backend::DeviceError;

use crate::{buffer::Buffer, gpu::Gpu};

/// A mapped buffer.
///
/// # Invariants
/// `start..start + len_bytes` is mapped readable and writable for the life of the value.
#[derive(Debug)]
pub(crate) struct Mapped {
    buffer: Option<Buffer>,
    memory: vk::DeviceMemory,
    start: NonNull<u8>,
    len_bytes: u64,
    coherent: bool,
    gpu: Arc<Gpu>,
}

// SAFETY: the value is an address range that stays mapped; methods that touch it say who else may.
unsafe impl Send for Mapped {}
// SAFETY: as for Send.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Makes one of `len_bytes`; preferably in memory that the CPU caches, coherent if there is a choice.
    pub(crate) fn new(gpu: &Arc<Gpu>, len_bytes: u64) -> Result<Self, DeviceError> {
        use vk::MemoryPropertyFlags as Flag;
        let usage = vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST;
        let buffer = Buffer::plain(gpu, len_bytes, usage)?;
        let requirements = buffer.requirements();
        let visible = Flag::HOST_VISIBLE;
        let wishes = [
            visible | Flag::HOST_CACHED | Flag::HOST_COHERENT,
            visible | Flag::HOST_CACHED,
            visible | Flag::HOST_COHERENT,
        ];
        let kind = gpu
            .physical()
            .memory_type(requirements.memory_type_bits, &wishes)
            .ok_or(DeviceError::Unsupported { what: "memory that the CPU can see" })?;
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(requirements.size)
            .memory_type_index(kind);
        gpu.count_allocation(len_bytes)?;
        // SAFETY: the device is live and the type is one of its own.
        let memory = unsafe { gpu.raw().allocate_memory(&info, None) };
        let memory = gpu
            .done_for("vkAllocateMemory", len_bytes, memory)
            .inspect_err(|_| gpu.uncount_allocation())?;
        let coherent = gpu.physical().memory_flags(kind).contains(Flag::HOST_COHERENT);
        let mut mapped = Self {
            buffer: Some(buffer),
            memory,
            start: NonNull::dangling(),
            len_bytes: 0,
            coherent,
            gpu: Arc::clone(gpu),
        };
        if let Some(buffer) = &mapped.buffer {
            // SAFETY: the memory was allocated for this buffer, is bound once, and goes after it.
            unsafe { buffer.bind(memory, 0)? };
        }
        // SAFETY: host-visible, ours, and mapped once.
        let start =
            unsafe { gpu.raw().map_memory(memory, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty()) };
        let start = gpu.done_for("vkMapMemory", len_bytes, start)?;
        let nowhere = DeviceError::Driver { call: "vkMapMemory", code: 0 };
        (mapped.start, mapped.len_bytes) = (NonNull::new(start.cast()).ok_or(nowhere)?, len_bytes);
        Ok(mapped)
    }

    /// The buffer.
    pub(crate) fn buffer(&self) -> vk::Buffer {
        self.buffer.as_ref().map_or(vk::Buffer::null(), Buffer::raw)
    }

    /// Copies host bytes in.
    ///
    /// # Safety
    /// `from..from + len_bytes` is readable and nobody writes it; nobody else, the device included, uses the range of the buffer.
    pub(crate) unsafe fn put(&self, offset_bytes: u64, from: *const u8, len_bytes: u64) {
        if !self.holds(offset_bytes, len_bytes) {
            return;
        }
        // SAFETY: (1) both ranges are valid, by the contract and by `holds`, (2) they do not overlap, since this mapping is nobody else's.
        unsafe {
            let to = self.start.as_ptr().add(offset_bytes as usize);
            std::ptr::copy_nonoverlapping(from, to, len_bytes as usize);
        }
    }

    /// Copies host bytes out.
    ///
    /// # Safety
    /// `to..to + len_bytes` is writable and nobody else uses it; nobody, the device included, writes the range of the buffer.
    pub(crate) unsafe fn get(&self, offset_bytes: u64, to: *mut u8, len_bytes: u64) {
        if !self.holds(offset_bytes, len_bytes) {
            return;
        }
        // SAFETY: as in `put`.
        unsafe {
            let from = self.start.as_ptr().add(offset_bytes as usize);
            std::ptr::copy_nonoverlapping(from, to, len_bytes as usize);
        }
    }

    fn holds(&self, offset_bytes: u64, len_bytes: u64) -> bool {
        let inside = offset_bytes.checked_add(len_bytes).is_some_and(|end| end <= self.len_bytes);
        debug_assert!(inside, "a range outside of the buffer");
        inside
    }

    /// The CPU's writes to a range leave its caches.
    pub(crate) fn flush(&self, range: Range<u64>) -> Result<(), DeviceError> {
        let Some(range) = self.atoms(range) else { return Ok(()) };
        // SAFETY: the memory is mapped, and the range is in whole atoms or ends with the memory.
        let flushed = unsafe { self.gpu.raw().flush_mapped_memory_ranges(&[range]) };
        self.gpu.done("vkFlushMappedMemoryRanges", flushed)
    }

    /// The CPU's caches forget a range.
    pub(crate) fn invalidate(&self, range: Range<u64>) -> Result<(), DeviceError> {
        let Some(range) = self.atoms(range) else { return Ok(()) };
        // SAFETY: as in `flush`.
        let forgotten = unsafe { self.gpu.raw().invalidate_mapped_memory_ranges(&[range]) };
        self.gpu.done("vkInvalidateMappedMemoryRanges", forgotten)
    }

    /// A range as the driver wants it; `None` where the memory is coherent.
    fn atoms(&self, range: Range<u64>) -> Option<vk::MappedMemoryRange<'static>> {
        if self.coherent {
            return None;
        }
        let whole = atoms(range, self.gpu.physical().limits.atom_bytes);
        // The allocation may end in the middle of an atom.
        let size =
            if whole.end >= self.len_bytes { vk::WHOLE_SIZE } else { whole.end - whole.start };
        Some(vk::MappedMemoryRange::default().memory(self.memory).offset(whole.start).size(size))
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.buffer = None;
        // SAFETY: allocated here, freed once (which unmaps it), after its buffer; whoever submits work on it waits for its end.
        unsafe { self.gpu.raw().free_memory(self.memory, None) };
        self.gpu.uncount_allocation();
    }
}

/// The smallest range of whole atoms around a range.
fn atoms(range: Range<u64>, atom_bytes: u64) -> Range<u64> {
    let atom = atom_bytes.max(1);
    range.start / atom * atom..range.end.div_ceil(atom) * atom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow_to_whole_atoms() {
        assert_eq!(atoms(0..1, 64), 0..64);
        assert_eq!(atoms(63..65, 64), 0..128);
        assert_eq!(atoms(128..256, 64), 128..256);
        assert_eq!(atoms(5..7, 1), 5..7);
    }
}
