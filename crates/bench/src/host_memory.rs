//! Bare mappings, as the library's own memory is mapped: what the system alone takes for memory that comes and goes.

use std::{
    os::fd::{AsFd, OwnedFd},
    ptr::{self, NonNull},
};

use rustix::{
    fs::{FallocateFlags, MemfdFlags},
    mm::{MapFlags, ProtFlags},
};

use crate::BenchError;

/// Mapped memory, all of it ours alone.
///
/// # Invariants
/// `base..base + len` is mapped readable and writable for the life of the value, by this value only, and a memfd behind it is as long.
/// Whoever maps the memfd [`again`](Mapping::again) makes no reference to it there.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    memfd: Option<OwnedFd>,
}

impl Mapping {
    /// Anonymous memory.
    pub(crate) fn private(bytes: u64) -> Result<Self, BenchError> {
        let refused = |source| BenchError::Memory { bytes, source };
        let len = usize::try_from(bytes).map_err(|_| refused(rustix::io::Errno::NOMEM))?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no address is asked for, so no mapping is replaced.
        let base = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), len, protection, MapFlags::PRIVATE)
        };
        Self::new(base.map_err(refused)?, len, None).ok_or(refused(rustix::io::Errno::NOMEM))
    }

    /// A memfd, mapped shared.
    pub(crate) fn shared(bytes: u64) -> Result<Self, BenchError> {
        let refused = |source| BenchError::Memory { bytes, source };
        let len = usize::try_from(bytes).map_err(|_| refused(rustix::io::Errno::NOMEM))?;
        let memfd =
            rustix::fs::memfd_create("hmmap bench", MemfdFlags::CLOEXEC).map_err(refused)?;
        rustix::fs::ftruncate(&memfd, bytes).map_err(refused)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: (1) no address is asked for, so no mapping is replaced, (2) the memfd is ours, as long as the mapping, and never
        // shortened.
        let base = unsafe {
            rustix::mm::mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, memfd.as_fd(), 0)
        };
        Self::new(base.map_err(refused)?, len, Some(memfd)).ok_or(refused(rustix::io::Errno::NOMEM))
    }

    fn new(base: *mut std::ffi::c_void, len: usize, memfd: Option<OwnedFd>) -> Option<Self> {
        Some(Self { base: NonNull::new(base.cast())?, len, memfd })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped and readable by the invariant; written through `&mut self` only.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped and writable by the invariant; `&mut self` is the only way to it.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }

    /// A shared mapping's memory, mapped a second time. It stays mapped until the caller unmaps it.
    pub(crate) fn again(&self) -> Result<NonNull<u8>, BenchError> {
        let refused = |source| BenchError::Memory { bytes: self.len as u64, source };
        let memfd = self.memfd.as_ref().ok_or(refused(rustix::io::Errno::INVAL))?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no address is asked for, so no mapping is replaced; the memfd is as long as the mapping.
        let base = unsafe {
            rustix::mm::mmap(ptr::null_mut(), self.len, protection, MapFlags::SHARED, memfd, 0)
        };
        NonNull::new(base.map_err(refused)?.cast()).ok_or(refused(rustix::io::Errno::NOMEM))
    }

    /// Maps the memfd of a shared mapping anew, has somebody read it, and unmaps it: what a first reader pays.
    pub(crate) fn read_again(&self, read: impl FnOnce(&[u32]) -> u64) -> Result<u64, BenchError> {
        let base = self.again()?;
        // SAFETY: mapped readable for `len` bytes; written through `&mut self` only, which is borrowed.
        let bytes = unsafe { std::slice::from_raw_parts(base.as_ptr(), self.len) };
        let found = read(bytemuck::cast_slice(bytes));
        // SAFETY: the mapping that was made above; nobody has a reference to it any more.
        let unmapped = unsafe { rustix::mm::munmap(base.as_ptr().cast(), self.len) };
        unmapped.map_err(|source| BenchError::Memory { bytes: self.len as u64, source })?;
        Ok(found)
    }

    /// Gives the pages of a shared mapping back to the system.
    pub(crate) fn punch(&mut self) -> Result<(), BenchError> {
        let Some(memfd) = &self.memfd else { return Ok(()) };
        let (bytes, flags) =
            (self.len as u64, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE);
        rustix::fs::fallocate(memfd, flags, 0, bytes)
            .map_err(|source| BenchError::Memory { bytes, source })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping by the invariant; slices of it borrowed the value.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn punched_memory_reads_as_zeros() {
        let mut mapping = Mapping::shared(1 << 16).unwrap();
        mapping.bytes_mut().fill(9);
        mapping.punch().unwrap();
        assert!(mapping.bytes().iter().all(|byte| *byte == 0));
        assert!(Mapping::private(1 << 12).unwrap().bytes().iter().all(|byte| *byte == 0));
    }
}
