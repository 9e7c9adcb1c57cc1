//! Inclusive prefix sums of `u32`, wrapping at 2^32. Source: `shaders/scan.slang`.
//!
//! ```text
//! ScanBlocks   x -> out scanned within each block of 1024, and the total of each block
//!              the totals are scanned in the same way, again and again, until one block holds them all
//! ScanAdd      adds to every block the scanned total of the blocks before it, from the topmost level down
//! ```
//!
//! Wrapping addition is associative, so any order gives the same bits.

use rayon::prelude::*;

use super::{GRAIN, LINE, source};
use hmmap_core::{
    Error, Grid, Runtime, SharedVec,
    kernel::{Arguments, Kernel, Source, Twin},
    vec::{Read, Update, Write},
};

/// Items in a block of a scan.
pub const SCAN_BLOCK: usize = 1024;

/// Scans each block of [`SCAN_BLOCK`] items by itself. `out` is zero past the grid or past `x`.
/// Launch over [`Grid::Groups`] with as many groups as blocks; more are right, but each costs.
#[derive(Debug)]
pub struct ScanBlocks<'a> {
    /// What is scanned.
    pub x: Read<'a, u32>,
    /// The prefix sums within each block.
    pub out: Write<'a, u32>,
    /// The total of each block; zero for blocks past the grid or past `x`. Totals that it has no room for are left out.
    pub block_sums: Write<'a, u32>,
}

static BLOCKS: Source = source!("scan_blocks_u32" in "scan", LINE, blocks);

// SAFETY: (1) `load_or_zero` compares i with min(n, x_len) before `x[i]`, and i < out_len and block < block_sums_len are tested
// before those are stored to; (2) it stores to out and block_sums, reads neither, and runs over the blocks of the longer one, so
// over all of both; (3) any bits are a u32, item i is one invocation's, and a block's total is its group's last lane's; (4)
// ScanBlocksArgs is x, out, block_sums, grid.
unsafe impl Kernel for ScanBlocks<'_> {
    fn source() -> &'static Source {
        &BLOCKS
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.x).write(&self.out).write(&self.block_sums).grid();
    }
}

fn blocks(launch: &Twin<'_>) {
    let (x, out, block_sums) =
        (launch.read::<u32>(0), launch.write::<u32>(1), launch.write::<u32>(2));
    let x = &x[..launch.n().min(x.len())];
    let block = |number: usize| x.chunks(SCAN_BLOCK).nth(number).unwrap_or(&[]);
    out.par_chunks_mut(SCAN_BLOCK).enumerate().with_min_len(GRAIN / SCAN_BLOCK).for_each(
        |(number, out)| {
            let (items, rest) = out.split_at_mut(block(number).len().min(out.len()));
            let mut sum = 0u32;
            for (out, &x) in items.iter_mut().zip(block(number)) {
                sum = sum.wrapping_add(x);
                *out = sum;
            }
            rest.fill(0);
        },
    );
    block_sums.par_iter_mut().enumerate().with_min_len(GRAIN / SCAN_BLOCK).for_each(
        |(number, sum)| *sum = block(number).iter().fold(0, |sum, &x| sum.wrapping_add(x)),
    );
}

/// Adds the scanned totals of the blocks before it to every item of the grid; a total that is missing adds nothing.
#[derive(Debug)]
pub struct ScanAdd<'a> {
    /// Prefix sums within each block of [`SCAN_BLOCK`], to become prefix sums of the whole.
    pub out: Update<'a, u32>,
    /// The scanned totals of the blocks.
    pub block_sums: Read<'a, u32>,
}

static ADD: Source = source!("scan_add_u32" in "scan", LINE, add);

// SAFETY: (1) i < min(n, out_len) holds for `out[i]`, and `load_or_zero` compares the block with the totals' length; (2) it
// stores to out alone, which is an Update; (3) any bits are a u32, and item i is one invocation's; (4) ScanAddArgs is out, the
// totals, grid.
unsafe impl Kernel for ScanAdd<'_> {
    fn source() -> &'static Source {
        &ADD
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.update(&self.out).read(&self.block_sums).grid();
    }
}

fn add(launch: &Twin<'_>) {
    let (out, block_sums) = (launch.write::<u32>(0), launch.read::<u32>(1));
    let end = launch.n().min(out.len());
    let later = out[..end].par_chunks_mut(SCAN_BLOCK).skip(1);
    later.zip(block_sums).with_min_len(GRAIN / SCAN_BLOCK).for_each(|(block, &before)| {
        block.iter_mut().for_each(|item| *item = item.wrapping_add(before));
    });
}

/// `out[i] = x[0] + ... + x[i]`, wrapping at 2^32, on the default device. `out` past `x` is zero. Asynchronous, like a launch.
///
/// Two launches for each power of [`SCAN_BLOCK`] in the length, but one for the last.
///
/// # Errors
/// As [`Runtime::launch`] and [`SharedVec::new`].
pub fn inclusive_scan(
    mem: &Runtime,
    x: &SharedVec<u32>,
    out: &mut SharedVec<u32>,
) -> Result<(), Error> {
    let blocks = out.len().div_ceil(SCAN_BLOCK);
    let mut block_sums = SharedVec::new(mem, blocks)?;
    let scan = ScanBlocks { x: x.read(), out: out.write(), block_sums: block_sums.write() };
    // An empty grid would do nothing; an `out` is to be written without an `x`, too.
    let n = x.len().max(1) as u64;
    mem.launch(Grid::Groups { n, groups: u32::try_from(blocks).unwrap_or(u32::MAX) }, scan)?;
    if blocks > 1 {
        let mut scanned = SharedVec::new(mem, blocks)?;
        inclusive_scan(mem, &block_sums, &mut scanned)?;
        mem.launch(x.len(), ScanAdd { out: out.update(), block_sums: scanned.read() })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::harness::Call;

    fn input(len: usize) -> Vec<u32> {
        (0..len as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect()
    }

    #[test]
    fn blocks_are_scanned_by_themselves_and_everything_is_written() {
        for (n, x_len, out_len, sums_len) in [
            (0, 5, 5, 1),
            (3, 5, 5, 1),
            (5_000, 5_000, 5_000, 5),
            (u64::MAX, 5_000, 6_100, 9),
            (5_000, 5_000, 4_000, 2),
            (2_500, 5_000, 100, 4),
        ] {
            let x = input(x_len);
            let (mut out, mut sums) = (vec![0u32; out_len], vec![0u32; sums_len]);
            Call::new().read(&x).write(&mut out).write(&mut sums).line(n).run(&BLOCKS);
            let end = x_len.min(n as usize);
            let total = |range: std::ops::Range<usize>| {
                x[range.start.min(end)..range.end.min(end)]
                    .iter()
                    .fold(0, |s: u32, x| s.wrapping_add(*x))
            };
            for (i, &got) in out.iter().enumerate() {
                let want = if i < end { total(i / 1024 * 1024..i + 1) } else { 0 };
                assert_eq!(got, want, "out[{i}] of n = {n}");
            }
            for (b, &got) in sums.iter().enumerate() {
                assert_eq!(got, total(b * 1024..(b + 1) * 1024), "total {b} of n = {n}");
            }
        }
    }

    #[test]
    fn totals_are_added_from_the_second_block_on() {
        let totals = [10u32, u32::MAX];
        for n in [0, 1_500, 5_000, u64::MAX] {
            let mut out = input(5_000);
            Call::new().update(&mut out).read(&totals).line(n).run(&ADD);
            for (i, (got, start)) in out.iter().zip(input(5_000)).enumerate() {
                let before = if (i as u64) < n { [0, 10, u32::MAX, 0, 0][i / 1024] } else { 0 };
                assert_eq!(*got, start.wrapping_add(before), "out[{i}] of n = {n}");
            }
        }
    }
}
