//! A small set of fences to wait for: at most one per timeline.

use smallvec::SmallVec;

use crate::fence::FencePoint;

/// Fences to wait for. A later value of a timeline stands for the earlier ones, since values end in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FenceSet(SmallVec<[FencePoint; 4]>);

impl FenceSet {
    /// Adds a fence.
    pub fn insert(&mut self, fence: FencePoint) {
        match self.0.iter_mut().find(|known| known.timeline == fence.timeline) {
            Some(known) => known.value = known.value.max(fence.value),
            None => self.0.push(fence),
        }
    }

    /// The fences, at most one per timeline.
    pub fn as_slice(&self) -> &[FencePoint] {
        &self.0
    }

    /// True when there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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
