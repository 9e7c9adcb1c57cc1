//! Runs every test of the workspace: one process each, with a time limit, several at once.
//!
//! Cargo builds the tests and says where they are ([`plan`]). Each binary lists its tests. Each test then runs alone in
//! a process (a lost device, a poisoned lock, a crash stay its own) with a log of its own, and the log and the exit
//! status give the [`verdict`]. Nothing beyond cargo is needed for it.
//!
//! Words: a *binary* is what cargo built; a *case* is one test of one binary; an *outcome* is how it went.

pub(crate) mod plan;
mod pool;
mod verdict;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::environment::{Pass, TestEnvironment};
use crate::progress::Progress;
use crate::summary::Record;
use plan::Case;

/// Bounds of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How many cases run at once.
    pub(crate) jobs: usize,
    /// The longest that one case may take.
    pub(crate) case_timeout: Duration,
    /// When the run as a whole has to be over; `None`: whenever it is done.
    pub(crate) deadline: Option<Instant>,
}

/// Which tests a run takes, beyond the pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Ignored tests are reported as skipped.
    Usual,
    /// `HMMAP_DEEP=1` is set, and ignored tests run too.
    Deep,
}

/// What one run over cases is given.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) environment: &'a TestEnvironment,
    pub(crate) pass: Pass,
    pub(crate) depth: Depth,
    pub(crate) limits: Limits,
    pub(crate) logs: &'a Path,
}

impl Run<'_> {
    /// Runs `cases` and gives one record for each, and one more for each part of a case that was skipped.
    ///
    /// # Errors
    ///
    /// A process cannot be started, or a log not be written; a test that fails is a record.
    pub(crate) fn all(&self, cases: &[Case]) -> Result<Vec<Record>> {
        let label = format!("tests ({})", self.pass.name());
        let progress = Progress::start(&label, cases.len());
        let records = pool::run(self, cases, &progress);
        progress.finish();
        records
    }
}
