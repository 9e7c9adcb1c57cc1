//! What commands do to memory: stage and direction, as a set of six bits.

use std::fmt;

/// A set of (stage, direction) pairs. A barrier's scopes and a submission's touches are such sets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Uses(u8);

impl Uses {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Reads by kernels.
    pub const SHADER_READ: Self = Self(1);
    /// Writes by kernels.
    pub const SHADER_WRITE: Self = Self(1 << 1);
    /// Reads by copies.
    pub const TRANSFER_READ: Self = Self(1 << 2);
    /// Writes by copies and fills.
    pub const TRANSFER_WRITE: Self = Self(1 << 3);
    /// Reads by the CPU.
    pub const HOST_READ: Self = Self(1 << 4);
    /// Writes by the CPU.
    pub const HOST_WRITE: Self = Self(1 << 5);
    /// Everything that kernels do.
    pub const SHADER: Self = Self::SHADER_READ.or(Self::SHADER_WRITE);
    /// Everything that copies and fills do.
    pub const TRANSFER: Self = Self::TRANSFER_READ.or(Self::TRANSFER_WRITE);
    /// Everything that the CPU does.
    pub const HOST: Self = Self::HOST_READ.or(Self::HOST_WRITE);

    const WRITES: Self = Self::SHADER_WRITE.or(Self::TRANSFER_WRITE).or(Self::HOST_WRITE);

    /// Both sets.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both sets.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// True when nothing is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True when every pair of `other` is in `self`.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The writes of the set.
    pub const fn writes(self) -> Self {
        self.and(Self::WRITES)
    }

    /// The set with each stage in both directions: an execution scope does not tell reads from writes.
    pub const fn stages(self) -> Self {
        let reads = self.0 & 0b01_0101;
        let writes = self.0 & 0b10_1010;
        Self(self.0 | reads << 1 | writes >> 1)
    }
}

impl fmt::Debug for Uses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            "shader read",
            "shader write",
            "transfer read",
            "transfer write",
            "host read",
            "host write",
        ];
        let set = names.iter().enumerate().filter(|(bit, _)| self.0 & 1 << bit != 0);
        f.debug_set().entries(set.map(|(_, name)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_know_no_direction() {
        assert_eq!(Uses::SHADER_READ.stages(), Uses::SHADER);
        assert_eq!(Uses::TRANSFER_WRITE.stages(), Uses::TRANSFER);
        assert_eq!(Uses::HOST_WRITE.or(Uses::SHADER_READ).stages(), Uses::HOST.or(Uses::SHADER));
        assert_eq!(Uses::SHADER.or(Uses::HOST_READ).writes(), Uses::SHADER_WRITE);
    }
}
