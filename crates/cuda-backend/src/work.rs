//! What goes into a stream: copies, fills, launches.
#![allow(unsafe_code, reason = "submits work on addresses")]

use std::{ffi::c_void, sync::Arc};

use cudarc::driver::sys;
use hmmap_core::{
    backend::{Across, Copy, DeviceError, Direction, LaunchWork, Zero},
    host::ServiceView,
    kernel::MAX_PARAM_BYTES,
};

use crate::{
    context::Current,
    driver::{CopyBatch, Raw},
    kernels::Ready,
    memory::DeviceMemory,
    slabs::parts,
    staging::Ring,
};

/// How copies reach the arena.
#[derive(Debug)]
pub(crate) enum Host {
    /// It is registered.
    Registered,
    /// By hand.
    Ring(Arc<Ring>),
}

/// A stream to submit to, and the memory that is named.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) current: &'a Current<'a>,
    pub(crate) stream: Raw,
    pub(crate) memory: &'a DeviceMemory,
}

/// `CU_MEMCPY_SRC_ACCESS_ORDER_STREAM`: what is read is read in the order of the stream.
const IN_STREAM_ORDER: sys::CUmemcpySrcAccessOrder =
    sys::CUmemcpySrcAccessOrder::CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;

impl Way<'_> {
    /// Copies from or to the arena; in one call where `batch` is the driver's function for that.
    pub(crate) fn copies(
        &self,
        copies: &[&Copy],
        arena: &Arc<ServiceView>,
        host: &Host,
        batch: Option<CopyBatch>,
    ) -> Result<(), DeviceError> {
        match (host, batch) {
            (Host::Registered, Some(batch)) if copies.len() > 1 => {
                self.in_one_call(copies, arena, batch)
            }
            _ => copies.iter().try_for_each(|copy| self.copy(copy, arena, host)),
        }
    }

    fn in_one_call(
        &self,
        copies: &[&Copy],
        arena: &Arc<ServiceView>,
        batch: CopyBatch,
    ) -> Result<(), DeviceError> {
        let (mut to, mut from, mut lens) = (Vec::new(), Vec::new(), Vec::new());
        for copy in copies {
            let span = copy.host;
            let device = self.memory.place(copy.memory, copy.offset_bytes, span.len_bytes)?;
            for part in parts(span) {
                let there = device + (part.offset_bytes - span.offset_bytes);
                let here = arena.pointer(part).expose_provenance() as u64;
                let (target, source) = match copy.direction {
                    Direction::HostToDevice => (there, here),
                    Direction::DeviceToHost => (here, there),
                };
                to.push(target);
                from.push(source);
                lens.push(part.len_bytes as usize);
            }
        }
        // Where each side is, addresses say; these are hints for memory that is managed.
        let nowhere = sys::CUmemLocation {
            type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_INVALID,
            id: 0,
        };
        let mut attributes = sys::CUmemcpyAttributes {
            srcAccessOrder: IN_STREAM_ORDER,
            srcLocHint: nowhere,
            dstLocHint: nowhere,
            flags: 0,
        };
        let (mut first, mut failed) = (0_usize, usize::MAX);
        let count = to.len();
        // SAFETY: (1) the context is current, the stream live and not the legacy one; (2) three lists of `count`, one attribute for all from the first on, and locals,
        // all of which the driver reads before the call returns; (3) the memory is as in `copy`, and the copies of a batch do not overlap: the contract of `Device`.
        let code = unsafe {
            batch(
                to.as_mut_ptr(),
                from.as_mut_ptr(),
                lens.as_mut_ptr(),
                count,
                &raw mut attributes,
                &raw mut first,
                1,
                &raw mut failed,
                self.stream,
            )
        };
        self.current.done("cuMemcpyBatchAsync", code)
    }

    /// A copy from or to the arena. No piece lies in two registrations.
    pub(crate) fn copy(
        &self,
        copy: &Copy,
        arena: &Arc<ServiceView>,
        host: &Host,
    ) -> Result<(), DeviceError> {
        let Copy { direction, host: span, .. } = *copy;
        let device = self.memory.place(copy.memory, copy.offset_bytes, span.len_bytes)?;
        if let Host::Ring(ring) = host {
            return ring.copy(self.current, self.stream, arena, (direction, span), device);
        }
        let api = self.current.api();
        for part in parts(span) {
            let at = device + (part.offset_bytes - span.offset_bytes);
            let (pointer, len) = (arena.pointer(part).cast::<c_void>(), part.len_bytes as usize);
            match direction {
                Direction::HostToDevice => {
                    // SAFETY: (1) the context is current, the stream live; (2) the part is mapped and registered until the work has ended, since the work keeps its
                    // slab; (3) the device's side is backed, and nobody else touches either side: the contract of `Device`.
                    let code = unsafe { (api.cuMemcpyHtoDAsync_v2)(at, pointer, len, self.stream) };
                    self.current.done("cuMemcpyHtoDAsync", code)?;
                }
                Direction::DeviceToHost => {
                    // SAFETY: as above.
                    let code = unsafe { (api.cuMemcpyDtoHAsync_v2)(pointer, at, len, self.stream) };
                    self.current.done("cuMemcpyDtoHAsync", code)?;
                }
            }
        }
        Ok(())
    }

    /// A fill with zeros.
    pub(crate) fn fill(&self, zero: &Zero) -> Result<(), DeviceError> {
        let at = self.memory.place(zero.memory, zero.offset_bytes, zero.len_bytes)?;
        let len = zero.len_bytes as usize;
        // SAFETY: the context is current, the stream live, the memory backed and nobody else's until the work has ended.
        let code = unsafe { (self.current.api().cuMemsetD8Async)(at, 0, len, self.stream) };
        self.current.done("cuMemsetD8Async", code)
    }

    /// A copy between two memories that the device reaches.
    pub(crate) fn across(&self, copy: &Across) -> Result<(), DeviceError> {
        let from = self.memory.place(copy.from, copy.from_bytes, copy.len_bytes)?;
        let to = self.memory.place(copy.to, copy.to_bytes, copy.len_bytes)?;
        let len = copy.len_bytes as usize;
        // SAFETY: as in `fill`, for both sides.
        let code = unsafe { (self.current.api().cuMemcpyDtoDAsync_v2)(to, from, len, self.stream) };
        self.current.done("cuMemcpyDtoDAsync", code)
    }
}

/// A launch.
pub(crate) fn launch(
    current: &Current<'_>,
    stream: Raw,
    ready: Ready,
    work: &LaunchWork<'_>,
) -> Result<(), DeviceError> {
    let too_long = DeviceError::Misuse { what: "a parameter block that is longer than any may be" };
    // As aligned as the entry declares it, with its padding.
    let mut block = [0_u64; MAX_PARAM_BYTES / 8];
    if work.params.len() > MAX_PARAM_BYTES || ready.param_bytes as usize > MAX_PARAM_BYTES {
        return Err(too_long);
    }
    for (word, bytes) in block.iter_mut().zip(work.params.chunks(8)) {
        let mut full = [0; 8];
        for (to, from) in full.iter_mut().zip(bytes) {
            *to = *from;
        }
        *word = u64::from_ne_bytes(full);
    }
    let mut params = [block.as_mut_ptr().cast::<c_void>()];
    let ([gx, gy, gz], [bx, by, bz]) = (work.groups, ready.workgroup);
    let extra = std::ptr::null_mut();
    // SAFETY: (1) the context is current, stream and function are live; (2) the function takes one block of `param_bytes`, which the driver copies before the call
    // returns; (3) what the kernel touches is the promise of `unsafe impl Kernel`, on memory that is backed: the contract of `Device`.
    let code = unsafe {
        let launch = current.api().cuLaunchKernel;
        launch(ready.function, gx, gy, gz, bx, by, bz, 0, stream, params.as_mut_ptr(), extra)
    };
    current.done("cuLaunchKernel", code)
}
