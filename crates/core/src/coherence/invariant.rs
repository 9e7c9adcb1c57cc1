//! One checker for the invariants of a block's state. Debug builds, the model and the property tests call it.

use super::{Effect, Log};
use crate::{node::NodeId, units::PageMask};

/// What is wrong with a block's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// A node holds pages that it has no memory for (invariant 4).
    #[error("pages {pages:?} are valid on {node}, which has no backing there")]
    ValidUnbacked {
        /// The node.
        node: NodeId,
        /// The pages.
        pages: PageMask,
    },
    /// Pages are lost and valid at once.
    #[error("pages {pages:?} are lost and valid at once")]
    LostAndValid {
        /// The pages.
        pages: PageMask,
    },
    /// The user view shows pages whose copy on the host is not current (invariant 3).
    #[error("pages {pages:?} are mapped for the host, whose copy is not current")]
    MappedStale {
        /// The pages.
        pages: PageMask,
    },
    /// The host can write pages that another node holds, without anybody hearing of it (invariant 3).
    #[error("pages {pages:?} are mapped writable for the host and current on {other}")]
    MappedWritable {
        /// The other.
        other: NodeId,
        /// The pages.
        pages: PageMask,
    },
    /// Work in flight writes on a node while another node's copy counts as current (invariant 1).
    #[error("pages {pages:?} are being written on {writer} and count as current on {other}")]
    WriterNotAlone {
        /// The node that writes.
        writer: NodeId,
        /// The other.
        other: NodeId,
        /// The pages.
        pages: PageMask,
    },
}

/// Checks one block. `backed` says whether a node has memory under the block; the host always has.
///
/// # Errors
/// The first violation found.
pub fn check(log: &Log, backed: impl Fn(NodeId) -> bool) -> Result<(), Violation> {
    let promised = log.promised();
    for (node, pages) in promised.holders().iter().chain(log.settled().holders()) {
        if !backed(*node) {
            return Err(Violation::ValidUnbacked { node: *node, pages: *pages });
        }
    }
    let both = promised.lost().and(promised.valid_anywhere());
    if !both.is_empty() {
        return Err(Violation::LostAndValid { pages: both });
    }
    let last_write = log.promises().iter().rposition(|promise| {
        promise.is_pending() && matches!(promise.effect, Effect::Write { .. })
    });
    let Some((at, promise)) = last_write.map(|at| (at, log.promises()[at])) else {
        return Ok(());
    };
    let Effect::Write { on: writer } = promise.effect else {
        return Ok(());
    };
    // Copies made after the write are of what it wrote; anything else that is current beside it is stale.
    let made_after = |node: NodeId| {
        let later = log.promises()[at + 1..].iter();
        later
            .filter(|p| p.effect.overwrites() == Some(node))
            .fold(PageMask::EMPTY, |s, p| s.or(p.pages))
    };
    for (other, pages) in promised.holders().iter().filter(|(node, _)| *node != writer) {
        let stale = pages.and(promise.pages).without(made_after(*other));
        if !stale.is_empty() {
            return Err(Violation::WriterNotAlone { writer, other: *other, pages: stale });
        }
    }
    Ok(())
}
