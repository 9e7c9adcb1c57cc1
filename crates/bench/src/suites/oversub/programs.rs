//! Programs that pass over their data again and again, in launches that say which part of it they use.

use hmmap::{
    DeviceId, Fence, Runtime, SharedVec,
    kernels::{Saxpy, StreamTriad},
};
use hmmap_eviction::{simulator::Trace, traces};

use crate::BenchError;

/// One mebibyte of elements.
const MIB: usize = (1 << 20) / size_of::<f32>();
/// Of a network's layers, weights or activations: two blocks.
const LAYER_LEN: usize = 4 * MIB;

/// A program with its data, on one device.
pub(super) trait Program {
    /// Has all data in host memory alone.
    fn start_at_home(&mut self) -> Result<(), BenchError>;

    /// All rounds; the device has ended when it returns.
    fn run(&mut self) -> Result<(), BenchError>;

    /// Brings home what the device wrote.
    fn fetch(&self) -> Result<(), BenchError>;

    /// A number of all bits of each vector.
    fn sums(&self) -> Result<Vec<u32>, BenchError>;
}

/// Makes a program with so many bytes of data.
type New = fn(&Runtime, DeviceId, u64) -> Result<Box<dyn Program>, BenchError>;

/// Which program: its name, how to make it, and its trace in units of so many bytes.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) new: New,
    pub(super) trace: fn(bytes: u64) -> Trace,
    pub(super) unit_bytes: u64,
}

pub(super) const KINDS: [Kind; 2] = [
    Kind {
        name: "time/triad",
        new: |mem, device, bytes| Ok(Box::new(Triad::new(mem, device, bytes)?)),
        trace: |bytes| traces::triad((bytes >> 21) as u32, TRIAD_ROUNDS),
        unit_bytes: 2 << 20,
    },
    Kind {
        name: "time/training",
        new: |mem, device, bytes| Ok(Box::new(Training::new(mem, device, bytes)?)),
        trace: |bytes| traces::training((bytes >> 22) as u32, TRAINING_ROUNDS),
        unit_bytes: 4 << 20,
    },
];

const TRIAD_ROUNDS: u32 = 5;
const TRAINING_ROUNDS: u32 = 3;

/// `a = b + 3 c`, each round one launch, which is split where it does not fit.
pub(super) struct Triad {
    mem: Runtime,
    device: DeviceId,
    a: SharedVec<f32>,
    b: SharedVec<f32>,
    c: SharedVec<f32>,
}

impl Triad {
    pub(super) fn new(mem: &Runtime, device: DeviceId, bytes: u64) -> Result<Self, BenchError> {
        let len = bytes as usize / 3 / size_of::<f32>();
        let filled = |value: f32| SharedVec::from_fn(mem, len, |at| value + (at % 7) as f32);
        let (a, b, c) = (filled(0.0)?, filled(1.0)?, filled(2.0)?);
        Ok(Self { mem: mem.clone(), device, a, b, c })
    }
}

impl Program for Triad {
    fn start_at_home(&mut self) -> Result<(), BenchError> {
        for vec in [&mut self.a, &mut self.b, &mut self.c] {
            vec.host_mut(..)?;
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), BenchError> {
        let mut fences = Vec::new();
        for _ in 0..TRIAD_ROUNDS {
            let (b, c) = (self.b.read().split(1), self.c.read().split(1));
            let len = self.a.len();
            let triad = StreamTriad { b, c, a: self.a.write().split(1), scalar: 3.0 };
            fences.push(self.mem.launch_on(self.device, len, triad)?);
        }
        ended(&fences)
    }

    fn fetch(&self) -> Result<(), BenchError> {
        self.a.host(..)?;
        Ok(())
    }

    fn sums(&self) -> Result<Vec<u32>, BenchError> {
        let vecs = [&self.a, &self.b, &self.c];
        vecs.iter().map(|vec| sum(vec)).collect()
    }
}

/// A network of layers one behind the other: each activation is the one before it and some of its layer's weights; on the way back, each layer's
/// weights change by some of its activation.
struct Training {
    mem: Runtime,
    device: DeviceId,
    input: SharedVec<f32>,
    weights: Vec<SharedVec<f32>>,
    activations: Vec<SharedVec<f32>>,
}

impl Training {
    fn new(mem: &Runtime, device: DeviceId, bytes: u64) -> Result<Self, BenchError> {
        let layers = bytes as usize / 2 / size_of::<f32>() / LAYER_LEN;
        let filled = |value: f32| SharedVec::from_fn(mem, LAYER_LEN, |at| value + (at % 7) as f32);
        let weights = (0..layers).map(|_| filled(0.5)).collect::<Result<_, _>>()?;
        let activations = (0..layers).map(|_| filled(0.0)).collect::<Result<_, _>>()?;
        let input = SharedVec::from_fn(mem, 1, |_| 1.0)?;
        Ok(Self { mem: mem.clone(), device, input, weights, activations })
    }
}

impl Program for Training {
    fn start_at_home(&mut self) -> Result<(), BenchError> {
        for vec in self.weights.iter_mut().chain(&mut self.activations) {
            vec.host_mut(..)?;
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), BenchError> {
        let Self { mem, device, input, weights, activations } = self;
        let mut fences = Vec::new();
        for _ in 0..TRAINING_ROUNDS {
            for (layer, weights) in weights.iter().enumerate() {
                let (before, from) = activations.split_at_mut(layer);
                let b = before.last().unwrap_or(input).read();
                let (c, a) = (weights.read(), from[0].write());
                let forward = StreamTriad { b, c, a, scalar: 1e-3 };
                fences.push(mem.launch_on(*device, LAYER_LEN, forward)?);
            }
            for (weights, activation) in weights.iter_mut().zip(&*activations).rev() {
                let backward = Saxpy { x: activation.read(), y: weights.update(), a: 1e-3 };
                fences.push(mem.launch_on(*device, LAYER_LEN, backward)?);
            }
        }
        ended(&fences)
    }

    fn fetch(&self) -> Result<(), BenchError> {
        for vec in self.weights.iter().chain(&self.activations) {
            vec.host(..)?;
        }
        Ok(())
    }

    fn sums(&self) -> Result<Vec<u32>, BenchError> {
        self.weights.iter().chain(&self.activations).map(sum).collect()
    }
}

fn ended(fences: &[Fence]) -> Result<(), BenchError> {
    Ok(fences.iter().try_for_each(Fence::wait)?)
}

/// One number of all bits.
fn sum(vec: &SharedVec<f32>) -> Result<u32, BenchError> {
    let bits = vec.host(..)?.iter().fold(0u32, |sum, x| sum.rotate_left(1) ^ x.to_bits());
    Ok(bits)
}
