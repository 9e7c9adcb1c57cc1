//! Filling with one value, and the smallest kernel that needs all its arguments. Source: `shaders/fill.slang`.

use bytemuck::Pod;
use rayon::prelude::*;

use super::{GRAIN, LINE, source};
use hmmap_core::{
    kernel::{Arguments, Kernel, Source, Twin},
    vec::{Update, Write},
};

/// `out[i] = value` for the items of the grid; what `out` has beyond them becomes zero.
///
/// For element types of four bytes; another size does not compile.
#[derive(Debug)]
pub struct Fill<'a, T> {
    /// What is filled.
    pub out: Write<'a, T>,
    /// With what.
    pub value: T,
}

static FILL: Source = source!("fill_u32" in "fill", LINE, fill);

// SAFETY: (1) the code compares i with out_len before `out[i]`, in units of 4 bytes, which is the size of T; (2) it reads no
// array and its loop runs over all of out, whatever n is; (3) T is Pod, and item i is one invocation's; (4) FillArgs is out,
// grid, value as u32.
unsafe impl<T: Pod> Kernel for Fill<'_, T> {
    fn source() -> &'static Source {
        &FILL
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        const { assert!(size_of::<T>() == 4, "Fill is for elements of four bytes") };
        arguments.write(&self.out).grid().u32(bytemuck::cast(self.value));
    }
}

fn fill(launch: &Twin<'_>) {
    let out = launch.write::<u32>(0);
    let (items, rest) = out.split_at_mut(launch.n().min(out.len()));
    let value = launch.u32(0);
    items.par_chunks_mut(GRAIN).for_each(|items| items.fill(value));
    rest.par_chunks_mut(GRAIN).for_each(|rest| rest.fill(0));
}

/// Adds one to element `index` of each of four arrays that has it: the least work that needs four arrays in place.
/// One invocation does it all, whatever the grid is.
#[derive(Debug)]
pub struct Touch<'a> {
    /// First array.
    pub a: Update<'a, u32>,
    /// Second array.
    pub b: Update<'a, u32>,
    /// Third array.
    pub c: Update<'a, u32>,
    /// Fourth array.
    pub d: Update<'a, u32>,
    /// Which element.
    pub index: u64,
}

static TOUCH: Source = source!("touch" in "fill", LINE, touch);

// SAFETY: (1) `increment` compares the index with the array's length before it touches the element, and nothing else touches
// memory; (2) all four are Updates; (3) any bits are a u32, and only invocation 0 stores; (4) TouchArgs is a, b, c, d,
// grid, index.
unsafe impl Kernel for Touch<'_> {
    fn source() -> &'static Source {
        &TOUCH
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.update(&self.a).update(&self.b).update(&self.c).update(&self.d);
        arguments.grid().u64(self.index);
    }
}

fn touch(launch: &Twin<'_>) {
    for array in 0..4 {
        let index = usize::try_from(launch.u64(0)).ok();
        if let Some(element) = index.and_then(|index| launch.write::<u32>(array).get_mut(index)) {
            *element = element.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::harness::Call;

    #[test]
    fn fill_writes_every_element() {
        for (n, len) in [(0, 3), (2, 3), (3, 3), (1 << 40, 50_000), (20_000, 50_000), (5, 0)] {
            let mut out = vec![0u32; len];
            Call::new().write(&mut out).line(n).u32(7).run(&FILL);
            let want: Vec<u32> = (0..len).map(|i| if (i as u64) < n { 7 } else { 0 }).collect();
            assert_eq!(out, want, "n = {n}");
        }
    }

    #[test]
    fn touch_skips_arrays_that_are_too_short() {
        let (mut a, mut b, mut c, mut d) = ([1u32; 4], [u32::MAX; 3], [5u32; 2], [0u32; 0]);
        for index in [2, u64::MAX] {
            let call = Call::new().update(&mut a).update(&mut b).update(&mut c).update(&mut d);
            call.line(1).u64(index).run(&TOUCH);
        }
        assert_eq!((a, b, c), ([1, 1, 2, 1], [u32::MAX, u32::MAX, 0], [5, 5]));
    }
}
