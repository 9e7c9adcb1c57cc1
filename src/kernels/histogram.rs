//! Counting values. Source: `shaders/histogram.slang`.

use rayon::prelude::*;

use super::{GRAIN, LINE, source};
use hmmap_core::{
    kernel::{Arguments, Kernel, Source, Twin},
    vec::{Read, Update},
};

/// `bins[data[i]] += 1` for the items of the grid that `data` has; a value that has no bin is skipped. Counts wrap at 2^32
/// and are added to what the bins hold.
#[derive(Debug)]
pub struct Histogram<'a> {
    /// What is counted.
    pub data: Read<'a, u32>,
    /// The counts.
    pub bins: Update<'a, u32>,
}

static HISTOGRAM: Source = source!("histogram_u32" in "histogram", LINE, histogram);

// SAFETY: (1) i < min(n, data_len) holds for `data[i]`, and the value, as u64, is compared with bins_len before `bins[value]`;
// (2) it stores to bins alone, which is an Update; (3) any bits are a u32, and bins are added to atomically; (4) HistogramArgs is
// data, bins, grid.
unsafe impl Kernel for Histogram<'_> {
    fn source() -> &'static Source {
        &HISTOGRAM
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.data).update(&self.bins).grid();
    }
}

fn histogram(launch: &Twin<'_>) {
    let (data, bins) = (launch.read::<u32>(0), launch.write::<u32>(1));
    let data = &data[..launch.n().min(data.len())];
    let share = data.len().div_ceil(rayon::current_num_threads());
    // Counts of their own for each thread are worth it while there are fewer of them than of items to count.
    if share < GRAIN.max(bins.len()) {
        return count(data, bins);
    }
    let shares: Vec<Vec<u32>> = data
        .par_chunks(share)
        .map(|data| {
            let mut counts = vec![0; bins.len()];
            count(data, &mut counts);
            counts
        })
        .collect();
    for counts in shares {
        bins.iter_mut().zip(counts).for_each(|(bin, count)| *bin = bin.wrapping_add(count));
    }
}

fn count(data: &[u32], bins: &mut [u32]) {
    for &value in data {
        if let Some(bin) = bins.get_mut(value as usize) {
            *bin = bin.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::harness::Call;

    #[test]
    fn values_are_counted_and_those_without_a_bin_skipped() {
        for (n, len, bins_len) in
            [(0, 9, 4), (7, 9, 4), (u64::MAX, 200_000, 256), (9, 9, 0), (100, 100, 500)]
        {
            let data: Vec<u32> = (0..len)
                .map(
                    |i: u32| {
                        if i.is_multiple_of(13) { u32::MAX - i } else { i.wrapping_mul(7) % 300 }
                    },
                )
                .collect();
            let mut bins = vec![5u32; bins_len];
            if let Some(first) = bins.first_mut() {
                *first = u32::MAX;
            }
            let mut want = bins.clone();
            for &value in data.iter().take(n as usize) {
                if (value as usize) < bins_len {
                    want[value as usize] = want[value as usize].wrapping_add(1);
                }
            }
            Call::new().read(&data).update(&mut bins).line(n).run(&HISTOGRAM);
            assert_eq!(bins, want, "n = {n}");
        }
    }
}
