//! Memory that the directory takes per byte of a vector, at rest and in pieces.

use hmmap::SharedVec;

use super::{GIB, MIB, touched::Touched};
use crate::{
    BenchError, Case, Suite,
    case::{Measure, Wants},
    session::Session,
};

const fn case(name: &'static str, bytes: u64, measure: Measure) -> Case {
    Case {
        suite: Suite::Directory,
        name,
        bytes,
        goal: Some(1e-4),
        wants: Wants::Migrate,
        memory_bytes: 2 * bytes,
        measure,
    }
}

pub(crate) const CASES: &[Case] = &[
    case("uniform/64MiB", 64 * MIB, Measure::Number("bytes_per_byte", uniform)),
    case("uniform/1GiB", GIB, Measure::Number("bytes_per_byte", uniform)),
    case("a-run-per-block/64MiB", 64 * MIB, Measure::Number("bytes_per_byte", a_run_per_block)),
    case("a-run-per-block/1GiB", GIB, Measure::Number("bytes_per_byte", a_run_per_block)),
];

fn per_byte(vec: &SharedVec<u32>, case: &Case) -> f64 {
    vec.footprint_bytes() as f64 / case.bytes as f64
}

/// The whole vector in one state.
fn uniform(session: &mut Session, case: &Case) -> Result<f64, BenchError> {
    let (mem, device) = session.runtime(case)?;
    let mut touched = Touched::new(mem, device, case.bytes, super::PAGE_BYTES)?;
    touched.written_on_the_device()?;
    Ok(per_byte(touched.first(), case))
}

/// Every block in another state than its neighbours: the device wrote all of it, then the host one page of every other block.
fn a_run_per_block(session: &mut Session, case: &Case) -> Result<f64, BenchError> {
    let (mem, device) = session.runtime(case)?;
    let mut touched = Touched::new(mem, device, case.bytes, super::PAGE_BYTES)?;
    touched.written_on_the_device()?;
    let vec = &mut touched.vecs()[0];
    let block_len = hmmap::core::units::BLOCK_BYTES as usize / size_of::<u32>();
    for block in (0..vec.len()).step_by(2 * block_len) {
        vec.host_mut(block..=block)?[0] = 1;
    }
    Ok(per_byte(vec, case))
}
