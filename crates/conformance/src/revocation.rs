//! The revocation table: what can become of a peer's mapping whose range is needed, one row for each, as `docs/protocol.md` has them.
//!
//! A case says which row it saw when it has proved it; the report counts them against the table.

use std::fmt;

use serde::Serialize;

use crate::table::Model;

/// One row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Row {
    /// Who begins on a range that is being taken back sleeps.
    Mark,
    /// All are told before anybody is waited for.
    Start,
    /// Work that was submitted before is waited for.
    Fences,
    /// The confirmation is waited for.
    Unmaps,
    /// Who maps again gets the new bytes.
    Finish,
    /// The deadline: nothing can be enforced, and nothing moves.
    Late,
    /// The deadline, in a page fault: it goes on beside the late peer.
    LateAtFault,
    /// The peer could not be told, and nothing moves.
    Failed,
    /// The deadline: its mapping is taken without it.
    CutOff,
    /// It ended, and is not waited for.
    Died,
    /// It takes no part, and nothing begins.
    Pinned,
    /// Told of a write in place.
    Protect,
    /// Told that the pages go elsewhere.
    Migrate,
    /// Told that the contents go.
    Unmap,
    /// Told that the vector goes.
    Release,
}

impl Row {
    const ALL: [Self; 15] = [
        Self::Mark,
        Self::Start,
        Self::Fences,
        Self::Unmaps,
        Self::Finish,
        Self::Late,
        Self::LateAtFault,
        Self::Failed,
        Self::CutOff,
        Self::Died,
        Self::Pinned,
        Self::Protect,
        Self::Migrate,
        Self::Unmap,
        Self::Release,
    ];

    /// The rows that there are where kernels work like this, and touches fault or do not.
    pub(crate) fn all(model: Model, faults: bool) -> Vec<Self> {
        let mut rows = Self::ALL.to_vec();
        rows.retain(|row| match row {
            // On one node nothing goes elsewhere.
            Self::Migrate => model != Model::Unified,
            Self::LateAtFault => faults,
            _ => true,
        });
        rows
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mark => "mark: who begins sleeps",
            Self::Start => "start: all are told before anybody is waited for",
            Self::Fences => "wait for fences",
            Self::Unmaps => "wait for unmaps",
            Self::Finish => "finish: who maps again sees what was written",
            Self::Late => "late: nothing moves",
            Self::LateAtFault => "late at a page fault: it goes on",
            Self::Failed => "failed: nothing moves",
            Self::CutOff => "cut off: the move goes on",
            Self::Died => "died: not waited for",
            Self::Pinned => "static: nothing begins",
            Self::Protect => "told of a write in place",
            Self::Migrate => "told of a move",
            Self::Unmap => "told of a discard",
            Self::Release => "told of the end",
        })
    }
}
