//! Memory that goes out to other devices, and memory of theirs that comes in.
//!
//! Two kinds of opaque descriptor come in. One of CUDA memory is a handle to be mapped like one's own. One of Vulkan memory of the same physical device, which
//! its identifier tells, is external memory: imported and mapped whole, and the driver takes the descriptor with it.
#![allow(unsafe_code, reason = "takes memory of other drivers in")]

use std::{
    os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cudarc::driver::sys;
use hmmap_core::{
    backend::{DeviceError, Exported, Handle},
    p2p::{HandleKinds, Opaque},
    units::BLOCK_BYTES,
};

use super::{
    LIMIT_BYTES,
    handle::{Addresses, Physical},
    map_whole,
};
use crate::{
    context::{Context, Current},
    driver::{Address, Raw},
};

/// What stands for "a CUDA driver" where Vulkan has an identifier of its driver.
pub(crate) const CUDA_DRIVER: [u8; 16] = *b"CUDA VMM handle\0";

const NOT_OURS: DeviceError =
    DeviceError::Unsupported { what: "memory of a driver or a device that is not this one" };

/// The number of the next allocation, of this process.
pub(crate) fn next_allocation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // The other drivers' allocations are numbered from the other end of the numbers.
    u64::MAX - NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Who the device is for others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    /// The physical device's identifier.
    pub(crate) device: [u8; 16],
}

/// Another device's memory, mapped.
#[derive(Debug)]
pub(crate) enum ImportedMemory {
    /// Of a CUDA device.
    Handle { addresses: Addresses, physical: Physical, offset_bytes: u64 },
    /// Of another driver.
    External(External),
}

/// External memory, mapped whole; given back when dropped.
#[derive(Debug)]
pub(crate) struct External {
    raw: Raw,
    start: Address,
    offset_bytes: u64,
    context: Arc<Context>,
}

impl Identity {
    /// Gives memory out: `place` is where in it, how long, and the allocation's number.
    pub(crate) fn export(
        &self,
        current: &Current<'_>,
        (addresses, physical): (&Addresses, &Physical),
        kinds: HandleKinds,
        (offset_bytes, len_bytes, allocation): (u64, u64, u64),
    ) -> Result<Exported, DeviceError> {
        let whole = physical.len_bytes();
        let (fd, kind) = if kinds.contains(HandleKinds::OPAQUE_FD) {
            (physical.export(current)?, HandleKinds::OPAQUE_FD)
        } else if kinds.contains(HandleKinds::DMA_BUF) {
            (addresses.dma_buf(current, 0, whole)?, HandleKinds::DMA_BUF)
        } else {
            return Err(DeviceError::Unsupported { what: "a way to give memory out in common" });
        };
        Ok(Exported {
            handle: Handle::Fd(Arc::new(fd)),
            kind,
            driver: CUDA_DRIVER,
            opaque: Opaque::SameDevice,
            device: self.device,
            allocation,
            memory_type: 0,
            allocation_bytes: whole,
            offset_bytes,
            len_bytes,
            is_alone: false,
        })
    }

    /// Takes memory in.
    pub(crate) fn import(
        &self,
        context: &Arc<Context>,
        exported: &Exported,
    ) -> Result<ImportedMemory, DeviceError> {
        let Handle::Fd(fd) = &exported.handle else { return Err(NOT_OURS) };
        if exported.kind != HandleKinds::OPAQUE_FD {
            return Err(NOT_OURS);
        }
        let current = context.enter()?;
        if exported.driver == CUDA_DRIVER {
            let len_bytes = exported.allocation_bytes;
            let physical = Physical::import(context, &current, fd.as_raw_fd(), len_bytes)?;
            let rounded = len_bytes.next_multiple_of(BLOCK_BYTES);
            let addresses = Addresses::reserve(context, &current, rounded, LIMIT_BYTES)?;
            map_whole(&addresses, &current, &physical)?;
            let offset_bytes = exported.offset_bytes;
            return Ok(ImportedMemory::Handle { addresses, physical, offset_bytes });
        }
        if exported.device != self.device {
            return Err(NOT_OURS);
        }
        let own = fd.try_clone().map_err(|error| DeviceError::Driver {
            call: "dup",
            code: error.raw_os_error().unwrap_or(0),
        })?;
        External::new(context, &current, own, exported).map(ImportedMemory::External)
    }
}

impl ImportedMemory {
    /// The device address of the reservation's byte 0.
    pub(crate) fn start(&self) -> Address {
        match self {
            Self::Handle { addresses, offset_bytes, .. } => addresses.start() + offset_bytes,
            Self::External(external) => external.start + external.offset_bytes,
        }
    }
}

impl Drop for ImportedMemory {
    fn drop(&mut self) {
        let Self::Handle { addresses, physical, .. } = self else { return };
        if let Ok(current) = addresses.context().enter_anyway() {
            // An error leaves it mapped; the driver frees it with the context.
            let _ = addresses.unmap(&current, 0, physical.len_bytes());
        }
    }
}

impl External {
    fn new(
        context: &Arc<Context>,
        current: &Current<'_>,
        fd: OwnedFd,
        exported: &Exported,
    ) -> Result<Self, DeviceError> {
        let mut description = sys::CUDA_EXTERNAL_MEMORY_HANDLE_DESC {
            type_: sys::CUexternalMemoryHandleType::CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD,
            handle: sys::CUDA_EXTERNAL_MEMORY_HANDLE_DESC_st__bindgen_ty_1 {
                nvSciBufObject: std::ptr::null(),
            },
            size: exported.allocation_bytes,
            flags: 0,
            reserved: [0; 16],
        };
        description.handle.fd = fd.as_raw_fd();
        let mut raw = 0;
        // SAFETY: the context is current, both pointers are to locals, the descriptor is open and of this size.
        let code =
            unsafe { (current.api().cuImportExternalMemory)(&raw mut raw, &raw const description) };
        current.done("cuImportExternalMemory", code)?;
        // A successful import takes the descriptor, a failed one does not.
        let _taken = fd.into_raw_fd();
        let buffer = sys::CUDA_EXTERNAL_MEMORY_BUFFER_DESC {
            offset: 0,
            size: exported.allocation_bytes,
            flags: 0,
            reserved: [0; 16],
        };
        let mut start = 0;
        // SAFETY: the context is current, both pointers are to locals, the memory was just imported and is as long.
        let code = unsafe {
            (current.api().cuExternalMemoryGetMappedBuffer)(&raw mut start, raw, &raw const buffer)
        };
        if let Err(error) = current.done("cuExternalMemoryGetMappedBuffer", code) {
            // SAFETY: imported above, destroyed once.
            let code = unsafe { (current.api().cuDestroyExternalMemory)(raw) };
            current.given("cuDestroyExternalMemory", code);
            return Err(error);
        }
        let (offset_bytes, context) = (exported.offset_bytes, Arc::clone(context));
        Ok(Self { raw, start, offset_bytes, context })
    }
}

impl Drop for External {
    fn drop(&mut self) {
        let Ok(current) = self.context.enter_anyway() else { return };
        // SAFETY: mapped once and freed once, as the driver asks of such a mapping; work on it has ended.
        current.given("cuMemFree", unsafe { (current.api().cuMemFree_v2)(self.start) });
        // SAFETY: imported once, destroyed once, after its mapping.
        let code = unsafe { (current.api().cuDestroyExternalMemory)(self.raw) };
        current.given("cuDestroyExternalMemory", code);
    }
}
