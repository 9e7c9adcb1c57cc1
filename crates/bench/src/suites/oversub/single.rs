//! What eviction must not cost.

use std::time::{Duration, Instant};

use hmmap::{
    Cause, DeviceId, Eviction, Grid, Group, Hmmap, MemoryModel, Options, Share, SharedVec,
    kernels::PartialSums,
};
use hmmap_eviction::{
    Block, Candidate, Copies, Launch, Policy, Reuse, choose, simulator::Trace, traces,
};

use super::programs::{Program, Triad};
use crate::{
    BenchError, Case, Suite, Trial,
    case::{Measure, Wants},
    session::Session,
    suites::{MIB, migrate},
};

const fn case(name: &'static str, bytes: u64, goal: Option<f64>, measure: Measure) -> Case {
    let (suite, wants) = (Suite::Oversub, Wants::Migrate);
    Case { suite, name, bytes, goal, wants, memory_bytes: 8 * bytes, measure }
}

pub(super) const CASES: &[Case] = &[
    case("clean/48MiB", 48 * MIB, Some(0.0), Measure::Moved("evicted_bytes", clean)),
    case("prefetch/256MiB", 256 * MIB, Some(0.95), Measure::Time(migrate::prefetch)),
    case(
        "policy/12MiB",
        12 * MIB,
        Some(0.97),
        Measure::Time(|session, case| Ok(Box::new(Policies::new(session, case)?))),
    ),
    case("choose/128GiB", MIB, None, Measure::Seconds(|_, _| Ok(Box::new(Choosing::new())))),
    case(
        "tenants/reserve/24MiB",
        24 * MIB,
        Some(0.9),
        Measure::Time(|session, case| Ok(Box::new(Tenants::new(session, case, case.bytes)?))),
    ),
    case(
        "tenants/none/24MiB",
        24 * MIB,
        None,
        Measure::Time(|session, case| Ok(Box::new(Tenants::new(session, case, 0)?))),
    ),
];

fn with_budget(bytes: u64, eviction: Eviction) -> Result<Hmmap, BenchError> {
    let options = Options {
        memory_model: MemoryModel::Migrate,
        device_memory_limit_bytes: Some(bytes),
        eviction,
        ..Options::default()
    };
    Ok(Hmmap::builder().options(options).build()?)
}

/// Two vectors that only kernels read, in turns, on a device that has room for one of them and a bit: what leaves is at home already.
fn clean(session: &mut Session, case: &Case) -> Result<(u64, f64), BenchError> {
    let device = session.device();
    let mem = with_budget(case.bytes + 4 * MIB, Eviction::Predicted)?;
    let len = case.bytes as usize / size_of::<f32>();
    let new = || SharedVec::from_fn(&mem, len, |_| 1.0f32);
    let vecs = [new()?, new()?];
    let mut partials = SharedVec::<f32>::new(&mem, 1)?;
    let grid = Grid::Groups { n: len as u64, groups: 1 };
    for vec in vecs.iter().cycle().take(6) {
        let sums = PartialSums { x: vec.read(), partials: partials.write() };
        mem.launch_on(device, grid, sums)?.wait()?;
    }
    let stats = mem.stats();
    if stats.evicted_blocks == 0 {
        return Err(BenchError::Unexpected { what: "evicted blocks", expected: 1, found: 0 });
    }
    Ok((stats.total().bytes(), stats[Cause::Eviction].bytes() as f64))
}

/// Never has an opinion.
struct Idle;

impl Policy for Idle {
    fn launched(&mut self, _: u64, _: &Launch) {}
    fn victims(&mut self, _: &[Candidate], _: usize, _: &mut Vec<Block>) {}
}

/// A program that fits, under our policy, and under one that does nothing.
struct Policies {
    ours: Triad,
    idle: Triad,
}

impl Policies {
    fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let device = session.device();
        let program = |eviction| {
            let mem = with_budget(2 * case.bytes, eviction)?;
            let program = Triad::new(&mem, device, case.bytes)?;
            in_place(program)
        };
        let idle = Eviction::custom(|| Idle);
        Ok(Self { ours: program(Eviction::Predicted)?, idle: program(idle)? })
    }
}

fn in_place(mut program: Triad) -> Result<Triad, BenchError> {
    program.run()?;
    Ok(program)
}

impl Trial for Policies {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        timed(&mut self.ours)
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        timed(&mut self.idle).map(Some)
    }
}

fn timed(program: &mut Triad) -> Result<Duration, BenchError> {
    let started = Instant::now();
    program.run()?;
    Ok(started.elapsed())
}

/// What one decision takes on a device of 65,536 blocks, with STREAM triad on one and a half times as many.
struct Choosing {
    policy: Reuse,
    trace: Trace,
    /// Launches so far.
    now: usize,
}

const PLACES: u32 = 1 << 16;
/// Those that leave at once.
const WANTED: usize = 3;

impl Choosing {
    fn new() -> Self {
        let trace = traces::triad(PLACES / 2 * 3, 2);
        let mut policy = Reuse::default();
        let all = trace.launches.iter().enumerate();
        all.for_each(|(now, launch)| policy.launched(now as u64, launch));
        Self { now: trace.launches.len(), policy, trace }
    }
}

impl Trial for Choosing {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let launch = &self.trace.launches[self.now % self.trace.launches.len()];
        let candidate = |block: Block| Candidate {
            block,
            buffer: self.trace.buffers[block as usize],
            copies: Copies::Clean,
            last_use: u64::from(block),
            arrived: u64::from(block),
        };
        let mut candidates: Vec<_> = (0..PLACES).map(candidate).collect();
        let mut victims = Vec::new();
        let started = Instant::now();
        self.policy.launched(self.now as u64, launch);
        let ignored = choose(&mut self.policy, &mut candidates, WANTED, &mut victims);
        let took = started.elapsed();
        self.now += 1;
        match ignored {
            0 => Ok(took),
            found => Err(BenchError::Unexpected { what: "ignored answers", expected: 0, found }),
        }
    }
}

/// A program that fits, with or without a reserve, after one has streamed through the same device, and after one has through another runtime's memory: both leave the
/// caches as they are, and only the first can take device memory away.
struct Tenants {
    in_core: Triad,
    streams: Triad,
    elsewhere: Triad,
}

impl Tenants {
    fn new(session: &mut Session, case: &Case, reserve_bytes: u64) -> Result<Self, BenchError> {
        let (other, device): (Hmmap, DeviceId) = session.runtime(case)?;
        let mem = with_budget(2 * case.bytes, Eviction::LeastRecentlyUsed)?;
        let group = Group::new(&mem, "in core");
        group.set_share(device, Share { reserve_bytes, ..Share::default() })?;
        Ok(Self {
            in_core: in_place(Triad::new(&group, device, case.bytes)?)?,
            streams: Triad::new(&mem, device, 3 * case.bytes)?,
            elsewhere: Triad::new(&other, device, 3 * case.bytes)?,
        })
    }
}

impl Trial for Tenants {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        self.streams.run()?;
        timed(&mut self.in_core)
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        // Whatever was taken from it comes back first.
        self.in_core.run()?;
        self.elsewhere.run()?;
        timed(&mut self.in_core).map(Some)
    }
}
