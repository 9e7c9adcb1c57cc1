//! Kernel fences of dma-bufs, and the host's turn at their bytes.
//!
//! **Problem.** A dma-buf's users are drivers that do not know of each other, nor of us. What keeps them apart are fences in the kernel: who submits work leaves one
//! in the buffer, who comes next waits for those that concern him. A program takes part by *sync files*, descriptors of such fences.
//!
//! ```text
//! fences_of(buffer, Read)           what a reader has to wait for: the writers. To write, everybody
//! add_fence(buffer, file, Update)   others wait for this one, as they would for their own
//! SyncFile: PeerFence               a range is not taken from a peer before it has ended; of any driver: a semaphore's SYNC_FD is one
//! HostAccess::begin(buffer, Read)   waits, with a limit, and tells the exporter that the host reads (caches); ends when dropped
//! ```
//!
//! **Rules.** Only a driver can make a fence: a program cannot, so that nobody waits for one that never ends. That is why one may be given to other
//! drivers, and waited for in a queue, and an ordinary promise of ours may not. Whoever waits on the host still has a limit: drivers can be wrong.
//!
//! Needs Linux 6.0; an older one refuses with [`SyncFault::Refused`] and `ENOTTY`, as does what is no dma-buf.
#![allow(unsafe_code, reason = "four calls of ioctl")]

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    ioctl::{Opcode, Setter, Updater, ioctl, opcode},
};

use crate::{access::Access, peer::PeerFence};

/// `struct dma_buf_sync` of linux/dma-buf.h.
#[derive(Debug)]
#[repr(C)]
struct Bracket {
    flags: u64,
}

/// `struct dma_buf_export_sync_file` and `struct dma_buf_import_sync_file`.
#[derive(Debug)]
#[repr(C)]
struct Exchange {
    flags: u32,
    fd: i32,
}

/// `struct sync_file_info` of linux/sync_file.h.
#[derive(Debug, Default)]
#[repr(C)]
struct Info {
    name: [u8; 32],
    status: i32,
    flags: u32,
    fence_count: u32,
    pad: u32,
    fences: u64,
}

const BRACKET: Opcode = opcode::write::<Bracket>(b'b', 0);
const EXPORT: Opcode = opcode::read_write::<Exchange>(b'b', 2);
const IMPORT: Opcode = opcode::write::<Exchange>(b'b', 3);
const INFO: Opcode = opcode::read_write::<Info>(b'>', 4);

/// `DMA_BUF_SYNC_READ`, `DMA_BUF_SYNC_WRITE`, `DMA_BUF_SYNC_END`.
const READ: u32 = 1;
const WRITE: u32 = 2;
const END: u64 = 4;

/// Why there is no fence, or no turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SyncFault {
    /// The kernel refused; `ENOTTY`: the descriptor is of another kind, or the kernel is older than 6.0.
    #[error("{call} was refused")]
    Refused {
        /// Which call.
        call: &'static str,
        /// Why.
        source: Errno,
    },
    /// Fences of others have not ended in this time.
    #[error("work of others on the dma-buf had not ended after {waited:?}")]
    TimedOut {
        /// How long was waited.
        waited: Duration,
    },
}

fn refused(call: &'static str) -> impl Fn(Errno) -> SyncFault {
    move |source| SyncFault::Refused { call, source }
}

/// How a fence stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FenceStatus {
    /// The work has not ended.
    Pending,
    /// It ended well.
    Done,
    /// It ended, and its driver says that it failed.
    Failed(Errno),
}

/// A descriptor of kernel fences: of one, or of several that count as one.
#[derive(Debug)]
pub struct SyncFile(OwnedFd);

impl SyncFile {
    /// Takes over a descriptor that a driver gave out.
    ///
    /// # Errors
    /// [`SyncFault::Refused`] when it is none of a sync file.
    pub fn new(fd: OwnedFd) -> Result<Self, SyncFault> {
        let file = Self(fd);
        file.status()?;
        Ok(file)
    }

    /// How it stands.
    ///
    /// # Errors
    /// [`SyncFault::Refused`].
    pub fn status(&self) -> Result<FenceStatus, SyncFault> {
        let mut info = Info::default();
        // SAFETY: SYNC_IOC_FILE_INFO takes this structure; with a count of 0 it writes nothing but it.
        let asked = unsafe { ioctl(&self.0, Updater::<INFO, Info>::new(&mut info)) };
        asked.map_err(refused("SYNC_IOC_FILE_INFO"))?;
        Ok(status_of(info.status))
    }
}

/// By the kernel's number: 0 not yet, 1 well, an error's number below 0.
fn status_of(status: i32) -> FenceStatus {
    match status {
        0 => FenceStatus::Pending,
        1.. => FenceStatus::Done,
        -4095..0 => FenceStatus::Failed(Errno::from_raw_os_error(-status)),
        // No error has this number.
        _ => FenceStatus::Failed(Errno::IO),
    }
}

impl AsFd for SyncFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<SyncFile> for OwnedFd {
    fn from(file: SyncFile) -> Self {
        file.0
    }
}

/// Ended however it ended: [`SyncFile::status`] says how.
impl PeerFence for SyncFile {
    fn wait(&self, timeout: Duration) -> bool {
        matches!(ended(self.as_fd(), PollFlags::IN, timeout), Ok(true))
    }
}

/// The fences in a dma-buf that somebody has to wait for who is about to make this access, as they are now. Such a file has ended at once when there are none.
///
/// # Errors
/// [`SyncFault::Refused`].
pub fn fences_of(buffer: impl AsFd, access: Access) -> Result<SyncFile, SyncFault> {
    let mut exchange = Exchange { flags: flags(access), fd: -1 };
    // SAFETY: DMA_BUF_IOCTL_EXPORT_SYNC_FILE takes this structure and writes its descriptor; type 'b' 2 of no other file takes more.
    let asked = unsafe { ioctl(buffer, Updater::<EXPORT, Exchange>::new(&mut exchange)) };
    asked.map_err(refused("DMA_BUF_IOCTL_EXPORT_SYNC_FILE"))?;
    // SAFETY: the call made this descriptor for us.
    Ok(SyncFile(unsafe { OwnedFd::from_raw_fd(exchange.fd) }))
}

/// Leaves a fence in a dma-buf, as one of work that makes this access: whoever waits for such work waits for it too. The file stays the caller's.
///
/// # Errors
/// [`SyncFault::Refused`].
pub fn add_fence(buffer: impl AsFd, file: &SyncFile, access: Access) -> Result<(), SyncFault> {
    let exchange = Exchange { flags: flags(access), fd: file.as_fd().as_raw_fd() };
    // SAFETY: DMA_BUF_IOCTL_IMPORT_SYNC_FILE takes this structure and reads it.
    let asked = unsafe { ioctl(buffer, Setter::<IMPORT, Exchange>::new(exchange)) };
    asked.map_err(refused("DMA_BUF_IOCTL_IMPORT_SYNC_FILE"))
}

/// The host's turn at the bytes of a dma-buf, from [`HostAccess::begin`] until it is dropped.
#[derive(Debug)]
pub struct HostAccess<'fd> {
    buffer: BorrowedFd<'fd>,
    access: Access,
}

impl<'fd> HostAccess<'fd> {
    /// Waits until the work of others that forbids this access has ended, and opens the bracket. Work that is submitted meanwhile is waited for by the kernel,
    /// without a limit.
    ///
    /// # Errors
    /// [`SyncFault::TimedOut`], [`SyncFault::Refused`]; no bracket is open then.
    pub fn begin(
        buffer: BorrowedFd<'fd>,
        access: Access,
        timeout: Duration,
    ) -> Result<Self, SyncFault> {
        // A dma-buf is readable when its writers have ended, and writable when all have.
        let events = if access == Access::Read { PollFlags::IN } else { PollFlags::OUT };
        if !ended(buffer, events, timeout).map_err(refused("poll"))? {
            return Err(SyncFault::TimedOut { waited: timeout });
        }
        bracket(buffer, u64::from(flags(access)))?;
        Ok(Self { buffer, access })
    }
}

impl Drop for HostAccess<'_> {
    fn drop(&mut self) {
        if let Err(error) = bracket(self.buffer, u64::from(flags(self.access)) | END) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the host's turn did not end"
            );
        }
    }
}

fn bracket(buffer: BorrowedFd<'_>, flags: u64) -> Result<(), SyncFault> {
    loop {
        // SAFETY: DMA_BUF_IOCTL_SYNC takes this structure and reads it.
        match unsafe { ioctl(buffer, Setter::<BRACKET, Bracket>::new(Bracket { flags })) } {
            Err(Errno::INTR | Errno::AGAIN) => {}
            done => return done.map_err(refused("DMA_BUF_IOCTL_SYNC")),
        }
    }
}

fn flags(access: Access) -> u32 {
    match access {
        Access::Read => READ,
        Access::Update | Access::Write => READ | WRITE,
    }
}

/// Whether the fences behind a descriptor end in this time.
fn ended(fd: BorrowedFd<'_>, events: PollFlags, timeout: Duration) -> rustix::io::Result<bool> {
    let begun = Instant::now();
    loop {
        let left = timeout.saturating_sub(begun.elapsed());
        // What is longer than it can say is as good as for ever.
        let left = Timespec::try_from(left).ok();
        let mut fds = [PollFd::from_borrowed_fd(fd, events)];
        match poll(&mut fds, left.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) if fds[0].revents().intersects(events) => return Ok(true),
            // Neither fences nor anything else that ends.
            Ok(_) => return Err(Errno::INVAL),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requests_are_the_kernels() {
        // Worked out by hand: _IOW('b', 0, 8), _IOWR('b', 2, 8), _IOW('b', 3, 8), _IOWR('>', 4, 56).
        assert_eq!([BRACKET, EXPORT, IMPORT], [0x4008_6200, 0xc008_6202, 0x4008_6203]);
        assert_eq!(INFO, 0xc038_3e04);
    }

    /// No driver of the lab's kernel ends a fence with an error.
    #[test]
    fn a_fence_that_failed_says_why() {
        assert_eq!(status_of(0), FenceStatus::Pending);
        assert_eq!(status_of(1), FenceStatus::Done);
        assert_eq!(status_of(-110), FenceStatus::Failed(Errno::TIMEDOUT));
        assert_eq!(status_of(-125), FenceStatus::Failed(Errno::CANCELED));
        for no_error in [-4096, i32::MIN] {
            assert_eq!(status_of(no_error), FenceStatus::Failed(Errno::IO));
        }
        assert!(matches!(status_of(-4095), FenceStatus::Failed(_)));
    }

    #[test]
    fn what_is_no_dma_buf_has_neither_fences_nor_turns() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let source = Errno::NOTTY;
        let refused = |call| SyncFault::Refused { call, source };
        let fences = fences_of(&null, Access::Read).unwrap_err();
        assert_eq!(fences, refused("DMA_BUF_IOCTL_EXPORT_SYNC_FILE"));
        let turn = HostAccess::begin(null.as_fd(), Access::Update, Duration::ZERO).unwrap_err();
        assert_eq!(turn, refused("DMA_BUF_IOCTL_SYNC"));
        let file = SyncFile::new(null.into()).unwrap_err();
        assert_eq!(file, refused("SYNC_IOC_FILE_INFO"));
    }
}
