//! Sparse matrix times vector, the matrix in compressed sparse rows. Source: `shaders/spmv.slang`.

use rayon::prelude::*;

use super::{LINE, source};
use hmmap_core::{
    kernel::{Arguments, Kernel, Source, Twin},
    vec::{Read, Write},
};

/// `y = A x`. Row `r` of `A` has the entries `row_ptr[r] .. row_ptr[r + 1]` of `col_idx` and `values`.
///
/// A row is summed from 0.0 in the order of its entries, each product rounded before it is added. Entries past the end of
/// `col_idx` or `values`, and those whose column is outside `x`, are skipped. A row past the grid, or that `row_ptr` does not
/// describe, is zero.
#[derive(Debug)]
pub struct SpmvCsr<'a> {
    /// Where each row begins, and at the end where the last one ends.
    pub row_ptr: Read<'a, u32>,
    /// The column of each entry.
    pub col_idx: Read<'a, u32>,
    /// The value of each entry.
    pub values: Read<'a, f32>,
    /// The vector.
    pub x: Read<'a, f32>,
    /// The product.
    pub y: Write<'a, f32>,
}

static SPMV: Source = source!("spmv_csr_f32" in "spmv", LINE, spmv);

// SAFETY: (1) row < y_len holds for `y[row]`, row + 1 < row_ptr_len is tested before `row_ptr[row]` and `row_ptr[row + 1]`,
// j < min(col_idx_len, values_len) holds for both entries, and the column, as u64, is compared with x_len before
// `x[column]`; (2) it stores to y alone, all of it, and never reads it; (3) any bits are an f32, and a row is one
// invocation's; (4) SpmvArgs is row_ptr, col_idx, values, x, y, grid.
unsafe impl Kernel for SpmvCsr<'_> {
    fn source() -> &'static Source {
        &SPMV
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.row_ptr).read(&self.col_idx).read(&self.values).read(&self.x);
        arguments.write(&self.y).grid();
    }
}

/// Rows that one task of the twin takes; they differ in length, so fewer than of single elements.
const ROWS: usize = 1024;

fn spmv(launch: &Twin<'_>) {
    let (row_ptr, col_idx) = (launch.read::<u32>(0), launch.read::<u32>(1));
    let (values, x, y) = (launch.read::<f32>(2), launch.read::<f32>(3), launch.write::<f32>(4));
    let entries = col_idx.len().min(values.len());
    let n = launch.n();
    y.par_iter_mut().with_min_len(ROWS).enumerate().for_each(|(row, y)| {
        let mut sum = 0.0;
        if row < n && row + 1 < row_ptr.len() {
            let end = entries.min(row_ptr[row + 1] as usize);
            for j in row_ptr[row] as usize..end {
                if let Some(x) = x.get(col_idx[j] as usize) {
                    sum += values[j] * x;
                }
            }
        }
        *y = sum;
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::harness::Call;

    #[test]
    fn a_small_matrix_by_hand() {
        // [ 2 0 1 ]   [ 1 ]   [  5 ]
        // [ 0 0 0 ] * [ 2 ] = [  0 ]
        // [ 0 4 5 ]   [ 3 ]   [ 23 ]
        let (row_ptr, col_idx, values) =
            ([0u32, 2, 2, 4], [0u32, 2, 1, 2], [2.0f32, 1.0, 4.0, 5.0]);
        let mut y = [9.0f32; 4];
        let call =
            Call::new().read(&row_ptr).read(&col_idx).read(&values).read(&[1.0f32, 2.0, 3.0]);
        call.write(&mut y).line(3).run(&SPMV);
        assert_eq!(y, [5.0, 0.0, 23.0, 0.0]);
    }

    #[test]
    fn a_matrix_that_lies_does_no_harm() {
        // Row 0 claims entries that do not exist, row 1 runs backwards, row 2 names columns that are not there.
        let (row_ptr, col_idx) = ([0u32, u32::MAX, 1, 3], [0u32, 3, u32::MAX, 1]);
        let values = [1.0f32, 10.0, 100.0];
        for n in [3, u64::MAX] {
            let mut y = [9.0f32; 5];
            let call = Call::new().read(&row_ptr).read(&col_idx).read(&values).read(&[2.0f32; 3]);
            call.write(&mut y).line(n).run(&SPMV);
            assert_eq!(y, [2.0, 0.0, 0.0, 0.0, 0.0], "n = {n}");
        }
    }

    #[test]
    fn many_rows_are_summed_in_the_order_of_their_entries() {
        let (rows, x): (usize, Vec<f32>) = (5_000, (0..5_000).map(|i| i as f32 * 0.01).collect());
        let entry = |j: usize| (((j * 7919) % 5_003) as u32, 1.0 / (j as f32 + 1.0));
        let row_ptr: Vec<u32> = (0..=rows).map(|r| (r * 7) as u32).collect();
        let (col_idx, values): (Vec<u32>, Vec<f32>) = (0..rows * 7).map(entry).unzip();
        let mut y = vec![0.0f32; rows];
        Call::new()
            .read(&row_ptr)
            .read(&col_idx)
            .read(&values)
            .read(&x)
            .write(&mut y)
            .line(4_990)
            .run(&SPMV);
        for (r, got) in y.iter().enumerate() {
            let in_x = (r * 7..r * 7 + 7).map(entry).filter(|(column, _)| *column < 5_000);
            let want = in_x.fold(0.0f32, |sum, (column, value)| sum + value * x[column as usize]);
            assert_eq!(got.to_bits(), if r < 4_990 { want.to_bits() } else { 0 }, "row {r}");
        }
    }
}
