//! The kernels that come with hmmap.
//!
//! One file per family. A kernel is a struct: its fields are the arrays, by what is done with them, and the scalars. Its code
//! is here three times: SPIR-V and PTX, compiled from the one Slang source in `shaders/`, and a Rust **twin**, which the embedded
//! CPU device runs and the tests compare the other two with.
//!
//! ```text
//! mem.launch(n, Saxpy { x: x.read(), y: y.update(), a: 2.0 })?;
//! ```
//!
//! | family | kernels | grid |
//! |---|---|---|
//! | [`fill`](Fill) | [`Fill`], [`Touch`] | line |
//! | [`saxpy`](Saxpy) | [`Saxpy`], [`Xpby`] | line |
//! | [`stream`](StreamCopy) | [`StreamCopy`], [`StreamScale`], [`StreamAdd`], [`StreamTriad`] | line |
//! | [`reduce`](PartialSums) | [`PartialSums`], [`PartialDots`] | line |
//! | [`scan`](ScanBlocks) | [`ScanBlocks`], [`ScanAdd`] | line |
//! | [`histogram`](Histogram) | [`Histogram`] | line |
//! | [`gather`](Gather) | [`Gather`], [`ScatterAdd`] | line |
//! | [`radix`](RadixCount) | [`RadixCount`], [`RadixScatter`], [`RadixScatterPairs`] | line |
//! | [`spmv`](SpmvCsr) | [`SpmvCsr`] | line |
//! | [`stencil`](Stencil5) | [`Stencil5`], [`Blur3`] | plane |
//! | [`matmul`](Matmul) | [`Matmul`] | plane |
//! | [`kmeans`](KmeansAssign) | [`KmeansAssign`], [`KmeansPartials`], [`KmeansUpdate`] | line |
//! | [`nbody`](NbodyAccelerate) | [`NbodyAccelerate`], [`NbodyMove`] | line |
//! | [`mandelbrot`](Mandelbrot) | [`Mandelbrot`] | plane |
//!
//! Where one launch is not the whole operation, a function does it: [`sum`], [`dot`], [`inclusive_scan`], [`sort`],
//! [`sort_pairs`].
//!
//! **What can be run in tiles.** Where an item of the grid uses its own elements alone, the arguments can say so
//! ([`split`](crate::core::vec::Read::split)), and the kernel then runs on data larger than the device:
//!
//! | kernel | elements for each item |
//! |---|---|
//! | [`Saxpy`], [`Xpby`], `Stream*`, [`Fill`] | 1 of each array |
//! | [`Matmul`] | `k` of `a`, `nx` of `c`; `b` as a whole |
//! | [`KmeansAssign`] | `dims` of `points`, 1 of `labels`; `centroids` as a whole |
//! | [`NbodyAccelerate`] | 4 of `bodies`, 3 of `acceleration`; `sources` as a whole, or part by part, one launch after another |
//! | [`NbodyMove`] | 4 of `bodies`, 3 of `velocity` and `acceleration` |
//! | [`Gather`] | 1 of `index` and `out`; `src` as a whole |
//! | [`ScatterAdd`], [`Histogram`] | 1 of each input; `dst` or `bins` as a whole |
//!
//! Not the others: a row of [`SpmvCsr`] has as many entries as it likes, a pixel of [`Stencil5`] has neighbours in the rows beside it, and the blocks of a sum, a
//! scan or a sort are counted by their number in the whole. Those go in parts by hand ([`range`](crate::core::vec::Read::range)), or through the host window.
//!
//! **Rules that all of them keep**, so that launching one is safe whatever the caller says:
//!
//! - Every index is compared with the length of its array before it is used, those that come out of an array too.
//!   A grid larger than the arrays does no more than one that fits. Indices are 64 bits wide.
//! - An array bound as `Write` is written from its first to its last element, with zeros where there is nothing to compute.
//!   (A grid without any items is no launch, and leaves every array as it is.)
//! - The result depends on the arguments and the grid's items, never on how many invocations share them. A sum of floats
//!   has one order, written at its kernel; products are rounded before they are added. So a twin and a device agree bit for
//!   bit, but for the payload of a NaN and for devices that flush subnormal numbers to zero.
//!
//! **A driver that breaks them.** The software driver of Mesa 22.3 (Debian 12 without backports) ends all loops of an invocation
//! after 65,535 turns in all and says nothing. What needs more there is wrong: a matrix row or an inner dimension of about
//! so many elements, a Mandelbrot limit above it. Mesa 25 does not. Opening a device tries it, warns, and `hmmap info` shows it
//! ([`long_loops`](crate::core::backend::Capabilities::long_loops)).

mod fill;
mod gather;
#[cfg(test)]
mod harness;
mod histogram;
mod kmeans;
mod mandelbrot;
mod matmul;
mod nbody;
mod plane;
mod radix;
mod reduce;
mod saxpy;
mod scan;
mod spmv;
mod stencil;
mod stream;

pub use fill::{Fill, Touch};
pub use gather::{Gather, GatherElement, ScatterAdd};
pub use histogram::Histogram;
pub use kmeans::{KmeansAssign, KmeansPartials, KmeansUpdate};
pub use mandelbrot::Mandelbrot;
pub use matmul::Matmul;
pub use nbody::{NbodyAccelerate, NbodyMove};
pub use radix::{RadixCount, RadixScatter, RadixScatterPairs, sort, sort_pairs};
pub use reduce::{PartialDots, PartialSums, dot, sum};
pub use saxpy::{Saxpy, Xpby};
pub use scan::{SCAN_BLOCK, ScanAdd, ScanBlocks, inclusive_scan};
pub use spmv::SpmvCsr;
pub use stencil::{Blur3, Stencil5};
pub use stream::{StreamAdd, StreamCopy, StreamScale, StreamTriad};

/// Invocations in a workgroup of every kernel on a line.
const LINE: [u32; 3] = [256, 1, 1];
/// Invocations in a workgroup of every kernel on a plane.
const PLANE: [u32; 3] = [16, 16, 1];

/// Elements that one task of a twin takes: enough to hide what a task costs, few enough to share.
const GRAIN: usize = 16 * 1024;

/// The [`Source`](hmmap_core::kernel::Source) of a kernel: its name, the family's file, the workgroup, the twin.
macro_rules! source {
    ($name:literal in $family:literal, $workgroup:expr, $twin:expr) => {
        hmmap_core::kernel::Source {
            name: $name,
            spirv: include_bytes!(concat!("../../shaders/out/", $name, ".spv")),
            ptx: include_str!(concat!("../../shaders/out/", $family, ".ptx")),
            workgroup: $workgroup,
            twin: Some($twin),
        }
    };
}
use source;
