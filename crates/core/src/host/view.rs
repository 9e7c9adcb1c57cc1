//! Mappings of the arena's files, and the service view: the library's own one.
#![allow(unsafe_code, reason = "maps memory and turns offsets into pointers")]

use std::{
    ffi::c_void,
    os::fd::BorrowedFd,
    ptr::{self, NonNull},
};

use rustix::{
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags},
};

use super::files::Files;
use crate::units::BLOCK_BYTES;

/// Bytes of the arena, by offset from its start. Both are multiples of the page size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct HostSpan {
    /// Where it begins, in bytes.
    pub offset_bytes: u64,
    /// How long it is, in bytes.
    pub len_bytes: u64,
}

impl HostSpan {
    /// One past the last byte.
    pub const fn end_bytes(self) -> u64 {
        self.offset_bytes + self.len_bytes
    }

    /// The part that begins `offset_bytes` into this span.
    pub const fn part(self, offset_bytes: u64, len_bytes: u64) -> Self {
        debug_assert!(offset_bytes + len_bytes <= self.len_bytes);
        Self { offset_bytes: self.offset_bytes + offset_bytes, len_bytes }
    }

    /// True when the two share a byte.
    pub const fn overlaps(self, other: Self) -> bool {
        self.offset_bytes < other.end_bytes() && other.offset_bytes < self.end_bytes()
    }
}

/// A shared, writable mapping of the arena's window, unmapped when dropped.
///
/// # Invariants
/// `base..base + len_bytes` is mapped for the life of the value and is nobody else's mapping.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len_bytes: u64,
}

// SAFETY: the value is an address range that stays mapped; it hands out raw pointers only, and whoever dereferences one proves
// the absence of races at that place.
unsafe impl Send for Mapping {}
// SAFETY: as for Send; no method mutates the value.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps files of ours, which are as long as the window and never shortened.
    pub(super) fn of(files: &Files) -> Result<Self, Errno> {
        let mapping = Self::reserve(files.len_bytes())?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        for (part, file) in files.parts() {
            mapping.place(part, file, rights, part.offset_bytes)?;
        }
        Ok(mapping)
    }

    /// Maps a file of ours, from `offset_bytes` on, over a span of this mapping. What was mapped there is not any more.
    pub(super) fn place(
        &self,
        span: HostSpan,
        file: BorrowedFd<'_>,
        rights: ProtFlags,
        offset_bytes: u64,
    ) -> Result<(), Errno> {
        if span.end_bytes() > self.len_bytes {
            return Err(Errno::INVAL);
        }
        let (start, len) = (self.pointer(span).cast(), span.len_bytes as usize);
        let flags = MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: (1) the span lies in our mapping, checked above, so nobody else's is replaced, and nobody uses that span now: it was just reserved, or dealt
        // out, or its vector is gone; (2) the file is as long as the span from there on and never shortened (the window's, or one whose size is
        // sealed), so no access can meet its end.
        unsafe {
            rustix::mm::mmap(start, len, rights, flags, file, offset_bytes)?;
            // A child process would share the pages without sharing the directory, so it does not get them.
            rustix::mm::madvise(start, len, Advice::LinuxDontFork)
        }
    }

    /// Addresses without memory, from a multiple of a block on: a huge page is mapped nowhere else.
    fn reserve(len_bytes: u64) -> Result<Self, Errno> {
        let block = BLOCK_BYTES as usize;
        let len = usize::try_from(len_bytes).map_err(|_| Errno::NOMEM)?;
        let more = len.checked_add(block).ok_or(Errno::NOMEM)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: no address is asked for, so no existing mapping is replaced.
        let start = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), more, ProtFlags::empty(), flags)?
        };
        let before = start.addr().next_multiple_of(block) - start.addr();
        let base = start.cast::<u8>().wrapping_add(before);
        // SAFETY: the ends of our own reservation, which nobody knows of.
        unsafe {
            if before > 0 {
                rustix::mm::munmap(start, before)?;
            }
            rustix::mm::munmap(base.wrapping_add(len).cast(), block - before)?;
        }
        let base = NonNull::new(base).ok_or(Errno::NOMEM)?;
        Ok(Self { base, len_bytes })
    }

    /// Where it begins.
    pub(super) fn address(&self) -> u64 {
        self.base.addr().get() as u64
    }

    /// The first byte of a span.
    ///
    /// # Panics
    /// In debug builds, when the span does not lie in the mapping.
    pub(super) fn pointer(&self, span: HostSpan) -> *mut u8 {
        debug_assert!(span.end_bytes() <= self.len_bytes, "span outside of the arena");
        self.base.as_ptr().wrapping_add(span.offset_bytes as usize)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is our mapping by the invariant, and nobody can hold a pointer into it any more that may be used:
        // everyone who uses one holds the view.
        let unmapped = unsafe {
            rustix::mm::munmap(self.base.as_ptr().cast::<c_void>(), self.len_bytes as usize)
        };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping");
    }
}

/// The library's own mapping of the whole arena: always mapped, used for copies and imports.
#[derive(Debug)]
pub struct ServiceView {
    mapping: Mapping,
    files: Files,
}

impl ServiceView {
    /// Maps the window.
    pub(super) fn map(files: Files) -> Result<Self, Errno> {
        Ok(Self { mapping: Mapping::of(&files)?, files })
    }

    /// How long the view is, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.mapping.len_bytes
    }

    /// The first byte of a span. The pointer is good for the span's length while the view lives.
    ///
    /// # Panics
    /// In debug builds, when the span does not lie in the view.
    pub fn pointer(&self, span: HostSpan) -> *mut u8 {
        self.mapping.pointer(span)
    }

    /// Maps a file over a span; see [`Mapping::place`].
    pub(super) fn place(
        &self,
        span: HostSpan,
        file: BorrowedFd<'_>,
        rights: ProtFlags,
        offset_bytes: u64,
    ) -> Result<(), Errno> {
        self.mapping.place(span, file, rights, offset_bytes)
    }

    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Makes sure that the file has pages under a span; new ones read as zeros.
    pub(super) fn populate(&self, span: HostSpan) -> Result<(), Errno> {
        // SAFETY: the span lies in our mapping; populating changes no byte.
        unsafe {
            rustix::mm::madvise(
                self.pointer(span).cast(),
                span.len_bytes as usize,
                Advice::LinuxPopulateWrite,
            )
        }
    }

    /// Overwrites a span with zeros. Nobody else touches it meanwhile.
    pub(super) fn fill_with_zeros(&self, span: HostSpan) {
        // SAFETY: the span lies in our mapping, which is writable; that nobody else touches it is the caller's promise, which the engine
        // keeps: no fence is pending on pages that are zeroed, and no slice of them is out.
        unsafe { self.pointer(span).write_bytes(0, span.len_bytes as usize) };
    }

    /// Copies a span out. Others may write it meanwhile, in other processes: what is read may be torn.
    pub(crate) fn copy_out(&self, span: HostSpan, bytes: &mut [u8]) {
        let (from, len) =
            (self.pointer(span).cast::<u64>(), span.len_bytes.min(bytes.len() as u64));
        let (words, _) = bytes[..len as usize].as_chunks_mut::<8>();
        for (i, word) in words.iter_mut().enumerate() {
            // SAFETY: inside of the span, which lies in our mapping and begins with a page; volatile, since others may write.
            *word = unsafe { from.wrapping_add(i).read_volatile() }.to_ne_bytes();
        }
    }

    /// Copies bytes into a span. Nobody of this process has a reference to them.
    pub(crate) fn copy_in(&self, span: HostSpan, bytes: &[u8]) {
        let (to, len) = (self.pointer(span).cast::<u64>(), span.len_bytes.min(bytes.len() as u64));
        let (words, _) = bytes[..len as usize].as_chunks::<8>();
        for (i, word) in words.iter().enumerate() {
            // SAFETY: as in `copy_out`; the caller says that there is no reference.
            unsafe { to.wrapping_add(i).write_volatile(u64::from_ne_bytes(*word)) };
        }
    }
}
