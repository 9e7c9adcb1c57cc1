//! Taking turns between the thing and its limit, and what the times say.

use std::time::{Duration, Instant};

use crate::{BenchError, Trial};

/// How long to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The most runs of a case that are recorded.
    pub most_runs: u32,
    /// Runs that a case makes in any case, however long they take.
    pub least_runs: u32,
    /// Runs before that, which are not recorded.
    pub warm_ups: u32,
    /// How long the recorded runs of one suite may take together; its cases share it evenly.
    pub suite_limit: Duration,
    /// Cases about more bytes than this are left out.
    pub largest_bytes: u64,
    /// Cases that would begin after this much time are left out. `None`: every case is measured.
    pub total_limit: Option<Duration>,
}

impl Settings {
    /// What the published figures are measured with: at least 15 runs of everything, and many of what is short, since the shorter
    /// a run, the more it depends on where the system happens to put the threads.
    pub const FULL: Self = Self {
        most_runs: 1001,
        least_runs: 15,
        warm_ups: 3,
        suite_limit: Duration::from_secs(60),
        largest_bytes: 4 << 30,
        total_limit: None,
    };

    /// A look that takes less than half a minute a suite on two cores.
    pub const QUICK: Self = Self {
        most_runs: 101,
        least_runs: 3,
        warm_ups: 1,
        suite_limit: Duration::from_secs(12),
        largest_bytes: 64 << 20,
        total_limit: None,
    };

    /// The same for `suites` suites that have to be over after about `total`. A case still makes its least number of runs,
    /// so the last one can end later.
    #[must_use]
    pub fn within(self, total: Duration, suites: usize) -> Self {
        let suites = u32::try_from(suites.max(1)).unwrap_or(u32::MAX);
        // Warm-ups, setting up and tearing down take about as long as the runs themselves.
        let suite_limit = self.suite_limit.min(total / 2 / suites);
        Self { suite_limit, total_limit: Some(total), ..self }
    }

    /// How long the recorded runs of one case may take when its suite has `cases`.
    pub fn case_limit(&self, cases: usize) -> Duration {
        self.suite_limit / u32::try_from(cases.max(1)).unwrap_or(u32::MAX)
    }
}

/// The times of one case, in seconds.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Samples {
    /// The library's.
    pub ours_s: Vec<f64>,
    /// The limit's; empty for a trial without one.
    pub limit_s: Vec<f64>,
}

impl Samples {
    /// Does a trial again and again; the two sides take turns in going first, so that neither always finds the caches warm.
    pub(crate) fn take(
        trial: &mut dyn Trial,
        settings: &Settings,
        time_limit: Duration,
        mut each: impl FnMut(u32),
    ) -> Result<Self, BenchError> {
        for _ in 0..settings.warm_ups {
            trial.ours()?;
            trial.limit()?;
        }
        let mut samples = Self::default();
        let started = Instant::now();
        for run in 0..settings.most_runs {
            if run >= settings.least_runs && started.elapsed() > time_limit {
                break;
            }
            let (ours, limit) = if run % 2 == 0 {
                let ours = trial.ours()?;
                (ours, trial.limit()?)
            } else {
                let limit = trial.limit()?;
                (trial.ours()?, limit)
            };
            samples.ours_s.push(ours.as_secs_f64());
            samples.limit_s.extend(limit.map(|limit| limit.as_secs_f64()));
            each(run + 1);
        }
        Ok(samples)
    }
}

/// The value that half of the samples do not exceed; the mean of the two middle ones where there are two. 0 for none.
pub fn median(samples: &[f64]) -> f64 {
    percentile(samples, 50.0)
}

/// The value below which `percent` of the samples lie, by linear interpolation between neighbours. 0 for no samples.
pub fn percentile(samples: &[f64], percent: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let rank = percent.clamp(0.0, 100.0) / 100.0 * last as f64;
    let below = rank.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (rank - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Suite;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_middle_two() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn a_percentile_lies_between_its_neighbours() {
        let samples: Vec<f64> = (0..=10).rev().map(f64::from).collect();
        assert_eq!(percentile(&samples, 10.0), 1.0);
        assert_eq!(percentile(&samples, 0.0), 0.0);
        assert_eq!(percentile(&samples, 100.0), 10.0);
        assert_eq!(percentile(&[1.0, 2.0], 10.0), 1.1);
        assert_eq!(percentile(&[1.0, 2.0], 400.0), 2.0);
    }

    /// Counts its runs; each takes one second more than the one before, limits a hundred.
    struct Counting(u64);

    impl Trial for Counting {
        fn ours(&mut self) -> Result<Duration, BenchError> {
            self.0 += 1;
            Ok(Duration::from_secs(self.0))
        }

        fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
            self.0 += 1;
            Ok(Some(Duration::from_secs(100 * self.0)))
        }
    }

    #[test]
    fn the_two_sides_take_turns_and_warm_ups_do_not_count() {
        let settings = Settings { most_runs: 3, warm_ups: 1, ..Settings::QUICK };
        let mut seen = Vec::new();
        let samples = Samples::take(&mut Counting(0), &settings, Duration::MAX, |run| {
            seen.push(run);
        });
        let samples = samples.unwrap();
        assert_eq!(samples.ours_s, [3.0, 6.0, 7.0]);
        assert_eq!(samples.limit_s, [400.0, 500.0, 800.0]);
        assert_eq!(seen, [1, 2, 3]);
    }

    #[test]
    fn the_time_limit_leaves_the_least_number_of_runs() {
        let settings = Settings { most_runs: 9, least_runs: 4, ..Settings::QUICK };
        let samples = Samples::take(&mut Counting(0), &settings, Duration::ZERO, |_| ()).unwrap();
        assert_eq!(samples.ours_s.len(), 4);
    }

    #[test]
    fn a_total_leaves_half_of_it_for_recorded_runs_and_never_adds_time() {
        let total = Duration::from_secs(60);
        let settings = Settings::FULL.within(total, 6);
        assert_eq!(settings.suite_limit, Duration::from_secs(5));
        assert_eq!(settings.total_limit, Some(total));
        assert_eq!(settings.least_runs, Settings::FULL.least_runs);
        let long = Settings::QUICK.within(Duration::from_secs(3600), 1);
        assert_eq!(long.suite_limit, Settings::QUICK.suite_limit);
    }

    #[test]
    fn full_figures_rest_on_15_runs_and_a_quick_suite_on_half_a_minute() {
        const { assert!(Settings::FULL.least_runs >= 15) };
        // Warm-ups, setting up and tearing down take about as long as the runs themselves.
        assert!(Settings::QUICK.suite_limit * 2 < Duration::from_secs(30));
        for suite in Suite::ALL {
            let cases = suite.cases().len();
            let together = Settings::QUICK.case_limit(cases) * cases as u32;
            assert!(together <= Settings::QUICK.suite_limit, "{suite}");
        }
    }
}
