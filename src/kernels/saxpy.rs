//! Scaled sums of two vectors. Source: `shaders/saxpy.slang`.

use rayon::prelude::*;

use super::{GRAIN, LINE, source};
use hmmap_core::{
    kernel::{Arguments, Kernel, Source, Twin},
    vec::{Read, Update},
};

/// `y[i] = a * x[i] + y[i]` for the items of the grid that both arrays have; the rest of `y` stays.
#[derive(Debug)]
pub struct Saxpy<'a> {
    /// The vector that is scaled.
    pub x: Read<'a, f32>,
    /// The vector that is added to.
    pub y: Update<'a, f32>,
    /// The factor.
    pub a: f32,
}

static SAXPY: Source = source!("saxpy" in "saxpy", LINE, saxpy);

// SAFETY: (1) the code compares i with min(n, x_len, y_len) before `x[i]` and `y[i]`, and touches nothing else; (2) it
// stores to y alone, which is an Update; (3) any bits are an f32, and item i is one invocation's; (4) SaxpyArgs is x, y, grid, a.
unsafe impl Kernel for Saxpy<'_> {
    fn source() -> &'static Source {
        &SAXPY
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.x).update(&self.y).grid().f32(self.a);
    }
}

fn saxpy(launch: &Twin<'_>) {
    let a = launch.f32(0);
    each_pair(launch, |x, y| a * x + y);
}

/// `y[i] = x[i] + b * y[i]`, the new direction of conjugate gradients, for the items of the grid that both arrays have;
/// the rest of `y` stays.
#[derive(Debug)]
pub struct Xpby<'a> {
    /// The vector that is added.
    pub x: Read<'a, f32>,
    /// The vector that is scaled in place.
    pub y: Update<'a, f32>,
    /// The factor.
    pub b: f32,
}

static XPBY: Source = source!("xpby" in "saxpy", LINE, xpby);

// SAFETY: (1) the code compares i with min(n, x_len, y_len) before `x[i]` and `y[i]`, and touches nothing else; (2) it
// stores to y alone, which is an Update; (3) any bits are an f32, and item i is one invocation's; (4) XpbyArgs is x, y, grid, b.
unsafe impl Kernel for Xpby<'_> {
    fn source() -> &'static Source {
        &XPBY
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.x).update(&self.y).grid().f32(self.b);
    }
}

fn xpby(launch: &Twin<'_>) {
    let b = launch.f32(0);
    each_pair(launch, |x, y| x + b * y);
}

/// Array 1 becomes `f` of arrays 0 and 1, item by item, as far as the grid and both arrays go.
fn each_pair(launch: &Twin<'_>, f: impl Fn(f32, f32) -> f32 + Sync) {
    let (x, y) = (launch.read::<f32>(0), launch.write::<f32>(1));
    let end = launch.n().min(x.len()).min(y.len());
    y[..end].par_chunks_mut(GRAIN).zip(x[..end].par_chunks(GRAIN)).for_each(|(y, x)| {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x, *y));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::harness::Call;

    #[test]
    fn saxpy_is_the_formula_as_far_as_all_go() {
        for (n, x_len, y_len) in
            [(0, 4, 4), (3, 4, 4), (4, 4, 9), (9, 9, 4), (u64::MAX, 40_000, 40_001)]
        {
            let x: Vec<f32> = (0..x_len).map(|i| i as f32 * 0.37).collect();
            let start: Vec<f32> = (0..y_len).map(|i| 1.0 / (i as f32 + 1.0)).collect();
            let (mut by_a, mut by_b) = (start.clone(), start.clone());
            Call::new().read(&x).update(&mut by_a).line(n).f32(1.5).run(&SAXPY);
            Call::new().read(&x).update(&mut by_b).line(n).f32(1.5).run(&XPBY);
            for i in 0..y_len {
                let inside = (i as u64) < n && i < x_len;
                assert_eq!(
                    by_a[i],
                    if inside { 1.5 * x[i] + start[i] } else { start[i] },
                    "{i} of {n}"
                );
                assert_eq!(
                    by_b[i],
                    if inside { x[i] + 1.5 * start[i] } else { start[i] },
                    "{i} of {n}"
                );
            }
        }
    }
}
