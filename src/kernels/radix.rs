//! Sorting `u32` keys, alone or with a `u32` value beside each. Source: `shaders/radix.slang`.
//!
//! A radix sort from the least significant digit up (Knuth, The Art of Computer Programming 3, 5.2.5; on GPUs: Satish, Harris
//! and Garland 2009), four bits a digit, so eight passes of:
//!
//! ```text
//! RadixCount      keys -> how many of each digit are in each block of 1024, digit by digit and then block by block
//! inclusive_scan  those counts -> where the keys of a digit and a block end
//! RadixScatter    puts each key at its place, in order within its digit: a pass is stable, and so is the sort
//! ```

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rayon::prelude::*;

use super::{LINE, SCAN_BLOCK, inclusive_scan, source};
use hmmap_core::{
    Error, Grid, Runtime, SharedVec,
    kernel::{Arguments, Kernel, Source, Twin},
    vec::{Read, Update, Write},
};

/// Values of a digit.
const DIGITS: usize = 1 << DIGIT_BITS;
const DIGIT_BITS: u32 = 4;
/// Keys in a block: as many as in a scan's.
const BLOCK: usize = SCAN_BLOCK;

/// `counts[d * blocks + b]` = keys of block `b` of 1024 whose digit is `d`, where `blocks` are those of the keys in the grid;
/// counts past `16 * blocks` become zero. Launch over [`Grid::Groups`] with as many groups as blocks; more are right, but each costs.
#[derive(Debug)]
pub struct RadixCount<'a> {
    /// What is to be sorted.
    pub keys: Read<'a, u32>,
    /// The counts; those that it has no room for are left out.
    pub counts: Write<'a, u32>,
    /// The lowest bit of the four that are the digit; from 32 on every digit is 0.
    pub shift: u32,
}

static COUNT: Source = source!("radix_count_u32" in "radix", LINE, count);

// SAFETY: (1) i < min(n, keys_len) holds for `keys[i]`, slots are compared with counts_len, and digits are below 16; (2) it stores to
// counts alone, slots below 16 * blocks from their block and those above as zeros, so all of it, and never reads it; (3) any bits
// are a u32, and a slot is its block's lane's alone; (4) RadixCountArgs is keys, counts, grid, shift.
unsafe impl Kernel for RadixCount<'_> {
    fn source() -> &'static Source {
        &COUNT
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.keys).write(&self.counts).grid().u32(self.shift);
    }
}

fn digit(key: u32, shift: u32) -> usize {
    key.checked_shr(shift).unwrap_or(0) as usize % DIGITS
}

fn count(launch: &Twin<'_>) {
    let (keys, counts, shift) = (launch.read::<u32>(0), launch.write::<u32>(1), launch.u32(0));
    let keys = &keys[..launch.n().min(keys.len())];
    counts.fill(0);
    let blocks = keys.len().div_ceil(BLOCK);
    let of_each: Vec<_> = keys.par_chunks(BLOCK).map(|keys| count_digits(keys, shift)).collect();
    for (block, of_digits) in of_each.iter().enumerate() {
        for (digit, count) in of_digits.iter().enumerate() {
            if let Some(slot) = counts.get_mut(digit * blocks + block) {
                *slot = *count;
            }
        }
    }
}

fn count_digits(keys: &[u32], shift: u32) -> [u32; DIGITS] {
    let mut counts = [0; DIGITS];
    keys.iter().for_each(|key| counts[digit(*key, shift)] += 1);
    counts
}

/// Puts each key of the grid at its place: at `ends[d * blocks + b - 1]`, or 0 for the first, plus the number of keys before
/// it in its block `b` with its digit `d`. A key whose place is not in `out`, or not in `ends`, is skipped. Where `ends` sends
/// several keys to one place, one of them is there: which, is the one thing that the shipped kernels leave open.
#[derive(Debug)]
pub struct RadixScatter<'a> {
    /// What is sorted.
    pub keys: Read<'a, u32>,
    /// The inclusive prefix sums of what [`RadixCount`] has counted in the same keys with the same shift.
    pub ends: Read<'a, u32>,
    /// Where keys are put.
    pub out: Update<'a, u32>,
    /// As in [`RadixCount`].
    pub shift: u32,
}

static SCATTER: Source = source!("radix_scatter_u32" in "radix", LINE, scatter);

// SAFETY: (1) i < min(n, keys_len) holds for `keys[i]`, slots are compared with ends_len before `ends[slot]`, and a place, as u64,
// with out_len before `out[place]`; (2) it stores to out alone, which is an Update; (3) any bits are a u32, and out is written by
// atomic exchanges; (4) RadixScatterArgs is keys, ends, out, grid, shift.
unsafe impl Kernel for RadixScatter<'_> {
    fn source() -> &'static Source {
        &SCATTER
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.keys).read(&self.ends).update(&self.out).grid().u32(self.shift);
    }
}

fn scatter(launch: &Twin<'_>) {
    let (keys, ends) = (launch.read::<u32>(0), launch.read::<u32>(1));
    let out = atomics(launch.write::<u32>(2));
    let keys = &keys[..launch.n().min(keys.len())];
    each_place(keys, ends, launch.u32(0), |i, place| {
        if let Some(out) = out.get(place) {
            out.store(keys[i], Relaxed);
        }
    });
}

/// Calls `put` with the number of each key and its place.
fn each_place(keys: &[u32], ends: &[u32], shift: u32, put: impl Fn(usize, usize) + Sync) {
    let blocks = keys.len().div_ceil(BLOCK);
    keys.par_chunks(BLOCK).enumerate().for_each(|(block, of_block)| {
        let mut next: [Option<usize>; DIGITS] = std::array::from_fn(|digit| {
            let before = (digit * blocks + block).checked_sub(1);
            before.map_or(Some(0), |slot| ends.get(slot).map(|end| *end as usize))
        });
        for (i, key) in of_block.iter().enumerate() {
            if let Some(place) = &mut next[digit(*key, shift)] {
                put(block * BLOCK + i, *place);
                *place += 1;
            }
        }
    });
}

/// The same elements, to be stored to by several threads.
fn atomics(array: &mut [u32]) -> &[AtomicU32] {
    // SAFETY: an AtomicU32 has the size and, on targets with 32-bit atomics, the alignment of a u32 (checked below), any bits are
    // one, and the exclusive borrow lives as long as the result.
    unsafe { &*(std::ptr::from_mut(array) as *const [AtomicU32]) }
}

const _: () = assert!(align_of::<AtomicU32>() == align_of::<u32>());

/// [`RadixScatter`] with a value beside each key; a value that is missing is zero.
#[derive(Debug)]
pub struct RadixScatterPairs<'a> {
    /// What is sorted by.
    pub keys: Read<'a, u32>,
    /// What goes with the keys.
    pub values: Read<'a, u32>,
    /// As in [`RadixScatter`].
    pub ends: Read<'a, u32>,
    /// Where keys are put.
    pub keys_out: Update<'a, u32>,
    /// Where values are put.
    pub values_out: Update<'a, u32>,
    /// As in [`RadixCount`].
    pub shift: u32,
}

static SCATTER_PAIRS: Source = source!("radix_scatter_pairs_u32" in "radix", LINE, scatter_pairs);

// SAFETY: (1) i < min(n, keys_len) holds for `keys[i]`, `load_or_zero` compares i with values_len, slots are compared with ends_len
// before `ends[slot]`, and a place, as u64, with the length of either output; (2) it stores to the two outputs alone, which are
// Updates; (3) any bits are a u32, and both are written by atomic exchanges; (4) RadixScatterPairsArgs is keys, values, ends, the
// outputs, grid, shift.
unsafe impl Kernel for RadixScatterPairs<'_> {
    fn source() -> &'static Source {
        &SCATTER_PAIRS
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.keys).read(&self.values).read(&self.ends);
        arguments.update(&self.keys_out).update(&self.values_out).grid().u32(self.shift);
    }
}

fn scatter_pairs(launch: &Twin<'_>) {
    let (keys, values) = (launch.read::<u32>(0), launch.read::<u32>(1));
    let ends = launch.read::<u32>(2);
    let keys_out = atomics(launch.write::<u32>(3));
    let values_out = atomics(launch.write::<u32>(4));
    let keys = &keys[..launch.n().min(keys.len())];
    each_place(keys, ends, launch.u32(0), |i, place| {
        if let Some(out) = keys_out.get(place) {
            out.store(keys[i], Relaxed);
        }
        if let Some(out) = values_out.get(place) {
            out.store(values.get(i).copied().unwrap_or(0), Relaxed);
        }
    });
}

/// The digits of a key, by their lowest bits. They are even in number: what goes from one vector to another and back ends in the first.
fn shifts() -> impl Iterator<Item = u32> {
    (0..u32::BITS).step_by(DIGIT_BITS as usize)
}

/// Sorts keys in ascending order, on the default device. Asynchronous, like a launch.
///
/// Needs as much memory again as the keys take, and a thirty-second part for counts. Reads the keys twice and writes
/// them once in each of eight passes.
///
/// # Errors
/// As [`Runtime::launch`] and [`SharedVec::new`]; [`Error::GridTooLarge`] for more than 2^32 - 1 keys. An error in the middle leaves the
/// keys in some other order, unless contents were lost.
pub fn sort(mem: &Runtime, keys: &mut SharedVec<u32>) -> Result<(), Error> {
    let mut other = SharedVec::<u32>::new(mem, keys.len())?;
    let (mut from, mut to) = (keys, &mut other);
    for shift in shifts() {
        let Some((grid, ends)) = ends_of_digits(mem, from, shift)? else { return Ok(()) };
        let (keys, ends, out) = (from.read(), ends.read(), to.update());
        mem.launch(grid, RadixScatter { keys, ends, out, shift })?;
        std::mem::swap(&mut from, &mut to);
    }
    Ok(())
}

/// Sorts keys in ascending order, and the values with them: values of equal keys stay in their order. On the default device.
/// Asynchronous, like a launch. A value that is missing counts as zero; values past the keys are left alone.
///
/// Needs as much memory again as keys and values take, and a part for counts.
///
/// # Errors
/// As [`sort`].
pub fn sort_pairs(
    mem: &Runtime,
    keys: &mut SharedVec<u32>,
    values: &mut SharedVec<u32>,
) -> Result<(), Error> {
    let mut other_keys = SharedVec::<u32>::new(mem, keys.len())?;
    let mut other_values = SharedVec::<u32>::new(mem, keys.len())?;
    let (mut from, mut to) = ((keys, values), (&mut other_keys, &mut other_values));
    for shift in shifts() {
        let Some((grid, ends)) = ends_of_digits(mem, from.0, shift)? else { return Ok(()) };
        let kernel = RadixScatterPairs {
            keys: from.0.read(),
            values: from.1.read(),
            ends: ends.read(),
            keys_out: to.0.update(),
            values_out: to.1.update(),
            shift,
        };
        mem.launch(grid, kernel)?;
        std::mem::swap(&mut from, &mut to);
    }
    Ok(())
}

/// Where the keys of each digit and block end, and the grid of a pass; nothing where there is nothing to sort.
fn ends_of_digits(
    mem: &Runtime,
    keys: &SharedVec<u32>,
    shift: u32,
) -> Result<Option<(Grid, SharedVec<u32>)>, Error> {
    let n = keys.len();
    if n < 2 {
        return Ok(None);
    }
    if u32::try_from(n).is_err() {
        return Err(Error::GridTooLarge { kernel: SCATTER.name });
    }
    let blocks = n.div_ceil(BLOCK);
    let grid = Grid::Groups { n: n as u64, groups: u32::try_from(blocks).unwrap_or(u32::MAX) };
    let mut counts = SharedVec::<u32>::new(mem, DIGITS * blocks)?;
    let mut ends = SharedVec::<u32>::new(mem, DIGITS * blocks)?;
    mem.launch(grid, RadixCount { keys: keys.read(), counts: counts.write(), shift })?;
    inclusive_scan(mem, &counts, &mut ends)?;
    Ok(Some((grid, ends)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::harness::Call;

    fn input(len: usize) -> Vec<u32> {
        (0..len as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect()
    }

    #[test]
    fn digits_are_counted_per_block_and_the_rest_is_zero() {
        for (n, keys_len, counts_len) in
            [(0, 5, 20), (3, 5, 20), (u64::MAX, 3000, 60), (2500, 3000, 48), (3000, 3000, 17)]
        {
            for shift in [0, 28, 30, 32, u32::MAX] {
                let keys = input(keys_len);
                let mut counts = vec![0u32; counts_len];
                Call::new().read(&keys).write(&mut counts).line(n).u32(shift).run(&COUNT);
                let end = keys_len.min(n as usize);
                let mut want = vec![0u32; counts_len.max(16 * end.div_ceil(1024))];
                for (i, key) in keys[..end].iter().enumerate() {
                    let digit = if shift < 32 { key >> shift & 15 } else { 0 };
                    want[digit as usize * end.div_ceil(1024) + i / 1024] += 1;
                }
                assert_eq!(counts, want[..counts_len], "n = {n}, shift = {shift}");
            }
        }
    }

    #[test]
    fn a_pass_is_stable_and_skips_what_has_no_place() {
        for (n, keys_len, values_len, out_len) in
            [(0, 5, 5, 5), (3000, 3000, 3000, 3000), (2500, 3000, 1000, 2000), (9, 3000, 3000, 0)]
        {
            let (keys, shift) = (input(keys_len), 8);
            let end = keys_len.min(n as usize);
            let mut sorted: Vec<usize> = (0..end).collect();
            sorted.sort_by_key(|i| digit(keys[*i], shift));
            let mut counts = vec![0u32; 16 * end.div_ceil(1024)];
            Call::new().read(&keys).write(&mut counts).line(n).u32(shift).run(&COUNT);
            let ends: Vec<u32> = counts
                .iter()
                .scan(0, |sum, count| {
                    *sum += count;
                    Some(*sum)
                })
                .collect();
            let values: Vec<u32> = (0..values_len as u32).collect();
            let [mut alone, mut out, mut beside] = [(); 3].map(|()| vec![7u32; out_len]);
            let call = Call::new().read(&keys).read(&ends).update(&mut alone);
            call.line(n).u32(shift).run(&SCATTER);
            let call = Call::new().read(&keys).read(&values).read(&ends);
            let call = call.update(&mut out).update(&mut beside);
            call.line(n).u32(shift).run(&SCATTER_PAIRS);
            for place in 0..out_len {
                let from = sorted.get(place);
                let key = from.map_or(7, |from| keys[*from]);
                let value = from.map_or(7, |from| values.get(*from).copied().unwrap_or(0));
                assert_eq!((out[place], beside[place]), (key, value), "place {place} of n = {n}");
                assert_eq!(alone[place], key, "place {place} of n = {n}");
            }
        }
    }

    #[test]
    fn ends_that_are_wrong_or_missing_lose_keys_and_nothing_else() {
        let keys = input(3000);
        for ends in [vec![], vec![u32::MAX; 48], vec![2990; 48]] {
            let mut out = vec![7u32; 3000];
            Call::new().read(&keys).read(&ends).update(&mut out).line(3000).u32(0).run(&SCATTER);
            assert!(out.iter().all(|key| *key == 7 || keys.contains(key)));
        }
    }
}
