//! What came of hints, counted.

use std::{
    fmt,
    ops::Sub,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// What came of hints. Two readings subtract to what happened between them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HintStats {
    /// Vectors that a launch worked on where they are, in host memory, because a hint said so.
    pub in_place: u64,
    /// Times that pages moved although [`Hint::PreferredLocation`](super::Hint::PreferredLocation) or [`Hint::AccessedBy`](super::Hint::AccessedBy) would have had them
    /// reached where they are: vectors of launches, and touches by the host.
    pub ignored: u64,
    /// Pages of [`Hint::ReadMostly`](super::Hint::ReadMostly) ranges whose other copies a write took away.
    pub collapsed_pages: u64,
}

impl Sub for HintStats {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            in_place: self.in_place - earlier.in_place,
            ignored: self.ignored - earlier.ignored,
            collapsed_pages: self.collapsed_pages - earlier.collapsed_pages,
        }
    }
}

impl fmt::Display for HintStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { in_place, ignored, collapsed_pages } = self;
        write!(
            f,
            "hints: {in_place} vectors used in place, {ignored} times not, {collapsed_pages} pages collapsed"
        )
    }
}

/// The counters themselves; like all counters they order nothing.
#[derive(Debug, Default)]
pub(crate) struct HintCounters {
    in_place: AtomicU64,
    ignored: AtomicU64,
    collapsed_pages: AtomicU64,
}

impl HintCounters {
    pub(crate) fn in_place(&self) {
        self.in_place.fetch_add(1, Relaxed);
    }

    pub(crate) fn ignored(&self) {
        self.ignored.fetch_add(1, Relaxed);
    }

    pub(crate) fn collapsed(&self, pages: u64) {
        self.collapsed_pages.fetch_add(pages, Relaxed);
    }

    pub(crate) fn read(&self) -> HintStats {
        HintStats {
            in_place: self.in_place.load(Relaxed),
            ignored: self.ignored.load(Relaxed),
            collapsed_pages: self.collapsed_pages.load(Relaxed),
        }
    }
}
