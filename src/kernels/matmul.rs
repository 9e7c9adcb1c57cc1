//! Dense matrix product. Source: `shaders/matmul.slang`, in tiles of 16 by 16.

use hmmap_core::{
    kernel::{Arguments, Kernel, Source, Twin},
    vec::{Read, Write},
};

use super::{
    PLANE,
    plane::{fill_rows, row},
    source,
};

/// `c = a * b`, stored row by row: `a` is ny rows of `k`, `b` is `k` rows of nx, `c` is ny rows of nx; the grid is `c`.
///
/// An element of `c` is summed from 0.0 in the order of `b`'s rows, each product rounded before it is added. An element that `a`
/// or `b` lacks counts as 0.0, and `c` past the plane is zero.
#[derive(Debug)]
pub struct Matmul<'a> {
    /// The left matrix.
    pub a: Read<'a, f32>,
    /// The right matrix.
    pub b: Read<'a, f32>,
    /// The product.
    pub c: Write<'a, f32>,
    /// Columns of `a` and rows of `b`.
    pub k: u64,
}

static MATMUL: Source = source!("matmul_f32" in "matmul", PLANE, matmul);

// SAFETY: (1) `load_or_zero` compares each index with a_len or b_len before `a[...]` and `b[...]`, i < c_len is tested before
// `c[i]`, and tiles are indexed by the invocation's place in its group; (2) it stores to c alone, which it never reads: the
// plane's elements by their own invocations, those past it by `zero_rest_2d`, and a launch refuses a plane whose sides
// `zero_rest_2d` would cut; (3) any bits are an f32, and each element has one invocation; (4) MatmulArgs is a, b, c, grid, k.
unsafe impl Kernel for Matmul<'_> {
    fn source() -> &'static Source {
        &MATMUL
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.a).read(&self.b).write(&self.c).grid().u64(self.k);
    }
}

fn matmul(launch: &Twin<'_>) {
    let (a, b, c) = (launch.read::<f32>(0), launch.read::<f32>(1), launch.write::<f32>(2));
    let nx = launch.grid()[0] as usize;
    let k = usize::try_from(launch.u64(0)).unwrap_or(usize::MAX);
    // Past both lengths every product is 0.0 * 0.0, which changes no sum.
    let depth = k.min(a.len().max(b.len()));
    fill_rows(launch, c, |y, c| {
        let a = row(a, k, y);
        c.fill(0.0);
        for p in 0..depth {
            let (factor, b) = (a.get(p).copied().unwrap_or(0.0), row(b, nx, p));
            let (there, lacking) = c.split_at_mut(b.len().min(c.len()));
            there.iter_mut().zip(b).for_each(|(sum, b)| *sum += factor * b);
            lacking.iter_mut().for_each(|sum| *sum += factor * 0.0);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::harness::Call;

    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed) % 1013) as f32 * 0.013 - 6.0).collect()
    }

    fn check(a: &[f32], b: &[f32], c_len: usize, (nx, ny, k): (usize, usize, u64)) {
        let mut c = vec![0.0f32; c_len];
        Call::new().read(a).read(b).write(&mut c).plane(nx, ny).u64(k).run(&MATMUL);
        let depth = (k as usize).min(a.len().max(b.len()));
        for (i, got) in c.iter().enumerate() {
            let mut want = 0.0f32;
            if i < nx * ny {
                let (row, column) = (i / nx, i % nx);
                for p in 0..depth {
                    let left = row.checked_mul(k as usize).and_then(|start| a.get(start + p));
                    let right = b.get(p * nx + column);
                    want += left.copied().unwrap_or(0.0) * right.copied().unwrap_or(0.0);
                }
            }
            let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
            assert!(same, "c[{i}] = {got}, not {want}, for {nx} by {ny} by {k}");
        }
    }

    #[test]
    fn the_product_is_summed_in_order() {
        check(&numbers(31 * 45, 1), &numbers(45 * 17, 2), 31 * 17 + 5, (17, 31, 45));
        check(&[3.0], &[4.0], 1, (1, 1, 1));
        check(&numbers(8, 1), &numbers(8, 2), 9, (0, 3, 4));
        check(&numbers(8, 1), &numbers(8, 2), 9, (3, 3, 0));
    }

    #[test]
    fn missing_elements_are_zeros() {
        let mut infinite = numbers(20, 3);
        infinite[7] = f32::INFINITY;
        check(&numbers(20, 1), &numbers(70, 2), 40, (9, 5, 8));
        check(&infinite, &numbers(30, 2), 40, (9, 5, 8));
        check(&numbers(40, 1), &numbers(72, 2), 17, (9, 5, 8));
        check(&numbers(40, 1), &numbers(72, 2), 45, (9, 5, 1 << 40));
        check(&[], &[], 4, (2, 2, u64::MAX));
    }
}
