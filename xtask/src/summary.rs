//! What a run adds up to, for people and as JSON.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// How many of the slowest are printed.
const SLOWEST: usize = 10;

/// How one check or test went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub(crate) enum Outcome {
    Passed,
    Failed { why: String },
    Skipped { reason: String },
}

/// One check or test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
    pub(crate) seconds: f64,
    /// The end of a failed test's output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tail: Option<String>,
}

impl Record {
    pub(crate) fn new(name: impl Into<String>, outcome: Outcome, elapsed: Duration) -> Self {
        Self { name: name.into(), outcome, seconds: elapsed.as_secs_f64(), tail: None }
    }

    pub(crate) fn failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed { .. })
    }
}

/// How many of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Totals {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Everything that ran.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) records: Vec<Record>,
}

impl Summary {
    pub(crate) fn push(&mut self, record: Record) {
        self.records.push(record);
    }

    pub(crate) fn extend(&mut self, records: Vec<Record>) {
        self.records.extend(records);
    }

    /// Counts what was skipped as failed.
    pub(crate) fn forbid_skips(&mut self) {
        for record in &mut self.records {
            if let Outcome::Skipped { reason } = &record.outcome {
                record.outcome = Outcome::Failed { why: format!("skipped: {reason}") };
            }
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for record in &self.records {
            match record.outcome {
                Outcome::Passed => totals.passed += 1,
                Outcome::Failed { .. } => totals.failed += 1,
                Outcome::Skipped { .. } => totals.skipped += 1,
            }
        }
        totals
    }

    /// The slowest, slowest first.
    pub(crate) fn slowest(&self) -> Vec<&Record> {
        let mut records: Vec<&Record> = self.records.iter().collect();
        records.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        records.truncate(SLOWEST);
        records
    }

    /// Writes `{"totals": ..., "records": [...]}`.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub(crate) fn write_json(&self, file: &Path) -> Result<()> {
        let value = serde_json::json!({ "totals": self.totals(), "records": self.records });
        std::fs::write(file, format!("{value:#}\n"))
            .with_context(|| format!("cannot write {}", file.display()))
    }
}

/// The closing report: slowest, skipped, failed, and the counts alone on the last line.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nslowest:")?;
        for record in self.slowest() {
            writeln!(f, "  {:>8.2} s  {}", record.seconds, record.name)?;
        }
        let skipped = self.records.iter().filter_map(|record| match &record.outcome {
            Outcome::Skipped { reason } => Some((&record.name, reason)),
            _ => None,
        });
        for (index, (name, reason)) in skipped.enumerate() {
            if index == 0 {
                writeln!(f, "\nskipped:")?;
            }
            writeln!(f, "  {name}: {reason}")?;
        }
        let failed = self.records.iter().filter_map(|record| match &record.outcome {
            Outcome::Failed { why } => Some((&record.name, why)),
            _ => None,
        });
        for (index, (name, why)) in failed.enumerate() {
            if index == 0 {
                writeln!(f, "\nfailed:")?;
            }
            writeln!(f, "  {name}: {why}")?;
        }
        write!(f, "\n{}", self.totals())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Summary {
        let skipped = Outcome::Skipped { reason: "no device".into() };
        let failed = Outcome::Failed { why: "exit code 101".into() };
        let mut summary = Summary::default();
        for index in 0..12 {
            let elapsed = Duration::from_secs(index);
            summary.push(Record::new(format!("p{index}"), Outcome::Passed, elapsed));
        }
        summary.push(Record::new("s", skipped, Duration::ZERO));
        summary.extend(vec![Record::new("f", failed, Duration::from_secs(99))]);
        summary
    }

    #[test]
    fn every_record_is_counted_once() {
        let totals = sample().totals();
        assert_eq!(totals, Totals { passed: 12, failed: 1, skipped: 1 });
        assert_eq!(Summary::default().totals().to_string(), "0 passed, 0 failed, 0 skipped");
    }

    #[test]
    fn forbidden_skips_are_failures_that_keep_their_reason() {
        let mut summary = sample();
        summary.forbid_skips();
        assert_eq!(summary.totals(), Totals { passed: 12, failed: 2, skipped: 0 });
        assert!(summary.to_string().contains("s: skipped: no device"));
    }

    #[test]
    fn the_ten_slowest_come_slowest_first() {
        let summary = sample();
        let names: Vec<&str> =
            summary.slowest().iter().map(|record| record.name.as_str()).collect();
        assert_eq!(names, ["f", "p11", "p10", "p9", "p8", "p7", "p6", "p5", "p4", "p3"]);
    }

    #[test]
    fn the_report_names_skips_and_failures_and_ends_with_the_counts() {
        let text = sample().to_string();
        assert!(text.contains("\nskipped:\n  s: no device\n"), "{text}");
        assert!(text.contains("\nfailed:\n  f: exit code 101\n"), "{text}");
        assert_eq!(text.lines().last(), Some("12 passed, 1 failed, 1 skipped"));
    }

    #[test]
    fn the_json_holds_counts_and_records() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("r.json");
        sample().write_json(&file).unwrap();
        let value: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        assert_eq!(value["totals"]["passed"], 12);
        assert_eq!(value["records"][12]["outcome"], "skipped");
        assert_eq!(value["records"][12]["reason"], "no device");
    }
}
