//! Lloyd's algorithm for k-means (Lloyd 1982). Source: `shaders/kmeans.slang`.
//!
//! A point is `dims` floats, one point after another; a centroid likewise.
//!
//! ```text
//! KmeansAssign    labels each point with the nearest centroid
//! KmeansPartials  adds up the points of each cluster, slice by slice of the points, each slice in order
//! KmeansUpdate    adds up the slices, in order, and moves each centroid to the mean
//! ```
//!
//! The first two work on any part of the points: give them ranges of points, labels and partial sums.

use rayon::prelude::*;

use super::{GRAIN, LINE, source};
use hmmap_core::{
    kernel::{Arguments, Kernel, Source, Twin},
    vec::{Read, Update, Write},
};

/// `labels[i]` = the centroid with the least squared distance to point `i`, the first of several; zero past the grid, past the
/// last whole point, and where no distance is less than infinity. One item of the grid is one point.
#[derive(Debug)]
pub struct KmeansAssign<'a> {
    /// The points.
    pub points: Read<'a, f32>,
    /// The centroids.
    pub centroids: Read<'a, f32>,
    /// The number of a centroid for each point.
    pub labels: Write<'a, u32>,
    /// Floats of a point; 0 counts as 1.
    pub dims: u32,
}

static ASSIGN: Source = source!("kmeans_assign_f32" in "kmeans", LINE, assign);

// SAFETY: (1) i < points_len / dims holds for point i, c < centroids_len / dims for centroid c and d < dims for both, so no product wraps
// or reaches over an end, and i < labels_len for `labels[i]`; (2) it stores to labels alone, all of it, and never reads it; (3) any
// bits are a u32, and item i is one invocation's; (4) AssignArgs is points, centroids, labels, grid, dims.
unsafe impl Kernel for KmeansAssign<'_> {
    fn source() -> &'static Source {
        &ASSIGN
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments
            .read(&self.points)
            .read(&self.centroids)
            .write(&self.labels)
            .grid()
            .u32(self.dims);
    }
}

fn assign(launch: &Twin<'_>) {
    let (points, centroids) = (launch.read::<f32>(0), launch.read::<f32>(1));
    let (labels, dims) = (launch.write::<u32>(2), launch.u32(0).max(1) as usize);
    let (whole, rest) = labels.split_at_mut(labels.len().min(launch.n()).min(points.len() / dims));
    let nearest = |point: &[f32]| {
        let mut least = (f32::INFINITY, 0);
        for (number, centroid) in centroids.chunks_exact(dims).enumerate() {
            let distance =
                point.iter().zip(centroid).fold(0.0, |sum, (p, c)| sum + (p - c) * (p - c));
            if distance < least.0 {
                least = (distance, number as u32);
            }
        }
        least.1
    };
    let pairs = whole.par_iter_mut().zip(points.par_chunks_exact(dims));
    pairs.with_min_len(GRAIN / 64).for_each(|(label, point)| *label = nearest(point));
    rest.fill(0);
}

/// `sums[(s * clusters + c) * dims + d]` = coordinate `d` of the points of slice `s` with label `c`, added in order, and
/// `counts[s * clusters + c]` = how many they are. Slice `s` is the `per_slice` points from `s * per_slice` on, as far as the grid, the
/// points and the labels go; a slice past them is zeros. Each element of `sums` costs a walk over a slice's labels.
///
/// Items of the grid are points. Launch over [`Grid::Groups`](hmmap_core::Grid::Groups) with a group for each 256 elements of `sums`.
#[derive(Debug)]
pub struct KmeansPartials<'a> {
    /// The points.
    pub points: Read<'a, f32>,
    /// Their labels.
    pub labels: Read<'a, u32>,
    /// The sums of each slice.
    pub sums: Write<'a, f32>,
    /// The counts of each slice, exact to 2^24.
    pub counts: Write<'a, f32>,
    /// Points of a slice; 0 counts as 1.
    pub per_slice: u64,
    /// Centroids; 0 counts as 1.
    pub clusters: u32,
    /// Floats of a point; 0 counts as 1.
    pub dims: u32,
}

static PARTIALS: Source = source!("kmeans_partials_f32" in "kmeans", LINE, partials);

// SAFETY: (1) i < min(n, points_len / dims, labels_len) holds for label and point i and d < dims for its coordinate, and the outputs'
// indices run below their lengths; (2) it stores to sums and counts, reads neither, and runs over all of both; (3) any bits are an
// f32, and each element is one invocation's; (4) PartialsArgs is points, labels, sums, counts, grid, per_slice, clusters, dims.
unsafe impl Kernel for KmeansPartials<'_> {
    fn source() -> &'static Source {
        &PARTIALS
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.points).read(&self.labels).write(&self.sums).write(&self.counts);
        arguments.grid().u64(self.per_slice).u32(self.clusters).u32(self.dims);
    }
}

fn partials(launch: &Twin<'_>) {
    let (points, labels) = (launch.read::<f32>(0), launch.read::<u32>(1));
    let (sums, counts) = (launch.write::<f32>(2), launch.write::<f32>(3));
    let per_slice = usize::try_from(launch.u64(0)).unwrap_or(usize::MAX).max(1);
    let (clusters, dims) = (launch.u32(1).max(1) as usize, launch.u32(2).max(1) as usize);
    let end = launch.n().min(points.len() / dims).min(labels.len());
    let slice = |number: usize| {
        let first = number.checked_mul(per_slice).unwrap_or(end).min(end);
        first..first.saturating_add(per_slice).min(end)
    };
    let of_cluster = |number: usize, cluster: usize| {
        slice(number).filter(move |i| labels[*i] as usize == cluster)
    };
    sums.par_iter_mut().enumerate().for_each(|(out, sum)| {
        let (d, cluster, number) = (out % dims, out / dims % clusters, out / dims / clusters);
        *sum = of_cluster(number, cluster).fold(0.0, |sum, i| sum + points[i * dims + d]);
    });
    counts.par_iter_mut().enumerate().for_each(|(out, count)| {
        *count = of_cluster(out / clusters, out % clusters).fold(0.0, |count, _| count + 1.0);
    });
}

/// Moves each centroid to the mean of its points: the sums of all slices, in order, times a reciprocal of their counts that is right to
/// about one unit in the last place. A cluster without points stays. One item of the grid is one float of a centroid.
#[derive(Debug)]
pub struct KmeansUpdate<'a> {
    /// What [`KmeansPartials`] has added up.
    pub sums: Read<'a, f32>,
    /// What it has counted.
    pub counts: Read<'a, f32>,
    /// The centroids.
    pub centroids: Update<'a, f32>,
    /// Centroids; 0 counts as 1.
    pub clusters: u32,
    /// Floats of a point; 0 counts as 1.
    pub dims: u32,
}

static UPDATE: Source = source!("kmeans_update_f32" in "kmeans", LINE, update);

// SAFETY: (1) slices are those that sums and counts have whole and i < clusters * dims, a product of 32-bit numbers, so neither index
// reaches over an end, and i < centroids_len for `centroids[i]`; (2) it stores to centroids alone, which is an Update; (3) any bits are
// an f32, and item i is one invocation's; (4) UpdateArgs is sums, counts, centroids, grid, clusters, dims.
unsafe impl Kernel for KmeansUpdate<'_> {
    fn source() -> &'static Source {
        &UPDATE
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.sums).read(&self.counts).update(&self.centroids);
        arguments.grid().u32(self.clusters).u32(self.dims);
    }
}

fn update(launch: &Twin<'_>) {
    let (sums, counts) = (launch.read::<f32>(0), launch.read::<f32>(1));
    let (centroids, n) = (launch.write::<f32>(2), launch.n());
    let (clusters, dims) = (launch.u32(0).max(1) as usize, launch.u32(1).max(1) as usize);
    let of_a_slice = clusters.saturating_mul(dims);
    for (i, centroid) in centroids.iter_mut().enumerate().take(n.min(of_a_slice)) {
        let slices = sums.chunks_exact(of_a_slice).zip(counts.chunks_exact(clusters));
        let (sum, count) = slices.fold((0.0, 0.0), |(sum, count), (sums, counts)| {
            (sum + sums[i], count + counts[i / dims])
        });
        if count > 0.0 {
            *centroid = sum * reciprocal(count);
        }
    }
}

/// As in the shader, step by step: 1/x in products and differences alone.
fn reciprocal(x: f32) -> f32 {
    let guess = f32::from_bits(0x7ef3_11c7_u32.wrapping_sub(x.to_bits()));
    (0..4).fold(guess, |guess, _| guess + guess * (1.0 - x * guess))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::harness::Call;

    /// Two groups of points on a line of three dimensions, in turn.
    fn points(count: usize) -> Vec<f32> {
        (0..count * 3).map(|i| (i / 3 % 2 * 100 + i % 7) as f32).collect()
    }

    #[test]
    fn points_go_to_the_nearest_centroid_and_the_first_of_equals() {
        let centroids = [0.0f32, 0.0, 0.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 7.0];
        for (n, count, len) in [(0, 5, 5), (3, 5, 9), (u64::MAX, 5000, 5003), (9, 9, 0)] {
            let points = points(count);
            let mut labels = vec![0u32; len];
            let call = Call::new().read(&points).read(&centroids).write(&mut labels);
            call.line(n).u32(3).run(&ASSIGN);
            for (i, label) in labels.iter().enumerate() {
                let is_there = i < count && (i as u64) < n;
                assert_eq!(*label, if is_there { i as u32 % 2 } else { 0 }, "{i} of n = {n}");
            }
        }
    }

    #[test]
    fn slices_add_up_to_the_means() {
        for (count, per_slice, slices) in [(1000, 300, 4), (1000, 1000, 1), (1, 1, 3), (0, 9, 2)] {
            let points = points(count);
            let labels: Vec<u32> = (0..count as u32).map(|i| [0, 1, 9][i as usize % 3]).collect();
            let (mut sums, mut counts) = (vec![0f32; slices * 6], vec![0f32; slices * 2]);
            let call = Call::new().read(&points).read(&labels).write(&mut sums).write(&mut counts);
            call.line(count as u64).u64(per_slice).u32(2).u32(3).run(&PARTIALS);
            let mut centroids = [-1.0f32; 7];
            let call = Call::new().read(&sums).read(&counts).update(&mut centroids);
            call.line(9).u32(2).u32(3).run(&UPDATE);
            for i in 0..6 {
                let own: Vec<_> = (0..count).filter(|p| labels[*p] as usize == i / 3).collect();
                let sum: f64 = own.iter().map(|p| f64::from(points[p * 3 + i % 3])).sum();
                let want = if own.is_empty() { -1.0 } else { sum / own.len() as f64 };
                let apart = (f64::from(centroids[i]) - want).abs();
                assert!(apart <= 1e-5 * want.abs(), "{i} of {count}: {} {want}", centroids[i]);
            }
            assert_eq!(centroids[6], -1.0, "past the last centroid");
        }
    }

    #[test]
    fn a_reciprocal_is_right_to_its_last_places() {
        for x in (1..200_000).map(|x| x as f32 * 1.7) {
            let (got, want) = (reciprocal(x), 1.0 / x);
            assert!(got.to_bits().abs_diff(want.to_bits()) <= 1, "1/{x} = {want}, not {got}");
        }
        assert_eq!(reciprocal(64.0), 1.0 / 64.0);
    }
}
