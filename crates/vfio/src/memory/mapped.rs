//! A window's memory in this process's address space, and copies into and out of it.
#![allow(unsafe_code, reason = "mmap, and volatile access to a device's memory")]

use std::{
    hash::{BuildHasher as _, RandomState},
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::Ordering::SeqCst,
};

use hmmap_core::units::PAGE_BYTES;
use parking_lot::RwLock;
use rustix::{
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap},
};

use super::Piece;
use crate::claim::Owner;

/// What is written where memory is told from registers, and its complement.
const PATTERN: u64 = 0x5a17_c3e1_96f0_2d4b;

/// A window that is mapped to be read and written as memory. Unmapped when dropped; only then its owner lets it go.
///
/// # Invariants
/// `start..start + len_bytes` is mapped readable and writable for the life of the value, is nobody else's mapping, and no reference into it is ever made: devices
/// write it as they like.
#[derive(Debug)]
pub(crate) struct MappedWindow {
    start: NonNull<u8>,
    len_bytes: u64,
    /// Whether it is the device's yet. Held by who copies; who makes it somebody else's waits for them.
    is_here: RwLock<bool>,
    /// What the guard says, where it was put.
    guard: u64,
    _owner: Owner,
}

// SAFETY: the mapping belongs to the value and is reached by volatile access alone, which any thread may make.
unsafe impl Send for MappedWindow {}
// SAFETY: as above; no method makes a reference into it.
unsafe impl Sync for MappedWindow {}

impl MappedWindow {
    /// Maps `len_bytes` of a file of the kernel's, or of a double, from `offset` on.
    pub(crate) fn map(
        fd: BorrowedFd<'_>,
        offset: u64,
        len_bytes: u64,
        owner: Owner,
    ) -> Result<Self, Errno> {
        let len = usize::try_from(len_bytes).map_err(|_| Errno::NOMEM)?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing of ours is replaced.
        let start =
            unsafe { mmap(std::ptr::null_mut(), len, rights, MapFlags::SHARED, fd, offset) }?;
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        let guard = RandomState::new().hash_one(len_bytes) | 1;
        Ok(Self { start, len_bytes, is_here: RwLock::new(true), guard, _owner: owner })
    }

    /// How much of it is for pages: the rest is the guard's.
    pub(crate) fn pages_bytes(&self) -> u64 {
        self.len_bytes.saturating_sub(PAGE_BYTES)
    }

    /// Writes the guard, behind the pages: a word that is gone when the device was reset, or is not there any more, and its memory with it.
    pub(crate) fn put_guard(&self) {
        // SAFETY: by `word`, inside of our mapping and aligned.
        unsafe { self.word(self.guard_at()).write_volatile(self.guard) };
    }

    /// True when the window is the device's, and its memory kept what was written since [`Self::put_guard`].
    pub(crate) fn is_kept(&self) -> bool {
        *self.is_here.read() && self.guard_stands()
    }

    fn guard_stands(&self) -> bool {
        // SAFETY: as above.
        (unsafe { self.word(self.guard_at()).read_volatile() }) == self.guard
    }

    fn guard_at(&self) -> u64 {
        (self.len_bytes - 8) & !7
    }

    /// Leaves the device's window: other memory, of zeros, takes its place, so that the kernel can have the device back. What was in the window is lost.
    pub(crate) fn leave(&self) {
        let mut is_here = self.is_here.write();
        if !std::mem::replace(&mut *is_here, false) {
            return;
        }
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        let (start, len) = (self.start.as_ptr().cast(), self.len_bytes as usize);
        // SAFETY: exactly our own mapping is replaced, which by the invariants nobody has a reference into; it stays readable and writable.
        let replaced = unsafe { mmap_anonymous(start, len, rights, flags) };
        if let Err(error) = replaced {
            tracing::error!(%error, "a window could not be left, and the kernel waits for it");
        }
    }

    /// Where it begins in this process.
    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    /// True when its first and its last word keep what is written: registers seldom do. They are as they were afterwards.
    pub(crate) fn keeps_what_is_written(&self) -> bool {
        let last = (self.len_bytes - 8) & !7;
        [0, last].into_iter().all(|at| {
            let word = self.word(at);
            // SAFETY: by `word`, inside of our mapping and aligned.
            let before = unsafe { word.read_volatile() };
            let keeps = [PATTERN, !PATTERN].into_iter().all(|value| {
                // SAFETY: as above.
                unsafe { word.write_volatile(value) };
                // SAFETY: as above.
                unsafe { word.read_volatile() == value }
            });
            // SAFETY: as above.
            unsafe { word.write_volatile(before) };
            keeps
        })
    }

    /// Copies host memory into pieces of the window, one after the other. False when the window is not what it was: lost, with all that is in it.
    ///
    /// # Safety
    /// `from` is readable for as many bytes as the pieces have, is aligned to words, and nobody writes it meanwhile.
    pub(crate) unsafe fn copy_in(&self, from: *const u8, pieces: &[Piece]) -> bool {
        let is_here = self.is_here.read();
        let mut from = from.cast::<u64>();
        for at in self.words(pieces) {
            // SAFETY: `from` stays in the caller's bytes, a word for each word of the pieces; the other side is a word of our mapping.
            unsafe {
                self.word(at).write_volatile(from.read());
                from = from.add(1);
            }
        }
        self.settle(pieces);
        *is_here && self.guard_stands()
    }

    /// Copies pieces of the window to host memory. False when the window is not what it was, and so neither are the bytes.
    ///
    /// # Safety
    /// `to` is writable for as many bytes as the pieces have, is aligned to words, and nobody uses it meanwhile.
    pub(crate) unsafe fn copy_out(&self, to: *mut u8, pieces: &[Piece]) -> bool {
        let is_here = self.is_here.read();
        let mut to = to.cast::<u64>();
        for at in self.words(pieces) {
            // SAFETY: as for `copy_in`, the other way round.
            unsafe {
                to.write(self.word(at).read_volatile());
                to = to.add(1);
            }
        }
        *is_here && self.guard_stands()
    }

    /// Fills pieces of the window with zeros. False as for copies.
    pub(crate) fn zero(&self, pieces: &[Piece]) -> bool {
        let is_here = self.is_here.read();
        for at in self.words(pieces) {
            // SAFETY: by `word`, inside of our mapping and aligned.
            unsafe { self.word(at).write_volatile(0) };
        }
        self.settle(pieces);
        *is_here && self.guard_stands()
    }

    /// Writes to a bus are posted: they have arrived when a read behind them comes back.
    fn settle(&self, pieces: &[Piece]) {
        std::sync::atomic::fence(SeqCst);
        if let Some(last) = self.words(pieces).last() {
            // SAFETY: by `word`, inside of our mapping and aligned.
            let _ = unsafe { self.word(last).read_volatile() };
        }
    }

    /// Where the words of pieces are; those that are not whole and inside are left out.
    fn words(&self, pieces: &[Piece]) -> impl DoubleEndedIterator<Item = u64> {
        let inside = self.len_bytes & !7;
        let pieces = pieces.iter().copied();
        pieces.flat_map(move |Piece { at_bytes, len_bytes }| {
            debug_assert!(at_bytes.is_multiple_of(8) && len_bytes.is_multiple_of(8));
            let end = at_bytes.saturating_add(len_bytes).min(inside);
            (at_bytes / 8..end / 8).map(|word| word * 8)
        })
    }

    fn word(&self, at: u64) -> *mut u64 {
        debug_assert!(
            at.is_multiple_of(8) && at + 8 <= self.len_bytes,
            "a word outside of the window"
        );
        self.start.as_ptr().wrapping_add(at as usize).cast()
    }
}

impl Drop for MappedWindow {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, as long as it was made; whoever has a pointer into it holds the value.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len_bytes as usize) };
        debug_assert!(unmapped.is_ok());
    }
}
