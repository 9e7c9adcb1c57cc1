//! The four kernels of the STREAM bandwidth benchmark, with its names: a, b, c and the scalar. Source: `shaders/stream.slang`.
//!
//! The output is written whole: elements past the grid, or past the end of an input, become zero.

use rayon::prelude::*;

use super::{GRAIN, LINE, source};
use hmmap_core::{
    kernel::{Arguments, Kernel, Source, Twin},
    vec::{Read, Write},
};

/// `c[i] = a[i]`.
#[derive(Debug)]
pub struct StreamCopy<'a> {
    /// What is copied.
    pub a: Read<'a, f32>,
    /// Where to; zero past the grid or past `a`.
    pub c: Write<'a, f32>,
}

static COPY: Source = source!("stream_copy" in "stream", LINE, copy);

// SAFETY: (1) i < c_len holds for `c[i]`, and i < min(n, a_len) is tested before `a[i]`; (2) it stores to c alone, all of it, and
// never reads it; (3) any bits are an f32, and item i is one invocation's; (4) CopyArgs is a, c, grid.
unsafe impl Kernel for StreamCopy<'_> {
    fn source() -> &'static Source {
        &COPY
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.a).write(&self.c).grid();
    }
}

fn copy(launch: &Twin<'_>) {
    map_one(launch, |a| a);
}

/// `b[i] = scalar * c[i]`.
#[derive(Debug)]
pub struct StreamScale<'a> {
    /// What is scaled.
    pub c: Read<'a, f32>,
    /// The result; zero past the grid or past `c`.
    pub b: Write<'a, f32>,
    /// The factor.
    pub scalar: f32,
}

static SCALE: Source = source!("stream_scale" in "stream", LINE, scale);

// SAFETY: (1) i < b_len holds for `b[i]`, and i < min(n, c_len) is tested before `c[i]`; (2) it stores to b alone, all of it, and
// never reads it; (3) any bits are an f32, and item i is one invocation's; (4) ScaleArgs is c, b, grid, scalar.
unsafe impl Kernel for StreamScale<'_> {
    fn source() -> &'static Source {
        &SCALE
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.c).write(&self.b).grid().f32(self.scalar);
    }
}

fn scale(launch: &Twin<'_>) {
    let scalar = launch.f32(0);
    map_one(launch, |c| scalar * c);
}

/// `c[i] = a[i] + b[i]`.
#[derive(Debug)]
pub struct StreamAdd<'a> {
    /// First summand.
    pub a: Read<'a, f32>,
    /// Second summand.
    pub b: Read<'a, f32>,
    /// The sum; zero past the grid or past either input.
    pub c: Write<'a, f32>,
}

static ADD: Source = source!("stream_add" in "stream", LINE, add);

// SAFETY: (1) i < c_len holds for `c[i]`, and i < min(n, a_len, b_len) is tested before `a[i]` and `b[i]`; (2) it stores to c
// alone, all of it, and never reads it; (3) any bits are an f32, and item i is one invocation's; (4) AddArgs is a, b, c, grid.
unsafe impl Kernel for StreamAdd<'_> {
    fn source() -> &'static Source {
        &ADD
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.a).read(&self.b).write(&self.c).grid();
    }
}

fn add(launch: &Twin<'_>) {
    map_two(launch, |a, b| a + b);
}

/// `a[i] = b[i] + scalar * c[i]`.
#[derive(Debug)]
pub struct StreamTriad<'a> {
    /// The summand.
    pub b: Read<'a, f32>,
    /// What is scaled.
    pub c: Read<'a, f32>,
    /// The result; zero past the grid or past either input.
    pub a: Write<'a, f32>,
    /// The factor.
    pub scalar: f32,
}

static TRIAD: Source = source!("stream_triad" in "stream", LINE, triad);

// SAFETY: (1) i < a_len holds for `a[i]`, and i < min(n, b_len, c_len) is tested before `b[i]` and `c[i]`; (2) it stores to a
// alone, all of it, and never reads it; (3) any bits are an f32, and item i is one invocation's; (4) TriadArgs is b, c, a, grid,
// scalar.
unsafe impl Kernel for StreamTriad<'_> {
    fn source() -> &'static Source {
        &TRIAD
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.b).read(&self.c).write(&self.a).grid().f32(self.scalar);
    }
}

fn triad(launch: &Twin<'_>) {
    let scalar = launch.f32(0);
    map_two(launch, |b, c| b + scalar * c);
}

/// Array 1 becomes `f` of array 0, then zeros.
fn map_one(launch: &Twin<'_>, f: impl Fn(f32) -> f32 + Sync) {
    let (from, to) = (launch.read::<f32>(0), launch.write::<f32>(1));
    let (to, rest) = to.split_at_mut(launch.n().min(from.len()).min(to.len()));
    to.par_chunks_mut(GRAIN).zip(from.par_chunks(GRAIN)).for_each(|(to, from)| {
        to.iter_mut().zip(from).for_each(|(to, &from)| *to = f(from));
    });
    rest.fill(0.0);
}

/// Array 2 becomes `f` of arrays 0 and 1, then zeros.
fn map_two(launch: &Twin<'_>, f: impl Fn(f32, f32) -> f32 + Sync) {
    let (left, right, to) = (launch.read::<f32>(0), launch.read::<f32>(1), launch.write::<f32>(2));
    let (to, rest) = to.split_at_mut(launch.n().min(left.len()).min(right.len()).min(to.len()));
    let inputs = left.par_chunks(GRAIN).zip(right.par_chunks(GRAIN));
    to.par_chunks_mut(GRAIN).zip(inputs).for_each(|(to, (left, right))| {
        let inputs = left.iter().zip(right);
        to.iter_mut().zip(inputs).for_each(|(to, (&left, &right))| *to = f(left, right));
    });
    rest.fill(0.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::harness::Call;

    /// Grid items, length of the first input, of the second, of the output.
    const SHAPES: [(u64, usize, usize, usize); 6] = [
        (0, 4, 4, 4),
        (3, 4, 4, 5),
        (4, 2, 4, 4),
        (4, 4, 1, 4),
        (u64::MAX, 40_000, 39_000, 41_000),
        (7, 9, 9, 0),
    ];

    fn numbers(len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 + 0.1) * scale).collect()
    }

    #[test]
    fn the_four_are_their_formulas_and_zero_past_them() {
        for shape @ (n, left_len, right_len, out_len) in SHAPES {
            let (left, right) = (numbers(left_len, 0.3), numbers(right_len, 0.7));
            let check = |source,
                         inputs: usize,
                         scalar: Option<f32>,
                         formula: fn(f32, f32) -> f32| {
                let mut out = vec![1.0f32; out_len];
                let call = Call::new().read(&left);
                let call = if inputs == 2 { call.read(&right) } else { call };
                let call = call.write(&mut out).line(n);
                let call = if let Some(scalar) = scalar { call.f32(scalar) } else { call };
                call.run(source);
                let end =
                    (n as usize).min(left_len).min(if inputs == 2 { right_len } else { left_len });
                for (i, &got) in out.iter().enumerate() {
                    let second = right.get(i).copied().unwrap_or(0.0);
                    let want = if i < end { formula(left[i], second) } else { 0.0 };
                    assert_eq!(got, want, "{} at {i} of {shape:?}", source.name);
                }
            };
            check(&COPY, 1, None, |a, _| a);
            check(&SCALE, 1, Some(3.0), |c, _| 3.0 * c);
            check(&ADD, 2, None, |a, b| a + b);
            check(&TRIAD, 2, Some(3.0), |b, c| b + 3.0 * c);
        }
    }
}
