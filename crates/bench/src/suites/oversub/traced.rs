//! The traced part: what each policy moves, over the least that any could. Programs' declared tiles go through the simulator of `hmmap-eviction`, on [`ratios::CAPACITY`] blocks of 2 MiB,
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

use super::{BYTES_OVER_BOUND, Named, too_large};
use crate::{
    BenchError, Case, Suite,
    case::{Measure, Wants},
    session::Session,
};

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
            case(concat!($program, "/", $factor, "/bound"), None, Measure::Moved("bytes", bound)),
            case(
                concat!($program, "/", $factor, "/uvm-like"),
                None,
                Measure::Moved(BYTES_OVER_BOUND, ratio),
            ),
            case(
                concat!($program, "/", $factor, "/lru"),
                None,
                Measure::Moved(BYTES_OVER_BOUND, ratio),
            ),
            case(
                concat!($program, "/", $factor, "/reuse"),
                $goal,
                Measure::Moved(BYTES_OVER_BOUND, ratio),
            ),
            case(
                concat!($program, "/", $factor, "/reuse-queued"),
                $goal,
                Measure::Moved(BYTES_OVER_BOUND, ratio),
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

pub(super) const CASES: &[Case] = ALL.as_flattened().as_flattened();

/// Everything is found at once, when the first case asks.
fn row(case: &Case) -> Result<(&'static Row, &'static str), BenchError> {
    static ROWS: OnceLock<Result<Vec<Row>, TooLarge>> = OnceLock::new();
    let missing = || BenchError::DoesNotApply(format!("no trace {}", case.name));
    let rows = ROWS.get_or_init(ratios::rows).as_ref().map_err(too_large)?;
    let named = Named::of(case.name).ok_or_else(missing)?;
    let is_it = |row: &&Row| row.workload.name == named.program && named.is_at(row.factor);
    Ok((rows.iter().find(is_it).ok_or_else(missing)?, named.policy))
}

fn bound(_: &mut Session, case: &Case) -> Result<(u64, f64), BenchError> {
    let (row, _) = row(case)?;
    let bytes = row.bound * hmmap::core::units::BLOCK_BYTES;
    Ok((bytes, bytes as f64))
}

fn ratio(_: &mut Session, case: &Case) -> Result<(u64, f64), BenchError> {
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
            let named = Named::of(case.name).unwrap();
            let workload = WORKLOADS.iter().find(|one| one.name == named.program).unwrap();
            assert!(ratios::FACTORS.iter().any(|one| named.is_at(*one)));
            assert!(named.policy == "bound" || policies.contains(&named.policy));
            if named.factor > 1.0 && named.policy.starts_with("reuse") {
                let goal = case.goal.map_or(Goal::LastUse, Goal::Ratio);
                assert_eq!(workload.goal, goal, "{}", case.name);
            }
        }
    }
}
