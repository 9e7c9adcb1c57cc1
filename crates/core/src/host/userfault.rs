//! userfaultfd(2): the calls and records that the fault loop uses, as the kernel defines them.
//!
//! rustix opens the descriptor; the ioctls are here, since the headers of common distributions are older than some of what is used
//! (`UFFDIO_CONTINUE_MODE_WP` and `UFFDIO_POISON`). Source of the numbers: `include/uapi/linux/userfaultfd.h` of Linux 6.18.
#![allow(unsafe_code, reason = "ioctls that change what is mapped")]

use std::{
    fs::OpenOptions,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
};

use rustix::{
    io::Errno,
    ioctl::{self, Opcode, Setter, Updater, opcode},
    mm::UserfaultfdFlags,
};

const TYPE: u8 = 0xaa;
const API: u64 = 0xaa;

const OP_API: Opcode = opcode::read_write::<ApiCall>(TYPE, 0x3f);
const OP_REGISTER: Opcode = opcode::read_write::<RegisterCall>(TYPE, 0x00);
/// The kernel numbers it as a read, though it only takes.
const OP_WAKE: Opcode = opcode::read::<Range>(TYPE, 0x02);
const OP_WRITEPROTECT: Opcode = opcode::read_write::<WriteProtectCall>(TYPE, 0x06);
const OP_CONTINUE: Opcode = opcode::read_write::<ProgressCall>(TYPE, 0x07);
const OP_POISON: Opcode = opcode::read_write::<ProgressCall>(TYPE, 0x08);
/// On `/dev/userfaultfd`: makes a descriptor.
const OP_NEW: Opcode = opcode::none(TYPE, 0x00);

const REGISTER_MISSING: u64 = 1;
const REGISTER_WP: u64 = 1 << 1;
const REGISTER_MINOR: u64 = 1 << 2;
const CONTINUE_WP: u64 = 1 << 1;
const WRITEPROTECT_ON: u64 = 1;
const WRITEPROTECT_DONTWAKE: u64 = 1 << 1;
const FEATURE_MISSING_HUGETLBFS: u64 = 1 << 4;
const FEATURE_MISSING_SHMEM: u64 = 1 << 5;
const FEATURE_MINOR_HUGETLBFS: u64 = 1 << 9;
const FEATURE_MINOR_SHMEM: u64 = 1 << 10;
/// Of huge pages, too.
const FEATURE_WP_SHMEM: u64 = 1 << 12;
const FEATURE_POISON: u64 = 1 << 14;
const EVENT_PAGEFAULT: u8 = 0x12;
const FLAG_WRITE: u64 = 1;
const FLAG_WP: u64 = 1 << 1;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ApiCall {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// Bytes of the address space.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RegisterCall {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct WriteProtectCall {
    range: Range,
    mode: u64,
}

/// CONTINUE and POISON: how many bytes were done, or an error number below zero.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProgressCall {
    range: Range,
    mode: u64,
    done: i64,
}

/// `struct uffd_msg`, as far as a page fault fills it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    thread: u64,
}

/// Whose faults are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// The program's, and those of system calls on its behalf.
    Full,
    /// The program's alone: a system call on memory that is away fails with `EFAULT`.
    UserMode,
}

/// A touch of memory that is not mapped, or not for writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    /// The touched address.
    pub(super) address: u64,
    /// It was a write.
    pub(super) write: bool,
}

/// An open userfaultfd over one range.
///
/// # Invariants
/// Only addresses inside the registered range are changed by it.
#[derive(Debug)]
pub(super) struct Userfault {
    fd: OwnedFd,
    range: std::ops::Range<u64>,
    pub(super) reach: Reach,
    pub(super) poisons: bool,
}

impl Userfault {
    /// Opens one and registers parts of one range, which are shared mappings of memfds that nobody touches yet. From `huge_from` on their pages are
    /// huge.
    pub(super) fn open(
        range: std::ops::Range<u64>,
        huge_from: Option<u64>,
        most: Reach,
    ) -> Result<Self, Errno> {
        let (fd, reach) = match (most, descriptor(Reach::Full)) {
            (Reach::Full, Ok(fd)) => (fd, Reach::Full),
            _ => (descriptor(Reach::UserMode)?, Reach::UserMode),
        };
        let ordinary = FEATURE_MISSING_SHMEM | FEATURE_MINOR_SHMEM | FEATURE_WP_SHMEM;
        let wanted = match huge_from {
            Some(_) => ordinary | FEATURE_MISSING_HUGETLBFS | FEATURE_MINOR_HUGETLBFS,
            None => ordinary,
        };
        let offered = {
            // A descriptor takes one API call: what is offered is asked on another.
            let scout = descriptor(reach)?;
            let mut call = ApiCall { api: API, ..ApiCall::default() };
            // SAFETY: UFFDIO_API reads and writes one `uffdio_api`, which `ApiCall` is.
            unsafe { update::<OP_API, _>(scout.as_fd(), &mut call)? };
            call.features
        };
        if offered & wanted != wanted {
            return Err(Errno::OPNOTSUPP);
        }
        let poisons = offered & FEATURE_POISON != 0;
        let mut call =
            ApiCall { api: API, features: wanted | offered & FEATURE_POISON, ..ApiCall::default() };
        // SAFETY: as above.
        unsafe { update::<OP_API, _>(fd.as_fd(), &mut call)? };
        let this = Self { fd, range, reach, poisons };
        let (start, end) = (this.range.start, this.range.end);
        let cut = huge_from.unwrap_or(end);
        this.register(start, cut - start)?;
        if cut < end {
            this.register(cut, end - cut)?;
        }
        Ok(this)
    }

    /// Has the touches of a part of the range told. Also after something else was mapped there.
    pub(super) fn register(&self, start: u64, len: u64) -> Result<(), Errno> {
        self.check(start, len)?;
        let mut call = RegisterCall {
            range: Range { start, len },
            mode: REGISTER_MISSING | REGISTER_WP | REGISTER_MINOR,
            ioctls: 0,
        };
        // SAFETY: UFFDIO_REGISTER reads and writes one `uffdio_register`. What it changes is that touches of the range are told to
        // us; the range is ours by the word of whoever opened it.
        unsafe { update::<OP_REGISTER, _>(self.fd(), &mut call) }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The next fault that nobody has taken, without waiting.
    pub(super) fn next(&self) -> Option<Fault> {
        let mut message = MaybeUninit::<Message>::zeroed();
        // SAFETY: the bytes of one message are zeroed, so they may be seen as a slice of initialised bytes, and any bytes are a message.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(message.as_mut_ptr().cast::<u8>(), size_of::<Message>())
        };
        let read = rustix::io::read(&self.fd, bytes).ok()?;
        // SAFETY: initialised by zeroing; every field is an integer.
        let message = unsafe { message.assume_init() };
        let whole = read == size_of::<Message>() && message.event == EVENT_PAGEFAULT;
        let write = message.flags & (FLAG_WRITE | FLAG_WP) != 0;
        whole.then_some(Fault { address: message.address, write })
    }

    /// Maps `start..start + len` to what the file holds there, and wakes whoever waits. Pages that are mapped already stay as they are.
    ///
    /// Errors with `EFAULT` where the file has a hole. `entry_bytes` is what one entry covers here.
    pub(super) fn map(
        &self,
        start: u64,
        len: u64,
        entry_bytes: u64,
        writable: bool,
    ) -> Result<(), Errno> {
        self.check(start, len)?;
        let end = start + len;
        let mut at = start;
        let mut skipped = false;
        while at < end {
            let range = Range { start: at, len: end - at };
            let mode = if writable { 0 } else { CONTINUE_WP };
            let mut call = ProgressCall { range, mode, done: 0 };
            // SAFETY: UFFDIO_CONTINUE reads and writes one `uffdio_continue`. It maps pages of the file that this range is a mapping
            // of, where nothing is mapped, so no byte that anybody sees changes.
            let result = unsafe { update::<OP_CONTINUE, _>(self.fd(), &mut call) };
            match result {
                Ok(()) => break,
                Err(Errno::AGAIN) if call.done > 0 => at += call.done as u64,
                Err(Errno::EXIST) => {
                    at += entry_bytes;
                    skipped = true;
                }
                Err(Errno::AGAIN) => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
        if skipped { self.wake(start, len) } else { Ok(()) }
    }

    /// Maps a range for writing and lets whoever waits for it sleep on, as nobody but a test wants it.
    #[cfg(test)]
    pub(super) fn map_without_waking(&self, start: u64, len: u64) -> Result<(), Errno> {
        const DONTWAKE: u64 = 1;
        self.check(start, len)?;
        let mut call = ProgressCall { range: Range { start, len }, mode: DONTWAKE, done: 0 };
        // SAFETY: as in `map`.
        unsafe { update::<OP_CONTINUE, _>(self.fd(), &mut call) }
    }

    /// Wakes whoever waits for a page in the range; they touch it again.
    pub(super) fn wake(&self, start: u64, len: u64) -> Result<(), Errno> {
        self.check(start, len)?;
        // SAFETY: UFFDIO_WAKE reads one `uffdio_range` and changes no memory.
        unsafe { ioctl::ioctl(self.fd(), Setter::<OP_WAKE, Range>::new(Range { start, len })) }
    }

    /// Makes the mapped pages of a range tell of writes, or lets writes through again and wakes the writers.
    pub(super) fn protect(&self, start: u64, len: u64, on: bool) -> Result<(), Errno> {
        self.write_protect(start, len, if on { WRITEPROTECT_ON } else { 0 })
    }

    /// Lets writes through again, and lets the writers sleep on.
    pub(super) fn unprotect_without_waking(&self, start: u64, len: u64) -> Result<(), Errno> {
        self.write_protect(start, len, WRITEPROTECT_DONTWAKE)
    }

    fn write_protect(&self, start: u64, len: u64, mode: u64) -> Result<(), Errno> {
        self.check(start, len)?;
        loop {
            let mut call = WriteProtectCall { range: Range { start, len }, mode };
            // SAFETY: UFFDIO_WRITEPROTECT reads one `uffdio_writeprotect`; it changes who is told of a write, and no byte.
            match unsafe { update::<OP_WRITEPROTECT, _>(self.fd(), &mut call) } {
                Err(Errno::AGAIN) => std::thread::yield_now(),
                result => return result,
            }
        }
    }

    /// Makes touches of a range, where nothing is mapped, end with SIGBUS.
    pub(super) fn poison(&self, start: u64, len: u64) -> Result<(), Errno> {
        self.check(start, len)?;
        let mut call = ProgressCall { range: Range { start, len }, mode: 0, done: 0 };
        // SAFETY: UFFDIO_POISON reads and writes one `uffdio_poison`; it marks addresses where nothing is mapped.
        unsafe { update::<OP_POISON, _>(self.fd(), &mut call) }
    }

    fn check(&self, start: u64, len: u64) -> Result<(), Errno> {
        let inside = start >= self.range.start
            && start.checked_add(len).is_some_and(|end| end <= self.range.end);
        if inside { Ok(()) } else { Err(Errno::INVAL) }
    }
}

fn descriptor(reach: Reach) -> Result<OwnedFd, Errno> {
    let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
    match reach {
        // SAFETY: nothing is registered with it yet.
        Reach::Full => match unsafe { rustix::mm::userfaultfd(flags) } {
            Ok(fd) => Ok(fd),
            Err(refused) => from_device(flags).ok_or(refused),
        },
        Reach::UserMode => {
            // The kernel's UFFD_USER_MODE_ONLY; rustix has no name for it.
            let user_mode_only = UserfaultfdFlags::from_bits_retain(1);
            // SAFETY: as above.
            unsafe { rustix::mm::userfaultfd(flags | user_mode_only) }
        }
    }
}

/// A descriptor from the device file, whose permissions say who may have one.
fn from_device(flags: UserfaultfdFlags) -> Option<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/userfaultfd").ok()?;
    // SAFETY: USERFAULTFD_IOC_NEW takes the flags as its integer argument and returns a new descriptor or an error.
    unsafe { ioctl::ioctl(device, NewDescriptor { flags: flags.bits() }).ok() }
}

struct NewDescriptor {
    flags: u32,
}

// SAFETY: the opcode is USERFAULTFD_IOC_NEW, whose argument is an integer (it is never dereferenced), and whose result is a
// descriptor that nobody else owns.
unsafe impl ioctl::Ioctl for NewDescriptor {
    type Output = OwnedFd;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        OP_NEW
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::without_provenance_mut(self.flags as usize)
    }

    unsafe fn output_from_ptr(
        out: ioctl::IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> Result<Self::Output, Errno> {
        // SAFETY: the call went well, so this is a descriptor made for us.
        Ok(unsafe { OwnedFd::from_raw_fd(out) })
    }
}

/// # Safety
/// The opcode reads and writes one `T` and nothing else through its argument; what else it does is the caller's to prove.
unsafe fn update<const OP: Opcode, T>(fd: BorrowedFd<'_>, value: &mut T) -> Result<(), Errno> {
    // SAFETY: by this function's contract.
    unsafe { ioctl::ioctl(fd, Updater::<OP, T>::new(value)) }
}
