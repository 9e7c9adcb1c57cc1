//! Which pages to bring ahead of reads that go by a constant step: the columns of a matrix, or a scan from its end. Pure.
//!
//! A **track** is a few faults that lie equally far apart. Once it has three equal steps, pages are brought ahead of it, twice as many each time; all of them are
//! mapped but the first, whose touch says that the reader goes on:
//!
//! ```text
//!   p     p+s    p+2s   p+3s   p+4s   p+5s   p+6s   p+7s ...
//!   fault  fault  fault  fault  first  mapped               three equal steps; the next fault is on p+4s
//!                               fault         first  mapped mapped mapped
//! ```
//!
//! Steps of one page upwards are a stream's, and a block that is read from its end is the tree's ([`super::look_ahead`]): it has no three equal steps.

use crate::directory::PageSpan;

/// So many tracks of one buffer are followed at once: one for each of a few threads.
const TRACKS: usize = 4;
/// Two faults farther apart than this are no step, in pages.
const FARTHEST_PAGES: u64 = 4096;
/// Pages that are brought ahead at once, at most: each has a copy and a fence of its own, and more fences take memory from the heap.
const MOST_STEPS: u64 = 4;
/// Equal steps that make a track.
const BELIEVED: u8 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Track {
    /// The page of the last fault.
    page: u64,
    /// The last page that was brought: that of the fault, or one ahead of it.
    brought: u64,
    /// Where the next fault is expected.
    next: u64,
    /// From page to page; 0 for not known yet.
    step: i64,
    /// How often it was seen.
    seen: u8,
    /// How many pages were brought ahead last time.
    steps: u64,
}

/// Pages at equal distances.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Steps {
    first: u64,
    step: i64,
    count: u64,
}

impl Steps {
    /// One page after the other, as long as they lie in `within`.
    pub(super) fn pages(self, within: PageSpan) -> impl Iterator<Item = PageSpan> {
        let page = move |at: u64| self.first.checked_add_signed(self.step.checked_mul(at as i64)?);
        let pages = (0..self.count).map_while(page);
        let inside = pages.take_while(move |page| within.first <= *page && *page < within.end);
        inside.map(|page| PageSpan { first: page, end: page + 1 })
    }
}

/// What recent faults of a buffer that were in no stream say about the next one. The one that went on last is the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Strides {
    tracks: [Track; TRACKS],
    /// How many are in use: the last ones.
    used: usize,
}

impl Strides {
    /// What to bring ahead after a fault on `page`.
    pub(super) fn follow(&mut self, page: u64) -> Steps {
        let first = TRACKS - self.used;
        let near = |track: &Track| (1..=FARTHEST_PAGES).contains(&track.page.abs_diff(page));
        let expected =
            self.tracks[first..].iter().rposition(|track| track.step != 0 && track.next == page);
        // Else the nearest that no step is known of.
        let begun = || {
            let tracks = self.tracks[first..].iter().enumerate();
            let begun = tracks.filter(|(_, track)| track.seen < BELIEVED && near(track));
            begun.min_by_key(|(_, track)| track.page.abs_diff(page)).map(|(at, _)| at)
        };
        let known = expected.or_else(begun).map(|at| at + first);
        let mut track = known.map(|at| self.tracks[at]).unwrap_or_default();
        let mut ahead = Steps::default();
        if expected.is_some() {
            track.seen = (track.seen + 1).min(BELIEVED);
        } else {
            let step = if known.is_some() { page as i64 - track.page as i64 } else { 0 };
            track = Track { step, seen: u8::from(step != 0), ..Track::default() };
        }
        if expected.is_none() || track.steps == 0 {
            track.brought = page;
        }
        track.page = page;
        if track.seen == BELIEVED {
            track.steps = (track.steps * 2).clamp(2, MOST_STEPS);
            let after = |steps: u64| {
                track.brought.saturating_add_signed(track.step.saturating_mul(steps as i64))
            };
            ahead = Steps { first: after(1), step: track.step, count: track.steps };
            (track.next, track.brought) = (after(1), after(track.steps));
        } else {
            track.next = page.saturating_add_signed(track.step);
        }
        let place = known.unwrap_or_else(|| {
            self.used = (self.used + 1).min(TRACKS);
            TRACKS - self.used
        });
        self.tracks[place..].rotate_left(1);
        self.tracks[TRACKS - 1] = track;
        ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: PageSpan = PageSpan { first: 0, end: 10_000 };

    /// The faults of a reader of these pages, and how many pages were brought that it did not read.
    fn read(strides: &mut Strides, order: &[u64]) -> (Vec<u64>, usize) {
        let (mut faults, mut brought) = (Vec::new(), Vec::new());
        for page in order {
            if brought.contains(page) {
                continue;
            }
            faults.push(*page);
            let ahead: Vec<_> = strides.follow(*page).pages(ALL).map(|one| one.first).collect();
            // All but the first are mapped.
            brought.extend(ahead.iter().skip(1));
        }
        (faults, brought.iter().filter(|page| !order.contains(page)).count())
    }

    #[test]
    fn from_the_fourth_fault_on_pages_are_brought_ahead_twice_as_many_each_time() {
        let mut strides = Strides::default();
        let column: Vec<_> = (0..40).map(|row| 7 + row * 100).collect();
        let (faults, _) = read(&mut strides, &column);
        let rows: Vec<_> = faults.iter().map(|page| (page - 7) / 100).collect();
        assert_eq!(rows, [0, 1, 2, 3, 4, 6, 10, 14, 18, 22, 26, 30, 34, 38]);
    }

    #[test]
    fn a_scan_from_the_end_is_one_and_ends_with_the_buffer() {
        let mut strides = Strides::default();
        let back: Vec<_> = (0..40).rev().collect();
        let (faults, vain) = read(&mut strides, &back);
        assert_eq!((faults.len(), vain), (14, 0));
        let ahead = Steps { first: 9_800, step: 100, count: 4 };
        assert_eq!(ahead.pages(ALL).map(|one| one.first).collect::<Vec<_>>(), [9_800, 9_900]);
        let ahead = Steps { first: 100, step: -60, count: 4 };
        assert_eq!(ahead.pages(ALL).map(|one| one.first).collect::<Vec<_>>(), [100, 40]);
        let far = Steps { first: 100, step: i64::MAX, count: 4 };
        assert_eq!(far.pages(ALL).count(), 1);
    }

    #[test]
    fn each_of_a_few_threads_has_its_track() {
        let mut strides = Strides::default();
        let mut ahead = Vec::new();
        for row in 0..4 {
            for thread in 0..4 {
                ahead.push(strides.follow(thread * thread * 5_000 + row * 30 * (thread + 1)).count);
            }
        }
        assert_eq!(ahead, [[0; 4], [0; 4], [0; 4], [2; 4]].concat());
    }

    #[test]
    fn what_is_in_no_order_brings_next_to_nothing() {
        let mut strides = Strides::default();
        let mut rng = fastrand::Rng::with_seed(1);
        let order: Vec<_> = (0..2_000).map(|_| rng.u64(..10_000)).collect();
        let (faults, vain) = read(&mut strides, &order);
        assert!(vain * 50 < faults.len(), "{vain} in vain of {}", faults.len());
    }

    #[test]
    fn a_page_that_is_touched_again_is_no_step() {
        let mut strides = Strides::default();
        assert!((0..20).all(|_| strides.follow(5) == Steps::default()));
    }
}
