//! What the twins of kernels on a plane share: rows, of arrays that may be shorter or longer than the plane.

use bytemuck::Zeroable;
use hmmap_core::kernel::Twin;
use rayon::prelude::*;

use super::GRAIN;

/// Gives each row of the grid that `out` has, as far as it has it, to `fill` with its number; zeroes the rest of `out`.
pub(super) fn fill_rows<T: Zeroable + Copy + Send>(
    launch: &Twin<'_>,
    out: &mut [T],
    fill: impl Fn(usize, &mut [T]) + Sync,
) {
    let [nx, ny] = launch.grid().map(|side| usize::try_from(side).unwrap_or(usize::MAX));
    let (pixels, rest) = out.split_at_mut(nx.saturating_mul(ny).min(out.len()));
    let rows = pixels.par_chunks_mut(nx.max(1)).enumerate();
    rows.with_min_len(GRAIN.div_ceil(nx.max(1))).for_each(|(y, row)| fill(y, row));
    rest.fill(T::zeroed());
}

/// Row `y` of an array with `width` elements to a row, as far as the array has it.
pub(super) fn row<T>(array: &[T], width: usize, y: usize) -> &[T] {
    let start = y.saturating_mul(width).min(array.len());
    let end = start.saturating_add(width).min(array.len());
    &array[start..end]
}
