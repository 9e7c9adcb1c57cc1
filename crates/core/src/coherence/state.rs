//! What is valid where, for the pages of one block.

use std::fmt;

use smallvec::SmallVec;

use crate::{node::NodeId, units::PageMask};

/// The state of a block's 32 pages.
///
/// # Invariants
/// Nodes are in ascending order, each at most once, none with an empty mask. A lost page is valid nowhere.
#[derive(Clone, PartialEq, Eq, Default, Hash)]
pub struct BlockState {
    valid: SmallVec<[(NodeId, PageMask); 2]>,
    lost: PageMask,
}

impl BlockState {
    /// The pages whose copy on `node` is current.
    pub fn valid_on(&self, node: NodeId) -> PageMask {
        let found = self.valid.iter().find(|(holder, _)| *holder == node);
        found.map_or(PageMask::EMPTY, |(_, pages)| *pages)
    }

    /// The pages with a current copy somewhere.
    pub fn valid_anywhere(&self) -> PageMask {
        self.valid.iter().fold(PageMask::EMPTY, |sum, (_, pages)| sum.or(*pages))
    }

    /// The pages that were lost.
    pub fn lost(&self) -> PageMask {
        self.lost
    }

    /// The pages that were never written (or were discarded): they read as zero.
    pub fn empty(&self) -> PageMask {
        PageMask::FULL.without(self.valid_anywhere()).without(self.lost)
    }

    /// The nodes that hold pages of the block, each with its pages, host first.
    pub fn holders(&self) -> &[(NodeId, PageMask)] {
        &self.valid
    }

    /// Memory used beside the value itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        let spilled = if self.valid.spilled() { self.valid.capacity() } else { 0 };
        spilled * size_of::<(NodeId, PageMask)>()
    }

    /// Makes the copy on `node` current, beside what else is.
    pub(super) fn add(&mut self, node: NodeId, pages: PageMask) {
        if pages.is_empty() {
            return;
        }
        self.lost = self.lost.without(pages);
        match self.valid.binary_search_by_key(&node, |(holder, _)| *holder) {
            Ok(at) => self.valid[at].1 = self.valid[at].1.or(pages),
            Err(at) => self.valid.insert(at, (node, pages)),
        }
    }

    /// Makes no copy on `node` current.
    pub(super) fn remove(&mut self, node: NodeId, pages: PageMask) {
        self.valid.retain(|(holder, held)| {
            if *holder == node {
                *held = held.without(pages);
            }
            !held.is_empty()
        });
    }

    /// Makes the copy on `node` the only current one.
    pub(super) fn set_only(&mut self, node: NodeId, pages: PageMask) {
        self.clear(pages);
        self.add(node, pages);
    }

    /// Makes no copy current, and nothing lost: the pages are empty.
    pub(super) fn clear(&mut self, pages: PageMask) {
        self.lost = self.lost.without(pages);
        self.valid.retain(|(_, held)| {
            *held = held.without(pages);
            !held.is_empty()
        });
    }

    /// The copy on `node` is no longer good; pages that had no other are lost.
    pub(super) fn destroy(&mut self, node: NodeId, pages: PageMask) {
        let had = self.valid_on(node).and(pages);
        self.remove(node, pages);
        self.lost = self.lost.or(had.without(self.valid_anywhere()));
    }
}

impl fmt::Debug for BlockState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        map.entries(self.valid.iter().map(|(node, pages)| (node, pages)));
        if !self.lost.is_empty() {
            map.entry(&"lost", &self.lost);
        }
        map.finish()
    }
}
