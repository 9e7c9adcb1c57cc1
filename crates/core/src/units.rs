//! Sizes and the page mask: the arithmetic that every other module shares.
//!
//! A **page** (64 KiB) is the unit of residency and of transfer, a **block** (2 MiB, 32 pages) the unit of
//! device backing. The state of a block on one node is therefore one `u32`, and every coherence rule is
//! a few bit operations on [`PageMask`].

use std::{fmt, ops::Range};

/// Bytes in a page, the unit of residency and of transfer.
pub const PAGE_BYTES: u64 = 64 << 10;
/// Bytes in a block, the unit of device backing.
pub const BLOCK_BYTES: u64 = 2 << 20;
/// Pages in a block.
pub const PAGES_PER_BLOCK: u64 = BLOCK_BYTES / PAGE_BYTES;

const _: () = assert!(PAGES_PER_BLOCK == u32::BITS as u64);

/// Which of a block's 32 pages: bit `i` is page `i`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub struct PageMask(u32);

impl PageMask {
    /// No page.
    pub const EMPTY: Self = Self(0);
    /// All 32 pages.
    pub const FULL: Self = Self(u32::MAX);

    /// The mask with exactly these bits.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The pages `lo..hi` of a block; both are clamped to 32.
    pub const fn span(lo: u32, hi: u32) -> Self {
        Self(Self::below(hi) & !Self::below(lo))
    }

    const fn below(page: u32) -> u32 {
        if page >= u32::BITS { u32::MAX } else { (1 << page) - 1 }
    }

    /// The raw bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// True when no page is in the mask.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True when every page of `other` is in `self`.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// True when the two masks share a page.
    pub const fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Pages in `self` or in `other`.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Pages in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Pages in `self` and not in `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// How many pages are in the mask.
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// The maximal spans `lo..hi` of neighbouring pages in the mask, lowest first.
    pub fn spans(self) -> impl Iterator<Item = Range<u32>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let lo = rest.trailing_zeros();
            let len = (rest >> lo).trailing_ones();
            rest &= !Self::span(lo, lo + len).0;
            Some(lo..lo + len)
        })
    }
}

impl fmt::Debug for PageMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageMask({:#010x})", self.0)
    }
}

/// How many pages hold `len_bytes`.
pub const fn pages_for(len_bytes: u64) -> u64 {
    len_bytes.div_ceil(PAGE_BYTES)
}

/// How many blocks hold `len_bytes`.
pub const fn blocks_for(len_bytes: u64) -> u64 {
    len_bytes.div_ceil(BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn span_clamps_and_counts() {
        assert_eq!(PageMask::span(0, 32), PageMask::FULL);
        assert_eq!(PageMask::span(5, 5), PageMask::EMPTY);
        assert_eq!(PageMask::span(31, 99).bits(), 1 << 31);
        assert_eq!(PageMask::span(3, 7).count(), 4);
    }

    #[test]
    fn spans_are_maximal_and_cover_the_mask() {
        for bits in [0, 1, u32::MAX, 0x8000_0001, 0x0f0f_0ff0, 0x5555_5555] {
            let mask = PageMask::from_bits(bits);
            let mut seen = PageMask::EMPTY;
            let mut last_end = None;
            for span in mask.spans() {
                assert!(span.start < span.end);
                assert!(last_end.is_none_or(|end| end < span.start), "spans must not touch");
                last_end = Some(span.end);
                seen = seen.or(PageMask::span(span.start, span.end));
            }
            assert_eq!(seen, mask);
        }
    }
}
