//! Vectors that come and go: the time of one, the memory of many.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use hmmap::{DeviceId, Hmmap, SharedVec, core::backend::DeviceKind, kernels::Touch};

use super::{KIB, MIB};
use crate::{
    BenchError, Case, Suite, Trial,
    case::{Measure, Wants},
    host_memory::Mapping,
    machine,
    session::Session,
};

/// Many small vectors.
const MANY: usize = 10_000;
const SMALL_BYTES: u64 = 4 * KIB;

const fn many(name: &'static str, measure: Measure, wants: Wants) -> Case {
    Case {
        suite: Suite::Alloc,
        name,
        bytes: MANY as u64 * SMALL_BYTES,
        goal: Some((72 * KIB) as f64),
        wants,
        memory_bytes: 2 * MANY as u64 * 72 * KIB,
        measure,
    }
}

pub(crate) const CASES: &[Case] = &[
    Case {
        suite: Suite::Alloc,
        name: "new-drop/1MiB",
        bytes: MIB,
        goal: Some(1e-6),
        wants: Wants::Any,
        memory_bytes: MIB,
        measure: Measure::Seconds(|session, case| Ok(Box::new(NewDrop::new(session, case)?))),
    },
    Case {
        suite: Suite::Alloc,
        name: "new-fill-drop/1MiB",
        bytes: MIB,
        goal: Some(1.0 / 1.2),
        wants: Wants::Any,
        memory_bytes: 2 * MIB,
        measure: Measure::Time(|session, case| Ok(Box::new(NewFillDrop::new(session, case)?))),
    },
    many("10000x4KiB/host", Measure::Number("bytes_each", many_on_host), Wants::Any),
    many("10000x4KiB/device", Measure::Number("bytes_each", many_on_device), Wants::Migrate),
    Case {
        goal: Some(2.0 * (72 * KIB) as f64),
        ..many("10000x4KiB/both", Measure::Number("bytes_each", many_on_both), Wants::Migrate)
    },
];

/// So many are timed together, since a clock reading takes tens of nanoseconds itself.
const TOGETHER: u32 = 100;

/// A vector that is never touched.
struct NewDrop {
    mem: Hmmap,
    len: usize,
}

impl NewDrop {
    fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        Ok(Self { mem: session.runtime(case)?.0, len: case.bytes as usize })
    }
}

impl Trial for NewDrop {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let started = Instant::now();
        for _ in 0..TOGETHER {
            drop(black_box(SharedVec::<u8>::new(&self.mem, self.len)?));
        }
        Ok(started.elapsed() / TOGETHER)
    }
}

/// A vector that is written whole. The limit writes a mapping like the library's and gives its pages back.
struct NewFillDrop {
    mem: Hmmap,
    bare: Mapping,
    len: usize,
}

impl NewFillDrop {
    fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, _) = session.runtime(case)?;
        Ok(Self { mem, bare: Mapping::shared(case.bytes)?, len: case.bytes as usize })
    }
}

impl Trial for NewFillDrop {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let started = Instant::now();
        let mut vec = SharedVec::<u8>::new(&self.mem, self.len)?;
        black_box(vec.host_mut(..)?).fill(1);
        drop(vec);
        Ok(started.elapsed())
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        let started = Instant::now();
        black_box(self.bare.bytes_mut()).fill(1);
        self.bare.punch()?;
        Ok(Some(started.elapsed()))
    }
}

/// Vectors that the host wrote.
fn written(mem: &Hmmap) -> Result<Vec<SharedVec<u32>>, BenchError> {
    let len = SMALL_BYTES as usize / size_of::<u32>();
    let vecs = (0..MANY).map(|_| {
        let mut vec = SharedVec::new(mem, len)?;
        vec.host_mut(..)?.fill(1);
        Ok(vec)
    });
    vecs.collect()
}

fn held_bytes() -> Result<u64, BenchError> {
    let unknown = || BenchError::DoesNotApply("the system does not say what is held".to_owned());
    machine::held_bytes().ok_or_else(unknown)
}

/// Bytes of this process for each vector that the host holds.
fn many_on_host(session: &mut Session, case: &Case) -> Result<f64, BenchError> {
    let (mem, _) = session.runtime(case)?;
    let before = held_bytes()?;
    let vecs = written(&mem)?;
    let after = held_bytes()?;
    drop(vecs);
    Ok(after.saturating_sub(before) as f64 / MANY as f64)
}

/// Bytes of device memory for each vector that the device holds, by the library's account.
fn many_on_device(session: &mut Session, case: &Case) -> Result<f64, BenchError> {
    let (mem, device) = session.runtime(case)?;
    let mut vecs = written(&mem)?;
    let before = mem.device_memory(device)?.used_bytes;
    touch_all(&mem, device, &mut vecs)?;
    let after = mem.device_memory(device)?.used_bytes;
    drop(vecs);
    Ok(after.saturating_sub(before) as f64 / MANY as f64)
}

/// Bytes of this process for each vector that host and device hold, where the device's memory is memory of this process: an account
/// can err, this cannot.
fn many_on_both(session: &mut Session, case: &Case) -> Result<f64, BenchError> {
    let (mem, device) = session.runtime(case)?;
    if mem.facts(device)?.summary.kind != DeviceKind::Cpu {
        let reason = "the device's memory is not memory of this process";
        return Err(BenchError::DoesNotApply(reason.to_owned()));
    }
    let before = held_bytes()?;
    let mut vecs = written(&mem)?;
    touch_all(&mem, device, &mut vecs)?;
    let after = held_bytes()?;
    drop(vecs);
    Ok(after.saturating_sub(before) as f64 / MANY as f64)
}

fn touch_all(mem: &Hmmap, device: DeviceId, vecs: &mut [SharedVec<u32>]) -> Result<(), BenchError> {
    for four in vecs.chunks_exact_mut(4) {
        let [a, b, c, d] = four else { continue };
        let kernel = Touch { a: a.update(), b: b.update(), c: c.update(), d: d.update(), index: 0 };
        mem.launch_on(device, 1, kernel)?.wait()?;
    }
    Ok(())
}
