//! Memory whose home is another process: pages are granted, used, and recalled.
//!
//! **Problem.** A vector of this process lies in a file of another one, its *home*, which decides page by page who may use it. Nobody here touches a page
//! before the home has granted it, and when the home wants a page back, everything that this process made of it (copies on devices, entries of
//! the user view, work in flight) has to end first.
//!
//! ```text
//! access (guard, fault, launch)  ->  granted?  no: Home::grant, without a lock, then look again
//! Recall::recall(pages, keep)    ->  nobody gets these pages any more; on a thread of the import's own:
//!                                    wait for our fences, bring dirty pages home, drop copies, leave the user view
//!                                ->  done(what may have been written, what was lost)
//! ```
//!
//! **Grant against recall.** Both may be under way at once, on two threads. Each recall counts up; a grant that was asked for before the count changed is not
//! believed, and is asked for again. Who needs pages that are being recalled waits until that is over, and then asks. So it is enough that a home grants what
//! was recalled only after the recall is done.

mod grants;

use std::{borrow::Cow, ops::Range, os::fd::OwnedFd, time::Duration};

pub(crate) use grants::{Asked, Grants, Recalling};

/// What this process may do with a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Grant {
    /// Read it; others may too.
    Read,
    /// Read and write it; nobody else has it.
    Write,
}

/// Where an imported vector's pages belong. The application, or a protocol for it, implements it.
///
/// No method is called while the library holds a lock.
pub trait Home: Send + Sync {
    /// Asks for pages (64 KiB each, counted from the file's start), some of which may be granted already. When this returns, they are current in
    /// the file and this process may use them so until they are recalled. May wait, with a deadline of its own. May be called on a thread that
    /// answers a page fault: it must not touch a vector, nor allocate what somebody else's lock guards.
    ///
    /// # Errors
    /// Why the pages cannot be had. The access that needs them fails with it; a touch ends with a signal.
    fn grant(&self, pages: Range<usize>, access: Grant) -> Result<(), HomeError>;

    /// The vector is gone here, and nothing of this process uses the memory any more. Called once.
    fn closed(&self, recalled: &Recalled);
}

/// Why a home did not grant pages.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HomeError {
    /// It does not want to.
    #[error("it refused: {reason}")]
    Refused {
        /// What it said.
        reason: Cow<'static, str>,
    },
    /// The memory may only be read.
    #[error("the memory was shared for reading")]
    ReadOnly,
    /// For work of one's own the pages would be held for nobody knows how long.
    #[error("memory of another process cannot be acquired")]
    Acquired,
    /// It did not answer in time.
    #[error("no answer in {waited:?}")]
    TimedOut {
        /// How long was waited.
        waited: Duration,
    },
    /// It is gone, and its pages with it.
    #[error("the other side is gone")]
    Gone,
}

/// Another process's memory, as it was received.
#[derive(Debug)]
pub struct ForeignMemory {
    /// The file. Its size has to be sealed.
    pub fd: OwnedFd,
    /// How long it is said to be, in bytes: whole blocks of 2 MiB.
    pub len_bytes: u64,
    /// The most that will be granted. For [`Grant::Read`] it is mapped for reading alone; page faults cannot be had then.
    pub most: Grant,
}

/// What stays after a recall.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// Pages that are granted may be read on.
    Reading,
}

/// What a recall brought home, as pages of the file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recalled {
    /// Were granted for writing: they may hold something new.
    pub dirty: Vec<Range<usize>>,
    /// Were written here, and what was written is lost: the file holds what was brought home before.
    pub lost: Vec<Range<usize>>,
}
