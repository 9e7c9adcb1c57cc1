//! What a piece of work does to the copies of a page.

use super::BlockState;
use crate::{node::NodeId, units::PageMask};

/// What work that was accepted will have done to its pages when it ends Ok.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Effect {
    /// Copies the pages from one node to another.
    Copy {
        /// A node whose copy is current.
        from: NodeId,
        /// The node whose copy becomes current too.
        to: NodeId,
    },
    /// Fills pages that are empty with zeros.
    Zero {
        /// The node whose copy becomes current.
        on: NodeId,
    },
    /// Writes the pages (in part or whole): no other copy is current any more.
    Write {
        /// The node that writes its copy.
        on: NodeId,
    },
    /// Reads the pages.
    Read {
        /// The node whose copy is read.
        on: NodeId,
    },
    /// Makes the pages empty. Touches no copy: what is there no longer counts.
    Discard,
}

impl Effect {
    /// The node whose copy is read.
    pub const fn reads(self) -> Option<NodeId> {
        match self {
            Self::Copy { from, .. } => Some(from),
            Self::Write { on } | Self::Read { on } => Some(on),
            Self::Zero { .. } | Self::Discard => None,
        }
    }

    /// The node whose copy is overwritten.
    pub const fn overwrites(self) -> Option<NodeId> {
        match self {
            Self::Copy { to, .. } => Some(to),
            Self::Zero { on } | Self::Write { on } => Some(on),
            Self::Read { .. } | Self::Discard => None,
        }
    }

    /// True when work with this effect may only begin after work with the effect `earlier` on the same page has ended.
    pub fn must_follow(self, earlier: Self) -> bool {
        let shares = |a: Option<NodeId>, b: Option<NodeId>| a.is_some() && a == b;
        shares(self.overwrites(), earlier.overwrites())
            || shares(self.overwrites(), earlier.reads())
            || shares(self.reads(), earlier.overwrites())
    }

    /// The state after the work has ended Ok.
    pub fn apply(self, state: &mut BlockState, pages: PageMask) {
        match self {
            Self::Copy { to, .. } => state.add(to, pages),
            Self::Zero { on } => state.add(on, pages),
            Self::Write { on } => state.set_only(on, pages),
            Self::Read { .. } => {}
            Self::Discard => state.clear(pages),
        }
    }

    /// The state after the work has ended undone or half done: the copy that it overwrites cannot be trusted.
    pub fn withdraw(self, state: &mut BlockState, pages: PageMask) {
        if let Some(on) = self.overwrites() {
            state.destroy(on, pages);
        }
    }
}
