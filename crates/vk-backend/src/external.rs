// long file: giving memory out and taking it in are the two sides of one contract; split when a third kind of handle comes
//! Memory that is given out to other devices, and memory of theirs that is taken in: owned handles.
//!
//! What a driver can do is said by the feature bits of the handle type for the kind of buffer in question, not by the name of an extension: lavapipe
//! has `VK_EXT_external_memory_dma_buf` and exports no dma-buf where the kernel has no udmabuf. What it says is tried when a device is opened
//! ([`crate::probe::external`]).
//!
//! Such memory is never bound into a sparse buffer: there are drivers that accept that and then map file descriptor 0.
#![allow(unsafe_code, reason = "gives memory out and takes memory in")]

use std::{
    collections::HashMap,
    os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd},
    ptr::NonNull,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use ash::vk;
use hmmap_core::{
    backend::{DeviceError, Exported, Handle, MappedMemory},
    p2p::{HandleKinds, Opaque},
};
use parking_lot::Mutex;

use crate::{
    buffer::{Buffer, USAGE},
    features::Features,
    gpu::Gpu,
    instance::Instance,
};

const OPAQUE: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::OPAQUE_FD;
const DMA_BUF: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::DMA_BUF_EXT;

/// What a driver says it can do with buffers like ours over external memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Support {
    pub(crate) exports: HandleKinds,
    pub(crate) imports: HandleKinds,
    /// Kinds whose memory has to be for one buffer alone, on both sides.
    dedicated: HandleKinds,
    /// Kinds that memory can be given out as besides being an opaque descriptor.
    beside_opaque: HandleKinds,
}

impl Support {
    /// Asks about the kinds that the enabled extensions have handles for.
    pub(crate) fn query(
        instance: &Instance,
        physical: vk::PhysicalDevice,
        features: Features,
    ) -> Self {
        use vk::ExternalMemoryFeatureFlags as Can;
        let mut support = Self::default();
        for (kind, flag) in [(HandleKinds::OPAQUE_FD, OPAQUE), (HandleKinds::DMA_BUF, DMA_BUF)] {
            if !has_extension(features, kind) {
                continue;
            }
            let info =
                vk::PhysicalDeviceExternalBufferInfo::default().usage(USAGE).handle_type(flag);
            let mut found = vk::ExternalBufferProperties::default();
            // SAFETY: the handle came from this live instance, which is of version 1.1 at least, since the extension needs it.
            unsafe {
                instance
                    .raw()
                    .get_physical_device_external_buffer_properties(physical, &info, &mut found);
            }
            let found = found.external_memory_properties;
            let can = |bit, kinds: HandleKinds| {
                let has = found.external_memory_features.contains(bit);
                if has { kinds.or(kind) } else { kinds }
            };
            support.exports = can(Can::EXPORTABLE, support.exports);
            support.imports = can(Can::IMPORTABLE, support.imports);
            support.dedicated = can(Can::DEDICATED_ONLY, support.dedicated);
            if found.compatible_handle_types.contains(OPAQUE | flag) {
                support.beside_opaque = support.beside_opaque.or(kind);
            }
        }
        support
    }

    /// What is left of it where only these features are enabled.
    pub(crate) fn with(self, features: Features) -> Self {
        let kept = [HandleKinds::OPAQUE_FD, HandleKinds::DMA_BUF];
        let kept = kept.into_iter().filter(|kind| has_extension(features, *kind));
        let kept = kept.fold(HandleKinds::NONE, HandleKinds::or);
        Self { exports: self.exports.and(kept), imports: self.imports.and(kept), ..self }
    }

    /// The kinds that one allocation can be given out as. Where it has to be one of the two, a dma-buf, if the driver takes those in as well: other
    /// drivers and other processes understand it too.
    pub(crate) fn of_one_allocation(self) -> HandleKinds {
        let both_ways = self.exports.and(self.imports);
        if both_ways.contains(HandleKinds::DMA_BUF)
            && !self.beside_opaque.contains(HandleKinds::DMA_BUF)
        {
            HandleKinds::DMA_BUF
        } else if self.exports.contains(HandleKinds::OPAQUE_FD) {
            HandleKinds::OPAQUE_FD.or(self.exports.and(self.beside_opaque))
        } else {
            self.exports
        }
    }

    fn is_dedicated(self, kinds: HandleKinds) -> bool {
        !self.dedicated.and(kinds).is_empty()
    }
}

fn has_extension(features: Features, kind: HandleKinds) -> bool {
    let needed = if kind == HandleKinds::DMA_BUF {
        Features::MEMORY_FD.with(Features::DMA_BUF)
    } else {
        Features::MEMORY_FD
    };
    features.contains(needed)
}

fn flags(kinds: HandleKinds) -> vk::ExternalMemoryHandleTypeFlags {
    let opaque = if kinds.contains(HandleKinds::OPAQUE_FD) { OPAQUE } else { Default::default() };
    let dma_buf = if kinds.contains(HandleKinds::DMA_BUF) { DMA_BUF } else { Default::default() };
    opaque | dma_buf
}

/// A buffer over memory that can be given out, not bound yet.
pub(crate) fn buffer(
    gpu: &Arc<Gpu>,
    len_bytes: u64,
    kinds: HandleKinds,
) -> Result<Buffer, DeviceError> {
    Buffer::external(gpu, len_bytes, USAGE, flags(kinds))
}

/// Memory that can be given out, freed when dropped. Whoever bound it drops the buffer first.
///
/// # Invariants
/// `start`, where there is one, is where the whole of the memory is mapped, for as long as the value lives.
#[derive(Debug)]
pub(crate) struct Exportable {
    raw: vk::DeviceMemory,
    start: Option<NonNull<u8>>,
    number: u64,
    kinds: HandleKinds,
    memory_type: u32,
    len_bytes: u64,
    gpu: Arc<Gpu>,
}

// SAFETY: the pointer is an address range that stays mapped; who may touch it is said by the methods that hand it out.
unsafe impl Send for Exportable {}
// SAFETY: as for Send.
unsafe impl Sync for Exportable {}

impl Exportable {
    /// Allocates for one buffer. `mapped` keeps the memory mapped, for drivers whose memory is the process's own.
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        buffer: &Buffer,
        kinds: HandleKinds,
        mapped: Mapping,
    ) -> Result<Self, DeviceError> {
        let requirements = buffer.requirements();
        let len_bytes = requirements.size;
        let local = vk::MemoryPropertyFlags::DEVICE_LOCAL;
        let wishes = [local, vk::MemoryPropertyFlags::empty()];
        let memory_type = gpu.physical().memory_type(requirements.memory_type_bits, &wishes);
        let memory_type = memory_type.ok_or(DeviceError::Unsupported {
            what: "a memory type for memory that is given out",
        })?;
        let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(flags(kinds));
        let raw = allocate(gpu, buffer, len_bytes, memory_type, kinds, |info| {
            info.push_next(&mut export)
        })?;
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // Relaxed: only that numbers differ matters.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let gpu = Arc::clone(gpu);
        let mut memory = Self { raw, start: None, number, kinds, memory_type, len_bytes, gpu };
        if mapped == Mapping::Kept {
            // SAFETY: host-visible memory of our own (all is, on the drivers that this is asked of), mapped once and whole.
            let start = unsafe {
                let flags = vk::MemoryMapFlags::empty();
                memory.gpu.raw().map_memory(memory.raw, 0, vk::WHOLE_SIZE, flags)
            };
            memory.start = NonNull::new(memory.gpu.done("vkMapMemory", start)?.cast());
        }
        Ok(memory)
    }

    /// The handle.
    pub(crate) fn raw(&self) -> vk::DeviceMemory {
        self.raw
    }

    /// There is, or can be, a dma-buf of it.
    pub(crate) fn is_dma_buf(&self) -> bool {
        self.kinds.contains(HandleKinds::DMA_BUF)
    }

    /// Where it is mapped.
    pub(crate) fn start(&self) -> Option<NonNull<u8>> {
        self.start
    }

    /// Gives it out in one of these ways, a dma-buf if there is the choice: that is the one that everybody understands.
    pub(crate) fn export(
        &self,
        kinds: HandleKinds,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<Exported, DeviceError> {
        let common = self.kinds.and(kinds);
        if common.is_empty() && kinds.contains(HandleKinds::MAPPED) {
            return self.export_mapped(offset_bytes, len_bytes);
        }
        let kind = [HandleKinds::DMA_BUF, HandleKinds::OPAQUE_FD]
            .into_iter()
            .find(|kind| common.contains(*kind))
            .ok_or(DeviceError::Unsupported { what: "a handle of a kind that was asked for" })?;
        let gpu = &self.gpu;
        let extension = gpu
            .memory_fd()
            .ok_or(DeviceError::Unsupported { what: "VK_KHR_external_memory_fd" })?;
        let info = vk::MemoryGetFdInfoKHR::default().memory(self.raw).handle_type(flags(kind));
        // SAFETY: the memory is live and was allocated to be given out in this way.
        let fd = unsafe { extension.get_memory_fd(&info) };
        let fd = gpu.done("vkGetMemoryFdKHR", fd)?;
        if fd < 0 {
            // Drivers exist that answer success without a descriptor.
            return Err(DeviceError::Unsupported { what: "a descriptor of exported memory" });
        }
        // SAFETY: the driver made this descriptor for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // Whoever starts another program does not hand memory to it.
        if let Err(error) = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC) {
            return Err(DeviceError::Driver { call: "fcntl", code: error.raw_os_error() });
        }
        Ok(Exported {
            handle: Handle::Fd(Arc::new(fd)),
            kind,
            driver: gpu.physical().driver_uuid,
            opaque: Opaque::SameDriver,
            device: gpu.physical().device_uuid,
            allocation: self.number,
            memory_type: self.memory_type,
            allocation_bytes: self.len_bytes,
            offset_bytes,
            len_bytes,
            is_alone: false,
        })
    }
}

impl Exportable {
    /// Gives out where it is mapped, where it is.
    fn export_mapped(&self, offset_bytes: u64, len_bytes: u64) -> Result<Exported, DeviceError> {
        let start =
            self.start.ok_or(DeviceError::Unsupported { what: "memory that is not mapped" })?;
        let address = start.as_ptr().expose_provenance() as u64;
        // SAFETY: by the invariants of this type the whole of it is mapped there for as long as it lives, which is longer than any reservation in it; the bytes are
        // reached by raw pointers alone.
        let mapped = unsafe { MappedMemory::new(address, self.len_bytes) };
        Ok(Exported {
            handle: Handle::InProcess(Arc::new(mapped)),
            kind: HandleKinds::MAPPED,
            driver: self.gpu.physical().driver_uuid,
            opaque: Opaque::SameDriver,
            device: self.gpu.physical().device_uuid,
            allocation: self.number,
            memory_type: self.memory_type,
            allocation_bytes: self.len_bytes,
            offset_bytes,
            len_bytes,
            is_alone: false,
        })
    }
}

impl Drop for Exportable {
    fn drop(&mut self) {
        // SAFETY: allocated here, freed once, after its buffer; freeing unmaps.
        unsafe { self.gpu.raw().free_memory(self.raw, None) };
        self.gpu.uncount_allocation();
    }
}

/// Whether memory stays mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mapping {
    /// It does.
    Kept,
    /// It is not mapped.
    None,
}

/// Another device's allocation as a buffer of this one; destroyed when dropped, after the work on it.
#[derive(Debug)]
pub(crate) struct Taken {
    buffer: Option<Buffer>,
    raw: vk::DeviceMemory,
    address: u64,
    gpu: Arc<Gpu>,
}

impl Taken {
    fn new(gpu: &Arc<Gpu>, exported: &Exported) -> Result<Self, DeviceError> {
        let foreign = |what| Err(DeviceError::Unsupported { what });
        let Handle::Fd(fd) = &exported.handle else {
            return foreign("a handle of another backend");
        };
        let physical = gpu.physical();
        if physical.external.imports.and(exported.kind).is_empty() {
            return foreign("a handle of this kind");
        }
        let is_own_driver = exported.driver == physical.driver_uuid;
        let is_understood = exported.device == physical.device_uuid
            && (is_own_driver || exported.opaque == Opaque::SameDevice);
        if exported.kind == HandleKinds::OPAQUE_FD && !is_understood {
            return foreign("an opaque descriptor of another driver or device");
        }
        let end = exported.offset_bytes.checked_add(exported.len_bytes);
        if end.is_none_or(|end| end > exported.allocation_bytes) {
            return Err(DeviceError::Misuse { what: "exported memory outside of its allocation" });
        }
        let len_bytes = exported.allocation_bytes;
        let buffer = buffer(gpu, len_bytes, exported.kind)?;
        let requirements = buffer.requirements();
        if requirements.size > len_bytes {
            return foreign("import of exactly the bytes of a buffer");
        }
        // The driver takes the descriptor when it takes the memory in, and only then.
        let own = rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3)
            .map_err(|error| DeviceError::Driver { call: "fcntl", code: error.raw_os_error() })?;
        // Asked here, because drivers exist that refuse what is too short and close the descriptor nevertheless.
        if exported.kind == HandleKinds::DMA_BUF {
            let size = rustix::fs::seek(&own, rustix::fs::SeekFrom::End(0));
            if size.is_ok_and(|size| size < len_bytes) {
                return Err(DeviceError::Misuse { what: "a dma-buf shorter than was said" });
            }
        }
        let memory_type = match exported.kind {
            HandleKinds::DMA_BUF => dma_buf_type(gpu, &own, requirements.memory_type_bits)?,
            // Another driver numbers no types of ours: its memory is the device's own.
            _ if !is_own_driver => {
                let wishes =
                    [vk::MemoryPropertyFlags::DEVICE_LOCAL, vk::MemoryPropertyFlags::empty()];
                let found = physical.memory_type(requirements.memory_type_bits, &wishes);
                found.ok_or(DeviceError::Unsupported { what: "a memory type for such memory" })?
            }
            _ if requirements.memory_type_bits & 1 << exported.memory_type != 0 => {
                exported.memory_type
            }
            _ => return foreign("memory of that type under a buffer"),
        };
        let raw_fd = own.into_raw_fd();
        let mut import =
            vk::ImportMemoryFdInfoKHR::default().handle_type(flags(exported.kind)).fd(raw_fd);
        let raw = allocate(gpu, &buffer, len_bytes, memory_type, exported.kind, |info| {
            info.push_next(&mut import)
        })
        .inspect_err(|_| close_refused(raw_fd, fd))?;
        let mut taken = Self { buffer: Some(buffer), raw, address: 0, gpu: Arc::clone(gpu) };
        if let Some(buffer) = &taken.buffer {
            // SAFETY: the memory was just taken in for this buffer: of an allowed type, as long, bound once, freed after it.
            unsafe { buffer.bind(raw, 0)? };
            taken.address = buffer.address();
        }
        Ok(taken)
    }

    /// The buffer over the whole allocation.
    pub(crate) fn buffer(&self) -> vk::Buffer {
        self.buffer.as_ref().map_or(vk::Buffer::null(), Buffer::raw)
    }

    /// The address of the allocation's first byte.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.buffer = None;
        // SAFETY: taken in here, freed once, after its buffer; work on it has ended, by the contract of `Device::release`.
        unsafe { self.gpu.raw().free_memory(self.raw, None) };
        self.gpu.uncount_allocation();
    }
}

/// What a device has taken in: an allocation that several reservations share once.
#[derive(Debug, Default)]
pub(crate) struct TakenIn(Mutex<HashMap<u64, Weak<Taken>>>);

impl TakenIn {
    pub(crate) fn get(
        &self,
        gpu: &Arc<Gpu>,
        exported: &Exported,
    ) -> Result<Arc<Taken>, DeviceError> {
        let mut known = self.0.lock();
        if let Some(taken) = known.get(&exported.allocation).and_then(Weak::upgrade) {
            return Ok(taken);
        }
        known.retain(|_, taken| taken.strong_count() > 0);
        let taken = Arc::new(Taken::new(gpu, exported)?);
        known.insert(exported.allocation, Arc::downgrade(&taken));
        Ok(taken)
    }
}

/// Closes the copy of a descriptor that a driver did not take. Drivers exist that close what they refuse (lavapipe, an opaque descriptor of somebody else's): then
/// there is nothing left to close, and the number may be somebody else's by now.
fn close_refused(copy: RawFd, original: &OwnedFd) {
    // SAFETY: looked at, and closed only if it still is the file that the driver did not take.
    let borrowed = unsafe { BorrowedFd::borrow_raw(copy) };
    let file = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|found| (found.st_dev, found.st_ino));
    if file(borrowed).is_ok_and(|found| file(original.as_fd()) == Ok(found)) {
        // SAFETY: the driver did not take it and it is open, so it is ours still.
        drop(unsafe { OwnedFd::from_raw_fd(copy) });
    }
}

/// A memory type that a dma-buf can be taken in as.
fn dma_buf_type(gpu: &Gpu, fd: &OwnedFd, allowed: u32) -> Result<u32, DeviceError> {
    use std::os::fd::AsRawFd as _;
    let extension =
        gpu.memory_fd().ok_or(DeviceError::Unsupported { what: "VK_KHR_external_memory_fd" })?;
    let mut found = vk::MemoryFdPropertiesKHR::default();
    // SAFETY: the descriptor is open, and the extension is enabled.
    let asked = unsafe { extension.get_memory_fd_properties(DMA_BUF, fd.as_raw_fd(), &mut found) };
    gpu.done("vkGetMemoryFdPropertiesKHR", asked)?;
    let wishes = [vk::MemoryPropertyFlags::DEVICE_LOCAL, vk::MemoryPropertyFlags::empty()];
    let kind = gpu.physical().memory_type(found.memory_type_bits & allowed, &wishes);
    kind.ok_or(DeviceError::Unsupported { what: "memory of that type under a buffer" })
}

/// Allocates memory that its kernels reach by address, with what `chain` adds.
fn allocate<'a>(
    gpu: &Gpu,
    buffer: &Buffer,
    len_bytes: u64,
    memory_type: u32,
    kinds: HandleKinds,
    chain: impl FnOnce(vk::MemoryAllocateInfo<'a>) -> vk::MemoryAllocateInfo<'a>,
) -> Result<vk::DeviceMemory, DeviceError> {
    let mut address =
        vk::MemoryAllocateFlagsInfo::default().flags(vk::MemoryAllocateFlags::DEVICE_ADDRESS);
    let mut only = vk::MemoryDedicatedAllocateInfo::default().buffer(buffer.raw());
    let info =
        vk::MemoryAllocateInfo::default().allocation_size(len_bytes).memory_type_index(memory_type);
    let mut info = chain(info).push_next(&mut address);
    if gpu.physical().external.is_dedicated(kinds) {
        info = info.push_next(&mut only);
    }
    gpu.alive()?;
    gpu.count_allocation(len_bytes)?;
    // SAFETY: everything that `info` points to outlives the call; type and length are the buffer's; the extensions are enabled.
    let made = unsafe { gpu.raw().allocate_memory(&info, None) };
    gpu.done_for("vkAllocateMemory", len_bytes, made).inspect_err(|_| gpu.uncount_allocation())
}
