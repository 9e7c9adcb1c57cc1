//! Every shipped kernel on the device against its Rust twin on the host: bit by bit, for grids that are too small and too large, arrays of
//! different lengths, and indices that point anywhere.

use std::sync::Arc;

use hmmap::kernels::{
    Blur3, Fill, Gather, Histogram, KmeansAssign, KmeansPartials, KmeansUpdate, Mandelbrot, Matmul,
    NbodyAccelerate, NbodyMove, PartialDots, PartialSums, RadixCount, RadixScatter,
    RadixScatterPairs, SCAN_BLOCK, Saxpy, ScanAdd, ScanBlocks, ScatterAdd, SpmvCsr, Stencil5,
    StreamAdd, StreamCopy, StreamScale, StreamTriad, Touch, Xpby, dot, inclusive_scan, sort,
    sort_pairs, sum,
};
use hmmap_core::{
    Error, MemoryModel, Options, Runtime, SharedVec,
    embedded::{EmbeddedOptions, EmbeddedProvider},
};

use super::Verdict;
use crate::{
    case::{Case, Context, ensure},
    rig::PAGE,
};

const GROUP: &str = "kernels";

pub(super) const CASES: &[Case] = &[
    Case::new(GROUP, "fill_and_touch", "fill, and the kernel that touches four arrays", &[], fills),
    Case::new(GROUP, "saxpy_and_xpby", "scaled sums", &[], saxpys),
    Case::new(GROUP, "stream", "STREAM's four", &[], streams),
    Case::new(GROUP, "reductions", "sums and dot products, in their fixed order", &[], reductions),
    Case::new(GROUP, "scan", "inclusive scan, in blocks and of any length", &[], scans),
    Case::new(GROUP, "sort", "digit by digit, alone and in pairs, of any length", &[], sorts),
    Case::new(GROUP, "histogram", "counts, with values that have no bin", &[], histograms),
    Case::new(GROUP, "gather_and_scatter", "indices that point anywhere", &[], gathers),
    Case::new(GROUP, "stencils", "five points and three by three", &[], stencils),
    Case::new(GROUP, "matmul", "products of matrices that do not fit each other", &[], matmuls),
    Case::new(
        GROUP,
        "spmv",
        "sparse matrices with rows and columns that are not there",
        &[],
        spmvs,
    ),
    Case::new(GROUP, "kmeans", "rounds of k-means, the points in uneven slices", &[], clusters),
    Case::new(GROUP, "nbody", "steps of bodies that pull at each other", &[], bodies),
    Case::new(GROUP, "mandelbrot", "pictures, pixel by pixel", &[], mandelbrots),
];

/// What a program leaves in its vectors, as bits.
type Bits = Vec<Vec<u32>>;

/// Runs a program on the device under test and on the host, and compares what it leaves.
fn agree(
    cx: &Context<'_>,
    what: &str,
    program: impl Fn(&Runtime) -> Result<Bits, Error>,
) -> Verdict {
    let rig = cx.rig()?;
    let twin = Arc::new(EmbeddedProvider::new(EmbeddedOptions::default()));
    let options = Options { memory_model: MemoryModel::Unified, ..Options::default() };
    let by_twin = program(&Runtime::new(vec![twin], options)?)?;
    let by_device = program(&rig.runtime)?;
    ensure!(by_device.len() == by_twin.len(), "{what}: {} vectors", by_device.len());
    for (vector, (got, want)) in by_device.iter().zip(&by_twin).enumerate() {
        ensure!(got.len() == want.len(), "{what}: vector {vector} has {} elements", got.len());
        let differs = got.iter().zip(want).position(|(got, want)| got != want);
        if let Some(at) = differs {
            let (got, want) = (got[at], want[at]);
            let (as_got, as_want) = (f32::from_bits(got), f32::from_bits(want));
            ensure!(
                false,
                "{what}: element {at} of vector {vector} is {got:#x} ({as_got}), the twin has \
                 {want:#x} ({as_want})"
            );
        }
    }
    Ok(())
}

/// Numbers that are no integers and of both signs.
fn floats(mem: &Runtime, len: usize, scale: f32) -> Result<SharedVec<f32>, Error> {
    SharedVec::from_fn(mem, len, |i| ((i * 7919) % 1013) as f32 * scale - 180.0)
}

/// Numbers below `below`, and one in `bad` of them anywhere.
fn indices(mem: &Runtime, len: usize, below: usize, bad: usize) -> Result<SharedVec<u32>, Error> {
    let wild = [u32::MAX, u32::MAX - 1, 1 << 31, below as u32, below as u32 + 1, 0x4000_0000];
    SharedVec::from_fn(mem, len, |i| match i % bad {
        0 => wild[i / bad % wild.len()],
        _ => ((i * 2_654_435_761) % below.max(1)) as u32,
    })
}

fn bits<T: bytemuck::Pod>(vec: &SharedVec<T>) -> Result<Vec<u32>, Error> {
    Ok(bytemuck::cast_slice(vec.host(..)?).to_vec())
}

/// Launches over a line of each of these lengths, one behind the other.
const LINES: [usize; 6] = [1, 255, 3 * PAGE + 7, PAGE, 70_001, 1 << 40];

fn fills(cx: &Context<'_>) -> Verdict {
    for n in LINES {
        agree(cx, &format!("fill, n = {n}"), |mem| {
            let mut out = floats(mem, 3 * PAGE + 7, 0.5)?;
            mem.launch(n, Fill { out: out.write(), value: 0.1 })?;
            mem.launch(n, Fill { out: out.write().range(5..PAGE + 9), value: -0.0 })?;
            Ok(vec![bits(&out)?])
        })?;
    }
    for index in [0, 9, PAGE as u64, u64::MAX, 1 << 32] {
        agree(cx, &format!("touch {index}"), |mem| {
            let mut four = [1, 10, PAGE + 1, 0].map(|len| SharedVec::<u32>::new(mem, len));
            let [Ok(a), Ok(b), Ok(c), Ok(d)] = &mut four else { return Ok(Vec::new()) };
            let kernel =
                Touch { a: a.update(), b: b.update(), c: c.update(), d: d.update(), index };
            mem.launch(7, kernel)?;
            Ok(vec![bits(a)?, bits(b)?, bits(c)?, bits(d)?])
        })?;
    }
    Ok(())
}

fn saxpys(cx: &Context<'_>) -> Verdict {
    for n in LINES {
        for (x_len, y_len) in [(70_001, 70_001), (70_001, 9), (5, 70_001), (0, 3), (3, 0)] {
            agree(cx, &format!("saxpy, n = {n}, {x_len} and {y_len}"), |mem| {
                let (x, mut y) = (floats(mem, x_len, 0.37)?, floats(mem, y_len, 1.3)?);
                mem.launch(n, Saxpy { a: 0.3, x: x.read(), y: y.update() })?;
                mem.launch(n, Xpby { b: -1.7, x: x.read(), y: y.update() })?;
                Ok(vec![bits(&x)?, bits(&y)?])
            })?;
        }
    }
    Ok(())
}

fn streams(cx: &Context<'_>) -> Verdict {
    for n in LINES {
        for (a_len, b_len, c_len) in [(70_001, 60_000, 80_000), (9, 70_001, 9), (0, 0, 7)] {
            agree(cx, &format!("stream, n = {n}, {a_len}, {b_len}, {c_len}"), |mem| {
                let mut a = floats(mem, a_len, 0.3)?;
                let mut b = floats(mem, b_len, 0.7)?;
                let mut c = floats(mem, c_len, 0.9)?;
                mem.launch(n, StreamCopy { a: a.read(), c: c.write() })?;
                mem.launch(n, StreamScale { c: c.read(), b: b.write(), scalar: 3.1 })?;
                mem.launch(n, StreamAdd { a: a.read(), b: b.read(), c: c.write() })?;
                mem.launch(n, StreamTriad { b: b.read(), c: c.read(), a: a.write(), scalar: 0.1 })?;
                Ok(vec![bits(&a)?, bits(&b)?, bits(&c)?])
            })?;
        }
    }
    Ok(())
}

fn reductions(cx: &Context<'_>) -> Verdict {
    // A group costs tens of microseconds on a software driver even when it has nothing to do.
    for n in [1, 255, 70_001, cx.scaled(500_000, 1 << 40)] {
        for (len, slices) in [(70_001, 1), (70_001, 1000), (255, 3), (0, 2), (9, 0)] {
            agree(cx, &format!("sum and dot, n = {n}, {len} in {slices}"), |mem| {
                let (x, y) = (floats(mem, len, 0.37)?, floats(mem, len + 3, 0.11)?);
                let mut sums = floats(mem, slices, 1.0)?;
                let mut dots = floats(mem, slices, 1.0)?;
                mem.launch(n, PartialSums { x: x.read(), partials: sums.write() })?;
                let kernel = PartialDots { x: x.read(), y: y.read(), partials: dots.write() };
                mem.launch(n, kernel)?;
                Ok(vec![bits(&sums)?, bits(&dots)?])
            })?;
        }
    }
    for len in [0, 1, 1000, cx.scaled(300_000, 5_000_000)] {
        agree(cx, &format!("sum and dot of {len}"), |mem| {
            let (x, y) = (floats(mem, len, 0.37)?, floats(mem, len, 0.11)?);
            Ok(vec![vec![sum(mem, &x)?.to_bits(), dot(mem, &x, &y)?.to_bits()]])
        })?;
    }
    Ok(())
}

fn scans(cx: &Context<'_>) -> Verdict {
    let large = cx.scaled(500_000, 1 << 40);
    for (n, len, sums) in [(1, 9, 1), (70_001, 70_001, 100), (large, 70_001, 3), (5000, 0, 2)] {
        agree(cx, &format!("scan of blocks, n = {n}, {len} with {sums} sums"), |mem| {
            let x = indices(mem, len, 1000, 7)?;
            let mut out = indices(mem, len + 5, 10, 3)?;
            let mut block_sums = indices(mem, sums, 10, 3)?;
            let (x, block_out) = (x.read(), block_sums.write());
            mem.launch(n, ScanBlocks { x, out: out.write(), block_sums: block_out })?;
            mem.launch(n, ScanAdd { out: out.update(), block_sums: block_sums.read() })?;
            Ok(vec![bits(&out)?, bits(&block_sums)?])
        })?;
    }
    let block = SCAN_BLOCK;
    for len in [1, block - 1, block, block + 1, cx.scaled(300_000, 3_000_000)] {
        agree(cx, &format!("scan of {len}"), |mem| {
            let x = indices(mem, len, 1000, 7)?;
            let mut out = SharedVec::<u32>::new(mem, len + 3)?;
            inclusive_scan(mem, &x, &mut out)?;
            Ok(vec![bits(&out)?])
        })?;
    }
    Ok(())
}

fn sorts(cx: &Context<'_>) -> Verdict {
    for (n, len, shift) in [(1, 9, 0), (70_001, 70_001, 28), (1 << 40, 3000, 3), (2500, 3000, 40)] {
        agree(cx, &format!("one pass, n = {n}, {len} keys from bit {shift}"), |mem| {
            let keys = indices(mem, len, 1 << 30, 7)?;
            let values = indices(mem, len / 2, 1 << 20, 2)?;
            let mut counts = indices(mem, len / 64 + 40, 9, 3)?;
            mem.launch(n, RadixCount { keys: keys.read(), counts: counts.write(), shift })?;
            // Runs that do not overlap, of which one in seven is not to be had.
            let ends = SharedVec::from_fn(mem, len / 70, |i| match i % 7 {
                3 => u32::MAX,
                _ => (i as u32 + 1) * 1024,
            })?;
            let [mut alone, mut out] = [indices(mem, len, 9, 3)?, indices(mem, len + 99, 9, 3)?];
            let mut beside = indices(mem, len / 3, 9, 3)?;
            let out_alone = alone.update();
            let kernel =
                RadixScatter { keys: keys.read(), ends: ends.read(), out: out_alone, shift };
            mem.launch(n, kernel)?;
            let (keys_out, values_out) = (out.update(), beside.update());
            let (keys, values, ends) = (keys.read(), values.read(), ends.read());
            let kernel = RadixScatterPairs { keys, values, ends, keys_out, values_out, shift };
            mem.launch(n, kernel)?;
            Ok(vec![bits(&counts)?, bits(&alone)?, bits(&out)?, bits(&beside)?])
        })?;
    }
    for len in [0, 1, 2, SCAN_BLOCK, SCAN_BLOCK + 1, cx.scaled(100_000, 3_000_000)] {
        agree(cx, &format!("sort of {len}"), |mem| {
            let mut alone = indices(mem, len, 1 << 30, 7)?;
            let (mut keys, mut values) = (indices(mem, len, 999, 7)?, indices(mem, len, len, 2)?);
            sort(mem, &mut alone)?;
            sort_pairs(mem, &mut keys, &mut values)?;
            Ok(vec![bits(&alone)?, bits(&keys)?, bits(&values)?])
        })?;
    }
    Ok(())
}

fn histograms(cx: &Context<'_>) -> Verdict {
    for n in LINES {
        for (len, bins) in [(70_001, 256), (70_001, 3), (9, 1), (9, 0), (0, 9)] {
            agree(cx, &format!("histogram, n = {n}, {len} into {bins}"), |mem| {
                let data = indices(mem, len, bins + 2, 5)?;
                let mut counts = indices(mem, bins, 10, 3)?;
                mem.launch(n, Histogram { data: data.read(), bins: counts.update() })?;
                Ok(vec![bits(&counts)?])
            })?;
        }
    }
    Ok(())
}

fn gathers(cx: &Context<'_>) -> Verdict {
    for n in LINES {
        for (len, count) in [(70_001, 90_000), (3, 1000), (0, 9), (9, 0)] {
            agree(cx, &format!("gather, n = {n}, {count} of {len}"), |mem| {
                let index = indices(mem, count, len, 3)?;
                let values = floats(mem, len, 0.1)?;
                let mut out = floats(mem, count + 2, 1.0)?;
                mem.launch(
                    n,
                    Gather { src: values.read(), index: index.read(), out: out.write() },
                )?;
                let numbers = indices(mem, len, 1 << 30, 2)?;
                let mut taken = indices(mem, count.saturating_sub(1), 9, 2)?;
                mem.launch(
                    n,
                    Gather { src: numbers.read(), index: index.read(), out: taken.write() },
                )?;
                let added = indices(mem, count / 2 + 1, 1 << 20, 2)?;
                let mut dst = indices(mem, len, 5, 2)?;
                let kernel =
                    ScatterAdd { index: index.read(), value: added.read(), dst: dst.update() };
                mem.launch(n, kernel)?;
                Ok(vec![bits(&out)?, bits(&taken)?, bits(&dst)?])
            })?;
        }
    }
    Ok(())
}

/// Columns and rows of planes.
const PLANES: [(usize, usize); 5] = [(1, 1), (17, 33), (300, 200), (1, 5000), (4000, 2)];

fn stencils(cx: &Context<'_>) -> Verdict {
    for (nx, ny) in PLANES {
        for (src_len, dst_len) in [(nx * ny, nx * ny), (nx * ny / 2, nx * ny + 9), (nx, nx / 2)] {
            agree(cx, &format!("stencils, {nx} by {ny}, {src_len} to {dst_len}"), |mem| {
                let src = floats(mem, src_len, 0.21)?;
                let mut five = floats(mem, dst_len, 1.0)?;
                let mut nine = floats(mem, dst_len, 1.0)?;
                let kernel =
                    Stencil5 { src: src.read(), dst: five.write(), centre: 0.6, side: 0.1 };
                mem.launch((nx, ny), kernel)?;
                mem.launch((nx, ny), Blur3 { src: src.read(), dst: nine.write() })?;
                Ok(vec![bits(&five)?, bits(&nine)?])
            })?;
        }
    }
    Ok(())
}

fn matmuls(cx: &Context<'_>) -> Verdict {
    for (nx, ny, k) in [(1, 1, 1), (33, 17, 65), (64, 64, 64), (5, 100, 0), (16, 16, u64::MAX)] {
        for short in [0, 7] {
            agree(cx, &format!("matmul, {nx} by {ny} over {k}, {short} short"), |mem| {
                let inner = k.min(1000) as usize;
                let a = floats(mem, (ny * inner).saturating_sub(short), 0.13)?;
                let b = floats(mem, (inner * nx).saturating_sub(short), 0.29)?;
                let mut c = floats(mem, nx * ny + 3, 1.0)?;
                mem.launch((nx, ny), Matmul { a: a.read(), b: b.read(), c: c.write(), k })?;
                Ok(vec![bits(&c)?])
            })?;
        }
    }
    Ok(())
}

fn spmvs(cx: &Context<'_>) -> Verdict {
    for n in [1, 1000, 5000, 1 << 40] {
        for wild in [usize::MAX, 11] {
            agree(cx, &format!("spmv, n = {n}, one in {wild} wild"), |mem| {
                let rows = 1000;
                let row_ptr = SharedVec::from_fn(mem, rows + 1, |row| match row % wild {
                    5 => u32::MAX - 3,
                    7 => (row * 3) as u32,
                    _ => (row * 5) as u32,
                })?;
                let entries = rows * 5 - 9;
                let col_idx = indices(mem, entries, rows, wild)?;
                let values = floats(mem, entries + 4, 0.17)?;
                let x = floats(mem, rows - 50, 0.31)?;
                let mut y = floats(mem, rows + 20, 1.0)?;
                let kernel = SpmvCsr {
                    row_ptr: row_ptr.read(),
                    col_idx: col_idx.read(),
                    values: values.read(),
                    x: x.read(),
                    y: y.write(),
                };
                mem.launch(n, kernel)?;
                Ok(vec![bits(&y)?])
            })?;
        }
    }
    Ok(())
}

fn clusters(cx: &Context<'_>) -> Verdict {
    for (count, short, dims) in [(1, 0, 1), (1000, 3, 3), (cx.scaled(4000, 200_000), 0, 8)] {
        agree(cx, &format!("k-means of {count} points in {dims} dimensions"), |mem| {
            let (clusters, per_slice) = (5u32, 300u64);
            let (dim, slices) = (dims as usize, count.div_ceil(300) + 1);
            let points = floats(mem, (count * dim).saturating_sub(short), 0.37)?;
            let mut centroids = floats(mem, 5 * dim, 0.29)?;
            let mut labels = indices(mem, count + 2, 9, 3)?;
            let mut sums = floats(mem, slices * 5 * dim, 1.0)?;
            let mut counts = floats(mem, slices * 5, 1.0)?;
            for _ in 0..3 {
                let (p, c, l) = (points.read(), centroids.read(), labels.write());
                mem.launch(count, KmeansAssign { points: p, centroids: c, labels: l, dims })?;
                let kernel = KmeansPartials {
                    points: points.read(),
                    labels: labels.read(),
                    sums: sums.write(),
                    counts: counts.write(),
                    per_slice,
                    clusters,
                    dims,
                };
                mem.launch(count, kernel)?;
                let (s, n, c) = (sums.read(), counts.read(), centroids.update());
                let kernel = KmeansUpdate { sums: s, counts: n, centroids: c, clusters, dims };
                mem.launch(5 * dim, kernel)?;
            }
            Ok(vec![bits(&labels)?, bits(&sums)?, bits(&counts)?, bits(&centroids)?])
        })?;
    }
    Ok(())
}

fn bodies(cx: &Context<'_>) -> Verdict {
    for (n, count) in [(1, 1), (700, 257), (1500, cx.scaled(600, 5000))] {
        agree(cx, &format!("{count} bodies, n = {n}"), |mem| {
            let mut bodies = floats(mem, count * 4 + 3, 0.37)?;
            let mut velocity = floats(mem, count * 3, 0.01)?;
            for _ in 0..2 {
                let mut pull = SharedVec::<f32>::new(mem, count * 3 + 1)?;
                let (all, sources, acceleration) = (bodies.read(), bodies.read(), pull.update());
                let softening = 0.01;
                let kernel = NbodyAccelerate { bodies: all, sources, acceleration, softening };
                mem.launch(n, kernel)?;
                let (acceleration, v) = (pull.read(), velocity.update());
                let kernel =
                    NbodyMove { acceleration, velocity: v, bodies: bodies.update(), dt: 0.01 };
                mem.launch(n, kernel)?;
            }
            Ok(vec![bits(&bodies)?, bits(&velocity)?])
        })?;
    }
    Ok(())
}

fn mandelbrots(cx: &Context<'_>) -> Verdict {
    for (nx, ny) in [(1, 1), (200, 150), (40, 90)] {
        for extra in [0, 9] {
            agree(cx, &format!("mandelbrot, {nx} by {ny}"), |mem| {
                let mut out = indices(mem, nx * ny + extra, 9, 2)?;
                let kernel = Mandelbrot {
                    out: out.write().range(extra / 2..),
                    x0: -2.1,
                    y0: -1.2,
                    dx: 2.8 / nx as f32,
                    dy: 2.4 / ny as f32,
                    max_iter: 200,
                };
                mem.launch((nx, ny), kernel)?;
                Ok(vec![bits(&out)?])
            })?;
        }
    }
    Ok(())
}

/// Every kernel that ships is launched above: what is not imported there would not be tested.
#[cfg(test)]
mod tests {
    #[test]
    fn every_shipped_kernel_is_named_here() {
        let shipped = include_str!("../../../../src/kernels/mod.rs");
        let here = include_str!("kernels.rs");
        let names = shipped.lines().filter_map(|line| line.trim().strip_prefix("pub use "));
        let text: String = names.collect::<Vec<_>>().join(" ");
        let words = text.split(|c: char| !c.is_alphanumeric());
        let kernels: Vec<_> =
            words.filter(|word| word.starts_with(char::is_uppercase) && word.len() > 1).collect();
        assert!(kernels.len() > 15, "{kernels:?}");
        for kernel in kernels {
            let launched = here.contains(&format!("{kernel} {{"));
            let not_a_kernel = ["GatherElement", "SCAN", "BLOCK"].contains(&kernel);
            assert!(launched || not_a_kernel, "{kernel} is not tested here");
        }
    }
}
