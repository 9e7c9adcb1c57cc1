//! Why something cannot be shared.

use std::{io, time::Duration};

use rustix::io::Errno;

use hmmap_core::host::SyncFault;

use crate::wire::{Code, WireError};

/// Why something cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// The exporter says no.
    #[error("the exporter refused: {}", code.meaning())]
    Refused {
        /// Its reason.
        code: Code,
    },
    /// No answer came in time.
    #[error("no answer in {waited:?}")]
    Late {
        /// How long was waited.
        waited: Duration,
    },
    /// The other side is gone, or has ended what was asked for.
    #[error("the other side is gone")]
    Gone,
    /// The vector's bytes are not whole elements of this size.
    #[error("a vector of {used_bytes} bytes is not whole elements of {element_bytes} bytes")]
    Length {
        /// What the vector has.
        used_bytes: u64,
        /// What an element has.
        element_bytes: u64,
    },
    /// No buffer can have this name.
    #[error("no buffer can be served as {name:?}: {reason}")]
    Name {
        /// Which name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// What was to be a dma-buf is none.
    #[error("it is no dma-buf")]
    NotDmaBuf {
        /// What the kernel said.
        source: SyncFault,
    },
    /// A dma-buf is shorter than its exporter said.
    #[error("a dma-buf of {found_bytes} bytes, of which {said_bytes} were said")]
    ShortDmaBuf {
        /// What it has.
        found_bytes: u64,
        /// What was said.
        said_bytes: u64,
    },
    /// The memory.
    #[error("the memory")]
    Memory(#[from] hmmap_core::Error),
    /// What was to be said has no form in the protocol.
    #[error("the message")]
    Wire(#[from] WireError),
    /// The system refused.
    #[error("the system refused")]
    System(#[from] Errno),
}

impl ShareError {
    pub(crate) fn of_io(error: &io::Error) -> Self {
        Self::System(Errno::from_io_error(error).unwrap_or(Errno::IO))
    }
}
