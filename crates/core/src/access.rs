//! What an agent does with a range.

use std::fmt;

/// What a kernel, a guard or a peer does with a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Access {
    /// Reads only.
    Read,
    /// Reads and writes.
    Update,
    /// Overwrites every byte before reading any: nothing is copied in.
    Write,
}

impl Access {
    /// True for [`Access::Update`] and [`Access::Write`].
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Read)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Update => "update",
            Self::Write => "write",
        })
    }
}
