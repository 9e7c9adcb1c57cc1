//! Why something cannot be shared.

use std::{io, time::Duration};

use rustix::io::Errno;

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
