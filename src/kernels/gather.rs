//! Reading and adding through an index vector, which is data and so may say anything. Source: `shaders/gather.slang`.

use bytemuck::Pod;
use rayon::prelude::*;

use super::{GRAIN, LINE, source};
use hmmap_core::{
    kernel::{Arguments, Kernel, Source, Twin},
    vec::{Read, Update, Write},
};

/// `out[i] = src[index[i]]` for the items of the grid; zero where there is no such item, no such index, or an index
/// outside `src`.
#[derive(Debug)]
pub struct Gather<'a, T> {
    /// Where elements are taken from.
    pub src: Read<'a, T>,
    /// Which ones.
    pub index: Read<'a, u32>,
    /// Where they are put, in order.
    pub out: Write<'a, T>,
}

/// What can be gathered: `f32` and `u32`.
pub trait GatherElement: Pod + sealed::Sealed {}

impl GatherElement for f32 {}
impl GatherElement for u32 {}

mod sealed {
    use super::{GATHER_F32, GATHER_U32, Source};

    /// An element type that has a gather of its own; sealed, because the kernel's promises rest on `SOURCE`.
    pub trait Sealed {
        const SOURCE: &'static Source;
    }

    impl Sealed for f32 {
        const SOURCE: &'static Source = &GATHER_F32;
    }

    impl Sealed for u32 {
        const SOURCE: &'static Source = &GATHER_U32;
    }
}

static GATHER_F32: Source = source!("gather_f32" in "gather", LINE, gather);
static GATHER_U32: Source = source!("gather_u32" in "gather", LINE, gather);

// SAFETY: (1) i < out_len holds for `out[i]`, i < min(n, index_len) is tested before `index[i]`, and `load_or_zero` compares
// the index with src_len before `src[index[i]]`; (2) it stores to out alone, all of it, and never reads it; (3) T is Pod, and
// item i is one invocation's; (4) GatherArgs<T> is src, index, out, grid, and SOURCE is the one whose T has the size of this T.
unsafe impl<T: GatherElement> Kernel for Gather<'_, T> {
    fn source() -> &'static Source {
        T::SOURCE
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read_scattered(&self.src, 1).read(&self.index).write(&self.out).grid();
    }
}

/// The twin of both: elements are moved as bits.
fn gather(launch: &Twin<'_>) {
    let (src, index, out) = (launch.read::<u32>(0), launch.read::<u32>(1), launch.write::<u32>(2));
    let (out, rest) = out.split_at_mut(launch.n().min(index.len()).min(out.len()));
    out.par_chunks_mut(GRAIN).zip(index.par_chunks(GRAIN)).for_each(|(out, index)| {
        for (out, &index) in out.iter_mut().zip(index) {
            *out = src.get(index as usize).copied().unwrap_or(0);
        }
    });
    rest.fill(0);
}

/// `dst[index[i]] += value[i]`, wrapping at 2^32, for the items of the grid that both arrays have; an index outside `dst`
/// is skipped.
#[derive(Debug)]
pub struct ScatterAdd<'a> {
    /// Where to add.
    pub index: Read<'a, u32>,
    /// What to add.
    pub value: Read<'a, u32>,
    /// What is added to.
    pub dst: Update<'a, u32>,
}

static SCATTER_ADD: Source = source!("scatter_add_u32" in "gather", LINE, scatter_add);

// SAFETY: (1) i < min(n, index_len, value_len) holds for `index[i]` and `value[i]`, and the target, as u64, is compared
// with dst_len before `dst[target]`; (2) it stores to dst alone, which is an Update; (3) any bits are a u32, and dst is
// added to atomically; (4) ScatterAddArgs is index, value, dst, grid.
unsafe impl Kernel for ScatterAdd<'_> {
    fn source() -> &'static Source {
        &SCATTER_ADD
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.index).read(&self.value).update(&self.dst).grid();
    }
}

/// On one thread: atomic additions to random places are slower than plain ones by more than a few threads make good.
fn scatter_add(launch: &Twin<'_>) {
    let (index, value, dst) =
        (launch.read::<u32>(0), launch.read::<u32>(1), launch.write::<u32>(2));
    for (&target, value) in index.iter().zip(value).take(launch.n()) {
        if let Some(element) = dst.get_mut(target as usize) {
            *element = element.wrapping_add(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::harness::Call;

    /// Indices of which every third is bad, one of them only just.
    fn indices(len: u32, of: u32) -> Vec<u32> {
        (0..len)
            .map(|i| match i % 9 {
                0 => of,
                3 => u32::MAX,
                6 => of.wrapping_add(i),
                _ => i.wrapping_mul(2_654_435_761) % of.max(1),
            })
            .collect()
    }

    #[test]
    fn bad_indices_gather_zero() {
        for (n, src_len, index_len, out_len) in [
            (9, 5, 9, 9),
            (4, 5, 9, 9),
            (u64::MAX, 700, 40_000, 41_000),
            (9, 0, 9, 9),
            (9, 5, 0, 4),
            (9, 5, 9, 3),
        ] {
            let src: Vec<f32> = (0..src_len).map(|i| i as f32 + 1.0).collect();
            let index = indices(index_len, src_len);
            let mut out = vec![1.0f32; out_len];
            Call::new().read(&src).read(&index).write(&mut out).line(n).run(&GATHER_F32);
            for (i, &got) in out.iter().enumerate() {
                let index = index.get(i).filter(|_| (i as u64) < n);
                let want = index.and_then(|index| src.get(*index as usize)).copied().unwrap_or(0.0);
                assert_eq!(got, want, "out[{i}] of n = {n}");
            }
        }
    }

    #[test]
    fn bad_indices_are_not_added_to() {
        for (n, index_len, value_len, dst_len) in
            [(9, 9, 9, 5), (4, 9, 9, 5), (u64::MAX, 900, 800, 7), (9, 9, 9, 0)]
        {
            let index = indices(index_len, dst_len);
            let value: Vec<u32> =
                (0..value_len).map(|i: u32| i.wrapping_mul(0x9E37_79B9)).collect();
            let mut dst = vec![3u32; dst_len as usize];
            let mut want = dst.clone();
            for i in 0..(index_len.min(value_len) as usize).min(n as usize) {
                if index[i] < dst_len {
                    want[index[i] as usize] = want[index[i] as usize].wrapping_add(value[i]);
                }
            }
            Call::new().read(&index).read(&value).update(&mut dst).line(n).run(&SCATTER_ADD);
            assert_eq!(dst, want, "n = {n}");
        }
    }
}
