//! What a case ended in.

use serde::Serialize;

use crate::{
    BenchError, Samples,
    case::{Case, Model, Suite},
    sample::{median, percentile},
};

/// One measured case.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Record {
    /// The suite.
    pub suite: Suite,
    /// The case.
    pub case: &'static str,
    /// The device's name.
    pub device: String,
    /// The memory model.
    pub model: Model,
    /// Bytes that one run is about.
    pub bytes: u64,
    /// How many runs it rests on.
    pub runs: u32,
    /// What was found.
    #[serde(flatten)]
    pub value: Value,
    /// Whether the goal was met; `None` where there is none.
    pub met: Option<bool>,
}

/// What was found.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A time beside the machine's limit for the same.
    Time {
        /// The median, in seconds.
        median_s: f64,
        /// A tenth of the runs took less, in seconds.
        p10_s: f64,
        /// The limit's median, in seconds, measured in turns with ours.
        limit_s: f64,
        /// `limit_s / median_s`.
        ratio: f64,
        /// The least ratio that the library promises.
        goal: Option<f64>,
    },
    /// Anything else.
    Metric {
        /// What it is, with its unit.
        metric: &'static str,
        /// How much.
        value: f64,
        /// The most that the library promises.
        goal: Option<f64>,
    },
}

impl Value {
    /// A time and its limit from samples; in seconds alone where the trial has no limit.
    pub(crate) fn of_samples(samples: &Samples, goal: Option<f64>) -> Self {
        let median_s = median(&samples.ours_s);
        if samples.limit_s.is_empty() {
            return Self::Metric { metric: "seconds", value: median_s, goal };
        }
        let limit_s = median(&samples.limit_s);
        let p10_s = percentile(&samples.ours_s, 10.0);
        Self::Time { median_s, p10_s, limit_s, ratio: limit_s / median_s, goal }
    }

    /// Whether the goal was met.
    pub fn met(&self) -> Option<bool> {
        match *self {
            Self::Time { ratio, goal, .. } => goal.map(|goal| ratio >= goal),
            Self::Metric { value, goal, .. } => goal.map(|goal| value <= goal),
        }
    }
}

/// How a case ended.
#[derive(Debug)]
pub enum Outcome {
    /// Measured.
    Measured(Record),
    /// It does not apply here.
    Skipped(String),
    /// It should have worked.
    Failed(BenchError),
}

/// A case without a record, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Unmeasured {
    /// The suite.
    pub suite: Suite,
    /// The case.
    pub case: &'static str,
    /// Why.
    pub reason: String,
}

impl Unmeasured {
    pub(crate) fn new(case: &Case, reason: String) -> Self {
        Self { suite: case.suite, case: case.name, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_limit_over_ours() {
        let samples = Samples { ours_s: vec![2.0, 4.0, 3.0], limit_s: vec![1.5, 9.0, 1.0] };
        let Value::Time { median_s, limit_s, ratio, .. } = Value::of_samples(&samples, None) else {
            panic!("there is a limit")
        };
        assert_eq!((median_s, limit_s, ratio), (3.0, 1.5, 0.5));
    }

    #[test]
    fn a_ratio_must_reach_its_goal_and_a_number_must_not_exceed_it() {
        let samples = Samples { ours_s: vec![2.0], limit_s: vec![1.9] };
        assert_eq!(Value::of_samples(&samples, Some(0.95)).met(), Some(true));
        assert_eq!(Value::of_samples(&samples, Some(0.951)).met(), Some(false));
        assert_eq!(Value::of_samples(&samples, None).met(), None);
        let alone = Samples { ours_s: vec![2.0], limit_s: vec![] };
        assert_eq!(Value::of_samples(&alone, Some(2.0)).met(), Some(true));
        assert_eq!(Value::of_samples(&alone, Some(1.9)).met(), Some(false));
    }
}
