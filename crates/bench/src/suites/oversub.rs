//! Data larger than the device: what each policy moves, over the least that any could.
//!
//! The traced part: programs' declared tiles go through the simulator of `hmmap-eviction`, on [`ratios::CAPACITY`] blocks of 2 MiB,
//! with no device and no clock, so that the numbers are the same on every machine. What a launch is staged in comes on top of the
//! capacity and moves nothing, so it is in none of these numbers.
//!
//! A case is named `program/factor/policy`. Its record holds the bytes moved and, as its value, their ratio to the lower bound; `program/factor/bound`
//! holds the bound, in bytes. Goals are held by ours alone; the others are there to be compared with.

use std::sync::OnceLock;

use hmmap_eviction::{
    ratios::{self, Contender, Row},
    simulator::TooLarge,
};

use crate::{
    BenchError, Case, Suite,
    case::{Measure, Wants},
};

/// What a policy's ratio is a number of.
pub(crate) const METRIC: &str = "bytes_over_bound";

const fn case(name: &'static str, goal: Option<f64>, measure: Measure) -> Case {
    Case {
        suite: Suite::Oversub,
        name,
        bytes: 0,
        goal,
        wants: Wants::Any,
        memory_bytes: 0,
        measure,
    }
}

macro_rules! at {
    ($program:literal, $factor:literal, $goal:expr) => {
        [
            case(concat!($program, "/", $factor, "/bound"), None, Measure::Traced("bytes", bound)),
            case(
                concat!($program, "/", $factor, "/uvm-like"),
                None,
                Measure::Traced(METRIC, ratio),
            ),
            case(concat!($program, "/", $factor, "/lru"), None, Measure::Traced(METRIC, ratio)),
            case(concat!($program, "/", $factor, "/reuse"), $goal, Measure::Traced(METRIC, ratio)),
            case(
                concat!($program, "/", $factor, "/reuse-queued"),
                $goal,
                Measure::Traced(METRIC, ratio),
            ),
        ]
    };
}

macro_rules! program {
    ($program:literal, $goal:expr) => {
        [
            at!($program, "50%", Some(1.0)),
            at!($program, "100%", Some(1.0)),
            at!($program, "105%", $goal),
            at!($program, "125%", $goal),
            at!($program, "200%", $goal),
            at!($program, "300%", $goal),
        ]
    };
}

/// The goal of random blocks and of a change of phases is what last use costs, which the tests of `hmmap-eviction` compare.
const ALL: &[[[Case; 5]; 6]] = &[
    program!("triad", Some(1.08)),
    program!("k-means", Some(1.08)),
    program!("cg", Some(1.08)),
    program!("stencil", Some(1.08)),
    program!("training", Some(1.20)),
    program!("matmul", Some(1.20)),
    program!("radix-sort", Some(1.35)),
    program!("two-tenants", Some(1.35)),
    program!("random-blocks", None),
    program!("phase-change", None),
];

pub(crate) const CASES: &[Case] = ALL.as_flattened().as_flattened();

/// A case's program, data over capacity in percent, and policy.
pub(crate) fn parts(name: &str) -> Option<(&str, f64, &str)> {
    let mut parts = name.split('/');
    let (program, factor, policy) = (parts.next()?, parts.next()?, parts.next()?);
    Some((program, factor.strip_suffix('%')?.parse().ok()?, policy))
}

/// Everything is found at once, when the first case asks.
fn row(case: &Case) -> Result<(&'static Row, &'static str), BenchError> {
    static ROWS: OnceLock<Result<Vec<Row>, TooLarge>> = OnceLock::new();
    let missing = || BenchError::DoesNotApply(format!("no trace {}", case.name));
    let rows = ROWS.get_or_init(ratios::rows).as_ref().map_err(|too_large| {
        let blocks = too_large.needed_blocks;
        BenchError::DoesNotApply(format!("launch {} needs {blocks} blocks", too_large.launch))
    })?;
    let (program, percent, policy) = parts(case.name).ok_or_else(missing)?;
    let is_it =
        |row: &&Row| row.workload.name == program && (row.factor * 100.0 - percent).abs() < 0.5;
    Ok((rows.iter().find(is_it).ok_or_else(missing)?, policy))
}

fn bound(case: &Case) -> Result<(u64, f64), BenchError> {
    let (row, _) = row(case)?;
    let bytes = row.bound * hmmap::core::units::BLOCK_BYTES;
    Ok((bytes, bytes as f64))
}

fn ratio(case: &Case) -> Result<(u64, f64), BenchError> {
    let (row, policy) = row(case)?;
    let contender = Contender::ALL.into_iter().find(|one| one.name() == policy);
    let contender =
        contender.ok_or_else(|| BenchError::DoesNotApply(format!("no policy {policy}")))?;
    let blocks = row.costs[contender as usize].blocks();
    Ok((blocks * hmmap::core::units::BLOCK_BYTES, row.ratio(contender)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmmap_eviction::traces::{Goal, WORKLOADS};

    #[test]
    fn every_workload_factor_and_policy_has_its_case_with_its_goal() {
        let policies = Contender::ALL.map(Contender::name);
        assert_eq!(CASES.len(), WORKLOADS.len() * ratios::FACTORS.len() * (policies.len() + 1));
        for case in CASES {
            let (program, percent, policy) = parts(case.name).unwrap();
            let workload = WORKLOADS.iter().find(|one| one.name == program).unwrap();
            assert!(ratios::FACTORS.iter().any(|one| (one * 100.0 - percent).abs() < 0.5));
            assert!(policy == "bound" || policies.contains(&policy));
            if percent > 100.0 && policy.starts_with("reuse") {
                let goal = case.goal.map_or(Goal::LastUse, Goal::Ratio);
                assert_eq!(workload.goal, goal, "{}", case.name);
            }
        }
    }
}
