//! Sums in a fixed order. Source: `shaders/reduce.slang`.
//!
//! The input is dealt out over P slices, P being the length of `partials`, whatever the size of the launch. Slice p is
//! summed by 256 lanes:
//!
//! ```text
//! lane l starts at 0.0 and adds item i = p*256 + l, then i + P*256, then i + 2*P*256, ... while i < end
//! for w = 128, 64, ... 1: lane l < w adds to its sum the sum of lane l + w
//! partials[p] is the sum of lane 0
//! ```
//!
//! So a result depends on the inputs, the grid's items and P alone. The partials summed with P = 1 give the total.

use rayon::prelude::*;

use super::{LINE, source};
use hmmap_core::{
    Error, Fence, Grid, Runtime, SharedVec,
    kernel::{Arguments, Kernel, Source, Twin},
    vec::{Read, Write},
};

/// Sums of `partials.len()` slices of `x`, which together are the grid's items of `x`.
///
/// The order is fixed: each run of 256 items goes to the next slice in turn, within a slice each of 256 lanes adds its items in
/// order, and the lanes are added as a tree. Launch over [`Grid::Groups`] with as many groups as slices; more are
/// right, but each costs.
#[derive(Debug)]
pub struct PartialSums<'a> {
    /// What is summed.
    pub x: Read<'a, f32>,
    /// One sum per slice.
    pub partials: Write<'a, f32>,
}

static SUM: Source = source!("sum_f32" in "reduce", LINE, partial_sums);

// SAFETY: (1) i < min(n, x_len) holds for `x[i]`, slice < partials_len for `partials[slice]`; (2) it stores to partials alone, to
// every slice, and never reads it; (3) any bits are an f32, and slice p is stored by lane 0 of one group; (4) SumArgs is x,
// partials, grid.
unsafe impl Kernel for PartialSums<'_> {
    fn source() -> &'static Source {
        &SUM
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.x).write(&self.partials).grid();
    }
}

fn partial_sums(launch: &Twin<'_>) {
    let (x, partials) = (launch.read::<f32>(0), launch.write::<f32>(1));
    let x = &x[..launch.n().min(x.len())];
    sum_slices(partials, |slice, slices, lanes| {
        for run in x.chunks(LANES).skip(slice).step_by(slices) {
            lanes.iter_mut().zip(run).for_each(|(lane, &x)| *lane += x);
        }
    });
}

/// Sums of `partials.len()` slices of `x[i] * y[i]`, as far as the grid and both arrays go. The order is that of
/// [`PartialSums`], and so is the best grid; a product is rounded before it is added.
#[derive(Debug)]
pub struct PartialDots<'a> {
    /// First factor.
    pub x: Read<'a, f32>,
    /// Second factor.
    pub y: Read<'a, f32>,
    /// One sum per slice.
    pub partials: Write<'a, f32>,
}

static DOT: Source = source!("dot_f32" in "reduce", LINE, partial_dots);

// SAFETY: (1) i < min(n, x_len, y_len) holds for `x[i]` and `y[i]`, slice < partials_len for `partials[slice]`; (2) it stores to
// partials alone, to every slice, and never reads it; (3) any bits are an f32, and slice p is stored by lane 0 of one
// group; (4) DotArgs is x, y, partials, grid.
unsafe impl Kernel for PartialDots<'_> {
    fn source() -> &'static Source {
        &DOT
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.x).read(&self.y).write(&self.partials).grid();
    }
}

fn partial_dots(launch: &Twin<'_>) {
    let (x, y, partials) = (launch.read::<f32>(0), launch.read::<f32>(1), launch.write::<f32>(2));
    let end = launch.n().min(x.len()).min(y.len());
    let (x, y) = (&x[..end], &y[..end]);
    sum_slices(partials, |slice, slices, lanes| {
        let runs = x.chunks(LANES).zip(y.chunks(LANES));
        for (x, y) in runs.skip(slice).step_by(slices) {
            lanes.iter_mut().zip(x.iter().zip(y)).for_each(|(lane, (x, y))| *lane += x * y);
        }
    });
}

/// The sum of `x`, on the default device: one launch, and one page home.
///
/// The order depends on the length of `x` alone ([`PartialSums`] in slices, whose sums are added in order in `f64`), so the
/// result is the same on every device.
///
/// # Errors
/// As [`Runtime::launch`] and [`SharedVec::host`].
pub fn sum(mem: &Runtime, x: &SharedVec<f32>) -> Result<f32, Error> {
    total(mem, x.len(), |grid, partials| {
        mem.launch(grid, PartialSums { x: x.read(), partials: partials.write() })
    })
}

/// The dot product of `x` and `y` as far as both go, on the default device: one launch, and one page home. Ordered as [`sum`].
///
/// # Errors
/// As [`Runtime::launch`] and [`SharedVec::host`].
pub fn dot(mem: &Runtime, x: &SharedVec<f32>, y: &SharedVec<f32>) -> Result<f32, Error> {
    total(mem, x.len().min(y.len()), |grid, partials| {
        mem.launch(grid, PartialDots { x: x.read(), y: y.read(), partials: partials.write() })
    })
}

/// Adds up the slices that `launch` sums, as many as `n` items are worth.
fn total(
    mem: &Runtime,
    n: usize,
    launch: impl FnOnce(Grid, &mut SharedVec<f32>) -> Result<Fence, Error>,
) -> Result<f32, Error> {
    let slices = (n / SLICE).clamp(1, MAX_SLICES);
    let mut partials = SharedVec::new(mem, slices)?;
    launch(Grid::Groups { n: n as u64, groups: slices as u32 }, &mut partials)?;
    Ok(partials.host(..)?.iter().map(|partial| f64::from(*partial)).sum::<f64>() as f32)
}

/// Items that are worth a slice of their own.
const SLICE: usize = 16 * LANES;
/// Enough slices for every device.
const MAX_SLICES: usize = 1024;

/// Invocations in a group.
const LANES: usize = LINE[0] as usize;

/// Puts the sum of each slice into its place. `add` adds the items of slice number `.0` of `.1` to the lanes.
fn sum_slices(partials: &mut [f32], add: impl Fn(usize, usize, &mut [f32; LANES]) + Sync) {
    let slices = partials.len();
    partials.par_iter_mut().enumerate().for_each(|(slice, partial)| {
        let mut lanes = [0.0; LANES];
        add(slice, slices, &mut lanes);
        let mut width = LANES / 2;
        while width > 0 {
            let (low, high) = lanes.split_at_mut(width);
            low.iter_mut().zip(high).for_each(|(low, high)| *low += *high);
            width /= 2;
        }
        *partial = lanes[0];
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::harness::Call;

    /// The order of the module's page, word by word.
    fn by_the_page(items: &[f32], slices: usize) -> Vec<f32> {
        (0..slices)
            .map(|p| {
                let mut lanes = vec![0.0f32; 256];
                for (l, lane) in lanes.iter_mut().enumerate() {
                    let mut i = p * 256 + l;
                    while i < items.len() {
                        *lane += items[i];
                        i += slices * 256;
                    }
                }
                for w in [128, 64, 32, 16, 8, 4, 2, 1] {
                    for l in 0..w {
                        lanes[l] += lanes[l + w];
                    }
                }
                lanes[0]
            })
            .collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn sums_and_dots_have_the_documented_order() {
        let x: Vec<f32> = (0..70_001).map(|i| ((i * 7919) % 1013) as f32 * 0.37 - 180.0).collect();
        let y: Vec<f32> = (0..70_100).map(|i| 1.0 / (i as f32 + 1.0)).collect();
        for (n, slices) in
            [(0, 3), (1, 1), (255, 2), (70_001, 1), (u64::MAX, 7), (60_000, 1024), (9, 0)]
        {
            let end = x.len().min(n as usize);
            let products: Vec<f32> = x[..end].iter().zip(&y).map(|(x, y)| x * y).collect();
            let (mut sums, mut dots) = (vec![1.0f32; slices], vec![1.0f32; slices]);
            Call::new().read(&x).write(&mut sums).line(n).run(&SUM);
            Call::new().read(&x).read(&y).write(&mut dots).line(n).run(&DOT);
            assert_eq!(bits(&sums), bits(&by_the_page(&x[..end], slices)), "{n} in {slices}");
            assert_eq!(bits(&dots), bits(&by_the_page(&products, slices)), "{n} in {slices}");
        }
    }
}
