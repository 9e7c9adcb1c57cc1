//! Another process's mapping of a file, played in this one.
#![allow(unsafe_code, reason = "maps memory as another process would")]

use std::{
    fs::OpenOptions,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr,
};

use rustix::{
    io::Errno,
    mm::{MapFlags, ProtFlags},
};

/// A mapping of a whole file, which is kept until the process ends.
pub(crate) struct Stranger {
    base: *mut u32,
    words: usize,
}

// SAFETY: an address that is never unmapped; whoever uses it goes by volatile loads and stores, as another process would.
unsafe impl Send for Stranger {}
// SAFETY: as for Send.
unsafe impl Sync for Stranger {}

impl Stranger {
    pub(crate) fn map(fd: BorrowedFd<'_>, len_bytes: u64, writes: bool) -> Result<Self, Errno> {
        let rights = if writes { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: no address is asked for, so nothing is replaced.
        let base = unsafe {
            rustix::mm::mmap(ptr::null_mut(), len_bytes as usize, rights, MapFlags::SHARED, fd, 0)?
        };
        Ok(Self { base: base.cast(), words: len_bytes as usize / 4 })
    }

    /// Tries what a read-only descriptor does not keep anybody from: the file is opened again, for writing.
    pub(crate) fn reopen_for_writing(fd: BorrowedFd<'_>, len_bytes: u64) -> Result<Self, Errno> {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        Self::map(file.as_fd(), len_bytes, true)
    }

    #[allow(dead_code, reason = "for who writes all of it")]
    pub(crate) fn words(&self) -> usize {
        self.words
    }

    pub(crate) fn load(&self, at: usize) -> u32 {
        assert!(at < self.words);
        // SAFETY: inside of the mapping, checked, which is never unmapped; aligned, since the mapping is.
        unsafe { self.base.add(at).read_volatile() }
    }

    pub(crate) fn store(&self, at: usize, word: u32) {
        assert!(at < self.words);
        // SAFETY: as in `load`; a mapping for writing, else the caller dies, as a process would.
        unsafe { self.base.add(at).write_volatile(word) }
    }

    /// True when the kernel has an entry for a word's page in this mapping.
    pub(crate) fn has_entry(&self, at: usize) -> bool {
        use std::os::unix::fs::FileExt as _;
        let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
        let address = self.base.wrapping_add(at).addr() as u64;
        let mut entry = [0; 8];
        pagemap.read_exact_at(&mut entry, address / 4096 * 8).unwrap();
        u64::from_ne_bytes(entry) >> 63 == 1
    }
}
