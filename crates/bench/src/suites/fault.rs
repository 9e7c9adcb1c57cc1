//! Plain indexing: scans and touches of what a device holds, and loops over what is there.

use std::{
    hint::black_box,
    ops::Deref,
    thread,
    time::{Duration, Instant},
};

use hmmap::{Cause, Hmmap, Options, SharedVec, core::host::HostFaults};

use super::{GIB, MIB, PAGE_BYTES, touched::Touched};
use crate::{
    BenchError, Case, Suite, Trial,
    case::{Measure, Wants},
    host_memory::Mapping,
    session::Session,
};

const fn case(name: &'static str, bytes: u64, goal: f64, wants: Wants, measure: Measure) -> Case {
    let memory_bytes = 4 * bytes;
    Case { suite: Suite::Fault, name, bytes, goal: Some(goal), wants, memory_bytes, measure }
}

pub(crate) const CASES: &[Case] = &[
    case(
        "scan/256MiB",
        256 * MIB,
        0.75,
        Wants::Migrate,
        Measure::Time(|session, case| Ok(Box::new(Scan::new(session, case, Beside::CopyAndScan)?))),
    ),
    case(
        "scan-by-two/256MiB",
        256 * MIB,
        1.0,
        Wants::Migrate,
        Measure::Time(|session, case| Ok(Box::new(Scan::new(session, case, Beside::OneReader)?))),
    ),
    case("ping-pong/1GiB", GIB, 2.0, Wants::Migrate, Measure::Number("pages_per_round", ping_pong)),
    case(
        "index/64MiB",
        64 * MIB,
        0.95,
        Wants::Any,
        Measure::Time(|_, case| Ok(Box::new(Loop::new(case, HostFaults::Auto, by_index)?))),
    ),
    case(
        "index-without-faults/64MiB",
        64 * MIB,
        0.95,
        Wants::Any,
        Measure::Time(|_, case| Ok(Box::new(Loop::new(case, HostFaults::Off, by_index)?))),
    ),
    case(
        "slice/64MiB",
        64 * MIB,
        0.98,
        Wants::Any,
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

/// A loop that the compiler may make of it what it can.
#[inline(never)]
fn sum(elements: &[u32]) -> u32 {
    elements.iter().fold(0, |sum, element| sum.wrapping_add(*element))
}

/// What a scan is compared with.
enum Beside {
    /// memcpy of the same bytes, then the scan.
    CopyAndScan,
    /// The same scan by one thread.
    OneReader,
}

/// The device wrote all of a vector, the host reads all of it through a slice.
struct Scan {
    touched: Touched,
    beside: Beside,
    copy: (Mapping, Mapping),
}

impl Scan {
    fn new(session: &mut Session, case: &Case, beside: Beside) -> Result<Self, BenchError> {
        let (mem, device) = session.runtime(case)?;
        let mut touched = Touched::new(mem, device, case.bytes, PAGE_BYTES)?;
        // Both sides read into memory that was written before.
        touched.vecs()[0].host_mut(..)?.fill(1);
        let mut copy = (Mapping::shared(case.bytes)?, Mapping::private(case.bytes)?);
        copy.0.bytes_mut().fill(1);
        copy.1.bytes_mut().fill(2);
        Ok(Self { touched, beside, copy })
    }

    fn scan(&mut self, threads: usize) -> Result<Duration, BenchError> {
        self.touched.written_on_the_device()?;
        let vec = self.touched.first();
        let started = Instant::now();
        let sums: u32 = thread::scope(|scope| {
            let others: Vec<_> = (1..threads)
                .map(|part| {
                    let part = part * (vec.len() / threads)..(part + 1) * (vec.len() / threads);
                    scope.spawn(move || sum(&vec[part]))
                })
                .collect();
            let own = sum(&vec[..vec.len() / threads]);
            others.into_iter().filter_map(|other| other.join().ok()).fold(own, u32::wrapping_add)
        });
        black_box(sums);
        Ok(started.elapsed())
    }
}

impl Trial for Scan {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        self.scan(match self.beside {
            Beside::CopyAndScan => 1,
            Beside::OneReader => 2,
        })
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        match self.beside {
            Beside::OneReader => self.scan(1).map(Some),
            Beside::CopyAndScan => {
                let started = Instant::now();
                let (to, from) = &mut self.copy;
                to.bytes_mut().copy_from_slice(from.bytes());
                black_box(sum(bytemuck::cast_slice(to.bytes())));
                Ok(Some(started.elapsed()))
            }
        }
    }
}

/// The host adds one to an element of one page between launches; pages moved a round.
fn ping_pong(session: &mut Session, case: &Case) -> Result<f64, BenchError> {
    const ROUNDS: u64 = 20;
    let (mem, device) = session.runtime(case)?;
    let mut touched = Touched::new(mem, device, case.bytes, PAGE_BYTES)?;
    touched.written_on_the_device()?;
    let middle = touched.first().len() / 2;
    let before = touched.mem().stats();
    for _ in 0..ROUNDS {
        touched.vecs()[0][middle] += 1;
        touched.written_on_the_device()?;
    }
    let moved = touched.mem().stats() - before;
    let (expected, found) = (ROUNDS, u64::from(touched.first()[middle]));
    if expected != found {
        return Err(BenchError::Unexpected { what: "the element", expected, found });
    }
    debug_assert!(moved[Cause::Fault].bytes() > 0);
    Ok(moved.total().bytes() as f64 / PAGE_BYTES as f64 / ROUNDS as f64)
}

type Sum<V> = fn(&V) -> u32;

/// `for i in 0..n { s += x[i] }`, as it is written.
#[inline(never)]
fn by_index<V: Deref<Target = [u32]>>(elements: &V) -> u32 {
    let mut sum = 0u32;
    for i in 0..elements.len() {
        sum = sum.wrapping_add(elements[i]);
    }
    sum
}

fn by_slice<V: Deref<Target = [u32]>>(elements: &V) -> u32 {
    sum(elements)
}

/// A loop over a vector that is on the host, beside the same over a `Vec`.
struct Loop {
    vec: SharedVec<u32>,
    plain: Vec<u32>,
    ours: Sum<SharedVec<u32>>,
    theirs: Sum<Vec<u32>>,
}

impl Loop {
    fn new(
        case: &Case,
        host_faults: HostFaults,
        ours: Sum<SharedVec<u32>>,
    ) -> Result<Self, BenchError> {
        let mem =
            Hmmap::builder().options(Options { host_faults, ..Options::default() }).build()?;
        let len = case.bytes as usize / size_of::<u32>();
        let mut vec = SharedVec::new(&mem, len)?;
        vec.fill(1);
        let theirs = if std::ptr::fn_addr_eq(ours, by_slice::<SharedVec<u32>> as Sum<_>) {
            by_slice
        } else {
            by_index
        };
        Ok(Self { vec, plain: vec![1; len], ours, theirs })
    }
}

impl Trial for Loop {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let started = Instant::now();
        black_box((self.ours)(black_box(&self.vec)));
        Ok(started.elapsed())
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        let started = Instant::now();
        black_box((self.theirs)(black_box(&self.plain)));
        Ok(Some(started.elapsed()))
    }
}

/// A loop over a vector right after a launch that worked on it in host memory: the vector cannot know that the kernel has ended
/// without asking.
struct InPlace {
    touched: Touched,
    plain: Vec<u32>,
}

impl InPlace {
    fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, device) = session.runtime(case)?;
        let touched = Touched::new(mem, device, case.bytes, PAGE_BYTES)?;
        let plain = vec![1; touched.first().len()];
        Ok(Self { touched, plain })
    }
}

impl Trial for InPlace {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        self.touched.written_on_the_device()?;
        let started = Instant::now();
        black_box(by_index(black_box(self.touched.first())));
        Ok(started.elapsed())
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        let started = Instant::now();
        black_box(by_index(black_box(&self.plain)));
        Ok(Some(started.elapsed()))
    }
}
