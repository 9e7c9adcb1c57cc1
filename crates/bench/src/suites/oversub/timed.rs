//! The timed part: programs on the device under test with a budget, beside the same programs on all of it.
//!
//! A run begins with all data in host memory alone and ends with what was written there. What it is compared with is the program's time with
//! everything in place on the device, and, for the bytes that the lower bound of its trace says have to be copied, the time of a bare
//! copy. The trace is in the smallest tiles that there could be: larger ones only raise the least. The two sides take turns, the value is
//! that of the medians; the first run of each does not count, so a policy has seen its program once.

use std::time::{Duration, Instant};

use hmmap::{Eviction, Hmmap, MemoryModel, Options};
use hmmap_eviction::bound::lower_bound;

use super::{
    Named, TIME_OVER_BOUND,
    programs::{KINDS, Kind, Program},
    too_large,
};
use crate::{
    BenchError, Case, Samples, Settings, Suite, Trial,
    case::{Measure, Wants},
    median,
    session::{Session, SharedLimit},
    suites::MIB,
};

/// All data of a program.
const DATA_BYTES: u64 = 144 * MIB;
/// What the rate of a bare copy is found by, each way.
const PROBE_BYTES: u64 = 64 * MIB;
const SETTINGS: Settings = Settings { most_runs: 3, least_runs: 3, warm_ups: 1, ..Settings::FULL };

const fn case(name: &'static str, goal: Option<f64>) -> Case {
    Case {
        suite: Suite::Oversub,
        name,
        bytes: DATA_BYTES,
        goal,
        wants: Wants::Migrate,
        memory_bytes: 5 * DATA_BYTES,
        measure: Measure::Moved(TIME_OVER_BOUND, time_over_bound),
    }
}

macro_rules! at {
    ($program:literal, $factor:literal, $goal:expr) => {
        [
            case(concat!("time/", $program, "/", $factor, "/uvm-like"), None),
            case(concat!("time/", $program, "/", $factor, "/lru"), None),
            case(concat!("time/", $program, "/", $factor, "/reuse"), $goal),
        ]
    };
}

/// All factors of the one that is drawn, and the factor of the goal of the other.
const ALL: &[[Case; 3]] = &[
    at!("triad", "50%", None),
    at!("triad", "100%", None),
    at!("triad", "105%", None),
    at!("triad", "125%", None),
    at!("triad", "200%", Some(1.3)),
    at!("triad", "300%", None),
    at!("training", "200%", Some(1.3)),
];

pub(super) const CASES: &[Case] = ALL.as_flattened();

fn time_over_bound(session: &mut Session, case: &Case) -> Result<(u64, f64), BenchError> {
    let no_such = || BenchError::DoesNotApply(format!("no program {}", case.name));
    let named = Named::of(case.name).ok_or_else(no_such)?;
    let kind = KINDS.iter().find(|kind| kind.name == named.program).ok_or_else(no_such)?;
    let eviction = match named.policy {
        "uvm-like" => Eviction::FirstCome,
        "lru" => Eviction::LeastRecentlyUsed,
        _ => Eviction::Predicted,
    };
    let mut beside = Beside::new(session, case, kind, (named.factor, eviction))?;
    let samples = Samples::take(&mut beside, &SETTINGS, Duration::MAX, |_| ())?;
    for (found, expected) in beside.small.sums()?.into_iter().zip(beside.in_core.sums()?) {
        let (what, expected, found) = ("a vector's bits", expected.into(), found.into());
        if found != expected {
            return Err(BenchError::Unexpected { what, expected, found });
        }
    }
    let runs = u64::from(SETTINGS.least_runs + SETTINGS.warm_ups);
    let ratio = median(&samples.ours_s) / median(&samples.limit_s);
    Ok((beside.moved_bytes() / runs, ratio))
}

/// A program within a budget, and the same with all of the device.
struct Beside {
    mem: Hmmap,
    small: Box<dyn Program>,
    in_core: Box<dyn Program>,
    bound_bytes: u64,
    limit: SharedLimit,
}

impl Beside {
    fn new(
        session: &mut Session,
        case: &Case,
        kind: &Kind,
        (factor, eviction): (f64, Eviction),
    ) -> Result<Self, BenchError> {
        let (all, device) = session.runtime(case)?;
        let units = (case.bytes as f64 / factor) as u64 / kind.unit_bytes;
        let least = lower_bound(&(kind.trace)(case.bytes), units as usize);
        let least = least.map_err(|error| too_large(&error))?;
        let options = Options {
            memory_model: MemoryModel::Migrate,
            // A block more for what belongs to no tile: a scalar, or the end of a vector.
            device_memory_limit_bytes: Some((units + 1) * kind.unit_bytes),
            eviction,
            ..Options::default()
        };
        let mem = Hmmap::builder().options(options).build()?;
        Ok(Self {
            small: (kind.new)(&mem, device, case.bytes)?,
            in_core: (kind.new)(&all, device, case.bytes)?,
            mem,
            bound_bytes: least * kind.unit_bytes,
            limit: session.limit(),
        })
    }

    fn moved_bytes(&self) -> u64 {
        self.mem.stats().total().bytes()
    }
}

impl Trial for Beside {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        self.small.start_at_home()?;
        let started = Instant::now();
        self.small.run()?;
        self.small.fetch()?;
        Ok(started.elapsed())
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        let started = Instant::now();
        self.in_core.run()?;
        let in_core = started.elapsed();
        let mut limit = self.limit.borrow_mut();
        let both = limit.to_device(PROBE_BYTES)? + limit.to_host(PROBE_BYTES)?;
        let copies = both.as_secs_f64() * self.bound_bytes as f64 / (2 * PROBE_BYTES) as f64;
        Ok(Some(in_core + Duration::from_secs_f64(copies)))
    }
}
