//! Which pages to bring with the one that was touched. Pure.
//!
//! **Streams.** Faults that follow each other in order of address bring more each time, and more is brought ahead of them, across blocks.
//!
//! **Dense parts.** Other reads go by the block: where more than half of a part of it is on the host or was touched, the rest comes too.
//! This is the tree that NVIDIA's driver has for its managed memory, with its threshold, so that a program moves from there without surprises. A
//! write takes the one page: what it takes, a device has to be given back.
//!
//! **Hints.** Where the caller has said that a range is used in order, the first touch begins a stream, and more is sent for ahead of it; where
//! it is used in no order, neither of the two is done. Nothing of what is said of one range is done to the next.

use crate::{
    access::Access,
    directory::PageSpan,
    hints::Order,
    units::{PAGES_PER_BLOCK, PageMask},
};

/// A stream brings at most so many pages at once. A block is enough for copies to be as fast as they get, and small enough to be in the
/// processor's caches still when it is read; larger ones make the reader wait for the first and the last of them.
const MOST_PAGES: u64 = PAGES_PER_BLOCK;
/// Where pages come and go by so many or more, a stream brings at most so many of those at once.
const MOST_UNITS: u64 = 4;
/// A stream that the caller has announced begins with so many pages.
const FIRST_PAGES: u64 = 8;
/// Ahead of such a stream so many times as many pages are sent for.
const SENT_AHEAD: u64 = 4;
/// A part of a block is brought whole when more than so much of it is on the host or was touched.
const DENSE_PERCENT: u32 = 51;
/// So many streams of one buffer are followed at once: one for each of a few threads.
const STREAMS: usize = 4;

/// What recent faults of a buffer say about the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Streams {
    /// The one that went on last is the last.
    streams: [Stream; STREAMS],
}

/// Faults that follow each other in order of address. Ahead of them pages are mapped, and more are sent for, so that copying, mapping and
/// reading go on side by side:
///
/// ```text
///   | read now    |m  ahead   |  sent for |  not yet
///    shown.first   ^           shown.end   sent_end
/// ```
///
/// The first page ahead, `m`, is not mapped: a touch of it says that the reader is there and that it is time for more, while the
/// rest of what was brought ahead keeps the reader busy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Stream {
    /// What the last fault brought, and what was brought ahead of the next.
    shown: PageSpan,
    /// Pages up to here were sent for.
    sent_end: u64,
    /// How many at once; 0 for none yet.
    pages: u64,
    /// The pages are taken, not only read. Readers and writers have streams of their own, so that a lone write takes a lone page.
    takes: bool,
    /// The caller has announced it.
    announced: bool,
}

/// Where a touch may reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reach {
    /// The pages around the touched one that may come with it.
    pub(super) within: PageSpan,
    /// Pages come and go by so many, at multiples of which they begin.
    pub(super) unit: u64,
    /// In which order the caller has said that they are used.
    pub(super) order: Order,
}

/// What to do ahead of a reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Ahead {
    /// Pages to bring, and to map but for the first.
    pub(super) show: PageSpan,
    /// Pages to send for meanwhile.
    pub(super) send: PageSpan,
}

impl Streams {
    /// The pages to bring for a fault on `page`. Where it goes on with a stream of its kind, the rest of what was brought ahead, or twice as
    /// many as last time; else `lone`, which has the page in it.
    pub(super) fn follow(
        &mut self,
        page: u64,
        access: Access,
        lone: PageSpan,
        reach: Reach,
    ) -> PageSpan {
        let Reach { within, unit, order } = reach;
        if order == Order::Random {
            return lone;
        }
        let announced = order == Order::Sequential;
        let takes = access.writes();
        let goes_on = |stream: &Stream| {
            let follows = stream.shown.first < page && page <= stream.sent_end;
            stream.pages > 0 && stream.takes == takes && follows
        };
        let place = self.streams.iter().rposition(goes_on);
        let known = place.map(|at| self.streams[at]).unwrap_or_default();
        let least = if announced { FIRST_PAGES.max(unit * 2) } else { unit };
        let at_once = (known.pages * 2).clamp(least, MOST_PAGES.max(unit * MOST_UNITS));
        let end = match place {
            None if announced => lone.end.max(page + at_once),
            None => lone.end,
            Some(_) if page < known.shown.end => known.shown.end,
            Some(_) => page + at_once,
        };
        let shown = PageSpan { first: page, end: end.min(within.end) };
        self.streams[place.unwrap_or(0)..].rotate_left(1);
        let sent_end = known.sent_end.max(shown.end);
        self.streams[STREAMS - 1] = Stream { shown, sent_end, pages: at_once, takes, announced };
        if place.is_none() && !announced { lone } else { shown }
    }

    /// What to do ahead of the fault that will follow `brought`, once there is a stream.
    pub(super) fn ahead(&mut self, brought: PageSpan, reach: Reach) -> Ahead {
        let Reach { within, unit, order } = reach;
        if order == Order::Random {
            return Ahead::default();
        }
        let stream = self.streams.iter_mut().find(|stream| stream.shown == brought);
        let Some(stream) = stream.filter(|stream| stream.pages > unit) else {
            return Ahead::default();
        };
        let behind =
            |first: u64, count: u64| PageSpan { first, end: (first + count).min(within.end) };
        let show = behind(brought.end, stream.pages);
        let times = if stream.announced { SENT_AHEAD } else { 1 };
        let send = behind(show.end, stream.pages * times);
        stream.shown.end = show.end;
        stream.sent_end = send.end;
        Ahead { show, send }
    }
}

/// The largest part of a block, halved again and again, that has `page` in it and of which more than 51 % was touched before, is valid on
/// the host, or is the page itself. The block has `pages`; what the masks say past those is of no page.
pub(super) fn dense(
    touched: PageMask,
    valid: PageMask,
    page: u32,
    pages: u32,
) -> std::ops::Range<u32> {
    let known = touched.or(valid).or(PageMask::span(page, page + 1));
    let mut found = page..page + 1;
    let mut len = 2;
    while u64::from(len) <= PAGES_PER_BLOCK {
        let first = page / len * len;
        let end = (first + len).min(pages);
        let part = PageMask::span(first, end);
        if known.and(part).count() * 100 > (end - first) * DENSE_PERCENT {
            found = first..end;
        }
        len *= 2;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: u64 = 1000;
    const ALL: Reach =
        Reach { within: PageSpan { first: 0, end: PAGES }, unit: 1, order: Order::Normal };

    trait Lone {
        fn follow_lone(&mut self, page: u64, access: Access) -> PageSpan;
    }

    impl Lone for Streams {
        fn follow_lone(&mut self, page: u64, access: Access) -> PageSpan {
            self.follow(page, access, span(page, page + 1), ALL)
        }
    }

    /// What each fault moves when a block is touched in this order, in KiB.
    fn moved(order: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let mut valid = PageMask::EMPTY;
        let mut moved = Vec::new();
        for page in order {
            if valid.contains(PageMask::span(page, page + 1)) {
                continue;
            }
            let part = dense(PageMask::EMPTY, valid, page, 32);
            let part = PageMask::span(part.start, part.end);
            moved.push(part.without(valid).count() * 64);
            valid = valid.or(part);
        }
        assert_eq!(valid, PageMask::FULL);
        moved
    }

    #[test]
    fn a_cold_block_that_is_read_in_order_comes_in_six_moves() {
        assert_eq!(moved(0..32), [64, 64, 128, 256, 512, 1024]);
        assert_eq!(moved((0..32).rev()), [64, 64, 128, 256, 512, 1024]);
    }

    #[test]
    fn a_cold_block_that_is_read_by_every_second_page_comes_once_more_than_half_is_there() {
        // Pages 0 and 2 leave half of four empty; page 4 makes three of eight.
        let evens = (0..32).step_by(2).chain((1..32).step_by(2));
        let mut wanted = vec![64; 16];
        // All even pages: one more is 17 of 32.
        wanted.push(1024);
        assert_eq!(moved(evens), wanted);
    }

    #[test]
    fn a_part_is_dense_from_more_than_51_percent_on() {
        for (len, least) in [(2, 2), (4, 3), (8, 5), (16, 9), (32, 17)] {
            let but_one = PageMask::span(0, least - 1).without(PageMask::span(0, 1));
            let few = dense(but_one, PageMask::EMPTY, 0, 32);
            assert!(few.len() < len, "{few:?} of {len}");
            let others = PageMask::span(len as u32 - least + 1, len as u32);
            assert_eq!(dense(others, PageMask::EMPTY, 0, 32), 0..len as u32);
            assert_eq!(dense(PageMask::EMPTY, others, 0, 32), 0..len as u32);
        }
        assert_eq!(dense(PageMask::EMPTY, PageMask::EMPTY, 31, 32), 31..32);
        assert_eq!(dense(PageMask::FULL, PageMask::EMPTY, 7, 32), 0..32);
    }

    #[test]
    fn what_is_past_the_end_of_a_block_is_not_counted() {
        // The mask's bits from the last page on say the same.
        let last = PageMask::span(4, 32);
        assert_eq!(dense(PageMask::EMPTY, last, 4, 5), 4..5);
        assert_eq!(dense(PageMask::EMPTY, last, 0, 5), 0..1, "two of five");
        let two = last.or(PageMask::span(0, 1));
        assert_eq!(dense(PageMask::EMPTY, two, 2, 5), 0..5, "three of five");
        assert_eq!(dense(PageMask::EMPTY, PageMask::EMPTY, 0, 1), 0..1);
    }

    #[test]
    fn a_fault_that_follows_nothing_brings_its_part_and_the_next_may_follow_it() {
        let mut streams = Streams::default();
        assert_eq!(streams.follow(13, Access::Read, span(12, 16), ALL), span(12, 16));
        assert!(streams.ahead(span(12, 16), ALL).show.is_empty());
        assert_eq!(streams.follow(16, Access::Read, span(16, 17), ALL), span(16, 18));
    }

    fn span(first: u64, end: u64) -> PageSpan {
        PageSpan { first, end }
    }

    #[test]
    fn a_stream_doubles_and_a_jump_begins_anew() {
        let mut streams = Streams::default();
        let mut take = |page| {
            let span = streams.follow_lone(page, Access::Read);
            (span.first, span.end)
        };
        assert_eq!(take(0), (0, 1));
        assert_eq!(take(1), (1, 3));
        assert_eq!(take(3), (3, 7));
        assert_eq!(take(500), (500, 501));
        assert_eq!(take(501), (501, 503));
        assert_eq!(take(7), (7, 15), "the other one goes on");
        assert_eq!(take(999), (999, 1000));
        assert_eq!(take(2), (2, 3));
    }

    #[test]
    fn ahead_of_a_stream_as_much_is_shown_and_as_much_is_sent_for() {
        let mut streams = Streams::default();
        let first = streams.follow_lone(0, Access::Read);
        assert_eq!(streams.ahead(first, ALL), Ahead::default(), "one fault is no stream");
        let second = streams.follow_lone(1, Access::Read);
        let ahead = Ahead { show: span(3, 5), send: span(5, 7) };
        assert_eq!(streams.ahead(second, ALL), ahead);
        let third = streams.follow_lone(3, Access::Read);
        assert_eq!(third, span(3, 5), "the page that was left out, and what is there already");
        let ahead = Ahead { show: span(5, 9), send: span(9, 13) };
        assert_eq!(streams.ahead(third, ALL), ahead, "twice as many");
        assert_eq!(streams.follow_lone(9, Access::Update).count(), 1, "a write is no reader");
        assert_eq!(streams.follow_lone(6, Access::Read), span(6, 9), "it had not come yet");
    }

    #[test]
    fn who_overtakes_what_is_shown_gets_what_was_sent_for() {
        let mut streams = Streams::default();
        let _ = streams.follow_lone(0, Access::Read);
        let second = streams.follow_lone(1, Access::Read);
        let _ = streams.ahead(second, ALL);
        assert_eq!(streams.follow_lone(6, Access::Read), span(6, 10));
        assert_eq!(streams.follow_lone(10, Access::Read), span(10, 18));
    }

    #[test]
    fn a_stream_ends_with_its_buffer_and_grows_to_a_block() {
        let mut streams = Streams::default();
        let mut page = 0;
        let mut most = 0;
        while page < PAGES {
            let brought = streams.follow_lone(page, Access::Read);
            let ahead = streams.ahead(brought, ALL);
            assert!(ahead.show.end <= PAGES && ahead.send.end <= PAGES);
            (page, most) = (brought.end, most.max(brought.count()));
        }
        assert_eq!(most, MOST_PAGES);
    }

    #[test]
    fn each_of_a_few_threads_has_its_stream() {
        let mut streams = Streams::default();
        for round in 0..3 {
            for thread in 0..4 {
                let page = thread * 100 + (1 << round) - 1;
                assert_eq!(
                    streams.follow_lone(page, Access::Read).count(),
                    1 << round,
                    "{round} {thread}"
                );
            }
        }
    }

    #[test]
    fn an_announced_stream_begins_at_once_and_sends_for_more() {
        let announced = Reach { order: Order::Sequential, ..ALL };
        let mut streams = Streams::default();
        let first = streams.follow(100, Access::Read, span(96, 101), announced);
        assert_eq!(first, span(100, 108), "from the touched page on");
        let ahead = Ahead { show: span(108, 116), send: span(116, 148) };
        assert_eq!(streams.ahead(first, announced), ahead);
        assert_eq!(streams.follow(108, Access::Read, span(108, 109), announced), span(108, 116));
        let near = Reach { within: span(90, 120), ..announced };
        let mut streams = Streams::default();
        let first = streams.follow(110, Access::Read, span(110, 111), near);
        assert_eq!(first, span(110, 118));
        assert_eq!(
            streams.ahead(first, near),
            Ahead { show: span(118, 120), send: span(120, 120) }
        );
    }

    #[test]
    fn where_no_order_is_there_is_no_stream() {
        let random = Reach { order: Order::Random, ..ALL };
        let mut streams = Streams::default();
        for page in 0..20 {
            let lone = span(page, page + 1);
            assert_eq!(streams.follow(page, Access::Read, lone, random), lone);
            assert_eq!(streams.ahead(lone, random), Ahead::default());
        }
        assert_eq!(streams, Streams::default(), "nor is one of another range forgotten for it");
    }
}
