//! What a descriptor says of itself: whether it is a dma-buf, and of how many bytes.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::{
    fs::{SeekFrom, fstatfs, seek},
    io::Errno,
};

use super::SyncFault;

/// `DMA_BUF_MAGIC` of linux/magic.h: the file system that all dma-bufs are files of.
const DMA_BUFS: i64 = 0x444d_4142;

/// A dma-buf that a vector is in.
#[derive(Clone, Copy, Debug)]
pub struct DmaBuf<'fd> {
    /// Its descriptor.
    pub fd: BorrowedFd<'fd>,
    /// Where in it the vector begins, in bytes.
    pub offset_bytes: u64,
    /// How long the vector is, in bytes.
    pub used_bytes: u64,
}

/// The size of a dma-buf, in bytes, as the kernel gives it.
///
/// # Errors
/// [`SyncFault::Refused`]: with `ENOTTY` when it is none.
pub fn dma_buf_bytes(buffer: impl AsFd) -> Result<u64, SyncFault> {
    let refused = |call| move |source| SyncFault::Refused { call, source };
    let system = fstatfs(&buffer).map_err(refused("fstatfs"))?;
    if system.f_type != DMA_BUFS {
        return Err(SyncFault::Refused { call: "fstatfs", source: Errno::NOTTY });
    }
    seek(&buffer, SeekFrom::End(0)).map_err(refused("lseek"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_memory_is_no_dma_buf() {
        let file = crate::host::MemoryFile::new(1).unwrap();
        let memory = file.share(crate::host::Sharing::Write).unwrap();
        let source = Errno::NOTTY;
        assert_eq!(dma_buf_bytes(memory.fd), Err(SyncFault::Refused { call: "fstatfs", source }));
    }
}
