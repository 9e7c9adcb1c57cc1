//! How many invocations a launch asks for.

/// The most workgroups per axis that every device accepts.
const MAX_GROUPS: u64 = 65_535;

/// The items of a launch. One invocation per item, but for long lines, where each invocation takes several.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Grid {
    /// `n` items in a line. The kernel sees `n` and `threads` and strides: `i, i + threads, ... < n`.
    Linear(u64),
    /// `n` items in a line, for kernels whose workgroups take a slice each: no more workgroups than these, since one without
    /// a slice is not free. The kernel sees what it sees for [`Grid::Linear`].
    Groups {
        /// Items.
        n: u64,
        /// The most workgroups.
        groups: u32,
    },
    /// `nx` by `ny` items in a plane. The kernel sees both.
    Plane {
        /// Items per row.
        nx: u64,
        /// Rows.
        ny: u64,
    },
}

impl Grid {
    /// True when there is nothing to do.
    pub const fn is_empty(self) -> bool {
        match self {
            Self::Linear(n) | Self::Groups { n, .. } => n == 0,
            Self::Plane { nx, ny } => nx == 0 || ny == 0,
        }
    }

    /// Workgroups per axis for a workgroup of this size; `None` when a plane is too large for any device.
    pub fn groups(self, workgroup: [u32; 3]) -> Option<[u32; 3]> {
        match self {
            Self::Linear(_) | Self::Groups { .. } => Some([self.line_groups(workgroup), 1, 1]),
            Self::Plane { nx, ny } => {
                let (x, y) = (count(nx, workgroup[0]), count(ny, workgroup[1]));
                (x <= MAX_GROUPS && y <= MAX_GROUPS).then_some([x as u32, y as u32, 1])
            }
        }
    }

    /// All of them.
    pub(crate) const fn items(self) -> u64 {
        match self {
            Self::Linear(n) | Self::Groups { n, .. } => n,
            Self::Plane { nx, ny } => nx.saturating_mul(ny),
        }
    }

    /// What arguments are split by: items of a line, rows of a plane.
    pub(crate) const fn split_items(self) -> u64 {
        match self {
            Self::Linear(n) | Self::Groups { n, .. } => n,
            Self::Plane { ny, .. } => ny,
        }
    }

    /// The two grid words of the parameter block.
    pub(super) fn words(self, workgroup: [u32; 3]) -> [u64; 2] {
        match self {
            Self::Linear(n) | Self::Groups { n, .. } => {
                [n, u64::from(self.line_groups(workgroup)) * u64::from(workgroup[0])]
            }
            Self::Plane { nx, ny } => [nx, ny],
        }
    }

    /// Workgroups of a line: enough for its items, at least one, and no more than were asked for.
    fn line_groups(self, workgroup: [u32; 3]) -> u32 {
        let (n, most) = match self {
            Self::Linear(n) => (n, MAX_GROUPS),
            Self::Groups { n, groups } => (n, u64::from(groups).clamp(1, MAX_GROUPS)),
            Self::Plane { .. } => (0, 1),
        };
        count(n, workgroup[0]).min(most) as u32
    }
}

/// Workgroups of this size for as many items: at least one.
fn count(items: u64, size: u32) -> u64 {
    items.div_ceil(u64::from(size.max(1))).max(1)
}

impl From<usize> for Grid {
    fn from(n: usize) -> Self {
        Self::Linear(n as u64)
    }
}

impl From<(usize, usize)> for Grid {
    fn from((nx, ny): (usize, usize)) -> Self {
        Self::Plane { nx: nx as u64, ny: ny as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_capped_and_strides() {
        let grid = Grid::Linear(1 << 40);
        assert_eq!(grid.groups([256, 1, 1]), Some([65_535, 1, 1]));
        assert_eq!(grid.words([256, 1, 1]), [1 << 40, 65_535 * 256]);
    }

    #[test]
    fn slices_ask_for_no_more_groups_than_they_are() {
        let grid = |n, groups| Grid::Groups { n, groups };
        assert_eq!(grid(1 << 20, 8).groups([256, 1, 1]), Some([8, 1, 1]));
        assert_eq!(grid(1 << 20, 8).words([256, 1, 1]), [1 << 20, 8 * 256]);
        assert_eq!(grid(300, 8).words([256, 1, 1]), [300, 2 * 256]);
        assert_eq!(grid(300, 0).words([256, 1, 1]), [300, 256]);
    }

    #[test]
    fn a_plane_is_refused_rather_than_cut() {
        assert_eq!(Grid::Plane { nx: 17, ny: 16 }.groups([16, 16, 1]), Some([2, 1, 1]));
        assert_eq!(Grid::Plane { nx: 1 << 30, ny: 1 }.groups([16, 16, 1]), None);
    }
}
