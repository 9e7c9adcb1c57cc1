//! The answers to "who has it?" and "who is at it?", without side effects.

use std::{fmt, ops::Range};

use smallvec::SmallVec;

use super::{Directory, PageSpan};
use crate::{
    access::Access,
    coherence::Effect,
    fence::FencePoint,
    node::NodeId,
    units::{PAGES_PER_BLOCK, PageMask},
};

/// Neighbouring pages that are held alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Residency {
    /// The pages, counted from the buffer's start.
    pub pages: Range<u64>,
    /// The nodes whose copy is current (or will be, once what is in flight has ended), host first. Empty: never written, reads as zero.
    pub nodes: SmallVec<[NodeId; 2]>,
    /// True when the pages were lost with a failure.
    pub lost: bool,
    /// True when work on the pages is in flight.
    pub pending: bool,
    /// How many peers have addresses of the pages.
    pub peers: u32,
    /// True when one of those peers takes no part in revocation: the pages stay where they are.
    pub pinned: bool,
}

impl Residency {
    /// What a node that holds the pages may do with them where they are: write, where it is the only one; read, where there are several; nothing where nobody holds
    /// them. Whoever wants more has the others' copies taken first.
    pub fn access(&self) -> Option<Access> {
        match self.nodes.len() {
            0 => None,
            1 => Some(Access::Update),
            _ => Some(Access::Read),
        }
    }

    /// True when more than one node holds the pages: each copy but the last can be dropped without copying.
    pub fn is_clean(&self) -> bool {
        self.nodes.len() > 1
    }

    fn is_like(&self, other: &Self) -> bool {
        let key = |one: &Self| (one.lost, one.pending, one.peers, one.pinned);
        self.nodes == other.nodes && key(self) == key(other)
    }
}

impl fmt::Display for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pages {}..{}: ", self.pages.start, self.pages.end)?;
        if self.lost {
            f.write_str("lost")?;
        } else if self.nodes.is_empty() {
            f.write_str("empty")?;
        }
        for (place, node) in self.nodes.iter().enumerate() {
            write!(f, "{}{node}", if place > 0 { " and " } else { "" })?;
        }
        if self.pending {
            f.write_str(" (in flight)")?;
        }
        match (self.peers, self.pinned) {
            (0, _) => Ok(()),
            (peers, false) => write!(f, " (mapped by {peers} peers)"),
            (peers, true) => write!(f, " (mapped by {peers} peers, pinned)"),
        }
    }
}

/// Work on neighbouring pages whose end nobody has seen yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InFlight {
    /// The pages, counted from the buffer's start.
    pub pages: Range<u64>,
    /// What the work does.
    pub effect: Effect,
    /// The fence that ends with it.
    pub fence: FencePoint,
}

impl Directory {
    /// What is promised for the pages of `span` and was not seen to end, oldest first within a block.
    pub fn in_flight(&self, span: PageSpan) -> Vec<InFlight> {
        let mut found = Vec::new();
        self.look(span, |blocks, _, run| {
            let pending = || run.log.promises().iter().filter(|promise| promise.is_pending());
            for (block, promise) in blocks.flat_map(|block| pending().map(move |p| (block, p))) {
                let base = u64::from(block) * PAGES_PER_BLOCK;
                for pages in promise.pages.and(span.in_block(block)).spans() {
                    found.push(InFlight {
                        pages: base + u64::from(pages.start)..base + u64::from(pages.end),
                        effect: promise.effect,
                        fence: promise.fence,
                    });
                }
            }
        });
        found
    }

    /// Who holds the pages of `span`, in runs as long as possible.
    pub fn residency(&self, span: PageSpan) -> Vec<Residency> {
        let mut runs: Vec<Residency> = Vec::new();
        self.look(span, |blocks, _, run| {
            let state = run.log.promised();
            let pending = run.log.promises().iter().filter(|promise| promise.is_pending());
            let in_flight = pending.fold(PageMask::EMPTY, |sum, promise| sum.or(promise.pages));
            for block in blocks {
                let base = u64::from(block) * PAGES_PER_BLOCK;
                let wanted = span.in_block(block);
                for page in 0..PAGES_PER_BLOCK as u32 {
                    let bit = PageMask::span(page, page + 1);
                    if !wanted.overlaps(bit) {
                        continue;
                    }
                    let holders = state.holders().iter().filter(|(_, held)| held.overlaps(bit));
                    let nodes = holders.map(|(node, _)| *node).collect();
                    let (lost, pending) = (state.lost().overlaps(bit), in_flight.overlaps(bit));
                    let page = base + u64::from(page);
                    push(
                        &mut runs,
                        Residency {
                            pages: page..page + 1,
                            nodes,
                            lost,
                            pending,
                            peers: 0,
                            pinned: false,
                        },
                    );
                }
            }
        });
        runs
    }
}

fn push(runs: &mut Vec<Residency>, next: Residency) {
    match runs.last_mut() {
        Some(last) if last.pages.end == next.pages.start && last.is_like(&next) => {
            last.pages.end = next.pages.end;
        }
        _ => runs.push(next),
    }
}
