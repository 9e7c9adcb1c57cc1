//! A memfd of its own under a span of the window, for memory that other processes map too.
//!
//! **Problem.** A descriptor exposes its whole file, so the arena's never leaves the process. Memory that is to be shared lives in a file that holds
//! one vector and nothing else, in whole blocks. It is mapped over the vector's span of the window in both views, so everything that goes by
//! address (faults, imports of slabs, copies) works as before.
//!
//! **Who may write.** The size is sealed from the start: nobody can shorten the file under a mapping. With the first share the seals become final, for
//! [`Sharing::Read`] with F_SEAL_FUTURE_WRITE: a read-only descriptor alone could be opened for writing again through `/proc`. Our own
//! mappings are older than that seal and stay writable.
//!
//! **No holes.** The kernel refuses to punch holes into a file that is sealed against writing (`EPERM`). So nothing here ever punches: a discarded page is
//! zeroed before somebody reads it, and the memory goes back to the system as a whole, when the last process has closed the file.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{FallocateFlags, MemfdFlags, SealFlags},
    io::Errno,
    mm::ProtFlags,
};

use super::HostSpan;
use crate::{
    home::{ForeignMemory, Grant},
    units::BLOCK_BYTES,
};

/// The kernel's number for files of huge pages (`linux/magic.h`).
const HUGETLBFS_MAGIC: i128 = 0x9584_58f6;

/// What whoever gets the descriptor may do with the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Sharing {
    /// Map it for reading. Enforced by a seal, for good.
    Read,
    /// Map it for reading and writing. For a vector that is lent: slices of memory that others write there are none.
    Write,
}

/// The memory of a shareable vector.
#[derive(Clone, Copy, Debug)]
pub struct SharedMemory<'v> {
    /// The file, whole: to be sent to another process. Close-on-exec here; whoever sends it says so there too.
    pub fd: BorrowedFd<'v>,
    /// Its size: whole blocks of 2 MiB.
    pub len_bytes: u64,
    /// What the seals allow.
    pub sharing: Sharing,
}

/// Why memory cannot be shared or adopted as asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ShareFault {
    /// The vector shares the arena's file with others.
    #[error(
        "the vector was not made by `SharedVec::shareable`, so its memory is in one file with that of others"
    )]
    NotShareable,
    /// It was shared otherwise before, which is final.
    #[error("it was shared as {before:?} before, which is final")]
    SharedBefore {
        /// How.
        before: Sharing,
    },
    /// Others are to write it, and its owner has slices of it.
    #[error("only a lent vector's memory is given out to be written (`SharedVec::lend`)")]
    NotLent,
    /// Somebody could shorten or lengthen the file.
    #[error(
        "its size is not sealed (F_SEAL_SHRINK and F_SEAL_GROW), so a touch could meet its end"
    )]
    NotSealed,
    /// Its pages could run out under a touch.
    #[error("it is of huge pages, which the system can run out of under a touch")]
    HugePages,
    /// The file is not as long as was said, or not whole blocks.
    #[error("the file has {file_bytes} bytes, {said_bytes} were said")]
    WrongSize {
        /// What the file has.
        file_bytes: u64,
        /// What it was to have.
        said_bytes: u64,
    },
    /// It is too short for the elements.
    #[error("{asked_bytes} bytes do not fit in a file of {file_bytes}")]
    TooShort {
        /// What the elements take.
        asked_bytes: u64,
        /// What the file has.
        file_bytes: u64,
    },
    /// The kernel gives host memory out as no dma-buf.
    #[error(
        "no udmabuf here: /dev/udmabuf cannot be opened ({0}); it takes CONFIG_UDMABUF, and rights on the device"
    )]
    NoUdmabuf(#[source] Errno),
    /// The system refused.
    #[error("the system refused")]
    Refused(#[source] Errno),
}

/// A file of whole blocks whose size is sealed.
///
/// # Invariants
/// It has `len_bytes`, and nobody can change that.
#[derive(Debug)]
pub(crate) struct MemoryFile {
    fd: OwnedFd,
    len_bytes: u64,
    is_writable: bool,
}

impl MemoryFile {
    /// A new one, of zeros, that costs nothing yet.
    pub(crate) fn new(len_bytes: u64) -> Result<Self, ShareFault> {
        let len_bytes = len_bytes.max(1).checked_next_multiple_of(BLOCK_BYTES);
        let len_bytes = len_bytes.ok_or(ShareFault::Refused(Errno::NOMEM))?;
        let make = || {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let fd = rustix::fs::memfd_create("hmmap shareable", flags)?;
            rustix::fs::ftruncate(&fd, len_bytes)?;
            rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
            Ok(Self { fd, len_bytes, is_writable: true })
        };
        make().map_err(ShareFault::Refused)
    }

    /// Takes over somebody else's, once its size cannot be changed by anybody.
    pub(crate) fn adopt(memory: ForeignMemory) -> Result<Self, ShareFault> {
        let ForeignMemory { fd, len_bytes, most } = memory;
        // What has no seals at all is no memfd.
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| ShareFault::NotSealed)?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(ShareFault::NotSealed);
        }
        let system = rustix::fs::fstatfs(&fd).map_err(ShareFault::Refused)?;
        if i128::from(system.f_type) == HUGETLBFS_MAGIC {
            return Err(ShareFault::HugePages);
        }
        let found = rustix::fs::fstat(&fd).map_err(ShareFault::Refused)?.st_size;
        let file_bytes = u64::try_from(found).unwrap_or_default();
        if file_bytes != len_bytes || len_bytes == 0 || !len_bytes.is_multiple_of(BLOCK_BYTES) {
            return Err(ShareFault::WrongSize { file_bytes, said_bytes: len_bytes });
        }
        Ok(Self { fd, len_bytes, is_writable: most == Grant::Write })
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Makes a hole: the pages leave the mappings of every process, and read as zeros. Not for a file that is sealed for reading.
    pub(crate) fn punch(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), ShareFault> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punched = rustix::fs::fallocate(&self.fd, flags, offset_bytes, len_bytes);
        punched.map_err(|error| match error {
            Errno::PERM => ShareFault::SharedBefore { before: Sharing::Read },
            error => ShareFault::Refused(error),
        })
    }

    /// Makes the seals final, and says what they allow.
    pub(crate) fn share(&self, sharing: Sharing) -> Result<SharedMemory<'_>, ShareFault> {
        let seals = rustix::fs::fcntl_get_seals(&self.fd).map_err(ShareFault::Refused)?;
        if seals.contains(SealFlags::SEAL) {
            let before = sharing_of(seals);
            if before != sharing {
                return Err(ShareFault::SharedBefore { before });
            }
        } else {
            let seals = match sharing {
                Sharing::Read => SealFlags::FUTURE_WRITE | SealFlags::SEAL,
                Sharing::Write => SealFlags::SEAL,
            };
            rustix::fs::fcntl_add_seals(&self.fd, seals).map_err(ShareFault::Refused)?;
        }
        Ok(SharedMemory { fd: self.fd.as_fd(), len_bytes: self.len_bytes, sharing })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whoever has the descriptor can write it, for as long as he likes.
    pub(crate) fn is_out_to_be_written(&self) -> Result<bool, ShareFault> {
        let seals = rustix::fs::fcntl_get_seals(&self.fd).map_err(ShareFault::Refused)?;
        Ok(seals.contains(SealFlags::SEAL) && sharing_of(seals) == Sharing::Write)
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.is_writable
    }

    pub(super) fn rights(&self) -> ProtFlags {
        if self.is_writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ }
    }
}

fn sharing_of(seals: SealFlags) -> Sharing {
    let is_sealed = seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE);
    if is_sealed { Sharing::Read } else { Sharing::Write }
}

impl super::Arena {
    /// Maps a file over a new span of the window, in the service view and in the user view.
    pub(crate) fn map_file(
        &self,
        user: Option<&super::UserView>,
        file: &MemoryFile,
    ) -> Result<HostSpan, super::HostError> {
        let span = self.allocate_for_file(file.len_bytes)?;
        let mapped = self.view().place(span, file.fd(), file.rights(), 0);
        let mapped = mapped.and_then(|()| {
            let user = user.filter(|_| file.is_writable);
            user.map_or(Ok(()), |user| user.place_file(span, file.fd(), 0))
        });
        if let Err(source) = mapped {
            self.unmap_file(user, span);
            return Err(super::HostError::NotShared(ShareFault::Refused(source)));
        }
        Ok(span)
    }

    /// The window's own file comes back under a span. Nobody uses it any more, and no device keeps it imported.
    pub(crate) fn unmap_file(&self, user: Option<&super::UserView>, span: HostSpan) {
        let view = self.view();
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        let (own, at) = (view.files().at(span), span.offset_bytes);
        let user = user.map_or(Ok(()), |user| user.place_file(span, own, at));
        let restored = user.and_then(|()| view.place(span, own, rights, at));
        match restored {
            // A slab around it may have been imported before, and given it memory: zeros, but memory.
            Ok(()) => self.free(span, Some(span)),
            // Never dealt out again.
            Err(error) => {
                tracing::warn!(?span, %error, "could not map the window's own memory again")
            }
        }
    }
}
