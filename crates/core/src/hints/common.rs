//! What a range has in common.

use super::{Granularity, Hints, Order};
use crate::{directory::NodeSet, node::NodeId};

/// The value that all pages of a range have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Common<T> {
    /// All have this.
    All(T),
    /// They differ.
    Mixed,
}

impl<T: PartialEq> Common<T> {
    /// The value, when there is one.
    pub fn value(self) -> Option<T> {
        match self {
            Self::All(value) => Some(value),
            Self::Mixed => None,
        }
    }

    fn and(&mut self, value: T) {
        if *self != Self::All(value) {
            *self = Self::Mixed;
        }
    }
}

/// The hints that all pages of a range have in common. Of an empty range, those of a new vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommonHints {
    /// [`Hints::read_mostly`].
    pub read_mostly: Common<bool>,
    /// [`Hints::preferred`].
    pub preferred: Common<Option<NodeId>>,
    /// The nodes that all pages name.
    pub accessed_by: NodeSet,
    /// [`Hints::order`].
    pub order: Common<Order>,
    /// [`Hints::pinned`].
    pub pinned: Common<bool>,
    /// [`Hints::granularity`].
    pub granularity: Common<Granularity>,
    /// [`Hints::last_prefetch`].
    pub last_prefetch: Common<Option<NodeId>>,
}

impl From<Hints> for CommonHints {
    fn from(hints: Hints) -> Self {
        Self {
            read_mostly: Common::All(hints.read_mostly),
            preferred: Common::All(hints.preferred),
            accessed_by: hints.accessed_by,
            order: Common::All(hints.order),
            pinned: Common::All(hints.pinned),
            granularity: Common::All(hints.granularity),
            last_prefetch: Common::All(hints.last_prefetch),
        }
    }
}

impl CommonHints {
    /// What is left in common with more pages.
    pub(super) fn and(mut self, hints: Hints) -> Self {
        self.read_mostly.and(hints.read_mostly);
        self.preferred.and(hints.preferred);
        self.accessed_by = self.accessed_by.and(hints.accessed_by);
        self.order.and(hints.order);
        self.pinned.and(hints.pinned);
        self.granularity.and(hints.granularity);
        self.last_prefetch.and(hints.last_prefetch);
        self
    }
}
