//! What followed the same launch before follows it now.
//!
//! A launch's **twin** is the last one of the same kernel and tile. While twins follow each other as the launches do, confidence grows;
//! once it is there, what came after the twin is the future.
//!
//! **Streams.** Programs that share a device come in any turns, so each has a log of its own. Kernels that touch the same block
//! are of one program; when two streams turn out to be one, the shorter log is forgotten. A stream's **pace** is how many launches
//! of the device one of its own takes: its future is stretched by that.

use std::collections::{HashMap, VecDeque};

use crate::Launch;

/// Block numbers that all logs hold.
pub(super) const LOG_BLOCKS: usize = 1 << 18;
/// A launch takes as much memory as so many block numbers, beside its own.
const LAUNCH_BLOCKS: usize = 32;
/// Confidence at which a replay is believed, and the most.
const BELIEVED: u8 = 1;
const CERTAIN: u8 = 3;
/// A stream's pace follows its last launches, of which each counts so much.
const PACE_SHARE: f64 = 1.0 / 16.0;

#[derive(Clone, Debug)]
struct Stream {
    log: VecDeque<Launch>,
    /// How many launches left the log.
    gone: u64,
    log_blocks: usize,
    /// The place of the last launch of each kernel and tile, counted from the stream's first.
    seen: HashMap<(u32, u32), u64>,
    twin: Option<u64>,
    confidence: u8,
    last: u64,
    pace: f64,
}

impl Stream {
    fn new(now: u64) -> Self {
        Self {
            log: VecDeque::new(),
            gone: 0,
            log_blocks: 0,
            seen: HashMap::new(),
            twin: None,
            confidence: 0,
            last: now.wrapping_sub(1),
            pace: 1.0,
        }
    }

    fn launched(&mut self, now: u64, launch: &Launch) {
        let place = self.gone + self.log.len() as u64;
        let before = self.seen.insert((launch.kernel, launch.tile), place);
        let follows = before.is_some() && before == self.twin.map(|twin| twin + 1);
        self.confidence = match (before, follows) {
            (_, true) => (self.confidence + 1).min(CERTAIN),
            (None, _) => 0,
            (Some(_), false) => self.confidence.saturating_sub(1),
        };
        self.twin = before;
        let took = now.wrapping_sub(self.last) as f64;
        self.pace += (took - self.pace) * PACE_SHARE;
        self.last = now;
        self.log_blocks += blocks(launch);
        self.log.push_back(launch.clone());
    }

    fn forget_one(&mut self) {
        let Some(old) = self.log.pop_front() else { return };
        self.log_blocks -= blocks(&old);
        let key = (old.kernel, old.tile);
        if self.seen.get(&key) == Some(&self.gone) {
            self.seen.remove(&key);
        }
        self.gone += 1;
    }

    /// Tells what comes after the next `known` launches of the stream.
    fn follow(&self, now: u64, known: usize, tell: &mut impl FnMut(&Launch, f64)) {
        let Some(twin) = self.twin.filter(|_| self.confidence >= BELIEVED) else { return };
        let since = now.wrapping_sub(self.last) as f64;
        let after = (twin + 1).saturating_sub(self.gone) as usize;
        for (steps, launch) in (1_u32..).zip(self.log.iter().skip(after)).skip(known) {
            tell(launch, (f64::from(steps) * self.pace - since).max(1.0));
        }
    }
}

/// What a launch counts for in a log.
fn blocks(launch: &Launch) -> usize {
    LAUNCH_BLOCKS + launch.reads.len() + launch.writes.len()
}

/// The logs of all streams.
#[derive(Clone, Default, Debug)]
pub(super) struct Replay {
    streams: Vec<Stream>,
    /// The stream of each kernel.
    kernels: HashMap<u32, usize>,
    /// The kernel that touched each block last.
    owners: Vec<Option<u32>>,
}

impl Replay {
    pub(super) fn launched(&mut self, now: u64, launch: &Launch) {
        let touched = || launch.reads.iter().chain(&launch.writes).map(|block| *block as usize);
        let len = touched().max().map_or(0, |last| last + 1);
        if self.owners.len() < len {
            self.owners.resize(len, None);
        }
        if !self.kernels.contains_key(&launch.kernel) {
            self.kernels.insert(launch.kernel, self.streams.len());
            self.streams.push(Stream::new(now));
        }
        for block in touched() {
            let before = self.owners[block].replace(launch.kernel);
            if let Some(other) = before.filter(|before| *before != launch.kernel) {
                self.join(launch.kernel, other);
            }
        }
        self.streams[self.kernels[&launch.kernel]].launched(now, launch);
        while self.log_blocks() > LOG_BLOCKS {
            let longest = self.streams.iter_mut().max_by_key(|stream| stream.log_blocks);
            longest.into_iter().for_each(Stream::forget_one);
        }
    }

    /// Makes the streams of two kernels one.
    fn join(&mut self, one: u32, other: u32) {
        let (one, other) = (self.kernels[&one], self.kernels[&other]);
        if one == other {
            return;
        }
        let longer = self.streams[one].log.len() > self.streams[other].log.len();
        let (keep, drop) = if longer { (one, other) } else { (other, one) };
        let last = self.streams.len() - 1;
        self.streams.swap_remove(drop);
        for stream in self.kernels.values_mut() {
            if *stream == drop {
                *stream = keep;
            }
            if *stream == last {
                *stream = drop;
            }
        }
    }

    /// Tells every launch that is to follow and is not queued, with its distance from now.
    pub(super) fn follow(&self, now: u64, queue: &[Launch], mut tell: impl FnMut(&Launch, f64)) {
        for (number, stream) in self.streams.iter().enumerate() {
            let of_stream = |queued: &&Launch| self.kernels.get(&queued.kernel) == Some(&number);
            stream.follow(now, queue.iter().filter(of_stream).count(), &mut tell);
        }
    }

    pub(super) fn log_blocks(&self) -> usize {
        self.streams.iter().map(|stream| stream.log_blocks).sum()
    }
}
