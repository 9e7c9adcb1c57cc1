//! Pages between host and device in bulk, beside a bare copy command between two buffers that are there already.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use hmmap::{Cause, DeviceId, Hmmap, SharedVec};

use super::{GIB, KIB, MIB, PAGE_BYTES, touched::Touched};
use crate::{
    BenchError, Case, Suite, Trial,
    case::{Measure, Wants},
    session::{Session, SharedLimit},
};

const fn up(name: &'static str, bytes: u64, goal: Option<f64>) -> Case {
    moves(name, bytes, goal, Measure::Time(prefetch))
}

const fn down(name: &'static str, bytes: u64, goal: Option<f64>) -> Case {
    moves(name, bytes, goal, Measure::Time(|session, case| Ok(Box::new(Down::new(session, case)?))))
}

const fn moves(name: &'static str, bytes: u64, goal: Option<f64>, measure: Measure) -> Case {
    let wants = Wants::Migrate;
    // Host and device, ours and the limit's.
    Case { suite: Suite::Migrate, name, bytes, goal, wants, memory_bytes: 4 * bytes, measure }
}

pub(crate) const CASES: &[Case] = &[
    up("h2d/64KiB", 64 * KIB, None),
    up("h2d/2MiB", 2 * MIB, Some(0.80)),
    up("h2d/16MiB", 16 * MIB, Some(0.95)),
    up("h2d/64MiB", 64 * MIB, Some(0.95)),
    up("h2d/256MiB", 256 * MIB, Some(0.95)),
    up("h2d/1GiB", GIB, Some(0.95)),
    down("d2h/64KiB", 64 * KIB, None),
    down("d2h/2MiB", 2 * MIB, Some(0.80)),
    down("d2h/16MiB", 16 * MIB, Some(0.95)),
    down("d2h/64MiB", 64 * MIB, Some(0.95)),
    down("d2h/256MiB", 256 * MIB, Some(0.95)),
    down("d2h/1GiB", GIB, Some(0.95)),
    Case {
        suite: Suite::Migrate,
        name: "unified-launch/64MiB",
        bytes: 64 * MIB,
        goal: Some(0.0),
        wants: Wants::Unified,
        memory_bytes: 256 * MIB,
        measure: Measure::Number("moved_bytes", unified_launch),
    },
];

/// The host wrote a vector; a prefetch brings it to the device.
struct Up {
    mem: Hmmap,
    device: DeviceId,
    vec: SharedVec<u32>,
    bytes: u64,
    limit: SharedLimit,
}

/// A trial of a prefetch.
pub(super) fn prefetch(session: &mut Session, case: &Case) -> Result<Box<dyn Trial>, BenchError> {
    Ok(Box::new(Up::new(session, case)?))
}

impl Up {
    fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, device) = session.runtime(case)?;
        let vec = SharedVec::from_fn(&mem, case.bytes as usize / size_of::<u32>(), |i| i as u32)?;
        Ok(Self { mem, device, vec, bytes: case.bytes, limit: session.limit() })
    }
}

impl Trial for Up {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        // Takes the pages for the host alone; there is nothing to copy for it.
        black_box(self.vec.host_mut(..)?);
        let before = self.mem.stats();
        let started = Instant::now();
        self.vec.prefetch(.., self.device)?.wait()?;
        let took = started.elapsed();
        let moved = (self.mem.stats() - before)[Cause::Prefetch].to_device_bytes;
        expect("bytes moved to the device", self.bytes, moved)?;
        Ok(took)
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        self.limit.borrow_mut().to_device(self.bytes).map(Some)
    }
}

/// The device wrote a vector; a guard brings it home.
struct Down {
    touched: Touched,
    bytes: u64,
    limit: SharedLimit,
}

impl Down {
    fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, device) = session.runtime(case)?;
        let touched = Touched::new(mem, device, case.bytes, PAGE_BYTES)?;
        Ok(Self { touched, bytes: case.bytes, limit: session.limit() })
    }
}

impl Trial for Down {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        self.touched.written_on_the_device()?;
        let before = self.touched.mem().stats();
        let started = Instant::now();
        black_box(self.touched.first().host(..)?);
        let took = started.elapsed();
        let moved = (self.touched.mem().stats() - before)[Cause::Guard].to_host_bytes;
        expect("bytes moved to the host", self.bytes, moved)?;
        Ok(took)
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        self.limit.borrow_mut().to_host(self.bytes).map(Some)
    }
}

/// Everything that moves when host and device take turns under the unified model: nothing.
fn unified_launch(session: &mut Session, case: &Case) -> Result<f64, BenchError> {
    let (mem, device) = session.runtime(case).map_err(|error| match error {
        BenchError::Hmmap(error) => {
            BenchError::DoesNotApply(format!("the device has no unified memory: {error}"))
        }
        error => error,
    })?;
    let mut touched = Touched::new(mem, device, case.bytes, case.bytes)?;
    let before = touched.mem().stats();
    for vec in touched.vecs() {
        vec.host_mut(..)?.fill(1);
    }
    touched.written_on_the_device()?;
    for vec in touched.vecs() {
        expect("the device's result in element 0", 2, vec.host(..)?[0].into())?;
    }
    Ok((touched.mem().stats() - before).total().bytes() as f64)
}

/// A figure is only worth something when the run did what it is about.
fn expect(what: &'static str, expected: u64, found: u64) -> Result<(), BenchError> {
    if expected == found { Ok(()) } else { Err(BenchError::Unexpected { what, expected, found }) }
}
