//! How blocks and buffers came back before.
//!
//! The last four **distinct** intervals between uses are kept, of each block and of each buffer: where a block is used by two
//! neighbouring tiles of every round, its intervals are 1 and a round less 1, and what is next is the smallest that is longer than
//! the time since its last use. A buffer takes an interval only when two uses in a row had it: what a loop brings forth,
//! and not what each of its blocks has to itself.
//!
//! An interval that a block did not have before, when it has two already, is a **surprise**: the second round of a loop is none. Where
//! surprises are not rare, a block of which no next use can be told is taken to stay away once more as long as it has been away.
//! Where they are more frequent than other intervals, the buffer is **irregular**: what counts is how often a block was used, old uses fading.
//! How fast they should fade is not known beforehand, so both a fast and a slow fading are kept, and the buffer goes by the one
//! that held its latest uses for likelier.

use crate::{Block, Candidate, Launch};

/// A buffer is irregular above this share of surprises.
const IRREGULAR: f32 = 0.5;
/// Above this share they are not rare.
const SOMETIMES: f32 = 0.1;
const SURPRISE_SHARE: f32 = 1.0 / 32.0;
/// Uses fade to half in so many of their buffer's mean intervals: fast, and slowly.
const HALF_LIVES: [f32; 2] = [0.8, 10.0];
/// The slow fading is believed when it held uses for so much likelier, as a difference of logarithms.
const SLOW_LEAD: f32 = 0.1;
/// What a block that is not counted any more counts.
const LEAST_USES: f32 = 0.01;
const MEAN_SHARE: f32 = 1.0 / 64.0;
const LEAD_SHARE: f32 = 1.0 / 64.0;

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
    /// Uses, fading fast and slowly.
    uses: [f32; 2],
    reads: bool,
    /// 2 for twice and more.
    writes: u8,
    /// Intervals that were no surprise, and that were one, before the buffer was known.
    early: [u8; 2],
}

#[derive(Clone, Copy, Default, Debug)]
struct Buffer {
    intervals: Intervals,
    /// The last interval of any block.
    last: u32,
    surprises: f32,
    mean: f32,
    /// The uses of all its blocks, fading as theirs, when `used` of the last of them was this.
    all_uses: [f32; 2],
    used: u64,
    /// By how much the slow fading held the latest uses for likelier.
    slow_lead: f32,
}

impl Buffer {
    fn surprised(&mut self, surprise: bool) {
        self.surprises += (f32::from(u8::from(surprise)) - self.surprises) * SURPRISE_SHARE;
    }

    /// Notes an interval of one of its blocks, and lets the block's uses fade over it.
    fn came_back(&mut self, history: &mut History, used: u64, elapsed: u32) {
        let interval = elapsed as f32;
        let mean = if self.mean == 0.0 { interval } else { self.mean };
        self.mean = mean + (interval - mean) * MEAN_SHARE;
        if std::mem::replace(&mut self.last, elapsed) == elapsed {
            self.intervals.add(elapsed);
        }
        let since = used.saturating_sub(std::mem::replace(&mut self.used, used)) as f32;
        let mut likely = [0.0; 2];
        for (how, likely) in likely.iter_mut().enumerate() {
            history.uses[how] *= self.fading(how, interval);
            self.all_uses[how] *= self.fading(how, since);
            let share = (history.uses[how] + LEAST_USES) / (self.all_uses[how] + LEAST_USES);
            *likely = share.ln();
            self.all_uses[how] += 1.0;
        }
        self.slow_lead += (likely[1] - likely[0] - self.slow_lead) * LEAD_SHARE;
    }

    /// What is left of a use after so long.
    fn fading(&self, how: usize, elapsed: f32) -> f32 {
        f32::exp2(-elapsed / (HALF_LIVES[how] * self.mean.max(1.0)))
    }

    /// Uses that are to be expected of a block in a launch.
    fn rate(&self, history: &History, elapsed: u64) -> f64 {
        let how = usize::from(self.slow_lead > SLOW_LEAD);
        let uses = history.uses[how] * self.fading(how, elapsed as f32);
        f64::from(uses * std::f32::consts::LN_2 / (HALF_LIVES[how] * self.mean.max(1.0)))
    }
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
            let Some(history) = self.blocks.get_mut(one.block as usize) else { continue };
            history.buffer = Some(one.buffer);
            let place = one.buffer as usize;
            if self.buffers.len() <= place {
                self.buffers.resize(place + 1, Buffer::default());
            }
            for (surprise, count) in
                [false, true].into_iter().zip(std::mem::take(&mut history.early))
            {
                (0..count).for_each(|_| self.buffers[place].surprised(surprise));
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
            if history.used > 0 {
                let surprise = !history.intervals.0.contains(&elapsed);
                let is_telling = history.intervals.0[1] > 0;
                match history.buffer {
                    Some(buffer) => {
                        let buffer = &mut self.buffers[buffer as usize];
                        if is_telling {
                            buffer.surprised(surprise);
                        }
                        buffer.came_back(history, now + 1, elapsed);
                    }
                    None if is_telling => {
                        let early = &mut history.early[usize::from(surprise)];
                        *early = early.saturating_add(1);
                    }
                    None => {}
                }
                history.intervals.add(elapsed);
            }
            history.uses.iter_mut().for_each(|uses| *uses += 1.0);
            history.used = now + 1;
        }
        launch.reads.iter().for_each(|block| self.blocks[*block as usize].reads = true);
        for block in &launch.writes {
            let writes = &mut self.blocks[*block as usize].writes;
            *writes = (*writes + 1).min(2);
        }
    }

    /// What is to be expected of a block that was used `elapsed` launches ago. None: nothing tells.
    pub(super) fn guess(&self, block: Block, buffer: u32, elapsed: u64) -> Option<Guess> {
        let history = self.blocks.get(block as usize)?;
        let buffer = self.buffers.get(buffer as usize).copied().unwrap_or_default();
        let rate = if buffer.surprises > IRREGULAR {
            buffer.rate(history, elapsed)
        } else {
            let own = history.intervals.next(elapsed);
            match own.or_else(|| buffer.intervals.next(elapsed)) {
                Some(left) => 1.0 / left as f64,
                None if buffer.surprises > SOMETIMES => 1.0 / (elapsed + 1) as f64,
                // What was written once is likely to be read.
                None if history.intervals.is_empty() || history.writes == 1 => return None,
                None => 0.0,
            }
        };
        let if_so = |so: bool| if so { rate } else { 0.0 };
        Some(Guess { reads: if_so(history.reads), writes: if_so(history.writes > 1) })
    }
}
