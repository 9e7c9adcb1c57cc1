//! What came of the suite.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{coverage::Coverage, setup::Profile};

/// How many rows that were not seen a report prints.
const LISTED: usize = 8;

/// How a case ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome", content = "reason")]
pub enum Outcome {
    /// Everything was as it must be.
    Passed,
    /// Something was not.
    Failed(String),
    /// The setup lacks something that the case needs.
    Skipped(String),
}

/// One case of a report.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct CaseReport {
    /// `group::name`.
    pub case: String,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// How many rows of the tables it saw.
    pub rows_seen: usize,
}

/// What came of the suite on one setup.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// The setup's name.
    pub mode: String,
    /// The device's own name, where it could be opened.
    pub device: Option<String>,
    /// How long the suite was to take.
    pub profile: Profile,
    /// What random choices began with.
    pub seed: u64,
    /// The cases, in the order in which they ran.
    pub cases: Vec<CaseReport>,
    /// Which rows of the coherence table all cases together saw.
    pub coverage: Coverage,
    /// Which rows of the revocation table all cases together proved.
    pub revocation: Coverage,
}

impl Report {
    /// How many cases passed, failed and were skipped.
    pub fn counts(&self) -> [usize; 3] {
        let mut counts = [0; 3];
        for case in &self.cases {
            counts[match case.outcome {
                Outcome::Passed => 0,
                Outcome::Failed(_) => 1,
                Outcome::Skipped(_) => 2,
            }] += 1;
        }
        counts
    }

    /// Why all cases were skipped, when all were, and for one reason: the device does not have what the mode is about.
    pub fn absent(&self) -> Option<&str> {
        let mut reasons = self.cases.iter().map(|case| match &case.outcome {
            Outcome::Skipped(reason) => Some(reason.as_str()),
            Outcome::Passed | Outcome::Failed(_) => None,
        });
        let first = reasons.next()??;
        reasons.all(|reason| reason == Some(first)).then_some(first)
    }

    /// How many rows of the coherence table no case saw. None are missed where the device does not have what the mode is about.
    ///
    /// Tells something about a run of all cases, or of all of the group `coherence`; fewer see fewer.
    pub fn missed_rows(&self) -> usize {
        self.missed(&self.coverage)
    }

    /// How many rows of the revocation table no case proved. Tells something about a run of all cases, or of all of the group `peers`.
    pub fn missed_revocations(&self) -> usize {
        self.missed(&self.revocation)
    }

    fn missed(&self, coverage: &Coverage) -> usize {
        match self.absent() {
            Some(_) => 0,
            // A table without rows was never asked for: that, too, is a row too few.
            None => (coverage.total - coverage.hit).max(usize::from(coverage.total == 0)),
        }
    }

    /// True when no case failed.
    pub fn is_ok(&self) -> bool {
        self.counts()[1] == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.device.as_deref().unwrap_or("no device");
        writeln!(f, "{} on {device} (profile {}, seed {})", self.mode, self.profile, self.seed)?;
        if let Some(reason) = self.absent() {
            return write!(f, "  all {} cases skipped: {reason}", self.cases.len());
        }
        for case in &self.cases {
            let (word, reason) = match &case.outcome {
                Outcome::Passed => ("passed ", None),
                Outcome::Failed(reason) => ("FAILED ", Some(reason)),
                Outcome::Skipped(reason) => ("skipped", Some(reason)),
            };
            let took = Duration::from_secs_f64(case.seconds.max(0.0));
            write!(f, "  {word} {:<58} {took:>9.1?} {:>4} rows", case.case, case.rows_seen)?;
            if let Some(reason) = reason {
                write!(f, "  {reason}")?;
            }
            writeln!(f)?;
        }
        let [passed, failed, skipped] = self.counts();
        writeln!(f, "  {passed} passed, {failed} failed, {skipped} skipped")?;
        let tables = [("coherence", &self.coverage), ("revocation", &self.revocation)];
        for (table, Coverage { hit, total, missing }) in tables {
            // A run of a few cases sees few rows; the whole list is in the JSON.
            write!(f, "  {table} table: {hit}/{total} rows seen")?;
            let missing = if *hit == 0 { &[][..] } else { missing };
            missing.iter().take(LISTED).try_for_each(|row| write!(f, "\n    not seen: {row}"))?;
            if missing.len() > LISTED {
                write!(f, "\n    and {} more", missing.len() - LISTED)?;
            }
            if table == "coherence" {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

impl Serialize for Profile {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
