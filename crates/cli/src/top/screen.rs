//! What is shown: the latest reading, and rates by the one before.

use std::collections::VecDeque;

use hmmap_watch::{MovedReading, Reading, VectorReading};

/// Rates that are remembered for the curves.
const MOST_HISTORY: usize = 240;

/// By what vectors are sorted; the largest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    Rate,
    Moved,
    Size,
    LastLaunch,
}

impl Sort {
    pub(super) fn next(self) -> Self {
        match self {
            Self::Rate => Self::Moved,
            Self::Moved => Self::Size,
            Self::Size => Self::LastLaunch,
            Self::LastLaunch => Self::Rate,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rate => "bytes moved per second",
            Self::Moved => "bytes moved",
            Self::Size => "size",
            Self::LastLaunch => "last launch",
        }
    }
}

/// Bytes per second.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Rate {
    pub(super) to_device: f64,
    pub(super) to_host: f64,
}

#[derive(Debug)]
pub(super) struct Screen {
    pub(super) now: Reading,
    before: Reading,
    /// Rates of all causes together, the latest last.
    pub(super) history: VecDeque<Rate>,
    pub(super) sort: Sort,
    pub(super) is_paused: bool,
    /// Why the last reading could not be had.
    pub(super) trouble: Option<String>,
}

impl Screen {
    pub(super) fn new(first: Reading) -> Self {
        Self {
            before: first.clone(),
            now: first,
            history: VecDeque::new(),
            sort: Sort::Rate,
            is_paused: false,
            trouble: None,
        }
    }

    /// A later reading. Who has paused goes on seeing the one before it.
    pub(super) fn turn(&mut self, reading: Reading) {
        self.trouble = None;
        if self.is_paused {
            return;
        }
        self.before = std::mem::replace(&mut self.now, reading);
        let rate = self.rate();
        if self.history.len() == MOST_HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(rate);
    }

    /// Per second, of a number that only grows.
    fn per_second(&self, now: u64, before: u64) -> f64 {
        let seconds = self.now.at_s - self.before.at_s;
        if seconds > 0.0 { now.saturating_sub(before) as f64 / seconds } else { 0.0 }
    }

    pub(super) fn launches_per_second(&self) -> f64 {
        self.per_second(self.now.launches, self.before.launches)
    }

    pub(super) fn evicted_per_second(&self) -> f64 {
        self.per_second(self.now.evicted_blocks, self.before.evicted_blocks)
    }

    pub(super) fn rate_of(&self, cause: &MovedReading) -> Rate {
        let before = self.before.causes.iter().find(|one| one.cause == cause.cause);
        let before = before.cloned().unwrap_or_default();
        Rate {
            to_device: self.per_second(cause.to_device_bytes, before.to_device_bytes),
            to_host: self.per_second(cause.to_host_bytes, before.to_host_bytes),
        }
    }

    fn rate(&self) -> Rate {
        self.now.causes.iter().map(|cause| self.rate_of(cause)).fold(
            Rate::default(),
            |sum, rate| Rate {
                to_device: sum.to_device + rate.to_device,
                to_host: sum.to_host + rate.to_host,
            },
        )
    }

    pub(super) fn rate_of_vector(&self, vector: &VectorReading) -> Rate {
        let before = self.before.vectors.iter().find(|one| one.vector == vector.vector);
        // One that is new has moved all of it since.
        let before = before.cloned().unwrap_or_default();
        Rate {
            to_device: self.per_second(vector.to_device_bytes, before.to_device_bytes),
            to_host: self.per_second(vector.to_host_bytes, before.to_host_bytes),
        }
    }

    /// The vectors as they are sorted, the first made first among equals.
    pub(super) fn vectors(&self) -> Vec<&VectorReading> {
        let mut vectors: Vec<&VectorReading> = self.now.vectors.iter().collect();
        let key = |vector: &VectorReading| match self.sort {
            Sort::Rate => {
                let rate = self.rate_of_vector(vector);
                (rate.to_device + rate.to_host) as u64
            }
            Sort::Moved => vector.to_device_bytes + vector.to_host_bytes,
            Sort::Size => vector.len_bytes,
            Sort::LastLaunch => vector.last_launch,
        };
        vectors.sort_by_key(|vector| (std::cmp::Reverse(key(vector)), vector.vector));
        vectors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(vector: u64, to_device_bytes: u64, len_bytes: u64) -> VectorReading {
        let last_launch = vector;
        VectorReading { vector, to_device_bytes, len_bytes, last_launch, ..Default::default() }
    }

    fn reading(at_s: f64, moved: [u64; 2], vectors: Vec<VectorReading>) -> Reading {
        let cause = |to_device_bytes| MovedReading {
            cause: format!("cause {to_device_bytes}").split(' ').next().unwrap().to_owned(),
            to_device_bytes,
            to_host_bytes: moved[1],
            ..Default::default()
        };
        let launches = moved[0] / 10;
        Reading { at_s, causes: vec![cause(moved[0])], vectors, launches, ..Default::default() }
    }

    #[test]
    fn rates_are_differences_over_the_time_between_readings() {
        let mut screen = Screen::new(reading(1.0, [100, 0], vec![vector(1, 50, 0)]));
        screen.turn(reading(3.0, [500, 40], vec![vector(1, 60, 0), vector(2, 30, 0)]));
        assert_eq!(screen.history, [Rate { to_device: 200.0, to_host: 20.0 }]);
        assert_eq!(screen.launches_per_second(), 20.0);
        let rates: Vec<_> =
            screen.now.vectors.iter().map(|one| screen.rate_of_vector(one).to_device).collect();
        assert_eq!(rates, [5.0, 15.0]);
        screen.is_paused = true;
        screen.turn(reading(5.0, [900, 40], Vec::new()));
        assert_eq!((screen.now.at_s, screen.history.len()), (3.0, 1));
        screen.is_paused = false;
        screen.turn(reading(3.0, [900, 40], Vec::new()));
        assert_eq!(screen.history[1], Rate::default(), "no time has passed");
    }

    #[test]
    fn vectors_are_sorted_by_what_was_asked_for() {
        let mut screen = Screen::new(reading(0.0, [0, 0], vec![vector(1, 90, 5), vector(2, 0, 5)]));
        screen.turn(reading(
            1.0,
            [0, 0],
            vec![vector(1, 90, 5), vector(2, 10, 5), vector(3, 0, 9)],
        ));
        let mut orders = Vec::new();
        for _ in 0..4 {
            orders.push(screen.vectors().iter().map(|one| one.vector).collect::<Vec<_>>());
            screen.sort = screen.sort.next();
        }
        assert_eq!(orders, [[2, 1, 3], [1, 2, 3], [3, 1, 2], [3, 2, 1]]);
        assert_eq!(screen.sort, Sort::Rate);
    }
}
