//! One launch of each shipped kernel, over arrays, grids and indices that a seed decides.
//!
//! No invocation loops more than 65,535 times in all: the software driver of Mesa 22.3 ends loops there, silently.

use hmmap::{
    DeviceId, Error, Grid, Kernel, Runtime, SharedVec,
    kernels::{
        Blur3, Fill, Gather, Histogram, KmeansAssign, KmeansPartials, KmeansUpdate, Mandelbrot,
        Matmul, NbodyAccelerate, NbodyMove, PartialDots, PartialSums, RadixCount, RadixScatter,
        RadixScatterPairs, Saxpy, ScanAdd, ScanBlocks, ScatterAdd, SpmvCsr, Stencil5, StreamAdd,
        StreamCopy, StreamScale, StreamTriad, Touch, Xpby,
    },
};

/// Where and with what a kernel is launched. Two rounds of one seed differ in the device alone.
pub(crate) struct Round<'a> {
    mem: &'a Runtime,
    device: DeviceId,
    state: u64,
    indices: Indices,
}

/// What kernels are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Indices {
    /// Numbers of which many are good indices.
    Likely,
    /// One third of all numbers is the largest there is or lies just past what is likely, and planes are wide.
    Hostile,
}

impl Indices {
    #[allow(dead_code, reason = "some who include this module are content with one kind")]
    pub(crate) const ALL: [Self; 2] = [Self::Likely, Self::Hostile];
}

type Outcome = Result<Vec<u32>, Error>;

/// A kernel's name, and its round, which gives the bits of all that it may write.
type Case = (&'static str, fn(&mut Round<'_>) -> Outcome);

pub(crate) const CASES: [Case; 29] = [
    ("fill_u32", |r| {
        let (mut out, value) = (r.bits(1 << 30)?, r.below(1 << 30) as u32);
        r.line(Fill { out: out.write(), value })?;
        all(&out)
    }),
    ("touch", |r| {
        let [mut a, mut b, mut c, mut d] = [r.bits(9)?, r.bits(9)?, r.bits(9)?, r.bits(9)?];
        let index = r.below(1200);
        r.line(Touch { a: a.update(), b: b.update(), c: c.update(), d: d.update(), index })?;
        Ok([all(&a)?, all(&b)?, all(&c)?, all(&d)?].concat())
    }),
    ("saxpy", |r| {
        let (x, mut y, a) = (r.floats()?, r.floats()?, r.float());
        r.line(Saxpy { x: x.read(), y: y.update(), a })?;
        all(&y)
    }),
    ("xpby", |r| {
        let (x, mut y, b) = (r.floats()?, r.floats()?, r.float());
        r.line(Xpby { x: x.read(), y: y.update(), b })?;
        all(&y)
    }),
    ("stream_copy", |r| {
        let (a, mut c) = (r.floats()?, r.floats()?);
        r.line(StreamCopy { a: a.read(), c: c.write() })?;
        all(&c)
    }),
    ("stream_scale", |r| {
        let (c, mut b, scalar) = (r.floats()?, r.floats()?, r.float());
        r.line(StreamScale { c: c.read(), b: b.write(), scalar })?;
        all(&b)
    }),
    ("stream_add", |r| {
        let (a, b, mut c) = (r.floats()?, r.floats()?, r.floats()?);
        r.line(StreamAdd { a: a.read(), b: b.read(), c: c.write() })?;
        all(&c)
    }),
    ("stream_triad", |r| {
        let (b, c, mut a, scalar) = (r.floats()?, r.floats()?, r.floats()?, r.float());
        r.line(StreamTriad { b: b.read(), c: c.read(), a: a.write(), scalar })?;
        all(&a)
    }),
    ("sum_f32", |r| {
        let (x, mut partials) = (r.floats()?, r.few(|r| r.float())?);
        r.line(PartialSums { x: x.read(), partials: partials.write() })?;
        all(&partials)
    }),
    ("dot_f32", |r| {
        let (x, y, mut partials) = (r.floats()?, r.floats()?, r.few(|r| r.float())?);
        r.line(PartialDots { x: x.read(), y: y.read(), partials: partials.write() })?;
        all(&partials)
    }),
    ("scan_blocks_u32", |r| {
        let (x, mut out, mut block_sums) = (r.bits(u32::MAX)?, r.bits(9)?, r.few(|_| 9u32)?);
        let (x, to, sums) = (x.read(), out.write(), block_sums.write());
        r.line(ScanBlocks { x, out: to, block_sums: sums })?;
        Ok([all(&out)?, all(&block_sums)?].concat())
    }),
    ("scan_add_u32", |r| {
        let (mut out, block_sums) = (r.bits(u32::MAX)?, r.bits(u32::MAX)?);
        r.line(ScanAdd { out: out.update(), block_sums: block_sums.read() })?;
        all(&out)
    }),
    ("radix_count_u32", |r| {
        let (keys, mut counts, shift) = (r.bits(u32::MAX)?, r.bits(9)?, r.below(40) as u32);
        r.line(RadixCount { keys: keys.read(), counts: counts.write(), shift })?;
        all(&counts)
    }),
    ("radix_scatter_u32", |r| {
        let (keys, ends, shift) = (r.bits(u32::MAX)?, r.places()?, r.below(40) as u32);
        let mut out = r.bits(9)?;
        r.line(RadixScatter { keys: keys.read(), ends: ends.read(), out: out.update(), shift })?;
        all(&out)
    }),
    ("radix_scatter_pairs_u32", |r| {
        let (keys, values, ends) = (r.bits(u32::MAX)?, r.bits(u32::MAX)?, r.places()?);
        let (mut keys_out, mut values_out, shift) = (r.bits(9)?, r.bits(9)?, r.below(40) as u32);
        r.line(RadixScatterPairs {
            keys: keys.read(),
            values: values.read(),
            ends: ends.read(),
            keys_out: keys_out.update(),
            values_out: values_out.update(),
            shift,
        })?;
        Ok([all(&keys_out)?, all(&values_out)?].concat())
    }),
    ("histogram_u32", |r| {
        let (data, mut bins) = (r.bits(1500)?, r.bits(u32::MAX)?);
        r.line(Histogram { data: data.read(), bins: bins.update() })?;
        all(&bins)
    }),
    ("gather_f32", |r| {
        let (src, index, mut out) = (r.floats()?, r.bits(6000)?, r.floats()?);
        r.line(Gather { src: src.read(), index: index.read(), out: out.write() })?;
        all(&out)
    }),
    ("gather_u32", |r| {
        let (src, index, mut out) = (r.bits(u32::MAX)?, r.bits(u32::MAX)?, r.bits(9)?);
        r.line(Gather { src: src.read(), index: index.read(), out: out.write() })?;
        all(&out)
    }),
    ("scatter_add_u32", |r| {
        let (index, value, mut dst) = (r.bits(6000)?, r.bits(u32::MAX)?, r.bits(u32::MAX)?);
        r.line(ScatterAdd { index: index.read(), value: value.read(), dst: dst.update() })?;
        all(&dst)
    }),
    ("spmv_csr_f32", |r| {
        let (starts, columns) = (r.bits(300)?, r.bits(6000)?);
        let (values, x, mut y) = (r.floats()?, r.floats()?, r.floats()?);
        let (row_ptr, col_idx, values) = (starts.read(), columns.read(), values.read());
        r.line(SpmvCsr { row_ptr, col_idx, values, x: x.read(), y: y.write() })?;
        all(&y)
    }),
    ("kmeans_assign_f32", |r| {
        let (points, centroids, mut labels) = (r.floats()?, r.few(|r| r.float())?, r.bits(9)?);
        let (points, centroids, dims) = (points.read(), centroids.read(), r.below(9) as u32);
        r.line(KmeansAssign { points, centroids, labels: labels.write(), dims })?;
        all(&labels)
    }),
    ("kmeans_partials_f32", |r| {
        let (points, labels) = (r.few(|r| r.float())?, r.bits(5)?);
        let (mut sums, mut counts) = (r.few(|r| r.float())?, r.few(|r| r.float())?);
        let (per_slice, clusters, dims) = (r.depth(), r.below(5) as u32, r.below(5) as u32);
        r.line(KmeansPartials {
            points: points.read(),
            labels: labels.read(),
            sums: sums.write(),
            counts: counts.write(),
            per_slice,
            clusters,
            dims,
        })?;
        Ok([all(&sums)?, all(&counts)?].concat())
    }),
    ("kmeans_update_f32", |r| {
        let (sums, counts, mut centroids) = (r.floats()?, r.few(|r| r.float())?, r.floats()?);
        let (clusters, dims) = (r.below(5) as u32, r.below(9) as u32);
        let (sums, counts, moved) = (sums.read(), counts.read(), centroids.update());
        r.line(KmeansUpdate { sums, counts, centroids: moved, clusters, dims })?;
        all(&centroids)
    }),
    ("nbody_accelerate_f32", |r| {
        let (bodies, sources, mut sums) = (r.floats()?, r.few(|r| r.float())?, r.floats()?);
        let (bodies, sources, acceleration) = (bodies.read(), sources.read(), sums.update());
        r.line(NbodyAccelerate { bodies, sources, acceleration, softening: 0.01 })?;
        all(&sums)
    }),
    ("nbody_move_f32", |r| {
        let (acceleration, mut velocity, mut bodies) = (r.floats()?, r.floats()?, r.floats()?);
        let (v, b, dt) = (velocity.update(), bodies.update(), r.float());
        r.line(NbodyMove { acceleration: acceleration.read(), velocity: v, bodies: b, dt })?;
        Ok([all(&velocity)?, all(&bodies)?].concat())
    }),
    ("stencil5_f32", |r| {
        let (src, mut dst, centre, side) = (r.floats()?, r.floats()?, r.float(), r.float());
        r.plane(Stencil5 { src: src.read(), dst: dst.write(), centre, side })?;
        all(&dst)
    }),
    ("blur3_f32", |r| {
        let (src, mut dst) = (r.floats()?, r.floats()?);
        r.plane(Blur3 { src: src.read(), dst: dst.write() })?;
        all(&dst)
    }),
    ("matmul_f32", |r| {
        let (a, b, mut c, k) = (r.floats()?, r.floats()?, r.floats()?, r.depth());
        r.plane(Matmul { a: a.read(), b: b.read(), c: c.write(), k })?;
        all(&c)
    }),
    ("mandelbrot_u32", |r| {
        let (mut out, dx, dy) = (r.bits(9)?, r.float() * 0.002, r.float() * 0.002);
        r.plane(Mandelbrot { out: out.write(), x0: -1.5, y0: -0.9, dx, dy, max_iter: 200 })?;
        all(&out)
    }),
];

impl<'a> Round<'a> {
    pub(crate) fn new(mem: &'a Runtime, device: DeviceId, seed: u64) -> Self {
        let state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self { mem, device, state, indices: Indices::Likely }
    }

    #[allow(dead_code, reason = "some who include this module are content with one kind")]
    pub(crate) fn indices(mut self, indices: Indices) -> Self {
        self.indices = indices;
        self
    }

    /// A number below `end`, by splitmix64.
    fn below(&mut self, end: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ (bits >> 31)) % end
    }

    /// A number between -4 and 4.
    fn float(&mut self) -> f32 {
        self.below(8001) as f32 / 1000.0 - 4.0
    }

    /// A length: often one beside which something changes.
    fn len(&mut self) -> usize {
        let known = [0, 1, 255, 256, 257, 1023, 1024, 1025, 5000];
        // A row of a sparse matrix that ends nowhere is as long as the arrays, so those are shorter then.
        let most = if self.indices == Indices::Likely { 40_000 } else { 2000 };
        known.get(self.below(14) as usize).copied().unwrap_or(self.below(most) as usize)
    }

    fn floats(&mut self) -> Result<SharedVec<f32>, Error> {
        let len = self.len();
        SharedVec::from_fn(self.mem, len, |_| self.float())
    }

    /// Numbers below `end`.
    fn bits(&mut self, end: u32) -> Result<SharedVec<u32>, Error> {
        let len = self.len();
        SharedVec::from_fn(self.mem, len, |i| match (self.indices, i % 6) {
            (Indices::Hostile, 2) => u32::MAX,
            (Indices::Hostile, 5) => end.saturating_add(self.below(4096) as u32),
            _ => self.below(end.into()) as u32,
        })
    }

    /// Where runs of at most 1024 end, none of which overlap; those that lie lie far off, each with room of its own.
    fn places(&mut self) -> Result<SharedVec<u32>, Error> {
        let len = self.len();
        SharedVec::from_fn(self.mem, len, |i| match (self.indices, i % 6) {
            (Indices::Hostile, 2) => u32::MAX,
            _ => (i as u32 + 1).wrapping_mul(1024),
        })
    }

    /// Up to 40 elements.
    fn few<T: bytemuck::Pod>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> T,
    ) -> Result<SharedVec<T>, Error> {
        let len = self.below(40) as usize;
        SharedVec::from_fn(self.mem, len, |_| element(self))
    }

    /// Launches over a line: as long as an array may be, or endless; with as many groups as it fills, or few.
    fn line(&mut self, kernel: impl Kernel) -> Result<(), Error> {
        let (n, groups) = (self.len().max(1) as u64, 1 + self.below(5) as u32);
        let grid = match self.below(3) {
            0 => Grid::Linear(n),
            1 => Grid::Groups { n, groups },
            _ => Grid::Groups { n: u64::MAX, groups },
        };
        self.mem.launch_on(self.device, grid, kernel).map(drop)
    }

    /// How deep a matrix product is said to be.
    fn depth(&mut self) -> u64 {
        match self.indices {
            Indices::Likely => self.below(90),
            Indices::Hostile => u64::MAX >> self.below(64),
        }
    }

    /// Launches over a plane of any shape, often larger or smaller than the arrays.
    fn plane(&mut self, kernel: impl Kernel) -> Result<(), Error> {
        let (wide, high) = match self.indices {
            Indices::Likely => (200, 200),
            Indices::Hostile => (5000, 20),
        };
        let grid = (1 + self.below(wide) as usize, 1 + self.below(high) as usize);
        self.mem.launch_on(self.device, grid, kernel).map(drop)
    }
}

/// The bits of a whole vector.
fn all<T: bytemuck::Pod>(vec: &SharedVec<T>) -> Outcome {
    Ok(bytemuck::cast_slice(vec.host(..)?).to_vec())
}
