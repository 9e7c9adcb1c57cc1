//! What the caller says about a vector's ranges: setting it and reading it back.

use std::ops::{Range, RangeBounds};

use bytemuck::Pod;

use super::SharedVec;
use crate::{
    error::Error,
    hints::{CommonHints, Hint, HintEffect, Hints, NoEffect},
};

/// Neighbouring pages of which the same was said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HintRun {
    /// The pages, counted from the vector's start.
    pub pages: Range<u64>,
    /// What was said.
    pub hints: Hints,
}

impl<T: Pod> SharedVec<T> {
    /// Says something about a range: every page that it touches. The last word on a page counts, of each kind of hint for itself. Moves nothing by itself, costs
    /// by the hints that lie in the range and not by its length, and counts for what is asked of the range from now on.
    ///
    /// Says whether that changes anything here. What changes nothing is kept all the same: it can be read back, and moves with the vector.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::NoSuchDevice`] for a node that the runtime does not have; [`Error::Device`] when the device that the hint speaks of cannot be
    /// opened. Then nothing was said.
    pub fn hint(&self, range: impl RangeBounds<usize>, hint: Hint) -> Result<HintEffect, Error> {
        let elements = self.resolve(range)?;
        let effects = self.hint_all([(elements, hint)])?;
        Ok(effects.first().copied().unwrap_or(HintEffect::KeptOnly(NoEffect::EmptyRange)))
    }

    /// Says several things at once, in order: all of them, or, with an error, nothing.
    ///
    /// # Errors
    /// As [`SharedVec::hint`].
    pub fn hint_all(
        &self,
        hints: impl IntoIterator<Item = (Range<usize>, Hint)>,
    ) -> Result<Vec<HintEffect>, Error> {
        let inner = self.runtime.inner();
        let mut said = Vec::new();
        for (range, hint) in hints {
            let span = self.pages(&self.resolve(range)?);
            let acts = inner.effect_of(hint)?;
            let nothing = HintEffect::KeptOnly(NoEffect::EmptyRange);
            said.push((span, hint, if span.is_empty() { nothing } else { acts }));
        }
        let mut state = self.buffer.state.lock();
        let take = |(span, hint, effect)| {
            state.hints.change(span, |hints| hints.take(hint));
            effect
        };
        Ok(said.into_iter().map(take).collect())
    }

    /// What was said about all pages of a range alike, in the manner of `cudaMemRangeGetAttribute`: of each kind the common value, or that there is none.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn hints(&self, range: impl RangeBounds<usize>) -> Result<CommonHints, Error> {
        let span = self.pages(&self.resolve(range)?);
        Ok(self.buffer.state.lock().hints.common(span))
    }

    /// What was said about a range, part by part.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn hint_runs(&self, range: impl RangeBounds<usize>) -> Result<Vec<HintRun>, Error> {
        let span = self.pages(&self.resolve(range)?);
        let state = self.buffer.state.lock();
        let runs = state.hints.runs(span);
        Ok(runs.map(|(part, hints)| HintRun { pages: part.first..part.end, hints }).collect())
    }

    /// What was said about another vector's elements holds for the same elements of this one.
    pub(super) fn keep_hints_of(&self, other: &Self) {
        let hints = other.buffer.state.lock().hints.clone();
        self.buffer.state.lock().hints = hints;
    }
}
