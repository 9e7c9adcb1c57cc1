//! Few pages of many change on the host, and a kernel reads all: only those few may move.

use fastrand::Rng;
use hmmap::{Cause, Grid, SharedVec, kernels::PartialSums};

use super::{GIB, MIB, PAGE_BYTES};
use crate::{
    BenchError, Case, Suite,
    case::{Measure, Wants},
    session::Session,
};

const fn one_percent(name: &'static str, bytes: u64) -> Case {
    Case {
        suite: Suite::SparseUpdate,
        name,
        bytes,
        goal: Some(1.05),
        wants: Wants::Migrate,
        memory_bytes: 2 * bytes,
        measure: Measure::Number("moved_per_written", moved_per_written),
    }
}

pub(crate) const CASES: &[Case] =
    &[one_percent("random-1%/64MiB", 64 * MIB), one_percent("random-1%/1GiB", GIB)];

const ROUNDS: u64 = 5;
/// Workgroups that share the reading.
const SLICES: u32 = 64;

/// Bytes moved over bytes of the pages written.
fn moved_per_written(session: &mut Session, case: &Case) -> Result<f64, BenchError> {
    let (mem, device) = session.runtime(case)?;
    let page_len = PAGE_BYTES as usize / size_of::<f32>();
    let pages = (case.bytes / PAGE_BYTES) as usize;
    let mut vec = SharedVec::from_fn(&mem, pages * page_len, |_| 1.0f32)?;
    let mut partials = SharedVec::<f32>::new(&mem, SLICES as usize)?;
    let grid = Grid::Groups { n: vec.len() as u64, groups: SLICES };
    let kernel = PartialSums { x: vec.read(), partials: partials.write() };
    mem.launch_on(device, grid, kernel)?.wait()?;
    let before = mem.stats();
    let mut rng = Rng::with_seed(1);
    let mut written = 0;
    for _ in 0..ROUNDS {
        for page in rng.choose_multiple(0..pages, (pages / 100).max(1)) {
            let element = page * page_len + rng.usize(..page_len);
            vec.host_mut(element..=element)?[0] += 1.0;
            written += PAGE_BYTES;
        }
        let kernel = PartialSums { x: vec.read(), partials: partials.write() };
        mem.launch_on(device, grid, kernel)?.wait()?;
    }
    let moved = (mem.stats() - before)[Cause::Launch].to_device_bytes;
    let found: f64 = partials.host(..)?.iter().map(|sum| f64::from(*sum)).sum();
    let expected = vec.len() as u64 + written / PAGE_BYTES;
    if (found - expected as f64).abs() > 1e-3 * expected as f64 {
        let (what, found) = ("the kernel's sum", found as u64);
        return Err(BenchError::Unexpected { what, expected, found });
    }
    Ok(moved as f64 / written as f64)
}
