//! Spans of dropped vectors that keep their memory, for the next vector of the same length.
//!
//! Giving pages back to the system and faulting new ones in costs several times what overwriting them does, and a device has to let go
//! of what it imported around them. So a program that makes and drops a vector in a loop would pay for memory, not for work.
//! A bounded amount is kept instead, the longest unused given back first. Pure: what is to be given back is returned.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::HostSpan;

/// The most spans that are kept, however small: a look for one stays short.
const MOST_SPANS: usize = 64;

/// Spans that nobody uses and whose pages were not given back, the longest unused first.
#[derive(Debug, Default)]
pub(super) struct Kept {
    spans: VecDeque<HostSpan>,
    bytes: u64,
}

/// Spans that are no longer kept.
pub(crate) type Evicted = SmallVec<[HostSpan; 2]>;

impl Kept {
    /// The span of this length that was used last.
    pub(super) fn take(&mut self, len_bytes: u64) -> Option<HostSpan> {
        let place = self.spans.iter().rposition(|span| span.len_bytes == len_bytes)?;
        let span = self.spans.remove(place)?;
        self.bytes -= span.len_bytes;
        Some(span)
    }

    /// Keeps a span, and returns what has to go for it: itself when it is more than a quarter of the limit.
    pub(super) fn keep(&mut self, span: HostSpan, limit_bytes: u64) -> Evicted {
        let mut evicted = Evicted::new();
        if span.len_bytes > limit_bytes / 4 {
            evicted.push(span);
            return evicted;
        }
        self.bytes += span.len_bytes;
        self.spans.push_back(span);
        while self.bytes > limit_bytes || self.spans.len() > MOST_SPANS {
            let Some(oldest) = self.spans.pop_front() else { break };
            self.bytes -= oldest.len_bytes;
            evicted.push(oldest);
        }
        evicted
    }

    /// Everything, which is no longer kept.
    pub(super) fn take_all(&mut self) -> Evicted {
        self.bytes = 0;
        std::mem::take(&mut self.spans).into_iter().collect()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PAGE_BYTES;

    const LIMIT_BYTES: u64 = 8 * PAGE_BYTES;

    fn span(first: u64, pages: u64) -> HostSpan {
        HostSpan { offset_bytes: first * PAGE_BYTES, len_bytes: pages * PAGE_BYTES }
    }

    #[test]
    fn the_last_of_the_same_length_comes_back_and_no_other() {
        let mut kept = Kept::default();
        for one in [span(0, 1), span(1, 2), span(3, 1)] {
            assert!(kept.keep(one, LIMIT_BYTES).is_empty());
        }
        assert_eq!(kept.take(PAGE_BYTES), Some(span(3, 1)));
        assert_eq!(kept.take(PAGE_BYTES), Some(span(0, 1)));
        assert_eq!(kept.take(PAGE_BYTES), None);
        assert_eq!(kept.bytes(), 2 * PAGE_BYTES);
    }

    #[test]
    fn the_longest_unused_go_when_the_limit_is_passed() {
        let mut kept = Kept::default();
        for number in 0..4 {
            assert!(kept.keep(span(2 * number, 2), LIMIT_BYTES).is_empty());
        }
        assert_eq!(kept.keep(span(8, 1), LIMIT_BYTES).as_slice(), [span(0, 2)]);
        assert_eq!(kept.bytes(), 7 * PAGE_BYTES);
        let large = span(20, 3);
        assert_eq!(kept.keep(large, LIMIT_BYTES).as_slice(), [large], "too large to keep");
        assert_eq!(kept.take_all().len(), 4);
        assert_eq!(kept.bytes(), 0);
        assert_eq!(kept.keep(span(0, 1), 0).len(), 1, "a limit of zero keeps nothing");
    }

    #[test]
    fn there_are_never_many() {
        let mut kept = Kept::default();
        let evicted =
            (0..1000).map(|first| kept.keep(span(first, 1), u64::MAX).len()).sum::<usize>();
        assert_eq!(evicted, 1000 - MOST_SPANS);
        assert_eq!(kept.bytes(), MOST_SPANS as u64 * PAGE_BYTES);
    }
}
