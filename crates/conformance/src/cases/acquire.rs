//! Vectors for the caller's own work: addresses and waits now, the signal when it is submitted.

use std::mem;

use hmmap_core::{
    Error, Options, SharedVec,
    backend::DeviceError,
    fence::{FencePoint, TimelineId},
    kernel::{Argument, ArgumentFault},
    units::BLOCK_BYTES,
};

use super::Verdict;
use crate::{
    case::{Case, CaseFailure, Context, Need, ensure},
    mirror::Mirror,
    rig::{BLOCK, PAGE, Rig, Watch},
    table::Model,
};

const GROUP: &str = "acquire";

pub(super) const CASES: &[Case] = &[
    Case::new(
        GROUP,
        "brings_and_addresses",
        "acquired arrays are on the device, at an address of their own each, and what is given up leaves no trace",
        &[],
        brings,
    ),
    Case::new(
        GROUP,
        "names_what_is_in_flight",
        "the caller's work is told to wait for everything in flight on what it acquires",
        &[],
        names_waits,
    ),
    Case::new(
        GROUP,
        "released_work_is_waited_for",
        "whoever touches a released vector next waits for the signal",
        &[],
        released,
    ),
    Case::new(
        GROUP,
        "acquired_vectors_stay",
        "room is never made of vectors that are acquired",
        &[Need::Migrate],
        stays,
    ),
    Case::new(
        GROUP,
        "forgotten",
        "vectors whose acquisition is forgotten work on, stay in place, and give their memory back when they are dropped",
        &[],
        forgotten,
    ),
    Case::new(
        GROUP,
        "refusals",
        "what must not be acquired or signalled is refused",
        &[],
        refusals,
    ),
];

/// A point of the device's that ends with a launch of ours, to stand for the caller's signal.
fn signal(rig: &Rig<'_>, scratch: &mut Mirror) -> Result<FencePoint, CaseFailure> {
    let fence = rig.fill(rig.device(), scratch, .., 1.0)?;
    let point = fence.and_then(|fence| fence.point());
    point.ok_or_else(|| CaseFailure::broken("a launch without a fence".to_owned()))
}

fn brings(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let x = rig.filled(BLOCK + PAGE, |i| i as f32)?;
    let mut y = rig.filled(2 * PAGE, |i| i as f32)?;
    let before = rig.runtime.stats();
    let arguments = [
        Argument::from(x.vec.read().range(PAGE + 5..PAGE + 9)),
        Argument::from(x.vec.read()),
        Argument::from(y.vec.update()),
        Argument::from(x.vec.read().range(3..3)),
    ];
    let acquired = rig.runtime.acquire(rig.device(), arguments)?;
    let [part, whole, other, nothing] = acquired.arrays() else {
        return Err(CaseFailure::broken(format!("arrays: {:?}", acquired.arrays())));
    };
    let bytes = |elements: usize| elements as u64 * 4;
    ensure!(part.address == whole.address + bytes(PAGE + 5), "{part:?} in {whole:?}");
    ensure!(part.len_bytes == 16 && whole.len_bytes == bytes(BLOCK + PAGE), "{part:?} {whole:?}");
    let apart = other.address >= whole.address + whole.len_bytes
        || whole.address >= other.address + other.len_bytes;
    ensure!(apart && other.address != 0, "{other:?} lies in {whole:?}");
    ensure!((nothing.address, nothing.len_bytes) == (0, 0), "{nothing:?}");
    let own = acquired.waits().iter().all(|wait| wait.timeline.device() == rig.device());
    ensure!(own, "waits of another device: {:?}", acquired.waits());
    let moved = (rig.runtime.stats() - before).total().to_device_bytes;
    let wanted = if rig.model() == Model::Unified { 0 } else { bytes(BLOCK + 3 * PAGE) };
    ensure!(moved == wanted, "{moved} bytes moved, not {wanted}");
    // Nothing was submitted: given up, and as before.
    drop(acquired);
    rig.settle()?;
    ensure!(y.vec.in_flight(..)?.is_empty(), "work that never was is in flight");
    rig.host_read(&y, ..)?;
    rig.host_read(&x, ..)
}

fn names_waits(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    rig.late();
    let x = rig.filled(2 * PAGE, |i| i as f32)?;
    let mut y = rig.zeros(BLOCK + PAGE)?;
    rig.fill(rig.device(), &mut y, PAGE.., 3.0)?;
    let arguments = [Argument::from(x.vec.read()), Argument::from(y.vec.read())];
    let acquired = rig.runtime.acquire(rig.device(), arguments)?;
    // What was written before, and what the acquisition itself has moved.
    let mut work = x.vec.in_flight(..)?;
    ensure!(rig.model() == Model::Unified || !work.is_empty(), "nothing was moved");
    work.extend(y.vec.in_flight(..)?);
    ensure!(!work.is_empty(), "the fill is not in flight");
    for work in &work {
        let named = acquired.waits().contains(&work.fence);
        ensure!(named, "{work:?} is not among {:?}", acquired.waits());
    }
    drop(acquired);
    rig.host_read(&x, ..)?;
    rig.host_read(&y, ..)
}

fn released(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    rig.late();
    let mut scratch = rig.zeros(PAGE)?;
    let mut y = rig.filled(2 * PAGE, |i| i as f32)?;
    let mut x = rig.filled(2 * PAGE, |i| -(i as f32))?;
    let arguments = [Argument::from(x.vec.read()), Argument::from(y.vec.update())];
    let acquired = rig.runtime.acquire(rig.device(), arguments)?;
    let point = signal(&rig, &mut scratch)?;
    let fence = acquired.release(point)?;
    ensure!(fence.point() == Some(point) && !fence.has_ended(), "{fence:?}");
    let work = y.vec.in_flight(..)?;
    ensure!(work.iter().any(|work| work.fence == point), "not in flight: {work:?}");
    // The rig's table knows what this must cost: the written vector is the device's, the read one shared.
    rig.host_read(&x, ..)?;
    rig.host_read(&y, ..)?;
    ensure!(fence.has_ended(), "the host read what is being written");
    rig.host_write(&mut x, .., |i| i as f32)?;
    rig.host_read(&x, ..)
}

fn stays(cx: &Context<'_>) -> Verdict {
    let limit = Some(3 * BLOCK_BYTES);
    let rig = cx.rig_with(Options { device_memory_limit_bytes: limit, ..cx.options() })?;
    rig.watch(Watch::Places);
    let x = rig.filled(2 * BLOCK, |i| i as f32)?;
    let mut y = rig.zeros(2 * BLOCK)?;
    let acquired = rig.runtime.acquire(rig.device(), [Argument::from(x.vec.read())])?;
    rig.settle()?;
    for _ in 0..2 {
        let answer = rig.fill(rig.device(), &mut y, .., 1.0);
        let full = matches!(
            answer,
            Err(CaseFailure::Refused { source: Error::OutOfDeviceMemory { .. }, .. })
        );
        ensure!(full, "room was made of an acquired vector: {answer:?}");
    }
    drop(acquired);
    rig.fill(rig.device(), &mut y, .., 1.0)?;
    rig.host_read(&y, ..)?;
    rig.host_read(&x, ..)
}

fn forgotten(cx: &Context<'_>) -> Verdict {
    let limit = Some(3 * BLOCK_BYTES);
    let rig = cx.rig_with(Options { device_memory_limit_bytes: limit, ..cx.options() })?;
    rig.watch(Watch::Places);
    let unused_bytes = rig.used_bytes()?;
    let x = rig.filled(2 * BLOCK, |i| i as f32)?;
    let mut y = rig.filled(BLOCK, |i| -(i as f32))?;
    let arguments = [Argument::from(x.vec.read()), Argument::from(y.vec.update())];
    mem::forget(rig.runtime.acquire(rig.device(), arguments)?);
    rig.settle()?;
    // Nothing was submitted, so nothing is in flight and nobody waits for a signal that never comes.
    ensure!(y.vec.in_flight(..)?.is_empty(), "work that never was is in flight");
    rig.host_read(&x, ..)?;
    rig.saxpy(rig.device(), 2.0, (&x, ..BLOCK), (&mut y, ..))?;
    rig.host_read(&y, ..)?;
    rig.host_write(&mut y, .., |i| i as f32)?;
    let mut other = rig.zeros(BLOCK)?;
    if rig.model() != Model::Unified {
        let answer = rig.fill(rig.device(), &mut other, .., 1.0);
        let full = matches!(
            answer,
            Err(CaseFailure::Refused { source: Error::OutOfDeviceMemory { .. }, .. })
        );
        ensure!(full, "room was made of a vector that nobody let go: {answer:?}");
    }
    // Once more, and properly: that lets go of the second acquisition, not of the first.
    drop(rig.runtime.acquire(rig.device(), [Argument::from(x.vec.read())])?);
    rig.host_read(&x, ..)?;
    rig.drop_vec(x)?;
    rig.fill(rig.device(), &mut other, .., 1.0)?;
    rig.host_read(&other, ..)?;
    rig.host_read(&y, ..)?;
    rig.drop_vec(y)?;
    rig.drop_vec(other)?;
    rig.settle()?;
    rig.sweep()?;
    let used_bytes = rig.used_bytes()?;
    ensure!(used_bytes == unused_bytes, "{used_bytes} bytes used, {unused_bytes} before");
    Ok(())
}

fn refusals(cx: &Context<'_>) -> Verdict {
    let (rig, elsewhere) = (cx.rig()?, cx.rig()?);
    let foreign = SharedVec::<f32>::new(&elsewhere.runtime, 9)?;
    let answer = rig.runtime.acquire(rig.device(), [Argument::from(foreign.read())]).map(drop);
    let wanted = Err(Error::ForeignVector { kernel: "acquire", argument: 0 });
    ensure!(answer == wanted, "{answer:?}");
    let vec = SharedVec::<f32>::new(&rig.runtime, 9)?;
    let past = Argument::from(vec.read().range(3..10));
    let answer = rig.runtime.acquire(rig.device(), [past]).map(drop);
    let source = ArgumentFault::OutOfRange { start: 3, end: 10, len: 9 };
    ensure!(answer == Err(Error::Arguments { kernel: "acquire", source }), "{answer:?}");
    let acquired = rig.runtime.acquire(rig.device(), [Argument::from(vec.read())])?;
    let Some(absent) = hmmap_core::DeviceId::new(7) else { return Ok(()) };
    let timeline = TimelineId::new(absent, 0);
    let answer = acquired.release(FencePoint { timeline, value: 1 }).map(drop);
    let misuse = matches!(answer, Err(Error::Device { source: DeviceError::Misuse { .. }, .. }));
    ensure!(misuse, "a signal of another device: {answer:?}");
    rig.settle()?;
    ensure!(vec.in_flight(..)?.is_empty() && vec.host(..)? == [0.0; 9], "{vec:?}");
    Ok(())
}
