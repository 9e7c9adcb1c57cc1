//! Thrashing: pages, or blocks, that go back and forth. By the defaults of NVIDIA's driver.
//!
//! **Two kinds.** Between nodes: a page leaves for one node and soon after for another. Between a device and home: a block is evicted
//! and needed again a few launches later, which the driver does not count, and which is what oversubscription does.
//!
//! ```text
//! quiet --- THRESHOLD events, each within LAPSE of the one before ---> throttled --- PIN_THRESHOLD naps ---> pinned
//!   ^  ^------------------------ EPOCH without an event ------------------/                                    |
//!   \------------------------------------------- PIN is over -------------------------------------------------/
//! ```
//!
//! Pure: time is an argument, and what follows is advice. An explicit move of the page begins anew ([`Thrash::moved_on_request`]).

/// Events in a row that make a page thrash.
const THRESHOLD: u8 = 3;
/// Naps after which it is pinned.
const PIN_THRESHOLD: u8 = 10;
/// Two events are in a row when no more than this lies between them, in microseconds.
const LAPSE_US: u64 = 500;
/// How long others wait, in microseconds.
const NAP_US: u64 = LAPSE_US;
/// How long a page stays pinned, in microseconds.
const PIN_US: u64 = 300 * LAPSE_US;
/// A page without events for so long is quiet again, in microseconds.
const EPOCH_US: u64 = 2000 * LAPSE_US;

/// What to do with a page that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// It does not thrash.
    Move,
    /// Whoever had it last keeps it until then; the others wait.
    Wait {
        /// When to ask again, in microseconds.
        until_us: u64,
    },
    /// It stays where it is until then, and the others reach it from afar.
    Pin {
        /// When it may move again, in microseconds.
        until_us: u64,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Phase {
    #[default]
    Quiet,
    Throttled {
        until_us: u64,
        naps: u8,
    },
    Pinned {
        until_us: u64,
    },
}

/// What is known of one page.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Thrash {
    last: Option<(u64, u32)>,
    events: u8,
    phase: Phase,
}

impl Thrash {
    /// A page is to move to `node` at `now_us`. Times do not go back; one that does counts as the last.
    pub fn asked(&mut self, now_us: u64, node: u32) -> Advice {
        let (last_us, last_node) = self.last.unwrap_or((now_us, node));
        let since_us = now_us.saturating_sub(last_us);
        if since_us >= EPOCH_US {
            *self = Self::default();
        }
        match self.phase {
            Phase::Pinned { until_us } if now_us < until_us => return Advice::Pin { until_us },
            Phase::Pinned { .. } => *self = Self::default(),
            Phase::Throttled { until_us, .. } if now_us < until_us && node != last_node => {
                return Advice::Wait { until_us };
            }
            Phase::Throttled { .. } if node == last_node => return Advice::Move,
            Phase::Throttled { .. } | Phase::Quiet => {}
        }
        if node != last_node {
            let in_a_row = since_us <= LAPSE_US;
            self.events = if in_a_row { self.events.saturating_add(1) } else { 1 };
        }
        self.last = Some((now_us.max(last_us), node));
        if self.events < THRESHOLD {
            return Advice::Move;
        }
        let naps = match self.phase {
            Phase::Throttled { naps, .. } => naps + 1,
            _ => 1,
        };
        if naps > PIN_THRESHOLD {
            let until_us = now_us.saturating_add(PIN_US);
            self.phase = Phase::Pinned { until_us };
            return Advice::Pin { until_us };
        }
        self.phase = Phase::Throttled { until_us: now_us.saturating_add(NAP_US), naps };
        Advice::Move
    }

    /// It stays where it is now. Told without a look at the clock that it is not, as of nearly all.
    pub fn is_pinned(&self, now_us: impl FnOnce() -> u64) -> bool {
        matches!(self.phase, Phase::Pinned { until_us } if now_us() < until_us)
    }

    /// The program moved it itself: what was known is no more.
    pub fn moved_on_request(&mut self) {
        *self = Self::default();
    }
}

/// A block that comes back within so many launches of its eviction went in vain.
pub const SOON_LAUNCHES: u64 = 8;

/// Evictions that were in vain, of one block.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PingPong {
    evicted: Option<u64>,
    in_vain: u8,
}

impl PingPong {
    /// It leaves for the launch `now`.
    pub fn evicted(&mut self, now: u64) {
        self.evicted = Some(now);
    }

    /// It is needed by the launch `now`. True when evictions of it were in vain as often, in a row, as makes a page thrash: keep it, or
    /// reach it from afar.
    pub fn needed(&mut self, now: u64) -> bool {
        if let Some(evicted) = self.evicted.take() {
            let soon = now.saturating_sub(evicted) <= SOON_LAUNCHES;
            self.in_vain = if soon { self.in_vain.saturating_add(1) } else { 0 };
        }
        self.in_vain >= THRESHOLD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes in turn, each `step_us` after the other: what is answered.
    fn in_turns(thrash: &mut Thrash, from_us: u64, step_us: u64, count: u64) -> Vec<Advice> {
        (0..count).map(|at| thrash.asked(from_us + at * step_us, (at % 2) as u32)).collect()
    }

    #[test]
    fn three_moves_in_a_row_throttle_and_slow_ones_never_do() {
        let mut thrash = Thrash::default();
        let answers = in_turns(&mut thrash, 0, 500, 4);
        assert_eq!(answers, [Advice::Move; 4], "the third event is the last that moves at once");
        assert_eq!(thrash.asked(1501, 0), Advice::Wait { until_us: 2000 });
        assert_eq!(thrash.asked(1502, 1), Advice::Move, "who has it keeps it");
        let mut slow = Thrash::default();
        assert!(in_turns(&mut slow, 0, 501, 100).iter().all(|one| *one == Advice::Move));
    }

    #[test]
    fn ten_naps_pin_for_150_ms_and_then_it_moves_again() {
        let mut thrash = Thrash::default();
        let answers = in_turns(&mut thrash, 0, 500, 20);
        let first = answers.iter().position(|one| matches!(one, Advice::Pin { .. })).unwrap();
        assert_eq!(first, 3 + 10);
        let until_us = first as u64 * 500 + 150_000;
        assert_eq!(answers[first], Advice::Pin { until_us });
        assert_eq!(thrash.asked(until_us - 1, 0), Advice::Pin { until_us });
        assert!(thrash.is_pinned(|| until_us - 1) && !thrash.is_pinned(|| until_us));
        assert_eq!(thrash.asked(until_us, 0), Advice::Move);
    }

    #[test]
    fn a_second_without_events_and_a_move_on_request_begin_anew() {
        for on_request in [false, true] {
            let mut thrash = Thrash::default();
            let _ = in_turns(&mut thrash, 0, 10, 4);
            assert!(matches!(thrash.asked(40, 0), Advice::Wait { .. }));
            if on_request {
                thrash.moved_on_request();
            }
            let now_us = if on_request { 41 } else { 1_000_030 };
            assert_eq!(thrash.asked(now_us, 0), Advice::Move);
            assert_eq!(thrash.phase, Phase::Quiet);
        }
    }

    #[test]
    fn one_node_alone_never_thrashes() {
        let mut thrash = Thrash::default();
        assert!((0..1000).all(|at| thrash.asked(at, 3) == Advice::Move));
    }

    #[test]
    fn a_block_that_is_evicted_three_times_in_vain_is_told_of_until_once_it_was_not() {
        let mut block = PingPong::default();
        let mut now = 0;
        let mut round = |away: u64| {
            block.evicted(now);
            now += away;
            block.needed(now)
        };
        assert_eq!([round(1), round(8), round(2), round(3)], [false, false, true, true]);
        assert!(!round(9));
        assert!(!round(1));
    }
}
