//! What must not be, and how it is refused: with the numbers, and with everything left as it was.

use hmmap::kernels::{Fill, Saxpy};
use hmmap_core::{
    DeviceId, Error, Fence, Grid, SharedVec,
    backend::DeviceError,
    fence::Failure,
    host::HostError,
    kernel::{ArgumentFault, FieldKind},
    node::MAX_NODES,
};

use super::Verdict;
use crate::{
    case::{Case, CaseFailure, Context, Need, ensure},
    kernels::{NoCode, Panics, WrongLayout, WrongOrder},
    mirror::Mirror,
    rig::{PAGE, Rig, Watch},
    table::Model,
};

const GROUP: &str = "refusals";

pub(super) const CASES: &[Case] = &[
    Case::new(GROUP, "range_out_of_vector", "a range outside its vector", &[], out_of_range),
    Case::new(GROUP, "argument_out_of_vector", "an argument outside its vector", &[], argument),
    Case::new(GROUP, "length_overflow", "a vector longer than memory can be", &[], too_long),
    Case::new(GROUP, "no_such_device", "a device that is not there", &[], no_such_device),
    Case::new(GROUP, "foreign_vector", "a vector of another runtime", &[], foreign_vector),
    Case::new(GROUP, "grid_too_large", "a plane larger than the device takes", &[], grid_too_large),
    Case::new(
        GROUP,
        "arguments_out_of_order",
        "a kernel that lists scalars first",
        &[],
        wrong_order,
    ),
    Case::new(
        GROUP,
        "no_code_for_the_device",
        "a kernel without code for the device",
        &[],
        no_code,
    ),
    Case::new(
        GROUP,
        "layout_mismatch",
        "a kernel whose parameters differ from its code's",
        &[Need::Compiled],
        layout_mismatch,
    ),
    Case::new(
        GROUP,
        "panic_in_a_twin",
        "a kernel's twin that panics; the vector holds what it held before",
        &[Need::Twins],
        panicking,
    ),
];

/// A runtime, and a vector with something in it on the device.
fn start<'c>(cx: &'c Context<'c>) -> Result<(Rig<'c>, Mirror), CaseFailure> {
    let rig = cx.rig()?;
    let mut y = rig.filled(2 * PAGE + 9, |i| i as f32)?;
    rig.fill(rig.device(), &mut y, 5..PAGE, 2.0)?;
    rig.settle()?;
    Ok((rig, y))
}

/// The refusal, which is all that happened: nothing moved, nothing was launched, and the vector holds what it held.
fn refused<T>(
    rig: &Rig<'_>,
    y: &mut Mirror,
    act: impl FnOnce(&Rig<'_>, &mut Mirror) -> Result<T, Error>,
) -> Result<Error, CaseFailure> {
    let state = |y: &Mirror| Ok::<_, Error>((rig.runtime.stats(), y.vec.residency(..)?));
    let before = state(y)?;
    let Err(error) = act(rig, y) else {
        return Err(CaseFailure::broken("what must be refused was not".to_owned()));
    };
    ensure!(before == state(y)?, "a refused access changed something: {error}");
    rig.host_read(y, ..)?;
    rig.fill(rig.device(), y, 3..PAGE + 3, 4.0)?;
    rig.host_read(y, ..)?;
    rig.settle()?;
    Ok(error)
}

fn out_of_range(cx: &Context<'_>) -> Verdict {
    let (rig, mut y) = start(cx)?;
    let len = y.len();
    let ranges = [(0, len + 1), (len + 1, len + 1), (5, 3), (len, usize::MAX)];
    for (start, end) in ranges {
        let wanted = Error::OutOfRange { start, end, len };
        let read = refused(&rig, &mut y, |_, y| y.vec.host(start..end).map(drop))?;
        ensure!(read == wanted, "{start}..{end}: {read}");
        let written = refused(&rig, &mut y, |_, y| y.vec.host_mut(start..end).map(drop))?;
        ensure!(written == wanted, "{start}..{end}: {written}");
        let asked = refused(&rig, &mut y, |_, y| y.vec.residency(start..end))?;
        ensure!(asked == wanted, "{start}..{end}: {asked}");
    }
    let error = refused(&rig, &mut y, |_, y| y.vec.host(..=usize::MAX).map(drop))?;
    ensure!(matches!(error, Error::OutOfRange { .. }), "..=usize::MAX: {error}");
    Ok(())
}

fn argument(cx: &Context<'_>) -> Verdict {
    let (rig, mut y) = start(cx)?;
    let len = y.len();
    for (start, end) in [(0, len + 1), (len + 7, len + 8), (9, 2)] {
        let error = refused(&rig, &mut y, |rig, y| {
            rig.runtime.launch(1, Fill { out: y.vec.write().range(start..end), value: 1.0 })
        })?;
        let source = ArgumentFault::OutOfRange { start, end, len };
        let wanted = Error::Arguments { kernel: "fill_u32", source };
        ensure!(error == wanted, "{start}..{end}: {error:?}");
    }
    // A range of a range is counted within the first.
    let error = refused(&rig, &mut y, |rig, y| {
        rig.runtime.launch(1, Fill { out: y.vec.write().range(10..20).range(5..11), value: 1.0 })
    })?;
    let wanted = ArgumentFault::OutOfRange { start: 5, end: 11, len: 10 };
    ensure!(matches!(&error, Error::Arguments { source, .. } if *source == wanted), "{error:?}");
    Ok(())
}

fn too_long(cx: &Context<'_>) -> Verdict {
    let (rig, mut y) = start(cx)?;
    let error = refused(&rig, &mut y, |rig, _| SharedVec::<f32>::new(&rig.runtime, usize::MAX))?;
    let wanted = Error::LengthOverflow { len: usize::MAX, element_bytes: 4 };
    ensure!(error == wanted, "{error:?}");
    let len = usize::MAX / 4;
    let error = refused(&rig, &mut y, |rig, _| SharedVec::<f32>::new(&rig.runtime, len))?;
    let asked = len as u64 * 4;
    let full = matches!(
        error,
        Error::Host(HostError::WindowFull { asked_bytes, .. }) if asked_bytes == asked
    );
    ensure!(full, "{error:?}");
    Ok(())
}

fn no_such_device(cx: &Context<'_>) -> Verdict {
    let (rig, mut y) = start(cx)?;
    ensure!(DeviceId::new(MAX_NODES).is_none(), "there can be more devices than nodes");
    let Some(absent) = DeviceId::new(5) else { return Ok(()) };
    let error = refused(&rig, &mut y, |rig, y| {
        rig.runtime.launch_on(absent, 1, Fill { out: y.vec.write(), value: 1.0 })
    })?;
    ensure!(error == Error::NoSuchDevice { asked: 5, count: 1 }, "{error:?}");
    Ok(())
}

fn foreign_vector(cx: &Context<'_>) -> Verdict {
    let (rig, mut y) = start(cx)?;
    let elsewhere = cx.rig()?;
    let x = elsewhere.filled(y.len(), |i| i as f32)?;
    let error = refused(&rig, &mut y, |rig, y| {
        rig.runtime.launch(9, Saxpy { a: 1.0, x: x.vec.read(), y: y.vec.update() })
    })?;
    ensure!(error == Error::ForeignVector { kernel: "saxpy", argument: 0 }, "{error:?}");
    elsewhere.host_read(&x, ..)
}

fn grid_too_large(cx: &Context<'_>) -> Verdict {
    let (rig, mut y) = start(cx)?;
    let error = refused(&rig, &mut y, |rig, y| {
        let grid = Grid::Plane { nx: 1 << 40, ny: 3 };
        rig.runtime.launch(grid, Fill { out: y.vec.write(), value: 1.0 })
    })?;
    ensure!(error == Error::GridTooLarge { kernel: "fill_u32" }, "{error:?}");
    Ok(())
}

fn wrong_order(cx: &Context<'_>) -> Verdict {
    let (rig, mut y) = start(cx)?;
    let error =
        refused(&rig, &mut y, |rig, y| rig.runtime.launch(9, WrongOrder { y: y.vec.update() }))?;
    let wanted = Error::Arguments { kernel: "no_code", source: ArgumentFault::Order };
    ensure!(error == wanted, "{error:?}");
    Ok(())
}

fn no_code(cx: &Context<'_>) -> Verdict {
    let (rig, mut y) = start(cx)?;
    let error =
        refused(&rig, &mut y, |rig, y| rig.runtime.launch(9, NoCode { y: y.vec.update() }))?;
    let said = matches!(
        &error,
        Error::Device { source: DeviceError::NoShader { kernel: "no_code", .. }, .. }
    );
    ensure!(said, "{error:?}");
    Ok(())
}

fn layout_mismatch(cx: &Context<'_>) -> Verdict {
    let (rig, mut y) = start(cx)?;
    let x = rig.filled(y.len(), |i| i as f32)?;
    let error = refused(&rig, &mut y, |rig, y| {
        rig.runtime.launch(9, WrongLayout { x: x.vec.read(), y: y.vec.update() })
    })?;
    let Error::Device { source: DeviceError::LayoutMismatch { passed, expected, .. }, .. } = &error
    else {
        return Err(CaseFailure::broken(format!("{error:?}")));
    };
    let kinds = (Some(FieldKind::U32), Some(FieldKind::F32));
    ensure!((*passed, *expected) == kinds, "{error:?}");
    Ok(())
}

fn panicking(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let mut y = rig.filled(2 * PAGE, |i| i as f32)?;
    let failed =
        |error: &Error| matches!(error, Error::WorkFailed { source: Failure::KernelPanicked, .. });
    // Where pages are is promised, and the promise is not kept: the table does not say that.
    rig.watch(Watch::Data);
    // Told to who waits for the fence; not told again to who reads then.
    let fence = rig.runtime.launch(9, Panics { y: y.vec.update() })?;
    let told = Fence::wait(&fence);
    ensure!(told.as_ref().is_err_and(failed), "{told:?}");
    match rig.model() {
        Model::Migrate | Model::Direct => rig.host_read(&y, ..)?,
        Model::Unified => {
            // Half written in place: what it held before is gone, and that is said.
            let answer = y.vec.host(..).map(drop);
            ensure!(matches!(answer, Err(Error::DataLost { .. })), "{answer:?}");
            rig.fill(rig.device(), &mut y, .., 1.0)?;
            return rig.host_read(&y, ..);
        }
    }
    // Told to who reads, once, when nobody waited.
    drop(rig.runtime.launch(9, Panics { y: y.vec.update() })?);
    let answer = y.vec.host(..).map(drop);
    ensure!(answer.as_ref().is_err_and(failed), "{answer:?}");
    rig.host_read(&y, ..)?;
    rig.fill(rig.device(), &mut y, 3..PAGE + 3, 4.0)?;
    rig.host_read(&y, ..)
}
