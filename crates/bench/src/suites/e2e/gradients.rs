//! Conjugate gradients: the steps of `examples/03_conjugate_gradients.rs`, on the heat equation of a square grid.

use std::time::{Duration, Instant};

use hmmap::{
    DeviceId, Grid, Hmmap, SharedVec,
    kernels::{PartialDots, Saxpy, SpmvCsr, Xpby},
};

use crate::{BenchError, Trial, by_hand, raw};

const STEPS: usize = 20;

/// A matrix in compressed sparse rows, and the right side.
pub(crate) struct System {
    pub(crate) row_ptr: Vec<u32>,
    pub(crate) col_idx: Vec<u32>,
    pub(crate) values: Vec<f32>,
    pub(crate) b: Vec<f32>,
}

struct Gradients {
    mem: Hmmap,
    device: DeviceId,
    system: System,
    by_hand: by_hand::Gradients,
}

pub(super) fn trial(
    mem: Hmmap,
    device: DeviceId,
    raw: &raw::Device,
    side: u32,
) -> Result<Box<dyn Trial>, BenchError> {
    let (system, by_hand) = (System::of_grid(side), by_hand::Gradients::new(raw)?);
    let gradients = Gradients { mem, device, system, by_hand };
    let ours = gradients.run()?;
    let by_hand = gradients.by_hand.run(&gradients.system, STEPS)?;
    let differ = ours.iter().zip(&by_hand).filter(|(ours, by_hand)| ours != by_hand).count();
    if differ > 0 || ours.iter().all(|x| *x == 0.0) {
        let what = "unknowns that differ from those by hand";
        return Err(BenchError::Unexpected { what, expected: 0, found: differ as u64 });
    }
    Ok(Box::new(gradients))
}

impl System {
    /// Each point of a square grid is held to its neighbours; heat flows in everywhere and out at the rim.
    fn of_grid(side: u32) -> Self {
        let mut system =
            Self { row_ptr: vec![0], col_idx: Vec::new(), values: Vec::new(), b: Vec::new() };
        for point in 0..side * side {
            let (x, y) = (point % side, point / side);
            let neighbours = [
                (y > 0).then(|| point - side),
                (x > 0).then(|| point - 1),
                Some(point),
                (x + 1 < side).then_some(point + 1),
                (y + 1 < side).then_some(point + side),
            ];
            for other in neighbours.into_iter().flatten() {
                system.col_idx.push(other);
                system.values.push(if other == point { 4.0 } else { -1.0 });
            }
            system.row_ptr.push(system.col_idx.len() as u32);
            system.b.push(1.0 + (point % 7) as f32);
        }
        system
    }
}

impl Gradients {
    fn run(&self) -> Result<Vec<f32>, BenchError> {
        let (mem, device, System { row_ptr, col_idx, values, b }) =
            (&self.mem, self.device, &self.system);
        let n = b.len();
        let row_ptr = SharedVec::from_slice(mem, row_ptr)?;
        let col_idx = SharedVec::from_slice(mem, col_idx)?;
        let values = SharedVec::from_slice(mem, values)?;
        let mut x = SharedVec::<f32>::new(mem, n)?;
        let (mut r, mut p) = (SharedVec::from_slice(mem, b)?, SharedVec::from_slice(mem, b)?);
        let mut q = SharedVec::<f32>::new(mem, n)?;
        let mut rr = self.dot(&r, &r)?;
        for _ in 0..STEPS {
            let (row_ptr, col_idx, values) = (row_ptr.read(), col_idx.read(), values.read());
            let spmv = SpmvCsr { row_ptr, col_idx, values, x: p.read(), y: q.write() };
            mem.launch_on(device, n, spmv)?;
            let a = rr / self.dot(&p, &q)?;
            mem.launch_on(device, n, Saxpy { a, x: p.read(), y: x.update() })?;
            mem.launch_on(device, n, Saxpy { a: -a, x: q.read(), y: r.update() })?;
            let new = self.dot(&r, &r)?;
            mem.launch_on(device, n, Xpby { b: new / rr, x: r.read(), y: p.update() })?;
            rr = new;
        }
        Ok(x.to_vec()?)
    }

    /// As the library's own `dot`, on the device under test.
    fn dot(&self, x: &SharedVec<f32>, y: &SharedVec<f32>) -> Result<f32, BenchError> {
        let slices = (x.len() / (16 * 256)).clamp(1, 1024);
        let mut partials = SharedVec::<f32>::new(&self.mem, slices)?;
        let grid = Grid::Groups { n: x.len() as u64, groups: slices as u32 };
        let dots = PartialDots { x: x.read(), y: y.read(), partials: partials.write() };
        self.mem.launch_on(self.device, grid, dots)?;
        Ok(partials.host(..)?.iter().map(|partial| f64::from(*partial)).sum::<f64>() as f32)
    }
}

impl Trial for Gradients {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let started = Instant::now();
        self.run()?;
        Ok(started.elapsed())
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        let started = Instant::now();
        self.by_hand.run(&self.system, STEPS)?;
        Ok(Some(started.elapsed()))
    }
}
