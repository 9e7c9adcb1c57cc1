//! How blocks and buffers came back before.
//!
//! The last four **distinct** intervals between uses are kept, of each block and of each buffer: where a block is used by two
//! neighbouring tiles of every round, its intervals are 1 and a round less 1, and what is next is the smallest that is longer than
//! the time since its last use. A buffer takes an interval only when two uses in a row had it: what a loop brings forth,
//! and not what each of its blocks has to itself.
//!
//! A buffer is **irregular** when intervals that its blocks did not have before come more often than others, among blocks that
//! have four already: the second round of a loop is no surprise. Then what counts is how often a block was used, old uses fading.

use crate::{Block, Candidate, Launch};

/// A buffer is irregular above this share of surprises.
const IRREGULAR: f32 = 0.5;
const SURPRISE_SHARE: f32 = 1.0 / 32.0;
/// Uses fade to half in so many of their buffer's mean intervals.
const HALF_LIFE: f32 = 1.25;
const MEAN_SHARE: f32 = 1.0 / 64.0;

#[derive(Clone, Copy, Default, Debug)]
struct Intervals([u32; 4]);

impl Intervals {
    fn add(&mut self, interval: u32) {
        let same = self.0.iter().position(|one| *one == interval);
        self.0[..=same.unwrap_or(3)].rotate_right(1);
        self.0[0] = interval;
    }

    fn next(&self, elapsed: u64) -> Option<u64> {
        let left = self.0.iter().map(|one| u64::from(*one)).filter(|one| *one > elapsed);
        left.min().map(|next| next - elapsed)
    }

    fn is_empty(&self) -> bool {
        self.0[0] == 0
    }
}

/// What is known of a block.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct History {
    /// One more than the launch that used it last; 0: none.
    used: u64,
    intervals: Intervals,
    /// Its buffer, once it was a candidate.
    buffer: Option<u32>,
    /// Uses, fading.
    uses: f32,
    reads: bool,
    /// 2 for twice and more.
    writes: u8,
}

#[derive(Clone, Copy, Default, Debug)]
struct Buffer {
    intervals: Intervals,
    /// The last interval of any block.
    last: u32,
    surprises: f32,
    mean: f32,
}

/// What keeping a block is worth, for its next read and its next write.
pub(super) struct Guess {
    pub(super) reads: f64,
    pub(super) writes: f64,
}

#[derive(Clone, Default, Debug)]
pub(super) struct Histories {
    blocks: Vec<History>,
    buffers: Vec<Buffer>,
}

impl Histories {
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Notes whose the candidates are.
    pub(super) fn belong(&mut self, candidates: &[Candidate]) {
        for one in candidates {
            if let Some(history) = self.blocks.get_mut(one.block as usize) {
                history.buffer = Some(one.buffer);
                if self.buffers.len() <= one.buffer as usize {
                    self.buffers.resize(one.buffer as usize + 1, Buffer::default());
                }
            }
        }
    }

    /// Notes the uses of a launch.
    pub(super) fn used(&mut self, now: u64, launch: &Launch) {
        let last = launch.reads.iter().chain(&launch.writes).max().map_or(0, |last| *last as usize);
        if self.blocks.len() <= last {
            self.blocks.resize(last + 1, History::default());
        }
        for block in launch.reads.iter().chain(&launch.writes) {
            let history = &mut self.blocks[*block as usize];
            let elapsed = u32::try_from((now + 1).saturating_sub(history.used)).unwrap_or(u32::MAX);
            if elapsed == 0 {
                continue;
            }
            let buffer = history.buffer.map(|buffer| &mut self.buffers[buffer as usize]);
            if history.used > 0 {
                let known = history.intervals.0.contains(&elapsed);
                if let Some(buffer) = buffer {
                    if history.intervals.0[3] > 0 {
                        let surprise = f32::from(u8::from(!known));
                        buffer.surprises += (surprise - buffer.surprises) * SURPRISE_SHARE;
                    }
                    let mean = if buffer.mean == 0.0 { elapsed as f32 } else { buffer.mean };
                    buffer.mean = mean + (elapsed as f32 - mean) * MEAN_SHARE;
                    if std::mem::replace(&mut buffer.last, elapsed) == elapsed {
                        buffer.intervals.add(elapsed);
                    }
                    history.uses *= fading(elapsed as f32, buffer.mean);
                }
                history.intervals.add(elapsed);
            }
            history.uses += 1.0;
            history.used = now + 1;
        }
        launch.reads.iter().for_each(|block| self.blocks[*block as usize].reads = true);
        for block in &launch.writes {
            let writes = &mut self.blocks[*block as usize].writes;
            *writes = (*writes + 1).min(2);
        }
    }

    /// What is to be expected of a block that was used `elapsed` launches ago. None: it has no history, nor has its buffer.
    pub(super) fn guess(&self, block: Block, buffer: u32, elapsed: u64) -> Option<Guess> {
        let history = self.blocks.get(block as usize)?;
        let buffer = self.buffers.get(buffer as usize).copied().unwrap_or_default();
        let rate = if buffer.surprises > IRREGULAR {
            f64::from(history.uses * fading(elapsed as f32, buffer.mean) / buffer.mean)
        } else {
            let own = history.intervals.next(elapsed);
            let left = own.or_else(|| buffer.intervals.next(elapsed));
            if left.is_none() && history.intervals.is_empty() {
                return None;
            }
            left.map_or(0.0, |left| 1.0 / left as f64)
        };
        let if_so = |so: bool| if so { rate } else { 0.0 };
        Some(Guess { reads: if_so(history.reads), writes: if_so(history.writes > 1) })
    }
}

/// What is left of a use after so long.
fn fading(elapsed: f32, mean: f32) -> f32 {
    f32::exp2(-elapsed / (HALF_LIFE * mean.max(1.0)))
}
