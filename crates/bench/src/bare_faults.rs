//! Page faults by hand: userfaultfd on a memfd with nothing around it, which the library's faults are compared with.
//!
//! The memfd is mapped twice, as the library maps its own: one mapping is always there, the other is registered, and its entries come
//! and go by the page of 64 KiB. A thread answers each fault with the one call that it needs.
//!
//! ```text
//! touch -> message -> handler: UFFDIO_CONTINUE (a page that is not mapped) or UFFDIO_WRITEPROTECT off (a write) -> touch goes on
//! ```

use std::{
    mem::MaybeUninit,
    ops::Range,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    ptr::NonNull,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags},
    io::Errno,
    ioctl::{self, Opcode, Updater, opcode},
    mm::{Advice, UserfaultfdFlags},
};

use crate::{BenchError, host_memory::Mapping, suites::PAGE_BYTES};

const API: u64 = 0xaa;
const OP_API: Opcode = opcode::read_write::<[u64; 3]>(0xaa, 0x3f);
const OP_REGISTER: Opcode = opcode::read_write::<[u64; 4]>(0xaa, 0x00);
const OP_WRITEPROTECT: Opcode = opcode::read_write::<[u64; 3]>(0xaa, 0x06);
const OP_CONTINUE: Opcode = opcode::read_write::<[u64; 4]>(0xaa, 0x07);
const OP_NEW: Opcode = opcode::none(0xaa, 0x00);
const REGISTER_WP_AND_MINOR: u64 = 1 << 1 | 1 << 2;
const CONTINUE_WP: u64 = 1 << 1;
const WRITEPROTECT_ON: u64 = 1;
const FEATURES_MINOR_AND_WP_SHMEM: u64 = 1 << 10 | 1 << 12;
const EVENT_PAGEFAULT: u64 = 0x12;
const FLAG_WP: u64 = 1 << 1;

/// What a touch may do once its page is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rights {
    Read,
    Write,
}

/// Memory whose touches fault, and the thread that answers.
///
/// # Invariants
/// `base..base + registered.len` is a mapping of `service`'s memfd for the life of the value; nobody else has it.
#[derive(Debug)]
pub(crate) struct BareFaults {
    base: NonNull<u8>,
    registered: Arc<Registered>,
    handler: Option<JoinHandle<()>>,
    _service: Mapping,
}

/// The descriptor and the range that it is registered for.
#[derive(Debug)]
struct Registered {
    fd: OwnedFd,
    stop: OwnedFd,
    start: u64,
    len: u64,
}

impl BareFaults {
    /// Memory of so many bytes, written once, none of it mapped where touches fault.
    ///
    /// # Errors
    /// [`BenchError::DoesNotApply`] where there are no such faults.
    pub(crate) fn new(bytes: u64) -> Result<Self, BenchError> {
        let refused = |source| BenchError::Memory { bytes, source };
        let mut service = Mapping::shared(bytes)?;
        service.bytes_mut().fill(1);
        let fd = descriptor().map_err(|errno| {
            BenchError::DoesNotApply(format!("no userfaultfd to compare with: {errno}"))
        })?;
        let base = service.again()?;
        let (start, len) = (base.addr().get() as u64, bytes);
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(refused)?;
        let registered = Arc::new(Registered { fd, stop, start, len });
        registered.register().map_err(refused)?;
        let handler = {
            let registered = registered.clone();
            thread::spawn(move || registered.answer())
        };
        Ok(Self { base, registered, handler: Some(handler), _service: service })
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.registered.len
    }

    /// Maps all of it.
    pub(crate) fn show(&self, rights: Rights) -> Result<Duration, BenchError> {
        let all = 0..self.registered.len;
        self.timed(|| self.registered.show(all, rights))
    }

    /// Takes all of it away.
    pub(crate) fn revoke(&self) -> Result<Duration, BenchError> {
        let (base, len) = (self.base.as_ptr().cast(), self.registered.len as usize);
        // SAFETY: the range is ours by the invariant; dropping entries of a shared mapping loses no byte.
        self.timed(|| unsafe { rustix::mm::madvise(base, len, Advice::LinuxDontNeed) })
    }

    /// Has writes to a range of it fault.
    pub(crate) fn protect(&self, range: Range<u64>) -> Result<Duration, BenchError> {
        self.timed(|| self.registered.protect(range, WRITEPROTECT_ON))
    }

    /// Lets writes to all of it through.
    pub(crate) fn unprotect(&self) -> Result<Duration, BenchError> {
        self.timed(|| self.registered.protect(0..self.registered.len, 0))
    }

    /// Reads a byte.
    pub(crate) fn read(&self, offset: u64) -> (u8, Duration) {
        let at = self.at(offset);
        let started = Instant::now();
        // SAFETY: the byte lies in our mapping; the handler maps its page when it is not there.
        let value = unsafe { at.read_volatile() };
        (value, started.elapsed())
    }

    /// Overwrites a byte.
    pub(crate) fn write(&mut self, offset: u64, value: u8) -> Duration {
        let at = self.at(offset);
        let started = Instant::now();
        // SAFETY: as in `read`; no reference to the bytes exists.
        unsafe { at.write_volatile(value) };
        started.elapsed()
    }

    fn at(&self, offset: u64) -> *mut u8 {
        assert!(offset < self.registered.len, "inside of the memory");
        self.base.as_ptr().wrapping_add(offset as usize)
    }

    fn timed(&self, call: impl FnOnce() -> Result<(), Errno>) -> Result<Duration, BenchError> {
        let started = Instant::now();
        let done = call();
        let took = started.elapsed();
        done.map_err(|source| BenchError::Memory { bytes: self.registered.len, source })?;
        Ok(took)
    }
}

impl Drop for BareFaults {
    fn drop(&mut self) {
        let told = rustix::io::write(&self.registered.stop, &1u64.to_ne_bytes());
        debug_assert!(told.is_ok(), "an eventfd of our own");
        if let Some(handler) = self.handler.take() {
            let _ = handler.join();
        }
        let len = self.registered.len as usize;
        // SAFETY: our own mapping by the invariant, and nobody touches it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), len) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping");
    }
}

impl Registered {
    fn register(&self) -> Result<(), Errno> {
        let mut api = [API, FEATURES_MINOR_AND_WP_SHMEM, 0];
        // SAFETY: UFFDIO_API reads and writes one `uffdio_api`: three words.
        unsafe { ioctl::ioctl(&self.fd, Updater::<OP_API, _>::new(&mut api))? };
        let mut range = [self.start, self.len, REGISTER_WP_AND_MINOR, 0];
        // SAFETY: UFFDIO_REGISTER reads and writes one `uffdio_register`: four words. The range is the owner's own mapping.
        unsafe { ioctl::ioctl(&self.fd, Updater::<OP_REGISTER, _>::new(&mut range)) }
    }

    fn show(&self, range: Range<u64>, rights: Rights) -> Result<(), Errno> {
        let mode = if rights == Rights::Read { CONTINUE_WP } else { 0 };
        let mut at = range.start;
        while at < range.end {
            let mut call = [self.start + at, range.end - at, mode, 0];
            // SAFETY: UFFDIO_CONTINUE reads and writes one `uffdio_continue`: four words, the last the bytes that were done.
            // It maps pages of the file where nothing is mapped.
            match unsafe { ioctl::ioctl(&self.fd, Updater::<OP_CONTINUE, _>::new(&mut call)) } {
                Ok(()) => break,
                Err(Errno::AGAIN) if call[3].cast_signed() > 0 => at += call[3],
                Err(Errno::AGAIN) => {}
                Err(Errno::EXIST) => at += 4096,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn protect(&self, range: Range<u64>, mode: u64) -> Result<(), Errno> {
        let mut call = [self.start + range.start, range.end - range.start, mode];
        // SAFETY: UFFDIO_WRITEPROTECT reads one `uffdio_writeprotect`: three words; it changes no byte.
        unsafe { ioctl::ioctl(&self.fd, Updater::<OP_WRITEPROTECT, _>::new(&mut call)) }
    }

    /// The handler's thread: until it is told to stop.
    fn answer(&self) {
        loop {
            let mut fds =
                [PollFd::new(&self.fd, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
            let _ = rustix::event::poll(&mut fds, None);
            if fds[1].revents().contains(PollFlags::IN) {
                return;
            }
            while let Some([event, flags, address, _]) = self.next() {
                if event & 0xff != EVENT_PAGEFAULT {
                    continue;
                }
                let page = (address - self.start) / PAGE_BYTES * PAGE_BYTES;
                let range = page..page + PAGE_BYTES;
                let answered = match flags & FLAG_WP {
                    0 => self.show(range, Rights::Read),
                    _ => self.protect(range, 0),
                };
                debug_assert_eq!(answered, Ok(()));
            }
        }
    }

    /// The next message, `uffd_msg`: event, flags, address, thread.
    fn next(&self) -> Option<[u64; 4]> {
        let mut message = MaybeUninit::<[u64; 4]>::zeroed();
        // SAFETY: zeroed words are initialised, and any bytes are words.
        let message = unsafe { message.assume_init_mut() };
        let read = rustix::io::read(&self.fd, bytemuck::bytes_of_mut(message)).ok()?;
        (read == size_of_val(message)).then_some(*message)
    }
}

fn descriptor() -> Result<OwnedFd, Errno> {
    let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
    // SAFETY: nothing is registered with it yet.
    let refused = match unsafe { rustix::mm::userfaultfd(flags) } {
        Ok(fd) => return Ok(fd),
        Err(refused) => refused,
    };
    let options = std::fs::OpenOptions::new().read(true).write(true).open("/dev/userfaultfd");
    if let Ok(device) = options {
        // SAFETY: USERFAULTFD_IOC_NEW takes the flags as its argument and makes a descriptor.
        return unsafe { ioctl::ioctl(device.as_fd(), New { flags: flags.bits() }) };
    }
    // The kernel's USER_MODE_ONLY, which rustix has no name for: enough for touches of our own.
    // SAFETY: as above.
    unsafe { rustix::mm::userfaultfd(flags | UserfaultfdFlags::from_bits_retain(1)) }
        .map_err(|_| refused)
}

struct New {
    flags: u32,
}

// SAFETY: the opcode is USERFAULTFD_IOC_NEW, whose argument is an integer and whose result is a descriptor that nobody else owns.
unsafe impl ioctl::Ioctl for New {
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
    ) -> Result<OwnedFd, Errno> {
        // SAFETY: the call went well, so this is a descriptor made for us.
        Ok(unsafe { OwnedFd::from_raw_fd(out) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_comes_with_its_first_touch_and_a_protected_one_can_be_written() {
        let mut bare = match BareFaults::new(4 * PAGE_BYTES) {
            Ok(bare) => bare,
            Err(BenchError::DoesNotApply(reason)) => {
                println!("HMMAP-SKIP: {reason}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(bare.read(PAGE_BYTES).0, 1);
        // It was mapped for reading.
        bare.write(PAGE_BYTES, 7);
        bare.revoke().unwrap();
        assert_eq!(bare.read(PAGE_BYTES).0, 7);
        bare.show(Rights::Write).unwrap();
        bare.protect(0..bare.len_bytes()).unwrap();
        bare.write(0, 3);
        assert_eq!(bare.read(0).0, 3);
    }
}
