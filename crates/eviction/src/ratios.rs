//! Policies beside the least that any could cost, on all workloads.
//!
//! The device holds [`CAPACITY`] blocks, the data [`FACTORS`] times that. A **ratio** is blocks copied over the lower bound.

use std::fmt::Write;

use crate::{
    Lru, Policy, Reuse, UvmLike,
    bound::lower_bound,
    simulator::{Cost, Knows, TooLarge, run},
    traces::{WORKLOADS, Workload},
};

/// Blocks that the device holds.
pub const CAPACITY: usize = 96;
/// Data over capacity.
pub const FACTORS: [f64; 6] = [0.5, 1.0, 1.05, 1.25, 2.0, 3.0];

/// A policy, and what it knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contender {
    /// NVIDIA's driver: age of arrival, every eviction copies.
    UvmLike,
    /// Last use.
    Lru,
    /// Ours.
    Reuse,
    /// Ours, four launches known ahead.
    Queued,
}

impl Contender {
    /// All of them, the baselines first.
    pub const ALL: [Self; 4] = [Self::UvmLike, Self::Lru, Self::Reuse, Self::Queued];

    /// The name in tables and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UvmLike => "uvm-like",
            Self::Lru => "lru",
            Self::Reuse => "reuse",
            Self::Queued => "reuse-queued",
        }
    }
}

/// One workload at one factor.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The program.
    pub workload: &'static Workload,
    /// Data over capacity.
    pub factor: f64,
    /// The least, in blocks.
    pub bound: u64,
    /// What each of [`Contender::ALL`] copies.
    pub costs: [Cost; 4],
}

impl Row {
    /// Runs a workload under every policy.
    ///
    /// # Errors
    /// [`TooLarge`] for a workload with a launch that no device of this size can run.
    pub fn of(workload: &'static Workload, factor: f64) -> Result<Self, TooLarge> {
        let trace = (workload.trace)((CAPACITY as f64 * factor) as u32);
        let cost =
            |ahead, knows, policy: &mut dyn Policy| run(&trace, CAPACITY, ahead, knows, policy);
        let costs = [
            cost(0, Knows::Nothing, &mut UvmLike)?,
            cost(0, Knows::Dirty, &mut Lru)?,
            cost(0, Knows::Dirty, &mut Reuse::default())?,
            cost(4, Knows::Dirty, &mut Reuse::default())?,
        ];
        Ok(Self { workload, factor, bound: lower_bound(&trace, CAPACITY)?, costs })
    }

    /// Blocks copied over the bound.
    pub fn ratio(&self, contender: Contender) -> f64 {
        self.costs[contender as usize].blocks() as f64 / self.bound.max(1) as f64
    }
}

/// Every workload at every factor.
///
/// # Errors
/// [`TooLarge`] as for [`Row::of`].
pub fn rows() -> Result<Vec<Row>, TooLarge> {
    let all = WORKLOADS.iter().flat_map(|one| FACTORS.map(|factor| Row::of(one, factor)));
    all.collect()
}

/// The geometric mean of the ratios where the data is larger than the device.
pub fn mean(rows: &[Row], contender: Contender) -> f64 {
    let ratios = rows.iter().filter(|row| row.factor > 1.0).map(|row| row.ratio(contender).ln());
    let (count, sum) = ratios.fold((0.0, 0.0), |(count, sum), ratio| (count + 1.0, sum + ratio));
    f64::exp(sum / f64::max(count, 1.0))
}

/// All of it, to be read.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!("{:14} {:>6} {:>6}", "workload", "factor", "bound");
    for contender in Contender::ALL {
        let _ = write!(text, " {:>12}", contender.name());
    }
    for row in rows {
        let _ = write!(text, "\n{:14} {:6} {:6}", row.workload.name, row.factor, row.bound);
        for contender in Contender::ALL {
            let _ = write!(text, " {:12.3}", row.ratio(contender));
        }
    }
    let _ = write!(text, "\n{:28}", "mean, factors above 1");
    for contender in Contender::ALL {
        let _ = write!(text, " {:12.3}", mean(rows, contender));
    }
    text.push('\n');
    text
}
