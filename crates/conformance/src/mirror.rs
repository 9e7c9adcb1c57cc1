//! A vector and the flat array that says what must be in it.

use std::ops::{Bound, Range, RangeBounds};

use hmmap_core::{Runtime, SharedVec};

use crate::case::{CaseFailure, ensure};

/// A vector with its oracle. The operations of a [`crate::Rig`] do to the oracle what they do to the vector.
#[derive(Debug)]
pub struct Mirror {
    /// The vector under test.
    pub vec: SharedVec<f32>,
    /// What it must hold.
    pub oracle: Vec<f32>,
}

impl Mirror {
    /// A vector that nobody has written.
    pub fn zeros(runtime: &Runtime, len: usize) -> Result<Self, CaseFailure> {
        Ok(Self { vec: SharedVec::new(runtime, len)?, oracle: vec![0.0; len] })
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        self.oracle.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.oracle.is_empty()
    }

    /// The elements that `range` means.
    pub fn resolve(&self, range: &impl RangeBounds<usize>) -> Range<usize> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.len(),
        };
        start..end
    }

    /// Compares elements that were read with the oracle.
    #[track_caller]
    pub fn compare(&self, elements: Range<usize>, got: &[f32]) -> Result<(), CaseFailure> {
        let want = &self.oracle[elements.clone()];
        ensure!(got.len() == want.len(), "{} elements came, of {elements:?}", got.len());
        let differs = got.iter().zip(want).position(|(got, want)| got.to_bits() != want.to_bits());
        let Some(at) = differs else { return Ok(()) };
        let count = got.iter().zip(want).filter(|(got, want)| got.to_bits() != want.to_bits());
        Err(CaseFailure::broken(format!(
            "element {} of {} is {}, should be {}; {} of {} elements read are wrong; {:?}",
            elements.start + at,
            self.len(),
            got[at],
            want[at],
            count.count(),
            got.len(),
            self.vec
        )))
    }
}
