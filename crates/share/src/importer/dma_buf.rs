//! A dma-buf of another process's, as it was opened here.

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use hmmap_core::{
    backend::{Exported, Handle},
    host::dma_buf_bytes,
    p2p::{HandleKinds, Opaque},
};

use super::Link;
use crate::{ShareError, wire::OpenedDmaBuf};

/// Numbers of foreign allocations have it, so that they are none of this process's own.
const FOREIGN: u64 = 1 << 63;

/// A dma-buf that another process serves: for drivers, which take the descriptor in, and for the host, by a mapping of it inside of the brackets of
/// [`hmmap_core::host::HostAccess`]. It is good for as long as somebody has the descriptor, whatever becomes of the exporter; what its vector's owner makes of
/// the bytes later is his affair.
pub struct ImportedDmaBuf {
    fd: Arc<OwnedFd>,
    opened: OpenedDmaBuf,
    link: Arc<Link>,
}

impl ImportedDmaBuf {
    /// Looks at what came before anything of it is used.
    pub(super) fn new(
        link: &Arc<Link>,
        opened: OpenedDmaBuf,
        fd: OwnedFd,
    ) -> Result<Self, ShareError> {
        let buffer = Self { fd: Arc::new(fd), opened, link: Arc::clone(link) };
        let found = dma_buf_bytes(&buffer);
        let found_bytes = found.map_err(|source| ShareError::NotDmaBuf { source })?;
        let said_bytes = opened.len_bytes;
        if found_bytes < said_bytes {
            return Err(ShareError::ShortDmaBuf { found_bytes, said_bytes });
        }
        Ok(buffer)
    }

    /// Its size, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.opened.len_bytes
    }

    /// Where in it the vector begins, in bytes.
    pub fn offset_bytes(&self) -> u64 {
        self.opened.offset_bytes
    }

    /// How much of it is the vector's, in bytes, from there on.
    pub fn used_bytes(&self) -> u64 {
        self.opened.used_bytes
    }

    /// As a device takes memory in: [`hmmap_core::backend::Device::import`]. The handle is another one for the same descriptor.
    ///
    /// # Errors
    /// [`ShareError::System`].
    pub fn exported(&self) -> Result<Exported, ShareError> {
        Ok(Exported {
            handle: Handle::Fd(Arc::clone(&self.fd)),
            kind: HandleKinds::DMA_BUF,
            driver: [0; 16],
            opaque: Opaque::SameDriver,
            device: [0; 16],
            // The same for each descriptor of one dma-buf.
            allocation: FOREIGN | rustix::fs::fstat(&self.fd)?.st_ino,
            memory_type: 0,
            allocation_bytes: self.opened.len_bytes,
            offset_bytes: self.opened.offset_bytes,
            len_bytes: self.opened.used_bytes,
            is_alone: false,
        })
    }
}

impl AsFd for ImportedDmaBuf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for ImportedDmaBuf {
    /// It counts no more towards what this process has of the exporter.
    fn drop(&mut self) {
        self.link.release(self.opened.buffer, &[]);
    }
}

impl fmt::Debug for ImportedDmaBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportedDmaBuf").field("opened", &self.opened).finish_non_exhaustive()
    }
}
