//! Cache lines: bytes, which of them are known, and which were written and not yet passed on.

use std::ops::Range;

/// Bytes in a line. Longer than in any processor, so that a mebibyte is not a hundred thousand map entries.
pub(super) const LINE_BYTES: usize = 4096;
const WORDS: usize = LINE_BYTES / 64;

/// One bit per byte of a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ByteMask([u64; WORDS]);

impl ByteMask {
    pub(super) const NONE: Self = Self([0; WORDS]);
    const ALL: Self = Self([u64::MAX; WORDS]);

    /// Calls `each` with the part of every word that a range of bytes touches.
    fn over(start: usize, end: usize, mut each: impl FnMut(usize, u64)) {
        for word in start / 64..end.div_ceil(64) {
            let lo = start.saturating_sub(word * 64).min(64);
            let hi = (end - word * 64).min(64);
            let below = |bit: usize| if bit == 64 { u64::MAX } else { (1 << bit) - 1 };
            each(word, below(hi) & !below(lo));
        }
    }

    pub(super) fn set(&mut self, start: usize, end: usize) {
        Self::over(start, end, |word, bits| self.0[word] |= bits);
    }

    pub(super) fn has_all(&self, start: usize, end: usize) -> bool {
        let mut all = true;
        Self::over(start, end, |word, bits| all &= self.0[word] & bits == bits);
        all
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The runs of bytes in the mask, cut at every 64th byte.
    pub(super) fn runs(&self) -> impl Iterator<Item = Range<usize>> {
        self.0.iter().enumerate().flat_map(|(word, bits)| {
            let mut rest = *bits;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let first = rest.trailing_zeros();
                let len = (rest >> first).trailing_ones();
                rest &= if first + len == 64 { 0 } else { u64::MAX << (first + len) };
                let start = word * 64 + first as usize;
                Some(start..start + len as usize)
            })
        })
    }

    fn without(&self, other: &Self) -> Self {
        let mut left = self.clone();
        left.0.iter_mut().zip(&other.0).for_each(|(bits, taken)| *bits &= !taken);
        left
    }
}

/// A line of a cache.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) bytes: Box<[u8; LINE_BYTES]>,
    /// Bytes that the cache has, fetched or written.
    pub(super) known: ByteMask,
    /// Bytes that were written here and not yet passed on.
    pub(super) dirty: ByteMask,
}

impl Line {
    pub(super) fn empty() -> Self {
        let bytes = Box::new([0; LINE_BYTES]);
        Self { bytes, known: ByteMask::NONE, dirty: ByteMask::NONE }
    }

    /// Takes bytes in from the level below, but for those that were written here.
    pub(super) fn fill(&mut self, below: &[u8; LINE_BYTES]) {
        for run in ByteMask::ALL.without(&self.known).runs() {
            self.bytes[run.clone()].copy_from_slice(&below[run]);
        }
        self.known = ByteMask::ALL;
    }

    pub(super) fn write(&mut self, start: usize, bytes: &[u8]) {
        let end = start + bytes.len();
        self.bytes[start..end].copy_from_slice(bytes);
        self.known.set(start, end);
        self.dirty.set(start, end);
    }

    /// Takes in what was written to the same line of the level above.
    pub(super) fn take(&mut self, above: &mut Self) {
        for run in above.dirty.runs() {
            self.write(run.start, &above.bytes[run]);
        }
        above.dirty = ByteMask::NONE;
    }

    /// Puts the written bytes into the level below; they are clean here from then on.
    pub(super) fn pass_on(&mut self, below: &mut [u8]) {
        for run in self.dirty.runs() {
            below[run.clone()].copy_from_slice(&self.bytes[run]);
        }
        self.dirty = ByteMask::NONE;
    }

    /// Forgets what was not written here; false when nothing is left.
    pub(super) fn forget_clean(&mut self) -> bool {
        self.known = self.dirty.clone();
        !self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_cover_exactly_their_bytes() {
        let mut mask = ByteMask::NONE;
        mask.set(60, 200);
        assert!(mask.has_all(60, 200) && !mask.has_all(59, 60) && !mask.has_all(200, 201));
        let runs: Vec<_> = mask.runs().collect();
        assert_eq!(runs, [60..64, 64..128, 128..192, 192..200]);
        assert!(!mask.has_all(60, 201));
        mask.set(0, LINE_BYTES);
        assert!(mask.has_all(0, LINE_BYTES));
    }

    #[test]
    fn written_bytes_survive_a_fetch_and_only_they_are_passed_on() {
        let mut line = Line::empty();
        line.write(10, &[1, 2, 3]);
        line.fill(&[9; LINE_BYTES]);
        assert_eq!(line.bytes[9..14], [9, 1, 2, 3, 9]);
        let mut below = [7; LINE_BYTES];
        line.pass_on(&mut below);
        assert_eq!(below[9..14], [7, 1, 2, 3, 7]);
        assert!(!line.forget_clean());
    }
}
