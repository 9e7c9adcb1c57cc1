//! Which blocks leave a device that is full.
//!
//! A **policy** is told of every launch before it runs, and asked for **victims** among **candidates**: blocks on the
//! device that the launch does not need, that nothing pins and nothing is in flight on. It never decides alone:
//! [`choose`] ignores and counts what is no candidate or named twice, and fills up by last use.
//!
//! Protocol: `queued` (optional) -> `launched` -> `victims`, once for each launch that lacks room.
//! Time is counted in launches. The engine has to give: a dense number for each block, the blocks that a launch reads
//! and overwrites, and for each candidate its buffer, last use, last copy-in, and whether its only copy is there.
#![forbid(unsafe_code)]

#[cfg(feature = "bound")]
pub mod bound;
mod lru;
#[cfg(feature = "bound")]
pub mod ratios;
mod reuse;
pub mod simulator;
pub mod thrash;
pub mod traces;
mod uvm;

pub use lru::Lru;
pub use reuse::Reuse;
pub use uvm::UvmLike;

/// A block's number, dense over all buffers of a device.
pub type Block = u32;

/// What a launch does, in blocks.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Launch {
    /// The kernel.
    pub kernel: u32,
    /// The tile of it, 0 for a launch that is not split.
    pub tile: u32,
    /// Blocks whose contents it needs.
    pub reads: Vec<Block>,
    /// Blocks that it writes. One that is not in `reads` is overwritten whole.
    pub writes: Vec<Block>,
}

/// Whether eviction has to copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copies {
    /// Current elsewhere too: goes for nothing.
    Clean,
    /// Only here: is copied out first.
    Dirty,
}

/// A block that can go.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Which.
    pub block: Block,
    /// Whose.
    pub buffer: u32,
    /// Whether it has to be copied out.
    pub copies: Copies,
    /// The launch that used it last.
    pub last_use: u64,
    /// The launch that it came for.
    pub arrived: u64,
}

/// Decides what leaves.
pub trait Policy {
    /// A launch is about to run. Times grow by one.
    fn launched(&mut self, now: u64, launch: &Launch);

    /// Launches that will follow the next one, soonest first. Replaces what was said before.
    fn queued(&mut self, _launches: &[Launch]) {}

    /// Names up to `wanted` victims, the best first. `victims` is empty.
    fn victims(&mut self, candidates: &[Candidate], wanted: usize, victims: &mut Vec<Block>);
}

/// Asks a policy, and takes only what makes sense; the rest is made up by last use. Returns how many answers were ignored.
///
/// `victims` is replaced; it has `wanted` blocks afterwards, or all candidates where there are fewer.
pub fn choose(
    policy: &mut (impl Policy + ?Sized),
    candidates: &mut [Candidate],
    wanted: usize,
    victims: &mut Vec<Block>,
) -> u64 {
    victims.clear();
    policy.victims(candidates, wanted, victims);
    candidates.sort_unstable_by_key(|one| one.block);
    let mut taken = vec![false; candidates.len()];
    let (mut left, mut ignored) = (wanted, 0);
    victims.retain(|block| {
        let place = candidates.binary_search_by_key(block, |one| one.block).ok();
        match place.filter(|place| left > 0 && !taken[*place]) {
            Some(place) => {
                taken[place] = true;
                left -= 1;
                true
            }
            None => {
                ignored += 1;
                false
            }
        }
    });
    if left > 0 {
        let mut rest: Vec<_> = candidates
            .iter()
            .zip(&taken)
            .filter(|(_, taken)| !**taken)
            .map(|(one, _)| one)
            .collect();
        rest.sort_unstable_by_key(|one| (one.last_use, one.block));
        victims.extend(rest.iter().take(left).map(|one| one.block));
    }
    ignored
}

#[cfg(test)]
mod tests;
