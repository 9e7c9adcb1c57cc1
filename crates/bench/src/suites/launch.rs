//! A launch with everything in place, beside a submit of the same code by hand; and what the bookkeeping alone takes.

use std::time::{Duration, Instant};

use hmmap::core::fence::FencePoint;

use super::{GIB, MIB, touched::Touched};
use crate::{
    BenchError, Case, Suite, Trial,
    case::{Measure, Wants},
    session::{Session, SharedLimit},
};

const fn launch(name: &'static str, array_bytes: u64) -> Case {
    Case {
        suite: Suite::Launch,
        name,
        bytes: 4 * array_bytes,
        goal: Some(0.90),
        wants: Wants::Any,
        memory_bytes: 4 * array_bytes + GIB,
        measure: Measure::Time(|session, case| Ok(Box::new(Launch::new(session, case)?))),
    }
}

const fn acquire(name: &'static str, array_bytes: u64) -> Case {
    Case {
        suite: Suite::Launch,
        name,
        bytes: 4 * array_bytes,
        goal: Some(1e-6),
        wants: Wants::Any,
        memory_bytes: 4 * array_bytes + GIB,
        measure: Measure::Seconds(|session, case| Ok(Box::new(Acquire::new(session, case)?))),
    }
}

pub(crate) const CASES: &[Case] = &[
    launch("launch/4x1MiB", MIB),
    launch("launch/4x1GiB", GIB),
    acquire("acquire/4x1MiB", MIB),
    acquire("acquire/4x1GiB", GIB),
];

fn touched(session: &mut Session, case: &Case) -> Result<Touched, BenchError> {
    let (mem, device) = session.runtime(case)?;
    let mut touched = Touched::new(mem, device, case.bytes / 4, case.bytes / 4)?;
    touched.written_on_the_device()?;
    Ok(touched)
}

/// So many launches make one run, which is their mean: where the system runs the thread that waits and the driver's own depends on what both did
/// just before, and a processor that has to be woken for one of them costs as much as the launch.
const LAUNCHES: u32 = 32;

/// Submit and wait.
struct Launch {
    touched: Touched,
    array_bytes: u64,
    limit: SharedLimit,
}

impl Launch {
    fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let limit = session.limit();
        Ok(Self { touched: touched(session, case)?, array_bytes: case.bytes / 4, limit })
    }
}

impl Trial for Launch {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let started = Instant::now();
        for _ in 0..LAUNCHES {
            self.touched.launch()?.wait()?;
        }
        Ok(started.elapsed() / LAUNCHES)
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        let mut limit = self.limit.borrow_mut();
        let mut together = Duration::ZERO;
        for _ in 0..LAUNCHES {
            together += limit.touch(self.array_bytes)?;
        }
        Ok(Some(together / LAUNCHES))
    }
}

/// Taking four vectors for a piece of work and giving them back with its signal: what a launch does besides the driver's part.
struct Acquire {
    touched: Touched,
    /// Work of the device that has ended: what the caller's signal would be.
    signal: FencePoint,
}

/// So many are timed together, since a clock reading takes tens of nanoseconds itself.
const TOGETHER: u32 = 100;

impl Acquire {
    fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let mut touched = touched(session, case)?;
        let fence = touched.launch()?;
        fence.wait()?;
        let nothing = || BenchError::DoesNotApply("the device signals nothing".to_owned());
        Ok(Self { touched, signal: fence.point().ok_or_else(nothing)? })
    }
}

impl Trial for Acquire {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let (mem, device) = (self.touched.mem().clone(), self.touched.device());
        let started = Instant::now();
        for _ in 0..TOGETHER {
            let [a, b, c, d] = self.touched.vecs();
            let arguments = [a.update(), b.update(), c.update(), d.update()].map(Into::into);
            mem.acquire(device, arguments)?.release(self.signal)?;
        }
        Ok(started.elapsed() / TOGETHER)
    }
}
