//! Another driver, whose fences a test ends when it likes: the kernel's vgem.
#![allow(unsafe_code, reason = "ioctl")]

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{FromRawFd, OwnedFd},
};

use rustix::{
    io::Errno,
    ioctl::{Opcode, Setter, Updater, ioctl, opcode},
};

#[derive(Default)]
#[repr(C)]
struct Dumb {
    height: u32,
    width: u32,
    bits: u32,
    flags: u32,
    handle: u32,
    pitch: u32,
    size: u64,
}

#[repr(C)]
struct Prime {
    handle: u32,
    flags: u32,
    fd: i32,
}

#[repr(C)]
struct Attach {
    handle: u32,
    flags: u32,
    fence: u32,
    pad: u32,
}

#[repr(C)]
struct Signal {
    fence: u32,
    flags: u32,
}

const DUMB: Opcode = opcode::read_write::<Dumb>(b'd', 0xb2);
const PRIME: Opcode = opcode::read_write::<Prime>(b'd', 0x2d);
const ATTACH: Opcode = opcode::read_write::<Attach>(b'd', 0x41);
const SIGNAL: Opcode = opcode::write::<Signal>(b'd', 0x42);

/// `VGEM_FENCE_WRITE`.
const WRITE: u32 = 1;
/// `DRM_CLOEXEC | DRM_RDWR`.
const DESCRIPTOR: u32 = 0o2000000 | 2;

/// A buffer of vgem's, as its driver sees it and as a dma-buf.
pub(crate) struct Vgem {
    card: File,
    handle: u32,
    pub(crate) buffer: OwnedFd,
}

/// Work of vgem's that has not ended. The kernel ends it with an error after ten seconds.
pub(crate) struct Work(u32);

impl Vgem {
    /// One page.
    pub(crate) fn open() -> io::Result<Self> {
        let card = OpenOptions::new().read(true).write(true).open("/dev/dri/card0")?;
        let mut dumb = Dumb { height: 1, width: 1024, bits: 32, ..Dumb::default() };
        // SAFETY: DRM_IOCTL_MODE_CREATE_DUMB takes this structure.
        unsafe { ioctl(&card, Updater::<DUMB, Dumb>::new(&mut dumb)) }?;
        let mut prime = Prime { handle: dumb.handle, flags: DESCRIPTOR, fd: -1 };
        // SAFETY: DRM_IOCTL_PRIME_HANDLE_TO_FD takes this structure.
        unsafe { ioctl(&card, Updater::<PRIME, Prime>::new(&mut prime)) }?;
        // SAFETY: the call made the descriptor for us.
        let buffer = unsafe { OwnedFd::from_raw_fd(prime.fd) };
        Ok(Self { card, handle: dumb.handle, buffer })
    }

    /// Begins work that writes its buffer; `EBUSY` where somebody else's fence stands in the buffer.
    pub(crate) fn begin(&self) -> Result<Work, Errno> {
        let mut attach = Attach { handle: self.handle, flags: WRITE, fence: 0, pad: 0 };
        // SAFETY: DRM_IOCTL_VGEM_FENCE_ATTACH takes this structure.
        unsafe { ioctl(&self.card, Updater::<ATTACH, Attach>::new(&mut attach)) }?;
        Ok(Work(attach.fence))
    }

    /// Ends it. An error when the kernel had ended it before.
    pub(crate) fn end(&self, work: &Work) -> Result<(), Errno> {
        let signal = Signal { fence: work.0, flags: 0 };
        // SAFETY: DRM_IOCTL_VGEM_FENCE_SIGNAL takes this structure.
        unsafe { ioctl(&self.card, Setter::<SIGNAL, Signal>::new(signal)) }
    }
}
