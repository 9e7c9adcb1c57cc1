//! The directory of one buffer: runs of blocks in equal state.
//!
//! A **run** is a maximal stretch of neighbouring blocks with the same [`Log`] and the same backing, so an access to
//! a uniform buffer of any size touches one run. Runs are split at block boundaries when an access covers
//! part of one, and joined again when neighbours have become equal. Within a block pages are bits, so nothing smaller than
//! a block ever needs a run of its own.
//!
//! ```text
//! blocks  0        1        2        3        4
//! runs   [ host: all       |dev: p0..16| host: all       ]
//! ```
//!
//! The pages past a buffer's end follow its last page: an access that reaches the end covers them too, so the
//! tail of a buffer does not break its runs.

mod fences;
mod mapped;
mod residency;
mod span;

use std::ops::Range;

pub use fences::FenceSet;
pub use mapped::Mapped;
pub use residency::{InFlight, Residency};
pub use span::PageSpan;

use crate::{
    coherence::{self, Log, Settlement},
    fence::{FencePoint, FenceState},
    node::{DeviceId, MAX_NODES, NodeId},
    units::{PAGES_PER_BLOCK, PageMask},
};

/// A set of nodes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Hash)]
pub struct NodeSet(u16);

const _: () = assert!(MAX_NODES <= u16::BITS as usize);

impl NodeSet {
    /// True when the node is in the set.
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & (1 << node.index()) != 0
    }

    /// Adds a node.
    pub fn insert(&mut self, node: NodeId) {
        self.0 |= 1 << node.index();
    }

    /// Takes a node out.
    pub fn remove(&mut self, node: NodeId) {
        self.0 &= !(1 << node.index());
    }

    /// The nodes that are in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// True when no node is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The nodes, the host first.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        let nodes = std::iter::once(NodeId::HOST)
            .chain((0..MAX_NODES - 1).filter_map(DeviceId::new).map(NodeId::of_device));
        nodes.filter(move |node| self.contains(*node))
    }
}

/// Neighbouring blocks in equal state.
#[derive(Clone, PartialEq, Debug)]
pub struct Run {
    first_block: u32,
    /// Device nodes with memory under these blocks. The host always has.
    pub backed: NodeSet,
    /// What is valid where, and what is promised.
    pub log: Log,
    /// What the user view shows.
    pub mapped: Mapped,
}

impl Run {
    fn same_state(&self, other: &Self) -> bool {
        self.backed == other.backed && self.mapped == other.mapped && self.log == other.log
    }
}

/// The directory of one buffer.
#[derive(Debug)]
pub struct Directory {
    /// Ascending by first block; the first begins at block 0.
    runs: Vec<Run>,
    blocks: u32,
    pages: u64,
}

impl Directory {
    /// The directory of a buffer of `pages` pages, all empty.
    pub fn new(pages: u64) -> Self {
        let blocks = pages.div_ceil(PAGES_PER_BLOCK) as u32;
        let run = Run {
            first_block: 0,
            backed: NodeSet::default(),
            log: Log::default(),
            mapped: Mapped::default(),
        };
        let mut runs = Vec::with_capacity(1);
        if blocks > 0 {
            runs.push(run);
        }
        Self { runs, blocks, pages }
    }

    /// How many pages the buffer has.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many runs it takes to describe the buffer.
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Memory used by the directory itself, in bytes.
    pub fn footprint_bytes(&self) -> usize {
        let spilled: usize = self.runs.iter().map(|run| run.log.heap_bytes()).sum();
        size_of::<Self>() + self.runs.capacity() * size_of::<Run>() + spilled
    }

    /// The one run, when the whole buffer is in equal state and `span` covers it: the fast path of guards and launches.
    pub fn uniform(&self) -> Option<&Run> {
        match self.runs.as_slice() {
            [run] => Some(run),
            _ => None,
        }
    }

    /// Calls `look` for each stretch of `span` in equal state, in address order: the blocks, the pages within each of them, the run.
    pub fn look(&self, span: PageSpan, mut look: impl FnMut(Range<u32>, PageMask, &Run)) {
        for (blocks, pages) in span.segments(self.pages) {
            let mut at = self.run_at(blocks.start);
            let mut block = blocks.start;
            while block < blocks.end {
                let end = self.run_end(at).min(blocks.end);
                look(block..end, pages, &self.runs[at]);
                block = end;
                at += 1;
            }
        }
    }

    /// Like [`Directory::look`], to change the runs: they are split so that each call's run is exactly the blocks
    /// it is called for, and joined again afterwards.
    pub fn change(
        &mut self,
        span: PageSpan,
        mut change: impl FnMut(Range<u32>, PageMask, &mut Run),
    ) {
        for (blocks, pages) in span.segments(self.pages) {
            let first = self.split_at(blocks.start);
            let end = self.split_at(blocks.end);
            for at in first..end {
                let covered = self.runs[at].first_block..self.run_end(at);
                change(covered, pages, &mut self.runs[at]);
            }
            self.join(first, end);
        }
        debug_assert!(self.is_canonical());
    }

    /// Looks at the fences of the runs that `span` touches and folds what has ended.
    pub fn settle(
        &mut self,
        span: PageSpan,
        mut poll: impl FnMut(FencePoint) -> FenceState,
        mut report: impl FnMut(Range<u32>, Settlement),
    ) {
        let mut first = usize::MAX;
        let mut end = 0;
        for (blocks, _) in span.segments(self.pages) {
            first = first.min(self.run_at(blocks.start));
            end = end.max(self.run_at(blocks.end - 1) + 1);
        }
        let mut changed = false;
        for at in first..end {
            if self.runs[at].log.is_settled() {
                continue;
            }
            let blocks = self.runs[at].first_block..self.run_end(at);
            self.runs[at].log.settle(&mut poll, |settlement| report(blocks.clone(), settlement));
            changed = true;
        }
        if changed {
            self.join(first, end);
        }
    }

    /// Every run with its blocks.
    pub fn runs(&self) -> impl Iterator<Item = (Range<u32>, &Run)> {
        self.runs.iter().enumerate().map(|(at, run)| (run.first_block..self.run_end(at), run))
    }

    /// Checks every run against the coherence invariants, and that the runs are in order.
    ///
    /// # Errors
    /// The first violation.
    pub fn check(&self) -> Result<(), coherence::Violation> {
        for run in &self.runs {
            coherence::check(&run.log, |node| node.is_host() || run.backed.contains(node))?;
            run.mapped.check(&run.log)?;
        }
        Ok(())
    }

    fn run_at(&self, block: u32) -> usize {
        self.runs.partition_point(|run| run.first_block <= block) - 1
    }

    fn run_end(&self, at: usize) -> u32 {
        self.runs.get(at + 1).map_or(self.blocks, |next| next.first_block)
    }

    /// Makes `block` the first of a run; returns that run's place (one past the last for the buffer's end).
    fn split_at(&mut self, block: u32) -> usize {
        if block >= self.blocks {
            return self.runs.len();
        }
        let at = self.run_at(block);
        if self.runs[at].first_block == block {
            return at;
        }
        let upper = Run { first_block: block, ..self.runs[at].clone() };
        if self.runs.len() == self.runs.capacity() {
            // Grows by a quarter: the directory's memory per buffer byte is a promise.
            self.runs.reserve_exact(self.runs.len() / 4 + 1);
        }
        self.runs.insert(at + 1, upper);
        at + 1
    }

    /// Joins equal neighbours among the runs `first..end` and their outer neighbours.
    fn join(&mut self, first: usize, end: usize) {
        let from = first.saturating_sub(1);
        let to = (end + 1).min(self.runs.len());
        let mut kept = from;
        for at in from + 1..to {
            if !self.runs[kept].same_state(&self.runs[at]) {
                kept += 1;
                self.runs.swap(kept, at);
            }
        }
        if kept + 1 < to {
            self.runs.drain(kept + 1..to);
        }
    }

    fn is_canonical(&self) -> bool {
        self.runs.first().is_none_or(|run| run.first_block == 0)
            && self.runs.is_sorted_by(|a, b| a.first_block < b.first_block)
    }
}

#[cfg(test)]
mod tests;
