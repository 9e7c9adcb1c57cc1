//! Physical memory and address ranges: owned handles.
#![allow(unsafe_code, reason = "owns device memory and device addresses")]

use std::{
    os::fd::{FromRawFd as _, OwnedFd},
    sync::Arc,
};

use cudarc::driver::sys;
use hmmap_core::backend::DeviceError;

use crate::{
    context::{Context, Current},
    driver::{Address, Raw},
};

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`.
const POSIX_FD: u32 = 1;
/// `CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD`.
const DMA_BUF_FD: u32 = 1;
/// How often setting access is tried: concurrent work may make the driver say that it is not ready.
const MOST_TRIES: u32 = 64;

/// Whether memory can be given out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sharing {
    /// Only this context uses it.
    No,
    /// It can be given out by descriptor.
    Fd,
}

/// Physical memory, given back when dropped; while it is mapped it lives on.
#[derive(Debug)]
pub(crate) struct Physical {
    raw: Raw,
    len_bytes: u64,
    context: Arc<Context>,
}

/// What memory is asked for.
pub(crate) fn properties(device: i32, sharing: Sharing) -> sys::CUmemAllocationProp {
    sys::CUmemAllocationProp {
        type_: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes: match sharing {
            Sharing::No => sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE,
            Sharing::Fd => sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
        },
        location: location(device),
        win32HandleMetaData: std::ptr::null_mut(),
        allocFlags: sys::CUmemAllocationProp_st__bindgen_ty_1 {
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        },
    }
}

fn location(device: i32) -> sys::CUmemLocation {
    sys::CUmemLocation { type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: device }
}

impl Physical {
    /// New memory of a multiple of the granularity.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    pub(crate) fn new(
        context: &Arc<Context>,
        current: &Current<'_>,
        len_bytes: u64,
        sharing: Sharing,
    ) -> Result<Self, DeviceError> {
        let mut raw = 0;
        let asked = properties(context.device(), sharing);
        // SAFETY: the context is current, both pointers are to locals.
        let code = unsafe {
            (current.api().cuMemCreate)(&raw mut raw, len_bytes as usize, &raw const asked, 0)
        };
        current.done_for("cuMemCreate", len_bytes, code)?;
        Ok(Self { raw, len_bytes, context: Arc::clone(context) })
    }

    /// Memory that another device of this driver gave out; the descriptor stays the caller's.
    pub(crate) fn import(
        context: &Arc<Context>,
        current: &Current<'_>,
        fd: i32,
        len_bytes: u64,
    ) -> Result<Self, DeviceError> {
        let mut raw = 0;
        let shared = std::ptr::without_provenance_mut(fd as usize);
        // SAFETY: the context is current; for this kind of handle the pointer's value is the descriptor.
        let code = unsafe {
            (current.api().cuMemImportFromShareableHandle)(&raw mut raw, shared, POSIX_FD)
        };
        current.done("cuMemImportFromShareableHandle", code)?;
        Ok(Self { raw, len_bytes, context: Arc::clone(context) })
    }

    /// A descriptor of it, closed on exec.
    pub(crate) fn export(&self, current: &Current<'_>) -> Result<OwnedFd, DeviceError> {
        let mut fd = -1_i32;
        // SAFETY: the context is current; for this kind of handle the pointer is to an int, and this is one.
        let code = unsafe {
            (current.api().cuMemExportToShareableHandle)(
                (&raw mut fd).cast(),
                self.raw,
                POSIX_FD,
                0,
            )
        };
        current.done("cuMemExportToShareableHandle", code)?;
        owned("cuMemExportToShareableHandle", fd)
    }

    /// How long it is.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
}

/// A descriptor that the driver made, closed on exec from now on.
fn owned(call: &'static str, fd: i32) -> Result<OwnedFd, DeviceError> {
    if fd < 0 {
        return Err(DeviceError::Driver { call, code: fd });
    }
    // SAFETY: the driver answered success and so handed a new descriptor over.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let set = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC);
    set.map_err(|error| DeviceError::Driver { call: "fcntl", code: error.raw_os_error() })?;
    Ok(fd)
}

impl Drop for Physical {
    fn drop(&mut self) {
        if let Ok(current) = self.context.enter_anyway() {
            // SAFETY: made here, released once.
            current.given("cuMemRelease", unsafe { (current.api().cuMemRelease)(self.raw) });
        }
    }
}

/// Device addresses, given back when dropped. Nothing is mapped there then.
#[derive(Debug)]
pub(crate) struct Addresses {
    start: Address,
    len_bytes: u64,
    context: Arc<Context>,
}

impl Addresses {
    /// Reserves a multiple of the granularity.
    ///
    /// # Errors
    /// [`DeviceError::OutOfAddresses`].
    pub(crate) fn reserve(
        context: &Arc<Context>,
        current: &Current<'_>,
        len_bytes: u64,
        limit_bytes: u64,
    ) -> Result<Self, DeviceError> {
        let too_long = DeviceError::OutOfAddresses { asked_bytes: len_bytes, limit_bytes };
        if len_bytes > limit_bytes {
            return Err(too_long);
        }
        let mut start = 0;
        // SAFETY: the context is current, the pointer is to a local; alignment and address are left to the driver.
        let code = unsafe {
            (current.api().cuMemAddressReserve)(&raw mut start, len_bytes as usize, 0, 0, 0)
        };
        match current.done_for("cuMemAddressReserve", len_bytes, code) {
            Ok(()) => Ok(Self { start, len_bytes, context: Arc::clone(context) }),
            Err(DeviceError::OutOfMemory { .. }) => Err(too_long),
            Err(error) => Err(error),
        }
    }

    /// The context that they are of.
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The first address.
    pub(crate) fn start(&self) -> Address {
        self.start
    }

    /// Puts memory, whole, under the addresses from an offset on. It has no access yet.
    pub(crate) fn map(
        &self,
        current: &Current<'_>,
        offset_bytes: u64,
        physical: &Physical,
    ) -> Result<(), DeviceError> {
        let (at, len) = (self.start + offset_bytes, physical.len_bytes as usize);
        // SAFETY: the context is current; the range lies in this reservation and nothing is mapped there: the callers' lists.
        let code = unsafe { (current.api().cuMemMap)(at, len, 0, physical.raw, 0) };
        current.done_for("cuMemMap", physical.len_bytes, code)
    }

    /// Lets the device read and write a range that is mapped without a gap.
    pub(crate) fn allow(
        &self,
        current: &Current<'_>,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<(), DeviceError> {
        let description = sys::CUmemAccessDesc {
            location: location(self.context.device()),
            flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        let (at, len) = (self.start + offset_bytes, len_bytes as usize);
        for _ in 0..MOST_TRIES {
            // SAFETY: the context is current, the pointer is to a local, the range is mapped.
            let code =
                unsafe { (current.api().cuMemSetAccess)(at, len, &raw const description, 1) };
            if current.answered("cuMemSetAccess", code)? {
                return Ok(());
            }
            std::thread::yield_now();
        }
        Err(DeviceError::Driver { call: "cuMemSetAccess", code: 600 })
    }

    /// Takes the memory from under one mapping.
    pub(crate) fn unmap(
        &self,
        current: &Current<'_>,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<(), DeviceError> {
        let (at, len) = (self.start + offset_bytes, len_bytes as usize);
        // SAFETY: the context is current; the range is one mapping, and all work on it has ended: the contract of `Device`.
        let code = unsafe { (current.api().cuMemUnmap)(at, len) };
        current.done("cuMemUnmap", code)
    }

    /// A dma-buf of a range that is mapped; a new one for each new mapping.
    pub(crate) fn dma_buf(
        &self,
        current: &Current<'_>,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<OwnedFd, DeviceError> {
        let what = "cuMemGetHandleForAddressRange";
        let ask = current.api().cuMemGetHandleForAddressRange;
        let ask = ask.ok_or(DeviceError::Unsupported { what })?;
        let mut fd = -1_i32;
        let (at, len) = (self.start + offset_bytes, len_bytes as usize);
        // SAFETY: the context is current; for this kind of handle the pointer is to an int, and this is one; the range is mapped.
        let code = unsafe { ask((&raw mut fd).cast(), at, len, DMA_BUF_FD, 0) };
        current.done(what, code)?;
        owned(what, fd)
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        if let Ok(current) = self.context.enter_anyway() {
            // SAFETY: reserved here, freed once; nothing is mapped there any more.
            let code =
                unsafe { (current.api().cuMemAddressFree)(self.start, self.len_bytes as usize) };
            current.given("cuMemAddressFree", code);
        }
    }
}
