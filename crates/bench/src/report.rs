//! Everything that one run of the benchmarks found.

use serde::Serialize;

use crate::{
    machine::Machine,
    record::{Record, Unmeasured},
};

/// What a run found: one JSON object.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// The library's version.
    pub version: &'static str,
    /// What the times are compared with.
    pub limit: &'static str,
    /// One for each measured case, in the order of measuring.
    pub records: Vec<Record>,
    /// Cases that do not apply here, and why.
    pub skipped: Vec<Unmeasured>,
    /// Cases that went wrong, and how.
    pub failed: Vec<Unmeasured>,
}

impl Report {
    /// A report without records.
    pub fn new(machine: Machine, limit: &'static str) -> Self {
        Self {
            machine,
            version: env!("CARGO_PKG_VERSION"),
            limit,
            records: Vec::new(),
            skipped: Vec::new(),
            failed: Vec::new(),
        }
    }
}
