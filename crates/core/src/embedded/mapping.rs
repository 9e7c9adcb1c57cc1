//! Private memory of a device that is software: an anonymous mapping.
#![allow(unsafe_code, reason = "maps memory and turns offsets into pointers")]

use std::{
    ops::Range,
    ptr::{self, NonNull},
};

use rustix::{
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags},
};

use crate::units::BLOCK_BYTES;

/// A readable and writable range of private memory, aligned to a block, unmapped when dropped. A page of it costs
/// memory once it is touched.
///
/// # Invariants
/// `base..base + len` is mapped readable and writable for the life of the value and is nobody else's mapping.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the value is an address range that stays mapped; it hands out raw pointers only, and whoever dereferences one
// proves the absence of races at that place.
unsafe impl Send for Mapping {}
// SAFETY: as for Send; no method mutates the value.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len_bytes`, above zero.
    ///
    /// # Errors
    /// What the system says; `ENOMEM` when the address space has no room.
    pub(crate) fn new(len_bytes: u64) -> Result<Self, Errno> {
        let len = usize::try_from(len_bytes).map_err(|_| Errno::NOMEM)?;
        let block = BLOCK_BYTES as usize;
        let asked = len.checked_add(block).ok_or(Errno::NOMEM)?;
        // SAFETY: no address is asked for, so no existing mapping is replaced.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                asked,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let start = start.cast::<u8>();
        let head = start.align_offset(block);
        let base = start.wrapping_add(head);
        unmap(start, head);
        unmap(base.wrapping_add(len), asked - len - head);
        let base = NonNull::new(base).ok_or(Errno::NOMEM)?;
        let mapping = Self { base, len };
        // Large pages make first touch cheaper; a system without them says no, and nothing depends on it.
        let _ = mapping.advise(0..len, Advice::LinuxHugepage);
        Ok(mapping)
    }

    /// The address of the first byte.
    pub(crate) fn address(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }

    /// The byte at `offset_bytes`. The pointer is good up to the end of the mapping while the mapping lives.
    ///
    /// # Panics
    /// In debug builds, when the offset lies outside of the mapping.
    pub(crate) fn pointer(&self, offset_bytes: u64) -> *mut u8 {
        debug_assert!(offset_bytes <= self.len as u64, "offset outside of the mapping");
        self.base.as_ptr().wrapping_add(offset_bytes as usize)
    }

    /// Gives the memory of a range back to the system; the range reads as zeros from then on. Nobody uses the range.
    ///
    /// # Errors
    /// What the system says; the memory is kept then.
    pub(crate) fn discard(&self, range: Range<u64>) -> Result<(), Errno> {
        debug_assert!(range.start <= range.end && range.end <= self.len as u64);
        self.advise(range.start as usize..range.end as usize, Advice::LinuxDontNeed)
    }

    fn advise(&self, range: Range<usize>, advice: Advice) -> Result<(), Errno> {
        let start = self.base.as_ptr().wrapping_add(range.start);
        // SAFETY: the range lies in our mapping by the invariant, and both advices used here leave it mapped.
        unsafe { rustix::mm::madvise(start.cast(), range.len(), advice) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        unmap(self.base.as_ptr(), self.len);
    }
}

/// Unmaps a part of our own mapping that nobody uses any more. Private to this file, whose callers pass nothing else.
fn unmap(start: *mut u8, len: usize) {
    if len == 0 {
        return;
    }
    // SAFETY: the callers pass (1) the trimmings of a mapping that they just made and (2) the whole of a mapping whose
    // owner is being dropped; everyone who uses a pointer into it holds the owner.
    let unmapped = unsafe { rustix::mm::munmap(start.cast(), len) };
    debug_assert!(unmapped.is_ok(), "munmap of our own mapping");
}
