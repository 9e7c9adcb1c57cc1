//! A device's registers in this process's address space.
#![allow(unsafe_code, reason = "mmap, and volatile access to registers")]

use std::{os::fd::BorrowedFd, ptr::NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::claim::Claim;

/// No register is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{at:#x} is no aligned register of {width_bytes} bytes in a window of {len_bytes} bytes")]
pub struct RegisterFault {
    /// What was asked for.
    pub at: u64,
    /// How wide.
    pub width_bytes: u64,
    /// How long the window is.
    pub len_bytes: u64,
}

/// The window of one base address register, mapped to be read and written a register at a time. Unmapped when dropped.
#[derive(Debug)]
pub struct RegisterWindow {
    start: NonNull<u8>,
    len_bytes: u64,
    /// Nobody uses the window as memory meanwhile. The double of the tests has none.
    _claim: Option<Claim>,
}

// SAFETY: the mapping belongs to the value and is reached by volatile access alone, which any thread may make; what registers do in which order is the driver's.
unsafe impl Send for RegisterWindow {}
// SAFETY: as above: no reference into it is ever made.
unsafe impl Sync for RegisterWindow {}

impl RegisterWindow {
    pub(crate) fn map(
        fd: BorrowedFd<'_>,
        offset: u64,
        len_bytes: u64,
        claim: Option<Claim>,
    ) -> rustix::io::Result<Self> {
        let len = usize::try_from(len_bytes).map_err(|_| rustix::io::Errno::NOMEM)?;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing of ours is replaced.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                offset,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { start, len_bytes, _claim: claim })
    }

    /// How long it is, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Reads a register of 32 bits.
    ///
    /// # Errors
    /// [`RegisterFault`].
    pub fn read_u32(&self, at: u64) -> Result<u32, RegisterFault> {
        let register = self.register::<u32>(at)?;
        // SAFETY: by `register`, inside of our mapping and aligned; bytes that hardware may change are read once.
        Ok(unsafe { register.read_volatile() })
    }

    /// Writes a register of 32 bits.
    ///
    /// # Errors
    /// [`RegisterFault`].
    pub fn write_u32(&self, at: u64, value: u32) -> Result<(), RegisterFault> {
        let register = self.register::<u32>(at)?;
        // SAFETY: by `register`, inside of our mapping and aligned; no reference to it exists. What the device does then reaches what its domain maps.
        unsafe { register.write_volatile(value) };
        Ok(())
    }

    /// Writes a register of 64 bits.
    ///
    /// # Errors
    /// [`RegisterFault`].
    pub fn write_u64(&self, at: u64, value: u64) -> Result<(), RegisterFault> {
        let register = self.register::<u64>(at)?;
        // SAFETY: as for 32 bits.
        unsafe { register.write_volatile(value) };
        Ok(())
    }

    fn register<R>(&self, at: u64) -> Result<*mut R, RegisterFault> {
        let width_bytes = size_of::<R>() as u64;
        let is_inside = at.checked_add(width_bytes).is_some_and(|end| end <= self.len_bytes);
        if !is_inside || !at.is_multiple_of(width_bytes) {
            return Err(RegisterFault { at, width_bytes, len_bytes: self.len_bytes });
        }
        // SAFETY: `at` and the register's width are inside of the mapping, which is as long as `len_bytes` says.
        Ok(unsafe { self.start.as_ptr().add(at as usize) }.cast())
    }
}

impl Drop for RegisterWindow {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, as long as it was made, and nobody has a pointer into it any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len_bytes as usize) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn registers_are_aligned_and_inside() {
        let file = rustix::fs::memfd_create("window", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 0x1000).unwrap();
        let window = RegisterWindow::map(file.as_fd(), 0, 0x1000, None).unwrap();
        window.write_u64(0xff8, 0x0102_0304_0506_0708).unwrap();
        assert_eq!(window.read_u32(0xffc), Ok(0x0102_0304));
        window.write_u32(0, 7).unwrap();
        assert_eq!(window.read_u32(0), Ok(7));
        for at in [0x1000, 0xffe, 2, u64::MAX] {
            assert!(window.read_u32(at).is_err(), "{at:#x}");
            assert!(window.write_u32(at, 0).is_err(), "{at:#x}");
        }
        assert!(window.write_u64(0xffc, 0).is_err());
    }
}
