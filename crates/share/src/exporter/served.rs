//! What is served under a name: a vector, or a dma-buf.

use hmmap_core::home::Grant;

use super::arbiter::Holder;
use crate::wire::{Message, Opened, OpenedDmaBuf};

/// What is said to who opens a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Served {
    /// Pages of a vector, which are asked for and recalled.
    Vector(Opened),
    /// A descriptor, which is all there is to it: nobody asks for its pages, and nobody gets them back.
    DmaBuf(OpenedDmaBuf),
}

impl Served {
    pub(crate) fn len_bytes(self) -> u64 {
        match self {
            Self::Vector(opened) => opened.len_bytes,
            Self::DmaBuf(opened) => opened.len_bytes,
        }
    }

    /// The most that is granted of it.
    pub(crate) fn most(self) -> Option<Grant> {
        match self {
            Self::Vector(opened) => Some(opened.most),
            Self::DmaBuf(_) => None,
        }
    }

    pub(crate) fn message(self, buffer: Holder) -> Message {
        match self {
            Self::Vector(opened) => Message::Opened(Opened { buffer, ..opened }),
            Self::DmaBuf(opened) => Message::OpenedDmaBuf(OpenedDmaBuf { buffer, ..opened }),
        }
    }
}
