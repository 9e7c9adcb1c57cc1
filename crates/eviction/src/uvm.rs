//! As NVIDIA's driver does it.

use crate::{Block, Candidate, Launch, Policy};

/// Evicts what came first, however often it was used since. The simulator prices it without knowledge of what is clean.
#[derive(Clone, Copy, Default, Debug)]
pub struct UvmLike;

impl Policy for UvmLike {
    fn launched(&mut self, _now: u64, _launch: &Launch) {}

    fn victims(&mut self, candidates: &[Candidate], wanted: usize, victims: &mut Vec<Block>) {
        let mut order: Vec<_> = candidates.iter().map(|one| (one.arrived, one.block)).collect();
        order.sort_unstable();
        victims.extend(order.iter().take(wanted).map(|(_, block)| *block));
    }
}
