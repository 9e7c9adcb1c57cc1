//! Which pages of a block the user view shows.

use crate::{
    coherence::{Log, Violation},
    node::NodeId,
    units::PageMask,
};

/// The entries of the user view for the pages of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Mapped {
    /// A read goes through.
    pub present: PageMask,
    /// A write goes through, too.
    pub writable: PageMask,
    /// A touch ends with a signal: what was there is lost.
    pub poisoned: PageMask,
}

impl Mapped {
    /// True when nothing would have to be taken away.
    pub fn is_empty(&self) -> bool {
        self.present.is_empty() && self.poisoned.is_empty()
    }

    /// Checks invariant 3 for one block: what can be read is current on the host, what can be written is current nowhere else. Lost pages
    /// are left out: a kernel that worked on host memory in place may have failed on pages that are mapped, and the vector asks before
    /// it lets anybody touch those.
    pub(super) fn check(&self, log: &Log) -> Result<(), Violation> {
        let promised = log.promised();
        let stale = self.present.without(promised.valid_on(NodeId::HOST)).without(promised.lost());
        if !stale.is_empty() {
            return Err(Violation::MappedStale { pages: stale });
        }
        if !self.present.contains(self.writable) {
            return Err(Violation::MappedStale { pages: self.writable.without(self.present) });
        }
        let others = promised.holders().iter().filter(|(node, _)| !node.is_host());
        for (other, held) in others {
            let pages = held.and(self.writable);
            if !pages.is_empty() {
                return Err(Violation::MappedWritable { other: *other, pages });
            }
        }
        Ok(())
    }
}
