//! Suites and cases: what can be measured, by name.

use std::{fmt, time::Duration};

use hmmap::MemoryModel;
use serde::{Serialize, Serializer};

use crate::{BenchError, session::Session, suites};

/// A promise that is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Suite {
    /// Pages between host and device, in bulk.
    Migrate,
    /// What a launch costs when everything is in place.
    Launch,
    /// Vectors that come and go.
    Alloc,
    /// Few pages of many change.
    SparseUpdate,
    /// What the directory costs.
    Directory,
    /// The host's borrows.
    Guard,
    /// What is said about ranges.
    Hints,
    /// Plain indexing.
    Fault,
    /// Peers of this process.
    Peer,
    /// Data larger than the device.
    Oversub,
    /// Whole programs.
    EndToEnd,
}

impl Suite {
    /// Every suite, in the order in which `all` runs them.
    pub const ALL: [Self; 11] = [
        Self::Migrate,
        Self::Launch,
        Self::Alloc,
        Self::SparseUpdate,
        Self::Directory,
        Self::Guard,
        Self::Hints,
        Self::Fault,
        Self::Peer,
        Self::Oversub,
        Self::EndToEnd,
    ];

    /// The suite's name, on the command line and in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Migrate => "migrate",
            Self::Launch => "launch",
            Self::Alloc => "alloc",
            Self::SparseUpdate => "sparse-update",
            Self::Directory => "directory",
            Self::Guard => "guard",
            Self::Hints => "hints",
            Self::Fault => "fault",
            Self::Peer => "peer",
            Self::Oversub => "oversub",
            Self::EndToEnd => "e2e",
        }
    }

    /// What the suite is about, in one line.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Migrate => "pages between host and device in bulk, beside a bare copy command",
            Self::Launch => "a launch with everything in place, beside a bare submit",
            Self::Alloc => "vectors that come and go: time and memory",
            Self::SparseUpdate => "one page in a hundred changes, a kernel reads all: what moves",
            Self::Directory => "memory that the directory takes per byte of a vector",
            Self::Guard => "the host's borrows: nothing to do, and a little to do",
            Self::Hints => "what it costs to say something about 700 GiB",
            Self::Fault => "plain indexing of what a device holds, and of what is there",
            Self::Peer => "addresses for peers of this process: giving and taking back",
            Self::Oversub => {
                "data larger than the device: what policies move over the least that any could"
            }
            Self::EndToEnd => "whole programs, beside the same programs written by hand",
        }
    }

    /// The suite with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.name() == name)
    }

    /// The suite's cases, in the order in which they run.
    pub const fn cases(self) -> &'static [Case] {
        match self {
            Self::Migrate => suites::migrate::CASES,
            Self::Launch => suites::launch::CASES,
            Self::Alloc => suites::alloc::CASES,
            Self::SparseUpdate => suites::sparse_update::CASES,
            Self::Directory => suites::directory::CASES,
            Self::Guard => suites::guard::CASES,
            Self::Hints => suites::hints::CASES,
            Self::Fault => suites::fault::CASES,
            Self::Peer => suites::peer::CASES,
            Self::Oversub => suites::oversub::CASES,
            Self::EndToEnd => suites::e2e::CASES,
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Suite {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The memory model that a case runs under.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// Kernels work on host memory in place.
    Unified,
    /// Pages move to the device.
    Migrate,
}

impl Model {
    /// The name in records and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unified => "unified",
            Self::Migrate => "migrate",
        }
    }
}

impl From<Model> for MemoryModel {
    fn from(model: Model) -> Self {
        match model {
            Model::Unified => Self::Unified,
            Model::Migrate => Self::Migrate,
        }
    }
}

/// Which memory models a case can run under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wants {
    /// Pages have to move, or there is nothing to measure.
    Migrate,
    /// It is about nothing moving.
    Unified,
    /// Any; `Migrate` unless told otherwise.
    Any,
}

/// One thing to measure.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its suite.
    pub suite: Suite,
    /// Its name within the suite: stable and plain.
    pub name: &'static str,
    /// How many bytes one run is about: moved, allocated, or lying under what is looked at.
    pub bytes: u64,
    /// The goal: the least ratio to the limit for a time, the most for a number.
    pub goal: Option<f64>,
    pub(crate) wants: Wants,
    /// Memory that the machine must have to spare, in bytes.
    pub(crate) memory_bytes: u64,
    pub(crate) measure: Measure,
}

/// Makes a trial ready.
type MakeTrial = fn(&mut Session, &Case) -> Result<Box<dyn Trial>, BenchError>;

/// Bytes that moved, and a number about them or about the time that it took.
type CountMoved = fn(&mut Session, &Case) -> Result<(u64, f64), BenchError>;

/// How a case is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Measure {
    /// A time beside its limit.
    Time(MakeTrial),
    /// A time beside its goal alone, in seconds.
    Seconds(MakeTrial),
    /// A number.
    Number(&'static str, fn(&mut Session, &Case) -> Result<f64, BenchError>),
    /// Bytes that moved, and a number about them or about the time that it took.
    Moved(&'static str, CountMoved),
}

/// One thing that takes time, ready to be done again and again.
pub trait Trial {
    /// Brings about what a run starts from, does it the library's way, and says how long that took (the doing alone).
    ///
    /// # Errors
    /// Whatever the library answers.
    fn ours(&mut self) -> Result<Duration, BenchError>;

    /// The same with nothing in between. A trial without a limit answers nothing.
    ///
    /// # Errors
    /// Whatever the driver or the system answers.
    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        Ok(None)
    }
}

impl Case {
    /// The model that the case runs under when `asked` for one, or why it does not run then.
    pub(crate) fn model(&self, asked: Option<Model>) -> Result<Model, BenchError> {
        let own = match self.wants {
            Wants::Unified => Model::Unified,
            Wants::Migrate | Wants::Any => Model::Migrate,
        };
        match asked {
            Some(asked) if asked != own && self.wants != Wants::Any => {
                let reason = format!("it is about the {} model", own.name());
                Err(BenchError::DoesNotApply(reason))
            }
            asked => Ok(asked.unwrap_or(own)),
        }
    }

    /// What a case that is a number is a number of, `seconds` for a time beside its goal alone; `None` for a time beside a limit.
    pub fn metric(&self) -> Option<&'static str> {
        match self.measure {
            Measure::Time(_) => None,
            Measure::Seconds(_) => Some("seconds"),
            Measure::Number(metric, _) | Measure::Moved(metric, _) => Some(metric),
        }
    }

    /// A trial of this case, for a harness of one's own; `None` for a case that is a number.
    ///
    /// # Errors
    /// [`BenchError::DoesNotApply`] where the case cannot be run; whatever the library or the driver answers.
    pub fn trial(&self, session: &mut Session) -> Result<Option<Box<dyn Trial>>, BenchError> {
        match self.measure {
            Measure::Time(make) | Measure::Seconds(make) => make(session, self).map(Some),
            Measure::Number(..) | Measure::Moved(..) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_plain_and_each_once() {
        let mut seen = HashSet::new();
        for suite in Suite::ALL {
            assert_eq!(Suite::named(suite.name()), Some(suite));
            assert!(!suite.cases().is_empty());
            for case in suite.cases() {
                assert_eq!(case.suite, suite, "{}", case.name);
                assert!(seen.insert((suite, case.name)), "{suite} {} is there twice", case.name);
                let plain = |c: char| c.is_ascii_alphanumeric() || "/-%".contains(c);
                assert!(case.name.chars().all(plain), "{}", case.name);
            }
        }
        assert_eq!(Suite::named("no-such"), None);
    }

    #[test]
    fn a_case_about_one_model_does_not_run_under_the_other() {
        let case = |name| Suite::Migrate.cases().iter().find(|case| case.name == name).unwrap();
        assert_eq!(case("h2d/64MiB").model(None).unwrap(), Model::Migrate);
        assert!(case("h2d/64MiB").model(Some(Model::Unified)).is_err());
        assert_eq!(case("unified-launch/64MiB").model(None).unwrap(), Model::Unified);
        assert!(case("unified-launch/64MiB").model(Some(Model::Migrate)).is_err());
    }
}
