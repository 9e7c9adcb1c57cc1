//! Solves a system of linear equations by conjugate gradients.

use hmmap::{
    Grid,
    kernels::{PartialDots, Saxpy, SpmvCsr, Xpby},
};

use crate::{
    raw::{Array, Batch, Buffer, Device, Kernel, RawError, Side},
    suites::e2e::gradients::System,
};

const ARRAY_BYTES: u32 = 16;
const GRID_BYTES: u32 = 16;
const SCALAR_BYTES: u32 = 4;

/// The kernels, ready.
pub(crate) struct Gradients {
    device: Device,
    spmv: Kernel,
    dots: Kernel,
    saxpy: Kernel,
    xpby: Kernel,
}

/// The arrays on the device, and where a dot product ends.
struct Arrays {
    matrix: [Buffer; 3],
    /// x, r, p, q.
    vectors: [Buffer; 4],
    partials: Buffer,
    landed: Buffer,
    n: u64,
}

impl Gradients {
    pub(crate) fn new(device: &Device) -> Result<Self, RawError> {
        let with_scalar = 2 * ARRAY_BYTES + GRID_BYTES + SCALAR_BYTES;
        Ok(Self {
            device: device.clone(),
            spmv: Kernel::new::<SpmvCsr<'_>>(device, 5 * ARRAY_BYTES + GRID_BYTES)?,
            dots: Kernel::new::<PartialDots<'_>>(device, 3 * ARRAY_BYTES + GRID_BYTES)?,
            saxpy: Kernel::new::<Saxpy<'_>>(device, with_scalar)?,
            xpby: Kernel::new::<Xpby<'_>>(device, with_scalar)?,
        })
    }

    /// Makes so many steps and brings the solution home.
    pub(crate) fn run(&self, system: &System, steps: usize) -> Result<Vec<f32>, RawError> {
        let mut arrays = self.arrays(system)?;
        let n = arrays.n;
        let mut first = Batch::new();
        let [_, r, ..] = arrays.vectors.each_ref().map(|vector| vector.array(n));
        self.dot(&mut first, &arrays, r, r);
        first.run(&self.device)?;
        drop(first);
        let mut rr = arrays.landed()?;
        let mut b = None;
        for _ in 0..steps {
            let pq = self.direction(&mut arrays, b)?;
            let new = self.step(&mut arrays, rr / pq)?;
            b = Some(new / rr);
            rr = new;
        }
        let mut solution = Buffer::new(&self.device, Side::Host, arrays.vectors[0].len_bytes())?;
        let mut batch = Batch::new();
        batch.copy(&arrays.vectors[0], &solution, arrays.vectors[0].len_bytes());
        batch.run(&self.device)?;
        drop(batch);
        solution.with(|x: &mut [f32]| x.to_vec())
    }

    /// Puts everything in place.
    fn arrays(&self, system: &System) -> Result<Arrays, RawError> {
        let System { row_ptr, col_idx, values, b } = system;
        let words: [&[u8]; 4] = [
            bytemuck::cast_slice(row_ptr),
            bytemuck::cast_slice(col_idx),
            bytemuck::cast_slice(values),
            bytemuck::cast_slice(b),
        ];
        let n = b.len() as u64;
        let on_device = |bytes: usize| Buffer::new(&self.device, Side::Device, bytes as u64);
        let vector = || on_device(words[3].len());
        let arrays = Arrays {
            matrix: [
                on_device(words[0].len())?,
                on_device(words[1].len())?,
                on_device(words[2].len())?,
            ],
            vectors: [vector()?, vector()?, vector()?, vector()?],
            partials: on_device(slices(n) as usize * size_of::<f32>())?,
            landed: Buffer::new(&self.device, Side::Host, slices(n) * size_of::<f32>() as u64)?,
            n,
        };
        let mut staged = Vec::new();
        for words in words {
            let mut host = Buffer::new(&self.device, Side::Host, words.len() as u64)?;
            host.with(|bytes: &mut [u8]| bytes.copy_from_slice(words))?;
            staged.push(host);
        }
        let [x, r, p, _] = &arrays.vectors;
        let mut batch = Batch::new();
        for (host, device) in staged.iter().zip(arrays.matrix.iter().chain([r])) {
            batch.copy(host, device, host.len_bytes());
        }
        batch.copy(&staged[3], p, staged[3].len_bytes());
        batch.zero(x);
        batch.run(&self.device)?;
        drop(batch);
        Ok(arrays)
    }

    /// p = r + b p, where there is a b; q = A p; returns p q.
    fn direction(&self, arrays: &mut Arrays, b: Option<f32>) -> Result<f32, RawError> {
        let (n, grid) = (arrays.n, Grid::Linear(arrays.n));
        let [_, r, p, q] = arrays.vectors.each_ref().map(|vector| vector.array(n));
        let [row_ptr, col_idx, values] =
            arrays.matrix.each_ref().map(|array| array.array(u64::MAX));
        let mut batch = Batch::new();
        if let Some(b) = b {
            // SAFETY: Xpby lists x, y, the grid, b.
            unsafe { batch.kernel(&self.xpby, grid, &[r, p], &b.to_ne_bytes()).then() };
        }
        // SAFETY: SpmvCsr lists row_ptr, col_idx, values, x, y, the grid.
        unsafe { batch.kernel(&self.spmv, grid, &[row_ptr, col_idx, values, p, q], &[]).then() };
        self.dot(&mut batch, arrays, p, q);
        batch.run(&self.device)?;
        drop(batch);
        arrays.landed()
    }

    /// x += a p; r -= a q; returns r r.
    fn step(&self, arrays: &mut Arrays, a: f32) -> Result<f32, RawError> {
        let (n, grid) = (arrays.n, Grid::Linear(arrays.n));
        let [x, r, p, q] = arrays.vectors.each_ref().map(|vector| vector.array(n));
        let mut batch = Batch::new();
        // SAFETY: Saxpy lists x, y, the grid, a.
        unsafe {
            batch.kernel(&self.saxpy, grid, &[p, x], &a.to_ne_bytes());
            batch.kernel(&self.saxpy, grid, &[q, r], &(-a).to_ne_bytes()).then();
        }
        self.dot(&mut batch, arrays, r, r);
        batch.run(&self.device)?;
        drop(batch);
        arrays.landed()
    }

    /// Appends a dot product, with its slices' sums on their way to the host.
    fn dot<'a>(&'a self, batch: &mut Batch<'a>, arrays: &'a Arrays, x: Array<'a>, y: Array<'a>) {
        let groups = slices(arrays.n);
        let partials = arrays.partials.array(groups);
        let grid = Grid::Groups { n: arrays.n, groups: groups as u32 };
        // SAFETY: PartialDots lists x, y, partials, the grid.
        unsafe { batch.kernel(&self.dots, grid, &[x, y, partials], &[]) };
        batch.then().copy(&arrays.partials, &arrays.landed, arrays.landed.len_bytes());
    }
}

impl Arrays {
    /// The dot product that was brought home last.
    fn landed(&mut self) -> Result<f32, RawError> {
        let sum = |slices: &mut [f32]| slices.iter().map(|slice| f64::from(*slice)).sum::<f64>();
        self.landed.with(sum).map(|sum| sum as f32)
    }
}

/// As many slices as the library would make.
fn slices(n: u64) -> u64 {
    (n / (16 * 256)).clamp(1, 1024)
}
