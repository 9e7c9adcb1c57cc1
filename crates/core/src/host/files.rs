//! The files that the arena's window is made of, and how large their pages are.
//!
//! ```text
//! HostPages::Ordinary   |                ordinary file                  |
//! HostPages::Huge       | ordinary file |          file of huge pages   |
//! offset                0               a quarter                       end
//! ```
//!
//! Both are as long as the window and empty where the other one is mapped, so that an offset means the same in either.
//!
//! **Huge pages** are taken from a pool that an administrator fills. A touch that finds the pool empty ends with SIGBUS, so they are *reserved* before anybody
//! may touch them: the system keeps as many for the file as a shared mapping of the range was once made for. Reserved is not used: a page is
//! taken and zeroed by its first touch. A punch gives a page that was used back to the pool; what was reserved and never used stays
//! reserved until the file goes, and the next span at that place needs no more.
#![allow(unsafe_code, reason = "maps a file for a moment, to reserve its pages")]

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr,
};

use rustix::{
    fs::{FallocateFlags, MemfdFlags},
    io::Errno,
    mm::{MapFlags, ProtFlags},
};

use super::HostSpan;
use crate::units::BLOCK_BYTES;

/// What one entry of a mapping of an ordinary file covers, in bytes.
pub(super) const ENTRY_BYTES: u64 = 4096;

/// The files, open.
#[derive(Debug)]
pub(super) struct Files {
    len_bytes: u64,
    ordinary: OwnedFd,
    huge: Option<Huge>,
}

#[derive(Debug)]
struct Huge {
    file: OwnedFd,
    /// The offset from which on it is used, whole blocks.
    from_bytes: u64,
}

impl Files {
    /// Files for a window of `len_bytes`, of huge pages from `huge_from_bytes` on, which is whole blocks.
    ///
    /// # Errors
    /// What the system refused.
    pub(super) fn new(len_bytes: u64, huge_from_bytes: Option<u64>) -> Result<Self, Errno> {
        let file = |flags| -> Result<OwnedFd, Errno> {
            let file = rustix::fs::memfd_create("hmmap arena", MemfdFlags::CLOEXEC | flags)?;
            rustix::fs::ftruncate(&file, len_bytes)?;
            Ok(file)
        };
        let huge = match huge_from_bytes {
            Some(from_bytes) => {
                let file = file(MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)?;
                Some(Huge { file, from_bytes })
            }
            None => None,
        };
        Ok(Self { len_bytes, ordinary: file(MemfdFlags::empty())?, huge })
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Each file and the part of the window that it is, in order.
    pub(super) fn parts(&self) -> impl Iterator<Item = (HostSpan, BorrowedFd<'_>)> {
        let huge_from = self.huge_from_bytes().unwrap_or(self.len_bytes);
        let ordinary = HostSpan { offset_bytes: 0, len_bytes: huge_from };
        let behind = HostSpan { offset_bytes: huge_from, len_bytes: self.len_bytes - huge_from };
        let huge = self.huge.iter().map(move |huge| (behind, huge.file.as_fd()));
        std::iter::once((ordinary, self.ordinary.as_fd())).chain(huge)
    }

    /// The offset from which on the pages are huge.
    pub(super) fn huge_from_bytes(&self) -> Option<u64> {
        self.huge.as_ref().map(|huge| huge.from_bytes)
    }

    /// What one entry of a mapping covers at this offset, in bytes.
    pub(super) fn entry_bytes(&self, offset_bytes: u64) -> u64 {
        let huge = self.huge_from_bytes().is_some_and(|from| offset_bytes >= from);
        if huge { BLOCK_BYTES } else { ENTRY_BYTES }
    }

    /// The smallest span of whole entries that has this one in it. It does not reach from one file into the other.
    pub(super) fn whole_entries(&self, span: HostSpan) -> HostSpan {
        let entry = self.entry_bytes(span.offset_bytes);
        let offset_bytes = span.offset_bytes / entry * entry;
        let end = span.end_bytes().next_multiple_of(entry);
        HostSpan { offset_bytes, len_bytes: end - offset_bytes }
    }

    /// Makes sure that no touch of a span will find the system without a page for it. Costs nothing where pages are ordinary, of
    /// which the system has as many as it has memory.
    ///
    /// # Errors
    /// `ENOMEM` when the pool has too few.
    pub(super) fn reserve(&self, span: HostSpan) -> Result<(), Errno> {
        let HostSpan { offset_bytes, len_bytes } = self.whole_entries(span);
        let Some(huge) = self.huge.as_ref().filter(|huge| offset_bytes >= huge.from_bytes) else {
            return Ok(());
        };
        let len = usize::try_from(len_bytes).map_err(|_| Errno::NOMEM)?;
        // SAFETY: no address is asked for, so no existing mapping is replaced; nobody knows the address of this one, which is gone at once.
        unsafe {
            let file = huge.file.as_fd();
            let none = ProtFlags::empty();
            let at =
                rustix::mm::mmap(ptr::null_mut(), len, none, MapFlags::SHARED, file, offset_bytes)?;
            rustix::mm::munmap(at, len)
        }
    }

    /// Gives the pages of a span back to the system: they read as zeros from then on, and cost nothing. By offset in the window's own file: a span
    /// that has another has got this one back before.
    pub(super) fn punch(&self, span: HostSpan) -> Result<(), Errno> {
        let HostSpan { offset_bytes, len_bytes } = self.whole_entries(span);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(self.at(span), flags, offset_bytes, len_bytes)
    }

    /// The window's own file under a span.
    pub(super) fn at(&self, span: HostSpan) -> BorrowedFd<'_> {
        let huge = self.huge.as_ref().filter(|huge| span.offset_bytes >= huge.from_bytes);
        huge.map_or(&self.ordinary, |huge| &huge.file).as_fd()
    }
}
