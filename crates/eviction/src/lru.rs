//! Least recently used.

use crate::{Block, Candidate, Launch, Policy};

/// Evicts what was not used for the longest time. Knows nothing else.
#[derive(Clone, Copy, Default, Debug)]
pub struct Lru;

impl Policy for Lru {
    fn launched(&mut self, _now: u64, _launch: &Launch) {}

    fn victims(&mut self, candidates: &[Candidate], wanted: usize, victims: &mut Vec<Block>) {
        let mut order: Vec<_> = candidates.iter().map(|one| (one.last_use, one.block)).collect();
        order.sort_unstable();
        victims.extend(order.iter().take(wanted).map(|(_, block)| *block));
    }
}
