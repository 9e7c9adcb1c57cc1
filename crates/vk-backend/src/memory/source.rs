//! Where device memory comes from: gpu-allocator over the driver, one driver allocation per request.
//!
//! Requests are chunks of megabytes; what is smaller is dealt out of chunks by this crate. So every allocation is one that
//! gpu-allocator gives back to the driver as soon as it is freed.
#![allow(unsafe_code, reason = "hands memory to the driver's bind calls and punches holes into it")]

use std::{
    fmt,
    ops::Range,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ash::vk;
use gpu_allocator::{
    AllocationError, AllocationSizes, AllocatorDebugSettings, MemoryLocation,
    vulkan::{Allocation, AllocationCreateDesc, AllocationScheme, Allocator, AllocatorCreateDesc},
};
use hmmap_core::{
    backend::{DeviceError, Exported},
    p2p::HandleKinds,
};
use parking_lot::Mutex;
use rustix::mm::Advice;

use crate::{
    buffer::{Buffer, USAGE},
    external::{self, Exportable, Mapping},
    gpu::Gpu,
};

/// gpu-allocator keeps the last of the blocks that it deals out in parts; requests above this size get blocks of their own.
const SHARED_BLOCK_BYTES: u64 = 4 << 20;

/// The allocator, and the device that it allocates from.
pub(crate) struct MemorySource {
    allocator: Mutex<Option<Allocator>>,
    /// Set when giving memory out was tried and worked.
    shares: AtomicBool,
    gpu: Arc<Gpu>,
}

/// Device memory, freed when dropped. Whoever bound it somewhere drops that first.
pub(crate) struct Memory {
    held: Held,
    len_bytes: u64,
    source: Arc<MemorySource>,
}

/// Whose allocation it is.
enum Held {
    /// gpu-allocator's; nothing once it is freed.
    Pooled(Option<Allocation>),
    /// One that can be given out, which frees itself.
    Exportable(Exportable),
}

/// Whether memory is to be given out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sharing {
    /// It is, whether that was proved or not.
    Asked,
    /// Where that was proved.
    WhereProved,
}

impl MemorySource {
    pub(crate) fn new(gpu: &Arc<Gpu>) -> Result<Self, DeviceError> {
        let allocator = Allocator::new(&AllocatorCreateDesc {
            instance: gpu.instance().raw().clone(),
            device: gpu.raw().clone(),
            physical_device: gpu.physical().handle,
            debug_settings: AllocatorDebugSettings::default(),
            buffer_device_address: true,
            allocation_sizes: AllocationSizes::new(SHARED_BLOCK_BYTES, SHARED_BLOCK_BYTES),
        });
        let allocator = allocator.map_err(|_| DeviceError::Driver {
            call: "vkGetPhysicalDeviceMemoryProperties",
            code: 0,
        })?;
        let shares = AtomicBool::new(false);
        Ok(Self { allocator: Mutex::new(Some(allocator)), shares, gpu: Arc::clone(gpu) })
    }

    /// Allocates device memory; more than 4 MiB.
    pub(crate) fn allocate(
        self: &Arc<Self>,
        requirements: vk::MemoryRequirements,
    ) -> Result<Memory, DeviceError> {
        debug_assert!(requirements.size > SHARED_BLOCK_BYTES, "a chunk, not a part of one");
        let asked_bytes = requirements.size;
        let limit_bytes = self.gpu.physical().limits.allocation_bytes;
        if asked_bytes > limit_bytes {
            return Err(DeviceError::OutOfAddresses { asked_bytes, limit_bytes });
        }
        self.gpu.alive()?;
        self.gpu.count_allocation(asked_bytes)?;
        let mut allocator = self.allocator.lock();
        let description = AllocationCreateDesc {
            name: "hmmap",
            requirements,
            location: MemoryLocation::GpuOnly,
            linear: true,
            allocation_scheme: AllocationScheme::GpuAllocatorManaged,
        };
        let allocated = allocator.as_mut().map(|allocator| allocator.allocate(&description));
        match allocated {
            Some(Ok(allocation)) => {
                let source = Arc::clone(self);
                let held = Held::Pooled(Some(allocation));
                Ok(Memory { held, len_bytes: asked_bytes, source })
            }
            Some(Err(AllocationError::OutOfMemory)) => {
                self.gpu.uncount_allocation();
                Err(DeviceError::OutOfMemory { asked_bytes })
            }
            // gpu-allocator tells other results of the driver as text only.
            Some(Err(_)) | None => {
                self.gpu.uncount_allocation();
                Err(DeviceError::Driver { call: "vkAllocateMemory", code: 0 })
            }
        }
    }

    /// From now on plain buffers get memory that can be given out.
    pub(super) fn share(&self) {
        self.shares.store(true, Ordering::Release);
    }

    /// A buffer, and memory for it. `sharing` decides whether it can be given out.
    pub(super) fn plain(
        self: &Arc<Self>,
        len_bytes: u64,
        sharing: Sharing,
    ) -> Result<(Buffer, Memory), DeviceError> {
        let shares = sharing == Sharing::Asked || self.shares.load(Ordering::Acquire);
        if !shares {
            let buffer = Buffer::plain(&self.gpu, len_bytes, USAGE)?;
            let memory = self.allocate(buffer.requirements())?;
            return Ok((buffer, memory));
        }
        let kinds = self.gpu.physical().external.of_one_allocation();
        let buffer = external::buffer(&self.gpu, len_bytes, kinds)?;
        let mapping = if self.is_lazy() { Mapping::Kept } else { Mapping::None };
        let exportable = Exportable::new(&self.gpu, &buffer, kinds, mapping)?;
        let (held, source) = (Held::Exportable(exportable), Arc::clone(self));
        Ok((buffer, Memory { held, len_bytes, source }))
    }

    /// True when memory that nobody touched costs nothing and can be emptied in place: the driver's memory is the process's.
    pub(crate) fn is_lazy(&self) -> bool {
        self.gpu.physical().is_llvmpipe()
    }
}

impl Memory {
    /// The handle and the offset to bind at.
    pub(crate) fn place(&self) -> (vk::DeviceMemory, u64) {
        match &self.held {
            Held::Pooled(None) => (vk::DeviceMemory::null(), 0),
            // SAFETY: the handle is used for bind calls only, and whoever binds drops the buffer before the memory.
            Held::Pooled(Some(allocation)) => (unsafe { allocation.memory() }, allocation.offset()),
            Held::Exportable(exportable) => (exportable.raw(), 0),
        }
    }

    /// Gives a range of it out.
    pub(super) fn export(
        &self,
        kinds: HandleKinds,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<Exported, DeviceError> {
        match &self.held {
            Held::Exportable(exportable) => exportable.export(kinds, offset_bytes, len_bytes),
            Held::Pooled(_) => Err(DeviceError::Unsupported {
                what: "giving out memory that was not allocated for it",
            }),
        }
    }

    /// Where it is mapped.
    fn start(&self) -> Option<NonNull<u8>> {
        match &self.held {
            Held::Pooled(allocation) => {
                allocation.as_ref().and_then(Allocation::mapped_ptr).map(NonNull::cast)
            }
            Held::Exportable(exportable) => exportable.start(),
        }
    }

    /// Gives the pages of a range back to the system where the driver would keep them; the range then reads as zeros.
    /// Nobody uses the range. Elsewhere it does nothing, nor where there is a dma-buf of the memory: that has the pages that there were when it was made, so in the
    /// place of a page that is given back kernels would see another one than whoever takes it in.
    pub(crate) fn empty(&self, range: Range<u64>) {
        let is_dma_buf = match &self.held {
            Held::Pooled(_) => false,
            Held::Exportable(exportable) => exportable.is_dma_buf(),
        };
        if !is_dma_buf {
            self.give_back(range);
        }
    }

    fn give_back(&self, range: Range<u64>) {
        if !self.source.is_lazy() || range.end > self.len_bytes {
            return;
        }
        let Some(start) = self.start() else { return };
        // Whole pages inside of the range.
        let (base, page) = (start.as_ptr().addr() as u64, rustix::param::page_size() as u64);
        let first = (base + range.start).next_multiple_of(page) - base;
        let end = (base + range.end) / page * page - base;
        let Some(len) = end.checked_sub(first).filter(|len| *len > 0) else { return };
        let start = start.as_ptr().wrapping_add(first as usize).cast();
        let advise = |advice| {
            // SAFETY: (1) the pages lie in this allocation, which stays mapped for its whole life, (2) nobody uses
            // them now, (3) both advices only drop contents, which are unspecified from here on.
            unsafe { rustix::mm::madvise(start, len as usize, advice) }
        };
        // Newer versions map a file of their own, older ones take anonymous memory.
        let given = advise(Advice::LinuxRemove).or_else(|_| advise(Advice::LinuxDontNeed));
        if let Err(error) = given {
            tracing::warn!(%error, ?range, "could not give device pages back to the system");
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // lavapipe keeps the pages of freed memory for ever. Whoever has a dma-buf of it keeps what is in there.
        self.give_back(0..self.len_bytes);
        let Held::Pooled(allocation) = &mut self.held else { return };
        let Some(allocation) = allocation.take() else { return };
        if let Some(allocator) = self.source.allocator.lock().as_mut()
            && let Err(error) = allocator.free(allocation)
        {
            tracing::error!(%error, "could not free device memory");
        }
        self.source.gpu.uncount_allocation();
    }
}

impl Drop for MemorySource {
    fn drop(&mut self) {
        // Before the device goes: the allocator frees what it kept.
        *self.allocator.get_mut() = None;
    }
}

impl fmt::Debug for MemorySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySource").finish_non_exhaustive()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("len_bytes", &self.len_bytes).finish_non_exhaustive()
    }
}
