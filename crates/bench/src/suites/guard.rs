//! The host's borrows: with nothing to do, and with a little to do of much that is away.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use fastrand::Rng;
use hmmap::SharedVec;

use super::{MIB, PAGE_BYTES, touched::Touched};
use crate::{
    BenchError, Case, Suite, Trial,
    case::{Measure, Wants},
    session::{Session, SharedLimit},
};

const fn idle(name: &'static str, measure: Measure) -> Case {
    Case {
        suite: Suite::Guard,
        name,
        bytes: MIB,
        goal: Some(40e-9),
        wants: Wants::Any,
        memory_bytes: MIB,
        measure,
    }
}

const fn away(name: &'static str, goal: f64, measure: Measure) -> Case {
    Case {
        suite: Suite::Guard,
        name,
        bytes: 64 * MIB,
        goal: Some(goal),
        wants: Wants::Migrate,
        memory_bytes: 256 * MIB,
        measure,
    }
}

pub(crate) const CASES: &[Case] = &[
    idle(
        "no-op-read/1MiB",
        Measure::Seconds(|session, case| Ok(Box::new(Idle::new(session, case, Idle::read)?))),
    ),
    idle(
        "no-op-write/1MiB",
        Measure::Seconds(|session, case| Ok(Box::new(Idle::new(session, case, Idle::write)?))),
    ),
    away(
        "one-element-of/64MiB",
        80.0,
        Measure::Time(|session, case| Ok(Box::new(Away::new(session, case, 1)?))),
    ),
    away(
        "random-1%-of/64MiB",
        10.0,
        Measure::Time(|session, case| {
            let pages = (case.bytes / PAGE_BYTES / 100) as usize;
            Ok(Box::new(Away::new(session, case, pages)?))
        }),
    ),
];

/// So many are timed together, since a clock reading takes tens of nanoseconds itself.
const TOGETHER: u32 = 1000;

type Access = fn(&mut SharedVec<u32>) -> Result<(), BenchError>;

/// A borrow of what is where it should be.
struct Idle {
    vec: SharedVec<u32>,
    access: Access,
}

impl Idle {
    fn new(session: &mut Session, case: &Case, access: Access) -> Result<Self, BenchError> {
        let (mem, _) = session.runtime(case)?;
        let vec = SharedVec::from_fn(&mem, case.bytes as usize / size_of::<u32>(), |i| i as u32)?;
        Ok(Self { vec, access })
    }

    fn read(vec: &mut SharedVec<u32>) -> Result<(), BenchError> {
        for _ in 0..TOGETHER {
            black_box(black_box(&*vec).host(..)?);
        }
        Ok(())
    }

    fn write(vec: &mut SharedVec<u32>) -> Result<(), BenchError> {
        for _ in 0..TOGETHER {
            black_box(black_box(&mut *vec).host_mut(..)?);
        }
        Ok(())
    }
}

impl Trial for Idle {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let started = Instant::now();
        (self.access)(&mut self.vec)?;
        Ok(started.elapsed() / TOGETHER)
    }
}

/// The device wrote all of a vector, the host reads one element of some pages at random. The limit brings the whole vector home, which is
/// what whoever keeps track of whole buffers has to do.
struct Away {
    touched: Touched,
    pages: usize,
    bytes: u64,
    rng: Rng,
    limit: SharedLimit,
}

impl Away {
    fn new(session: &mut Session, case: &Case, pages: usize) -> Result<Self, BenchError> {
        let (mem, device) = session.runtime(case)?;
        let mut touched = Touched::new(mem, device, case.bytes, PAGE_BYTES)?;
        // The limit copies to memory that was written before. Pages at random would be new to the system in most runs, and what it takes to
        // have it make them is not what the case is about.
        touched.vecs()[0].host_mut(..)?.fill(0);
        let (bytes, rng, limit) = (case.bytes, Rng::with_seed(1), session.limit());
        Ok(Self { touched, pages, bytes, rng, limit })
    }
}

impl Trial for Away {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        self.touched.written_on_the_device()?;
        let page_len = PAGE_BYTES as usize / size_of::<u32>();
        let pages = self.rng.choose_multiple(0..(self.bytes / PAGE_BYTES) as usize, self.pages);
        let started = Instant::now();
        for page in pages {
            let element = page * page_len;
            black_box(self.touched.first().host(element..=element)?[0]);
        }
        Ok(started.elapsed())
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        self.limit.borrow_mut().to_host(self.bytes).map(Some)
    }
}
