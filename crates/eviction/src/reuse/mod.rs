//! By the next use that is predicted.
//!
//! `value(block) = [next use reads] / d_use + [dirty and written again] / d_write`, distances in launches; the lowest goes.
//! On a loop this keeps a fixed part and streams the rest; dead blocks and blocks about to be overwritten go first.
//!
//! Where a prediction comes from, the best first:
//! 1. the **queue**: launches that are known to follow;
//! 2. [`replay`] of what followed the same launch before, per program where several share the device;
//! 3. the block's last reuse **intervals**, else its buffer's ([`history`]); where those turn out wrong more often than right, how
//!    often it was used lately;
//! 4. nothing: a block comes back about as late as the device is large, the most recent last: a first pass through data is most
//!    likely the first of several. One that is dirty is taken to be read and written again.
//!
//! Memory: 64 bytes for each block, and logs of past launches that hold at most `LOG_BLOCKS` block numbers.

mod history;
mod replay;

use crate::{Block, Candidate, Copies, Launch, Policy};
use history::Histories;
use replay::Replay;

const NEVER: f64 = f64::INFINITY;
/// A block of which nothing is known is taken to come back after so many launches for each candidate.
const UNKNOWN_SHARE: f64 = 0.5;

/// When a block is read and written next.
#[derive(Clone, Copy, Debug)]
struct Next {
    /// The scan that found it.
    scan: u64,
    used: f64,
    written: f64,
    reads: bool,
}

/// The next uses that were found, of each block.
#[derive(Clone, Default, Debug)]
struct Nexts {
    scan: u64,
    blocks: Vec<Next>,
}

impl Nexts {
    /// Forgets all; `blocks` is how many there are.
    fn begin(&mut self, blocks: usize) {
        self.scan += 1;
        let unknown = Next { scan: 0, used: NEVER, written: NEVER, reads: false };
        self.blocks.resize(blocks, unknown);
    }

    /// Takes in the uses of a launch `distance` from now. The nearest counts.
    fn note(&mut self, launch: &Launch, distance: f64) {
        let reads = launch.reads.iter().map(|block| (block, true));
        for (block, reads) in reads.chain(launch.writes.iter().map(|block| (block, false))) {
            let Some(one) = self.blocks.get_mut(*block as usize) else { continue };
            if one.scan != self.scan {
                *one = Next { scan: self.scan, used: NEVER, written: NEVER, reads: false };
            }
            if distance < one.used {
                (one.used, one.reads) = (distance, reads);
            } else if distance == one.used {
                one.reads |= reads;
            }
            if !reads {
                one.written = one.written.min(distance);
            }
        }
    }

    fn of(&self, block: Block) -> Option<&Next> {
        self.blocks.get(block as usize).filter(|next| next.scan == self.scan)
    }
}

/// Next predicted use.
#[derive(Clone, Default, Debug)]
pub struct Reuse {
    now: u64,
    histories: Histories,
    replay: Replay,
    queue: Vec<Launch>,
    next: Nexts,
}

impl Reuse {
    fn value(&self, one: &Candidate, unknown: f64) -> f64 {
        let dirty = one.copies == Copies::Dirty;
        if let Some(next) = self.next.of(one.block) {
            let reads = if next.reads { 1.0 / next.used } else { 0.0 };
            return reads + if dirty { 1.0 / next.written } else { 0.0 };
        }
        let elapsed = self.now.saturating_sub(one.last_use);
        match self.histories.guess(one.block, one.buffer, elapsed) {
            Some(guess) => guess.reads + if dirty { guess.writes } else { 0.0 },
            None => {
                let recent = 1.0 / (elapsed as f64 + 2.0);
                (1.0 - recent) / unknown * if dirty { 2.0 } else { 1.0 }
            }
        }
    }
}

impl Policy for Reuse {
    fn launched(&mut self, now: u64, launch: &Launch) {
        self.now = now;
        self.histories.used(now, launch);
        self.replay.launched(now, launch);
    }

    fn queued(&mut self, launches: &[Launch]) {
        self.queue.clear();
        self.queue.extend_from_slice(launches);
    }

    fn victims(&mut self, candidates: &[Candidate], wanted: usize, victims: &mut Vec<Block>) {
        self.histories.belong(candidates);
        self.next.begin(self.histories.len());
        for (distance, launch) in (1_u32..).zip(&self.queue) {
            self.next.note(launch, f64::from(distance));
        }
        let next = &mut self.next;
        self.replay.follow(self.now, &self.queue, |launch, distance| next.note(launch, distance));
        let unknown = (candidates.len() as f64 * UNKNOWN_SHARE).max(1.0);
        let mut order: Vec<_> =
            candidates.iter().map(|one| (self.value(one, unknown), one.block)).collect();
        let before = |a: &(f64, Block), b: &(f64, Block)| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1));
        if wanted < order.len() {
            order.select_nth_unstable_by(wanted, before);
            order.truncate(wanted);
        }
        order.sort_unstable_by(before);
        victims.extend(order.iter().map(|(_, block)| *block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded() {
        let each = size_of::<history::History>() + size_of::<Next>();
        assert!(each <= 80, "{each} bytes for each block");
        let mut policy = Reuse::default();
        let reads: Vec<_> = (0..1000).collect();
        for now in 0..1000 {
            let launch = Launch { tile: now as u32, reads: reads.clone(), ..Launch::default() };
            policy.launched(now, &launch);
        }
        assert!(policy.replay.log_blocks() <= replay::LOG_BLOCKS);
    }
}
