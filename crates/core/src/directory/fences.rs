//! A small set of fences to wait for.

use smallvec::SmallVec;

use crate::fence::FencePoint;

/// Fences to wait for, in order.
///
/// A later value of a timeline does not stand for an earlier one: they end in order, but each in its own way,
/// and work that waits must not begin when any of them has failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FenceSet(SmallVec<[FencePoint; 4]>);

impl FenceSet {
    /// Adds a fence.
    pub fn insert(&mut self, fence: FencePoint) {
        if let Err(place) = self.0.binary_search(&fence) {
            self.0.insert(place, fence);
        }
    }

    /// The fences, each once, those of a timeline in order.
    pub fn as_slice(&self) -> &[FencePoint] {
        &self.0
    }

    /// True when there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets those for which `is_kept` is false.
    pub fn retain(&mut self, mut is_kept: impl FnMut(FencePoint) -> bool) {
        self.0.retain(|fence| is_kept(*fence));
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Extend<FencePoint> for FenceSet {
    fn extend<I: IntoIterator<Item = FencePoint>>(&mut self, fences: I) {
        fences.into_iter().for_each(|fence| self.insert(fence));
    }
}
