//! Plain indexing: scans and touches of what a device holds, what its faults cost, and loops over what is there.

mod beside;
mod moves;
mod resident;
mod scan;
mod touch;

use hmmap::core::host::HostFaults;

use self::{
    beside::times_beside_a_wait,
    moves::{Back, Out, Revoke, ping_pong},
    resident::{Bump, InPlace, Loop, by_index, by_slice, sum},
    scan::{Readers, Scan},
    touch::{FirstWrite, Touch},
};
use super::{GIB, KIB, MIB, PAGE_BYTES};
use crate::{
    Case, Suite,
    case::{Measure, Wants},
};

const fn case(name: &'static str, bytes: u64, goal: f64, wants: Wants, measure: Measure) -> Case {
    let memory_bytes = 4 * bytes;
    Case { suite: Suite::Fault, name, bytes, goal: Some(goal), wants, memory_bytes, measure }
}

const fn away(name: &'static str, bytes: u64, goal: f64, measure: Measure) -> Case {
    case(name, bytes, goal, Wants::Migrate, measure)
}

const fn here(name: &'static str, bytes: u64, goal: f64, measure: Measure) -> Case {
    case(name, bytes, goal, Wants::Any, measure)
}

pub(crate) const CASES: &[Case] = &[
    away(
        "scan/256MiB",
        256 * MIB,
        0.75,
        Measure::Time(|session, case| Ok(Box::new(Scan::new(session, case, Readers::One)?))),
    ),
    away(
        "scan-on-huge-pages/256MiB",
        256 * MIB,
        0.90,
        Measure::Time(|session, case| Ok(Box::new(Scan::on_huge_pages(session, case)?))),
    ),
    away(
        "scan-by-two/256MiB",
        256 * MIB,
        1.0,
        Measure::Time(|session, case| Ok(Box::new(Scan::new(session, case, Readers::Two)?))),
    ),
    away(
        "scan-by-rayon/256MiB",
        256 * MIB,
        1.0,
        Measure::Time(|session, case| Ok(Box::new(Scan::new(session, case, Readers::Rayon)?))),
    ),
    away(
        "touch/64KiB",
        PAGE_BYTES,
        0.80,
        Measure::Time(|session, case| Ok(Box::new(Touch::new(session, case)?))),
    ),
    away(
        "first-write/64KiB",
        PAGE_BYTES,
        1.0 / 1.5,
        Measure::Time(|session, case| Ok(Box::new(FirstWrite::new(session, case)?))),
    ),
    away(
        "revoke/256MiB",
        256 * MIB,
        1.0 / 1.3,
        Measure::Time(|session, case| Ok(Box::new(Revoke::new(session, case)?))),
    ),
    away(
        "out-while-mapped/64MiB",
        64 * MIB,
        0.95,
        Measure::Time(|session, case| Ok(Box::new(Out::new(session, case)?))),
    ),
    away(
        "back-and-mapped/64MiB",
        64 * MIB,
        0.95,
        Measure::Time(|session, case| Ok(Box::new(Back::new(session, case)?))),
    ),
    here(
        "p99-beside-a-2s-wait/64KiB",
        64 * KIB,
        2.0,
        Measure::Number("times_alone", times_beside_a_wait),
    ),
    away("ping-pong/1GiB", GIB, 2.0, Measure::Number("pages_per_round", ping_pong)),
    here(
        "index/64MiB",
        64 * MIB,
        0.95,
        Measure::Time(|_, case| Ok(Box::new(Loop::new(case, HostFaults::Auto, by_index)?))),
    ),
    here(
        "index-without-faults/64MiB",
        64 * MIB,
        0.95,
        Measure::Time(|_, case| Ok(Box::new(Loop::new(case, HostFaults::Off, by_index)?))),
    ),
    here("index-to-write/1MiB", MIB, 0.95, Measure::Time(|_, case| Ok(Box::new(Bump::new(case)?)))),
    here(
        "slice/64MiB",
        64 * MIB,
        0.98,
        Measure::Time(|_, case| Ok(Box::new(Loop::new(case, HostFaults::Auto, by_slice)?))),
    ),
    case(
        "index-after-a-launch-in-place/1MiB",
        MIB,
        0.95,
        Wants::Unified,
        Measure::Time(|session, case| Ok(Box::new(InPlace::new(session, case)?))),
    ),
];
