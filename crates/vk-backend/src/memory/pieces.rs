//! How many mappings a sparse buffer is made of, where the driver makes one per bind. Pure.
//!
//! lavapipe maps each bind, and each unbind, at its place in the buffer's address range, and does not look at what `mmap` answers: past
//! the system's limit of mappings per process binds succeed and do nothing. So they are counted here.

use std::ops::Range;

/// Per block, the number of the call that last bound or unbound it. Neighbours of one call are one mapping.
#[derive(Debug)]
pub(crate) struct Pieces {
    call_of: Vec<u32>,
    calls: u32,
}

impl Pieces {
    /// A buffer of this many blocks, one mapping.
    pub(crate) fn new(blocks: usize) -> Self {
        Self { call_of: vec![0; blocks], calls: 0 }
    }

    /// One call maps a range anew. Returns how many mappings more (or less) there are.
    pub(crate) fn replace(&mut self, range: Range<usize>) -> i64 {
        let before = self.joints(&range);
        self.calls = self.calls.wrapping_add(1);
        for call in self.call_of.get_mut(range.clone()).into_iter().flatten() {
            *call = self.calls;
        }
        self.joints(&range) - before
    }

    /// Places in and at the ends of a range where one mapping ends and the next begins.
    fn joints(&self, range: &Range<usize>) -> i64 {
        let around = range.start.saturating_sub(1)..(range.end + 1).min(self.call_of.len());
        let calls = self.call_of.get(around).unwrap_or_default();
        calls.windows(2).filter(|two| two[0] != two[1]).count() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_calls_add_mappings_and_one_large_call_removes_them() {
        let mut pieces = Pieces::new(10);
        assert_eq!(pieces.replace(0..1), 1);
        assert_eq!(pieces.replace(4..6), 2);
        assert_eq!(pieces.replace(5..6), 1);
        assert_eq!(pieces.replace(9..10), 1);
        assert_eq!(pieces.replace(0..10), -5);
    }

    #[test]
    fn the_count_is_that_of_a_plain_recount() {
        let mut pieces = Pieces::new(17);
        let mut count = 1;
        for step in 0..1000usize {
            let start = step * 7 % 17;
            let end = (start + 1 + step * 5 % 4).min(17);
            count += pieces.replace(start..end);
            let calls = &pieces.call_of;
            let recount = 1 + calls.windows(2).filter(|two| two[0] != two[1]).count() as i64;
            assert_eq!(count, recount, "after step {step}");
        }
    }
}
