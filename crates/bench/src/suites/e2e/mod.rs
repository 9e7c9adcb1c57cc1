//! The image and the conjugate gradients example as a whole, beside the same programs written by hand (`benches/by_hand/`).
//!
//! A run begins with the input in the host's memory and ends with the result there. Both sides make their arrays anew each time, and
//! both results are compared before anything is measured.

#[cfg(feature = "vulkan")]
pub(crate) mod gradients;
#[cfg(feature = "vulkan")]
mod image;

use crate::{
    BenchError, Case, Suite, Trial,
    case::{Measure, Wants},
    session::Session,
};

const fn program(name: &'static str, bytes: u64) -> Case {
    Case {
        suite: Suite::EndToEnd,
        name,
        bytes,
        goal: Some(0.90),
        wants: Wants::Migrate,
        memory_bytes: 64 * bytes,
        measure: Measure::Time(trial),
    }
}

/// Bytes of a picture with three colours.
const fn picture(width: u64, height: u64) -> u64 {
    3 * width * height
}

/// Bytes of the matrix of a square grid: per row five entries with their columns.
const fn matrix(side: u64) -> u64 {
    side * side * 5 * 8
}

pub(crate) const CASES: &[Case] = &[
    program("image/240x160", picture(240, 160)),
    program("image/1920x1280", picture(1920, 1280)),
    program("gradients/28x28", matrix(28)),
    program("gradients/400x400", matrix(400)),
];

#[cfg(feature = "vulkan")]
fn trial(session: &mut Session, case: &Case) -> Result<Box<dyn Trial>, BenchError> {
    if session.summary().api != "vulkan" {
        return Err(only_vulkan());
    }
    let device = crate::raw::Device::open(session.summary())?;
    let (mem, id) = session.runtime(case)?;
    match case.name {
        "image/240x160" => image::trial(mem, id, &device, [240, 160]),
        "image/1920x1280" => image::trial(mem, id, &device, [1920, 1280]),
        "gradients/28x28" => gradients::trial(mem, id, &device, 28),
        _ => gradients::trial(mem, id, &device, 400),
    }
}

#[cfg(not(feature = "vulkan"))]
fn trial(_session: &mut Session, _case: &Case) -> Result<Box<dyn Trial>, BenchError> {
    Err(only_vulkan())
}

fn only_vulkan() -> BenchError {
    BenchError::DoesNotApply("the program by hand is for Vulkan devices".to_owned())
}
