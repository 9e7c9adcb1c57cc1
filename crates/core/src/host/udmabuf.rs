//! A shareable vector's file as a dma-buf, through the kernel's udmabuf device.
//!
//! **Problem.** Drivers take memory in as dma-buf descriptors. Host memory becomes one where the kernel has `/dev/udmabuf` (CONFIG_UDMABUF; often a group's, `kvm`
//! say). Its pages are pinned by the kernel for as long as any copy of the descriptor lives, and it is never told to let go: whoever has it reads and writes for
//! good. So it is made for a vector that is lent, and pins it ([`crate::Lent::dma_buf`]).
//!
//! The kernel wants a memfd whose size cannot shrink and that is not sealed against writing; a hole punched into it afterwards would leave the
//! dma-buf with pages that are nobody's any more, silently.
#![allow(unsafe_code, reason = "one ioctl")]

use std::{
    ffi::c_void,
    fs::{File, OpenOptions},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    io::Errno,
    ioctl::{Ioctl, IoctlOutput, Opcode, opcode},
};

use super::ShareFault;

/// The kernel's device.
const DEVICE: &str = "/dev/udmabuf";

/// `UDMABUF_FLAGS_CLOEXEC`.
const CLOEXEC: u32 = 1;

/// `struct udmabuf_create` of linux/udmabuf.h.
#[derive(Debug)]
#[repr(C)]
struct Create {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

// SAFETY: (1) the opcode is UDMABUF_CREATE, `_IOW('u', 0x42, struct udmabuf_create)`, and `Create` has that structure's fields in its order; (2) the kernel
// only reads it; (3) what a call that succeeded returns is a new descriptor, which nobody else owns.
unsafe impl Ioctl for Create {
    type Output = OwnedFd;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::write::<Self>(b'u', 0x42)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<OwnedFd> {
        // SAFETY: by (3); the caller vouches that this is what the call returned.
        Ok(unsafe { OwnedFd::from_raw_fd(out) })
    }
}

/// Whether host memory can be given out as a dma-buf here.
///
/// # Errors
/// [`ShareFault::NoUdmabuf`] with what opening the kernel's device answered.
pub fn udmabuf() -> Result<(), ShareFault> {
    open(Path::new(DEVICE)).map(drop)
}

fn open(device: &Path) -> Result<File, ShareFault> {
    OpenOptions::new().read(true).write(true).open(device).map_err(|error| {
        ShareFault::NoUdmabuf(Errno::from_io_error(&error).unwrap_or(Errno::NODEV))
    })
}

/// The first `len_bytes` of a memfd as a dma-buf, close-on-exec.
pub(crate) fn create(memfd: BorrowedFd<'_>, len_bytes: u64) -> Result<OwnedFd, ShareFault> {
    create_by(Path::new(DEVICE), memfd, len_bytes)
}

fn create_by(device: &Path, memfd: BorrowedFd<'_>, len_bytes: u64) -> Result<OwnedFd, ShareFault> {
    let device = open(device)?;
    let memfd = memfd.as_raw_fd() as u32;
    let create = Create { memfd, flags: CLOEXEC, offset: 0, size: len_bytes };
    // SAFETY: `Create` is what UDMABUF_CREATE takes. Another device than udmabuf refuses the number with ENOTTY: type 'u' 0x42 is its own.
    unsafe { rustix::ioctl::ioctl(&device, create) }.map_err(ShareFault::Refused)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::host::MemoryFile;

    #[test]
    fn the_request_is_the_kernels() {
        // `_IOW('u', 0x42, 24 bytes)`, worked out by hand.
        let create = Create { memfd: 0, flags: 0, offset: 0, size: 0 };
        assert_eq!(create.opcode(), 0x4018_7542);
    }

    #[test]
    fn what_is_not_there_is_told_from_what_refuses() {
        let file = MemoryFile::new(1).unwrap();
        let memory = file.share(crate::host::Sharing::Write).unwrap();
        let absent = create_by(Path::new("/nonexistent"), memory.fd, memory.len_bytes);
        assert_eq!(absent.unwrap_err(), ShareFault::NoUdmabuf(Errno::NOENT));
        let other = create_by(Path::new("/dev/null"), memory.fd, memory.len_bytes);
        assert_eq!(other.unwrap_err(), ShareFault::Refused(Errno::NOTTY));
    }

    /// Where the kernel has it: a dma-buf over a memfd, and the refusals that the module's rules rest on.
    #[test]
    fn the_kernels_device_keeps_the_rules() {
        if let Err(fault) = udmabuf() {
            println!("HMMAP-SKIP: {fault}");
            return;
        }
        let file = MemoryFile::new(1).unwrap();
        let memory = file.share(crate::host::Sharing::Write).unwrap();
        let made = create(memory.fd, memory.len_bytes).unwrap();
        let size = rustix::fs::seek(&made, rustix::fs::SeekFrom::End(0)).unwrap();
        assert_eq!(size, memory.len_bytes);
        let flags = rustix::io::fcntl_getfd(&made).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let read = MemoryFile::new(1).unwrap();
        let read = read.share(crate::host::Sharing::Read).unwrap();
        let refused = create(read.fd, read.len_bytes).unwrap_err();
        assert_eq!(refused, ShareFault::Refused(Errno::INVAL));
        let none = create(made.as_fd(), memory.len_bytes).unwrap_err();
        assert!(matches!(none, ShareFault::Refused(_)));
    }
}
