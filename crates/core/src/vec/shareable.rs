//! Vectors whose memory other processes may map.

use std::{
    ops::Range,
    sync::{Arc, Weak},
};

use bytemuck::Pod;

use super::{Buffer, SharedVec};
use crate::{
    directory::PageSpan,
    error::Error,
    host::{HostError, MemoryFile, ShareFault, SharedMemory, Sharing},
    runtime::{Inner, Runtime},
};

impl<T: Pod> SharedVec<T> {
    /// A vector of `len` zeros with a memory file of its own, in whole blocks of 2 MiB, which can be given to another process:
    /// [`SharedVec::share_memory`]. It is a vector like any other; its memory is given back to the system when it is dropped and is never
    /// another vector's.
    ///
    /// # Errors
    /// As [`SharedVec::new`]; [`HostError::NotShared`] when the system gives no such file.
    pub fn shareable(runtime: &Runtime, len: usize) -> Result<Self, Error> {
        let overflow = Error::LengthOverflow { len, element_bytes: Self::ELEMENT_BYTES };
        let bytes = len.checked_mul(Self::ELEMENT_BYTES).ok_or(overflow)?;
        let file = MemoryFile::new(bytes as u64).map_err(HostError::NotShared)?;
        let taken = runtime.inner().take_file_span(&file)?;
        Self::over(runtime, len, taken, Some(file))
    }

    /// The file that holds the vector's host pages, to be sent to another process. The first call decides for good who may write it: seals are final. To be
    /// written it is given out by [`Lent::share_memory`] alone.
    ///
    /// Having the descriptor is being able to see every byte that the host holds of the vector, current or not: which pages are current at the other
    /// side, and for how long, is for whoever sends it to say.
    ///
    /// # Errors
    /// [`HostError::NotShared`] with [`ShareFault::NotShareable`], [`ShareFault::NotLent`], or [`ShareFault::SharedBefore`] when it was shared otherwise.
    ///
    /// [`Lent::share_memory`]: super::Lent::share_memory
    pub fn share_memory(&self, sharing: Sharing) -> Result<SharedMemory<'_>, Error> {
        if sharing == Sharing::Write && self.buffer.file.is_some() {
            return Err(HostError::NotShared(ShareFault::NotLent).into());
        }
        self.share_file(sharing)
    }

    pub(super) fn share_file(&self, sharing: Sharing) -> Result<SharedMemory<'_>, Error> {
        let file = self.buffer.file.as_ref().ok_or(ShareFault::NotShareable);
        Ok(file.and_then(|file| file.share(sharing)).map_err(HostError::NotShared)?)
    }
}

/// Takes pages out of the mappings of other processes, without asking them: [`Lent::punch`]. Keeps neither vector nor runtime.
///
/// [`Lent::punch`]: super::Lent::punch
#[derive(Clone, Debug)]
pub struct Punch {
    inner: Weak<Inner>,
    buffer: Weak<Buffer>,
}

impl Punch {
    pub(super) fn new(inner: &Arc<Inner>, buffer: &Arc<Buffer>) -> Self {
        Self { inner: Arc::downgrade(inner), buffer: Arc::downgrade(buffer) }
    }

    /// Pages (of 64 KiB) leave every mapping but ours and keep what they hold, but for what others write in this very moment. Whoever kept the descriptor can
    /// touch them again and gets the same page: nothing is safe from a process that has it. What ends is work on the old page, a device's say.
    /// Nothing happens when the vector is gone.
    ///
    /// # Errors
    /// [`HostError::NotShared`]: with [`ShareFault::SharedBefore`] where the file is sealed for reading, which the kernel does not punch;
    /// [`Error::FenceTimedOut`].
    pub fn punch(&self, pages: Range<usize>) -> Result<(), Error> {
        let (Some(inner), Some(buffer)) = (self.inner.upgrade(), self.buffer.upgrade()) else {
            return Ok(());
        };
        let (first, end) = (pages.start as u64, pages.end as u64);
        inner.punch(&buffer, PageSpan { first, end: end.max(first) })
    }
}
