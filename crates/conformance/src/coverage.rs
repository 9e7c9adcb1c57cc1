//! Which rows of the tables were seen.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{
    revocation,
    table::{Model, Row},
};

/// Rows that were seen, of those that there are.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Coverage {
    /// How many rows were seen.
    pub hit: usize,
    /// How many the table has for the devices' memory model. Zero when no case got as far as making a runtime.
    pub total: usize,
    /// Those that were not seen.
    pub missing: Vec<String>,
}

impl Coverage {
    /// Compares the rows that were seen with the table.
    pub(crate) fn of(seen: &BTreeSet<Row>, model: Model) -> Self {
        Self::among(&Row::all(model), seen)
    }

    /// Compares what became of peers' mappings with the revocation table.
    pub(crate) fn of_revocations(
        seen: &BTreeSet<revocation::Row>,
        model: Model,
        faults: bool,
    ) -> Self {
        Self::among(&revocation::Row::all(model, faults), seen)
    }

    fn among<R: Ord + ToString>(all: &[R], seen: &BTreeSet<R>) -> Self {
        let missing: Vec<_> =
            all.iter().filter(|row| !seen.contains(row)).map(R::to_string).collect();
        Self { hit: all.len() - missing.len(), total: all.len(), missing }
    }
}
