//! What a policy costs on a trace, in blocks copied.
//!
//! All blocks of a launch are resident while it runs. A block that is read and not resident is copied in; one that is only
//! overwritten is not. A dirty victim is copied out, a clean one goes for nothing; what is dirty at the end is copied out.

use crate::{Block, Candidate, Copies, Launch, Policy, choose};

/// A sequence of launches.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The buffer of each block.
    pub buffers: Vec<u32>,
    /// In order.
    pub launches: Vec<Launch>,
}

/// What the system knows of its copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Knows {
    /// What is clean, and what is overwritten.
    Dirty,
    /// Neither: every eviction copies out, every return copies in.
    Nothing,
}

/// What it came to, in blocks.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Cost {
    /// Copied to the device.
    pub copied_in: u64,
    /// Copied home, those at the end included.
    pub copied_out: u64,
    /// Evicted, with or without a copy.
    pub evicted: u64,
    /// Answers of the policy that made no sense.
    pub ignored: u64,
}

impl Cost {
    /// All copies.
    pub fn blocks(self) -> u64 {
        self.copied_in + self.copied_out
    }
}

/// A launch that no eviction can make room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLarge {
    /// The launch's place in the trace.
    pub launch: usize,
    /// Blocks that it needs.
    pub needed_blocks: usize,
}

#[derive(Clone, Copy, Default)]
struct Place {
    resident: bool,
    dirty: bool,
    /// Has been on the device before.
    known: bool,
    last_use: u64,
    arrived: u64,
}

/// Runs a trace on `capacity` blocks, with `ahead` queued launches known to the policy.
///
/// # Errors
/// [`TooLarge`] for a launch of more than `capacity` blocks.
pub fn run(
    trace: &Trace,
    capacity: usize,
    ahead: usize,
    knows: Knows,
    policy: &mut (impl Policy + ?Sized),
) -> Result<Cost, TooLarge> {
    let mut places = vec![Place::default(); trace.buffers.len()];
    let (mut cost, mut used, mut victims) = (Cost::default(), 0, Vec::new());
    for (number, launch) in trace.launches.iter().enumerate() {
        let now = number as u64;
        let mut needed: Vec<Block> = launch.reads.iter().chain(&launch.writes).copied().collect();
        needed.sort_unstable();
        needed.dedup();
        if needed.len() > capacity {
            return Err(TooLarge { launch: number, needed_blocks: needed.len() });
        }
        let end = trace.launches.len().min(number + 1 + ahead);
        policy.queued(&trace.launches[number + 1..end]);
        policy.launched(now, launch);
        let missing = needed.iter().filter(|block| !places[**block as usize].resident).count();
        let short = (used + missing).saturating_sub(capacity);
        if short > 0 {
            let mut candidates = candidates(trace, &places, &needed);
            cost.ignored += choose(policy, &mut candidates, short, &mut victims);
            for block in &victims {
                let place = &mut places[*block as usize];
                assert!(place.resident && needed.binary_search(block).is_err());
                cost.copied_out += u64::from(place.dirty || knows == Knows::Nothing);
                (place.resident, place.dirty) = (false, false);
                cost.evicted += 1;
                used -= 1;
            }
        }
        for block in needed {
            let place = &mut places[block as usize];
            if !place.resident {
                let read = launch.reads.contains(&block);
                cost.copied_in += u64::from(read || (place.known && knows == Knows::Nothing));
                (place.resident, place.known, place.arrived) = (true, true, now);
                used += 1;
            }
            place.dirty |= launch.writes.contains(&block);
            place.last_use = now;
        }
        assert!(used <= capacity);
    }
    cost.copied_out += places.iter().filter(|place| place.resident && place.dirty).count() as u64;
    Ok(cost)
}

fn candidates(trace: &Trace, places: &[Place], needed: &[Block]) -> Vec<Candidate> {
    let resident = (0..).zip(places).filter(|(_, place)| place.resident);
    let free = resident.filter(|(block, _)| needed.binary_search(block).is_err());
    free.map(|(block, place)| Candidate {
        block,
        buffer: trace.buffers[block as usize],
        copies: if place.dirty { Copies::Dirty } else { Copies::Clean },
        last_use: place.last_use,
        arrived: place.arrived,
    })
    .collect()
}
