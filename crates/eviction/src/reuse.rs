//! By the next use that is predicted.
//!
//! `value(block) = [next use reads] / d_use + [dirty and written again] / d_write`, distances in launches; the lowest goes.
//! On a loop this keeps a fixed part and streams the rest; dead blocks and blocks about to be overwritten go first.
//!
//! Where a prediction comes from, the best first: the queue; **replay** (when this launch's kernel and tile, and those
//! before it, came before, what followed then follows now); the block's last reuse intervals. A block without any
//! is assumed to come back later the more recently it was used: the most recent goes first.
//!
//! Memory: 64 bytes for each block, and a log of past launches that holds at most `LOG_BLOCKS` block numbers.

use std::collections::{HashMap, VecDeque};

use crate::{Block, Candidate, Copies, Launch, Policy};

/// Block numbers that the log holds.
const LOG_BLOCKS: usize = 1 << 18;
/// Confidence at which a replay is believed, and the most.
const BELIEVED: u8 = 2;
const CERTAIN: u8 = 3;
const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy, Default, Debug)]
struct History {
    /// One more than the launch that used it last; 0: none.
    used: u64,
    /// The last distinct intervals between uses, the newest first; 0: none.
    intervals: [u32; 4],
    writes: u32,
    reads: u32,
}

/// When a block is read and written next.
#[derive(Clone, Copy, Debug)]
struct Next {
    /// The scan that found it.
    scan: u64,
    used: u64,
    reads: bool,
    written: u64,
}

/// Next predicted use.
#[derive(Clone, Default, Debug)]
pub struct Reuse {
    now: u64,
    blocks: Vec<History>,
    log: VecDeque<Launch>,
    /// The time of the log's first launch.
    log_start: u64,
    log_blocks: usize,
    seen: HashMap<(u32, u32), u64>,
    /// The time whose launch was like this one.
    twin: Option<u64>,
    confidence: u8,
    queue: Vec<Launch>,
    next: Vec<Next>,
    scan: u64,
}

impl Reuse {
    /// Notes the uses of a launch `distance` from now, where none is noted yet.
    fn note(next: &mut [Next], scan: u64, launch: &Launch, distance: u64) {
        for block in &launch.reads {
            let Some(one) = next.get_mut(*block as usize) else { continue };
            if one.scan != scan {
                *one = Next { scan, used: distance, reads: true, written: NEVER };
            } else if one.used == distance {
                one.reads = true;
            }
        }
        for block in &launch.writes {
            let Some(one) = next.get_mut(*block as usize) else { continue };
            if one.scan != scan {
                *one = Next { scan, used: distance, reads: false, written: distance };
            }
            one.written = one.written.min(distance);
        }
    }

    fn look_ahead(&mut self) {
        self.scan += 1;
        let unknown = Next { scan: 0, used: NEVER, reads: false, written: NEVER };
        self.next.resize(self.blocks.len(), unknown);
        for (distance, launch) in (1..).zip(&self.queue) {
            Self::note(&mut self.next, self.scan, launch, distance);
        }
        let Some(twin) = self.twin.filter(|_| self.confidence >= BELIEVED) else { return };
        let first = (twin + 1).max(self.log_start);
        let queued = self.queue.len() as u64;
        for time in first..self.now {
            let distance = time - twin;
            if distance > queued {
                let launch = &self.log[(time - self.log_start) as usize];
                Self::note(&mut self.next, self.scan, launch, distance);
            }
        }
    }

    fn value(&self, one: &Candidate) -> f64 {
        let dirty = one.copies == Copies::Dirty;
        let known = self.next.get(one.block as usize).filter(|next| next.scan == self.scan);
        if let Some(next) = known {
            let reads = if next.reads { 1.0 / next.used as f64 } else { 0.0 };
            let kept = dirty && next.written != NEVER;
            return reads + if kept { 1.0 / next.written as f64 } else { 0.0 };
        }
        let Some(history) = self.blocks.get(one.block as usize) else { return 0.0 };
        let elapsed = self.now.saturating_sub(one.last_use);
        let mut intervals = history.intervals.iter().map(|interval| u64::from(*interval));
        if history.intervals[0] == 0 {
            // No history: the most recent first, and one that was only written is read next.
            return 1.0 - 1.0 / (elapsed as f64 + 2.0);
        }
        let Some(next) = intervals.by_ref().filter(|interval| *interval > elapsed).min() else {
            return 0.0;
        };
        let left = (next - elapsed) as f64;
        let reads = if history.reads > 0 { 1.0 / left } else { 0.0 };
        reads + if dirty && history.writes > 1 { 1.0 / left } else { 0.0 }
    }

    fn remember(&mut self, launch: &Launch) {
        self.log_blocks += launch.reads.len() + launch.writes.len();
        self.log.push_back(launch.clone());
        while self.log_blocks > LOG_BLOCKS {
            let Some(old) = self.log.pop_front() else { return };
            self.log_blocks -= old.reads.len() + old.writes.len();
            let key = (old.kernel, old.tile);
            if self.seen.get(&key) == Some(&self.log_start) {
                self.seen.remove(&key);
            }
            self.log_start += 1;
        }
    }
}

impl Policy for Reuse {
    fn launched(&mut self, now: u64, launch: &Launch) {
        self.now = now;
        let last = launch.reads.iter().chain(&launch.writes).max().map_or(0, |last| *last as usize);
        if self.blocks.len() <= last {
            self.blocks.resize(last + 1, History::default());
        }
        for block in launch.reads.iter().chain(&launch.writes) {
            let history = &mut self.blocks[*block as usize];
            let elapsed = u32::try_from(now + 1 - history.used).unwrap_or(u32::MAX);
            if history.used > 0 && elapsed > 0 {
                let same = history.intervals.iter().position(|interval| *interval == elapsed);
                history.intervals[..=same.unwrap_or(3)].rotate_right(1);
                history.intervals[0] = elapsed;
            }
            history.used = now + 1;
        }
        launch.reads.iter().for_each(|block| self.blocks[*block as usize].reads |= 1);
        for block in &launch.writes {
            let writes = &mut self.blocks[*block as usize].writes;
            *writes = writes.saturating_add(1);
        }
        let before = self.seen.insert((launch.kernel, launch.tile), now);
        let follows = before.is_some() && before == self.twin.map(|twin| twin + 1);
        self.confidence = match (before, follows) {
            (_, true) => (self.confidence + 1).min(CERTAIN),
            (None, _) => 0,
            (Some(_), false) => self.confidence.saturating_sub(1),
        };
        self.twin = before;
        self.remember(launch);
    }

    fn queued(&mut self, launches: &[Launch]) {
        self.queue.clear();
        self.queue.extend_from_slice(launches);
    }

    fn victims(&mut self, candidates: &[Candidate], wanted: usize, victims: &mut Vec<Block>) {
        self.look_ahead();
        let mut order: Vec<_> = candidates.iter().map(|one| (self.value(one), one.block)).collect();
        order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        victims.extend(order.iter().take(wanted).map(|(_, block)| *block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded() {
        assert_eq!(size_of::<History>() + size_of::<Next>(), 64);
        let mut policy = Reuse::default();
        let reads: Vec<_> = (0..1000).collect();
        for now in 0..1000 {
            policy.launched(
                now,
                &Launch { tile: now as u32, reads: reads.clone(), ..Launch::default() },
            );
        }
        assert!(policy.log_blocks <= LOG_BLOCKS && policy.log.len() <= LOG_BLOCKS / 1000);
        assert!(policy.seen.len() <= policy.log.len());
    }
}
