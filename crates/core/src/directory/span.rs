//! A stretch of pages, cut where blocks begin and end.

use std::ops::Range;

use crate::units::{PAGE_BYTES, PAGES_PER_BLOCK, PageMask};

/// Pages `first..end` of a buffer. Empty when `first == end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct PageSpan {
    /// The first page.
    pub first: u64,
    /// One past the last.
    pub end: u64,
}

impl PageSpan {
    /// The pages that hold any of these bytes.
    pub fn touching(bytes: &Range<u64>) -> Self {
        if bytes.is_empty() {
            return Self::default();
        }
        Self { first: bytes.start / PAGE_BYTES, end: bytes.end.div_ceil(PAGE_BYTES) }
    }

    /// The pages that lie inside these bytes. A range that reaches `len_bytes`, the buffer's end, covers the last page.
    pub fn inside(bytes: &Range<u64>, len_bytes: u64) -> Self {
        let first = bytes.start.div_ceil(PAGE_BYTES);
        let end = if bytes.end == len_bytes {
            bytes.end.div_ceil(PAGE_BYTES)
        } else {
            bytes.end / PAGE_BYTES
        };
        if bytes.is_empty() || first >= end { Self::default() } else { Self { first, end } }
    }

    /// True when there is no page in it.
    pub const fn is_empty(self) -> bool {
        self.first == self.end
    }

    /// How many pages.
    pub const fn count(self) -> u64 {
        self.end - self.first
    }

    /// True when the two share a page.
    pub const fn overlaps(self, other: Self) -> bool {
        self.first < other.end && other.first < self.end
    }

    /// The pages of this span in `block`.
    pub fn in_block(self, block: u32) -> PageMask {
        let base = u64::from(block) * PAGES_PER_BLOCK;
        let lo = self.first.clamp(base, base + PAGES_PER_BLOCK) - base;
        let hi = self.end.clamp(base, base + PAGES_PER_BLOCK) - base;
        PageMask::span(lo as u32, hi as u32)
    }

    /// The span as stretches of blocks with one mask each: at most a partial block, whole blocks, a partial block. A span that
    /// reaches the end of a buffer of `pages` pages covers the rest of the last block too.
    pub(super) fn segments(self, pages: u64) -> impl Iterator<Item = (Range<u32>, PageMask)> {
        let end =
            if self.end == pages { self.end.next_multiple_of(PAGES_PER_BLOCK) } else { self.end };
        let (first_block, first_page) = split(self.first);
        let (end_block, end_page) = split(end);
        let mut parts = [const { (0..0, PageMask::EMPTY) }; 3];
        if self.is_empty() {
            // No part.
        } else if first_block == end_block {
            parts[0] = (first_block..first_block + 1, PageMask::span(first_page, end_page));
        } else {
            let whole_from = first_block + u32::from(first_page > 0);
            parts[0] = (first_block..whole_from, PageMask::span(first_page, 32));
            parts[1] = (whole_from..end_block, PageMask::FULL);
            parts[2] =
                (end_block..end_block + u32::from(end_page > 0), PageMask::span(0, end_page));
        }
        parts.into_iter().filter(|(blocks, _)| !blocks.is_empty())
    }
}

/// The block of a page and the page's place in it.
fn split(page: u64) -> (u32, u32) {
    ((page / PAGES_PER_BLOCK) as u32, (page % PAGES_PER_BLOCK) as u32)
}
