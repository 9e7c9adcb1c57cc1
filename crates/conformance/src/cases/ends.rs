//! How things end: forgotten, dropped in the middle, or with the device.

use std::mem;

use hmmap::kernels::Fill;
use hmmap_core::{Error, backend::DeviceError};

use super::Verdict;
use crate::{
    case::{Case, CaseFailure, Context, Need, ensure},
    mirror::Mirror,
    rig::{BLOCK, PAGE, Rig, Watch},
    table::Model,
};

const GROUP: &str = "ends";

pub(super) const CASES: &[Case] = &[
    Case::new(
        GROUP,
        "forgotten",
        "vectors and fences that are forgotten leak, and disturb nobody",
        &[],
        forgotten,
    ),
    Case::new(
        GROUP,
        "dropped_with_work_in_flight",
        "a vector's memory is not given to another before the work on it has ended",
        &[],
        dropped,
    ),
    Case::new(
        GROUP,
        "dropped_again_and_again",
        "so it is when work is really running",
        &[],
        dropped_while_running,
    ),
    Case::new(
        GROUP,
        "runtime_dropped_with_work_in_flight",
        "the last handle waits for what is in flight",
        &[],
        runtime_dropped,
    ),
    Case::new(
        GROUP,
        "device_lost_with_clean_copies",
        "what the host holds too outlives the device",
        &[],
        lost_clean,
    ),
    Case::new(
        GROUP,
        "device_lost_in_the_middle_of_a_write",
        "what was there before the write is there again, and the loss is reported once",
        &[Need::Migrate],
        lost_in_write,
    ),
    Case::new(
        GROUP,
        "device_lost_and_another_goes_on",
        "work goes on with the other device",
        &[Need::TwoDevices],
        lost_and_on,
    ),
];

fn forgotten(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    rig.late();
    for round in 0..5 {
        let mut vec = rig.filled(BLOCK + PAGE, |i| i as f32)?;
        let fence = rig.fill(rig.device(), &mut vec, 5.., round as f32)?;
        mem::forget(fence);
        // A slice is a plain borrow: forgetting it is nothing.
        #[expect(forgetting_references, reason = "what the case is about")]
        mem::forget(vec.vec.host(..PAGE)?);
        let other = rig.filled(BLOCK + PAGE, |i| -(i as f32))?;
        rig.host_read(&vec, ..)?;
        mem::forget(vec);
        let mut more = rig.zeros(2 * BLOCK)?;
        rig.copy(rig.device(), (&other, ..), (&mut more, ..BLOCK + PAGE))?;
        rig.host_read(&more, ..)?;
        rig.host_read(&other, ..)?;
    }
    rig.settle()
}

fn dropped(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let unused = rig.used_bytes()?;
    rig.late();
    for len in [PAGE / 2, PAGE, BLOCK + 1] {
        let mut vec = rig.filled(len, |_| 1.0)?;
        let fence = rig.fill(rig.device(), &mut vec, .., -1.0)?;
        rig.drop_vec(vec)?;
        // While the work counts as in flight, whoever gets memory gets other memory.
        let mut next: Vec<_> = (0..4).map(|_| rig.zeros(len)).collect::<Result<_, _>>()?;
        for vec in &mut next {
            rig.host_read(vec, ..)?;
            rig.host_write(vec, .., |i| i as f32)?;
            rig.fill(rig.device(), vec, ..len / 2, 2.0)?;
        }
        ensure!(!fence.is_some_and(|fence| fence.has_ended()), "somebody waited for it");
        rig.settle()?;
        next.iter().try_for_each(|vec| rig.host_read(vec, ..))?;
        drop(next);
        rig.sweep()?;
        let used = rig.used_bytes()?;
        ensure!(used == unused, "{used} bytes used, {unused} before");
    }
    Ok(())
}

fn dropped_while_running(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let len = 2 * BLOCK;
    let ones = rig.filled(len, |_| 1.0)?;
    for _ in 0..cx.scaled(20, 200) {
        let mut vec = rig.filled(len, |_| 3.0)?;
        rig.saxpy(rig.device(), 2.0, (&ones, ..), (&mut vec, ..))?;
        rig.saxpy(rig.device(), 2.0, (&ones, ..), (&mut vec, ..))?;
        drop(vec);
        let next = rig.zeros(len)?;
        rig.host_read(&next, ..)?;
        let mut seen = rig.filled(len, |_| 5.0)?;
        rig.copy(rig.device(), (&next, ..), (&mut seen, ..))?;
        rig.host_read(&seen, ..)?;
    }
    Ok(())
}

fn runtime_dropped(cx: &Context<'_>) -> Verdict {
    for late in [false, true] {
        let rig = cx.rig()?;
        if late {
            rig.late();
        }
        let ones = rig.filled(2 * BLOCK, |_| 1.0)?;
        let mut vec = rig.filled(2 * BLOCK, |i| i as f32)?;
        let mut last = None;
        for _ in 0..10 {
            last = rig.saxpy(rig.device(), 1.0, (&ones, ..), (&mut vec, ..))?;
        }
        drop((ones, vec));
        let gate = rig.gate(rig.device()).clone();
        drop(rig);
        // The fence holds the runtime, as any handle does.
        if let Some(fence) = last {
            fence.wait()?;
            drop(fence);
        }
        let left = gate.settle();
        ensure!(left.is_none(), "work ended {left:?} after its runtime");
    }
    Ok(())
}

fn lost_clean(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let x = rig.filled(BLOCK + PAGE, |i| i as f32)?;
    let mut y = rig.zeros(BLOCK + PAGE)?;
    rig.copy(rig.device(), (&x, ..), (&mut y, ..))?;
    rig.host_read(&y, ..)?;
    rig.settle()?;
    rig.gate(rig.device()).lose();
    rig.watch(Watch::Data);
    rig.host_read(&x, ..)?;
    rig.host_read(&y, ..)?;
    refuses_work(&rig, &mut y)?;
    rig.host_read(&x, ..)?;
    rig.host_read(&y, ..)?;
    rig.host_write(&mut y, PAGE.., |i| -(i as f32))?;
    rig.host_read(&y, ..)
}

/// A launch on a lost device is refused, and says why.
fn refuses_work(rig: &Rig<'_>, y: &mut Mirror) -> Verdict {
    for _ in 0..2 {
        let answer = rig.runtime.launch(9, Fill { out: y.vec.write(), value: 1.0 });
        let lost = matches!(
            &answer,
            Err(Error::Device { source: DeviceError::Lost, .. } | Error::DeviceLost { .. })
        );
        ensure!(lost, "a launch on a lost device: {answer:?}");
    }
    Ok(())
}

fn lost_in_write(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    rig.late();
    let mut y = rig.filled(BLOCK + PAGE, |i| i as f32)?;
    let before = y.oracle.clone();
    let fence = rig.fill(rig.device(), &mut y, 3..BLOCK, -1.0)?;
    y.oracle = before;
    rig.gate(rig.device()).lose();
    rig.watch(Watch::Data);
    let told = y.vec.host(..).map(drop);
    let id = rig.device();
    ensure!(
        matches!(&told, Err(Error::DeviceLost { device, .. }) if *device == id),
        "the first to read is told {told:?}"
    );
    rig.host_read(&y, ..)?;
    let waited = fence.map(|fence| fence.wait());
    ensure!(matches!(waited, Some(Err(Error::DeviceLost { .. }))), "the fence ended {waited:?}");
    rig.host_read(&y, ..)?;
    rig.host_write(&mut y, .., |i| i as f32 + 1.0)?;
    rig.host_read(&y, ..)
}

fn lost_and_on(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig_of_two()?;
    let x = rig.filled(BLOCK, |i| i as f32)?;
    let mut y = rig.filled(BLOCK, |_| 1.0)?;
    let mut gone = rig.zeros(2 * PAGE)?;
    rig.saxpy(rig.other(), 1.0, (&x, ..), (&mut y, ..))?;
    rig.host_read(&y, ..)?;
    rig.fill(rig.other(), &mut gone, .., 7.0)?;
    rig.settle()?;
    rig.gate(rig.other()).lose();
    rig.watch(Watch::Data);
    rig.saxpy(rig.device(), 1.0, (&x, ..), (&mut y, ..))?;
    rig.host_read(&y, ..)?;
    if rig.model() == Model::Unified {
        // Ended before the device went: it is in host memory.
        return rig.host_read(&gone, ..);
    }
    let lost = (0..3).find_map(|_| match gone.vec.host(..) {
        Err(Error::DataLost { bytes }) => Some(bytes),
        _ => None,
    });
    ensure!(lost == Some(0..2 * PAGE as u64 * 4), "lost are {lost:?}");
    match rig.fill(rig.device(), &mut gone, .., 8.0)? {
        Some(_) => rig.host_read(&gone, ..),
        None => Err(CaseFailure::broken("lost pages cannot be overwritten".to_owned())),
    }
}
