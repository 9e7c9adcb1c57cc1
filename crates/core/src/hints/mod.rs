//! What the caller says about the use of a range, beside what the library sees for itself.
//!
//! A **hint** is set on a range and stays there until another takes its place, whatever moves meanwhile. It changes where pages are and what is copied,
//! never what anybody reads. Hints lie on whole pages: a range covers every page that it touches.
//!
//! ```text
//! set    splits ranges:  [ normal                                  ]      last wins, each kind for itself
//!                        [ normal    ][ Sequential ][ normal       ]
//!                        [ normal    ][ Sequential + Pin ][ Pin    ][ .. ]
//! get    the common value over a range, or that there is none: [`Common`]
//! ```
//!
//! Three more are no properties of a range but things to do, so they are methods: `WillNeed(node)` is
//! [`SharedVec::prefetch`](crate::SharedVec::prefetch), which gives a fence, and `Discard` is [`SharedVec::discard`](crate::SharedVec::discard), which
//! needs the vector exclusively. Where each stands beside `cudaMemAdvise`, `madvise` and the drivers' own is in docs/hints.md.
//!
//! `HintMap` is pure: no lock, no device. What the engine makes of a hint stands where it decides: `engine::reach` (how much a touch brings),
//! `engine::placement` (where a kernel works), `engine::evict` (who leaves).

#[cfg(test)]
#[path = "../../tests/cases/mod.rs"]
mod cases;
mod common;
mod counters;
mod map;

use std::fmt;

pub use common::{Common, CommonHints};
pub(crate) use counters::HintCounters;
pub use counters::HintStats;
pub(crate) use map::HintMap;

use crate::{
    directory::NodeSet,
    node::NodeId,
    units::{PAGE_BYTES, PAGES_PER_BLOCK},
};

/// One thing to say about a range. Each kind is kept for itself; of one kind the last that was said counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Hint {
    /// Read by many, hardly ever written: every reader gets a copy of its own, even where [`Hint::PreferredLocation`] or [`Hint::AccessedBy`] would have
    /// it reach across. A write takes the other copies away, which is counted.
    ReadMostly,
    /// Takes [`Hint::ReadMostly`] back. Copies that there are stay until somebody writes.
    NotReadMostly,
    /// Where the range is at home. Moves nothing by itself.
    PreferredLocation(NodeId),
    /// Takes [`Hint::PreferredLocation`] back.
    NoPreferredLocation,
    /// This node works on the range where it is, rather than have it moved.
    AccessedBy(NodeId),
    /// Takes [`Hint::AccessedBy`] back, for this node alone.
    NotAccessedBy(NodeId),
    /// Used from low addresses to high ones, once: the look-ahead starts at the first touch and goes farther, and a full device gives these blocks up first.
    Sequential,
    /// Used in no order: a touch brings what was touched and nothing else. A launch that reads all of it so is taken to read one element for each item, and leaves it in
    /// host memory while bringing it would cost more.
    Random,
    /// Takes [`Hint::Sequential`] and [`Hint::Random`] back: the library looks for itself.
    NormalOrder,
    /// Memory that a device has for the range stays, whatever else needs room there.
    Pin,
    /// Takes [`Hint::Pin`] back.
    Unpin,
    /// How much one touch or launch moves at least, in parts of the vector that begin at multiples of it.
    Granularity(Granularity),
}

/// A number of pages, a power of two: one page to one block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Granularity(u8);

impl Granularity {
    /// 64 KiB: what every vector has at first.
    pub const PAGE: Self = Self(0);
    /// 2 MiB.
    pub const BLOCK: Self = Self(PAGES_PER_BLOCK.trailing_zeros() as u8);

    /// So many bytes; `None` unless it is a power of two from a page (64 KiB) to a block (2 MiB).
    pub const fn of_bytes(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= PAGE_BYTES && bytes <= PAGE_BYTES * PAGES_PER_BLOCK {
            Some(Self((bytes / PAGE_BYTES).trailing_zeros() as u8))
        } else {
            None
        }
    }

    /// How many pages.
    pub const fn pages(self) -> u64 {
        1 << self.0
    }

    /// How many bytes.
    pub const fn bytes(self) -> u64 {
        self.pages() * PAGE_BYTES
    }
}

impl Default for Granularity {
    fn default() -> Self {
        Self::PAGE
    }
}

impl fmt::Debug for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB", self.bytes() >> 10)
    }
}

/// In which order a range is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Order {
    /// Nobody has said.
    #[default]
    Normal,
    /// [`Hint::Sequential`].
    Sequential,
    /// [`Hint::Random`].
    Random,
}

/// Everything that was said about a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Hints {
    /// [`Hint::ReadMostly`].
    pub read_mostly: bool,
    /// [`Hint::PreferredLocation`].
    pub preferred: Option<NodeId>,
    /// [`Hint::AccessedBy`], of every node.
    pub accessed_by: NodeSet,
    /// [`Hint::Sequential`] or [`Hint::Random`].
    pub order: Order,
    /// [`Hint::Pin`].
    pub pinned: bool,
    /// [`Hint::Granularity`].
    pub granularity: Granularity,
    /// Where it was sent by a prefetch last; says nothing about whether it is there.
    pub last_prefetch: Option<NodeId>,
}

impl Hints {
    /// Takes a hint in.
    pub(crate) fn take(&mut self, hint: Hint) {
        match hint {
            Hint::ReadMostly => self.read_mostly = true,
            Hint::NotReadMostly => self.read_mostly = false,
            Hint::PreferredLocation(node) => self.preferred = Some(node),
            Hint::NoPreferredLocation => self.preferred = None,
            Hint::AccessedBy(node) => self.accessed_by.insert(node),
            Hint::NotAccessedBy(node) => self.accessed_by.remove(node),
            Hint::Sequential => self.order = Order::Sequential,
            Hint::Random => self.order = Order::Random,
            Hint::NormalOrder => self.order = Order::Normal,
            Hint::Pin => self.pinned = true,
            Hint::Unpin => self.pinned = false,
            Hint::Granularity(granularity) => self.granularity = granularity,
        }
    }
}

/// Whether a hint changes anything where it was set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum HintEffect {
    /// The library acts on it.
    Acts,
    /// It is kept and can be read back, and that is all.
    KeptOnly(NoEffect),
}

/// Why a hint changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum NoEffect {
    /// The range has no element.
    EmptyRange,
    /// The device works on the host's memory, where everything is in its place.
    NothingMoves,
    /// The device's kernels were not found to reach host memory ([`crate::backend::Capabilities::host_window`]), so what they use has to move.
    NoWindow,
    /// The host does not reach devices' memory, so what it uses has to move.
    HostReachesNoDevice,
    /// The host's touches are not noticed ([`crate::host::HostFaults`]), so there is nothing to bring more or less of.
    NoFaults,
}

impl Hint {
    /// The node that it speaks of.
    pub(crate) fn node(self) -> Option<NodeId> {
        match self {
            Self::PreferredLocation(node) | Self::AccessedBy(node) | Self::NotAccessedBy(node) => {
                Some(node)
            }
            _ => None,
        }
    }
}
