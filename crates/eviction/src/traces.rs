//! Block traces of programs, as their tiles declare them: the data has about `blocks` blocks, whatever the device holds.
//!
//! A kernel's number stands for the kernel *with its buffers*: two programs that run the same kernel on other data have two numbers.
//! Programs with chance in them roll [`Dice`] with a fixed seed, so that every run has the same traces.

use crate::{Block, Launch, simulator::Trace};

/// Numbers that look random and are the same each time.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall as this seed has it.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(mixed) * u128::from(end)) >> 64) as u32
    }
}

/// What a workload is held to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Goal {
    /// At most so many times the lower bound.
    Ratio(f64),
    /// At most what last use costs.
    LastUse,
}

/// A program to be traced.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Its name: stable and plain.
    pub name: &'static str,
    /// Its trace with about so many blocks of data.
    pub trace: fn(blocks: u32) -> Trace,
    /// What [`Reuse`](crate::Reuse) has to reach on it, at every factor.
    pub goal: Goal,
}

const ROUNDS: u32 = 10;

/// The programs that policies are judged by.
pub const WORKLOADS: [Workload; 10] = [
    Workload { name: "triad", trace: |n| triad(n, ROUNDS), goal: Goal::Ratio(1.08) },
    Workload { name: "k-means", trace: |n| k_means(n, ROUNDS), goal: Goal::Ratio(1.08) },
    Workload { name: "cg", trace: |n| conjugate_gradient(n, ROUNDS), goal: Goal::Ratio(1.08) },
    Workload { name: "stencil", trace: |n| stencil(n, ROUNDS), goal: Goal::Ratio(1.08) },
    Workload { name: "training", trace: |n| training(n, ROUNDS), goal: Goal::Ratio(1.20) },
    Workload { name: "matmul", trace: |n| matmul(n, 2), goal: Goal::Ratio(1.20) },
    Workload { name: "radix-sort", trace: |n| radix_sort(n, 8), goal: Goal::Ratio(1.35) },
    Workload { name: "two-tenants", trace: |n| two_tenants(n, ROUNDS), goal: Goal::Ratio(1.35) },
    Workload { name: "random-blocks", trace: |n| random_blocks(n, 3), goal: Goal::LastUse },
    Workload { name: "phase-change", trace: |n| phase_change(n, 5), goal: Goal::LastUse },
];

/// Buffers of so many blocks, one behind the other.
fn trace(lengths: &[u32], launches: Vec<Launch>) -> Trace {
    let buffers = (0..).zip(lengths).flat_map(|(buffer, length)| (0..*length).map(move |_| buffer));
    Trace { buffers: buffers.collect(), launches }
}

/// `a = b + s c`, tile by tile, again and again.
pub fn triad(blocks: u32, rounds: u32) -> Trace {
    let n = blocks / 3;
    let tile =
        |i: Block| Launch { kernel: 0, tile: i, reads: vec![n + i, 2 * n + i], writes: vec![i] };
    trace(&[n; 3], (0..rounds).flat_map(|_| (0..n).map(tile)).collect())
}

/// Points read in tiles, with centres that every tile updates.
pub fn k_means(blocks: u32, rounds: u32) -> Trace {
    let n = blocks - 1;
    let tile = |i: Block| Launch { kernel: 0, tile: i, reads: vec![i, n], writes: vec![n] };
    trace(&[n, 1], (0..rounds).flat_map(|_| (0..n).map(tile)).collect())
}

/// Conjugate gradients on a CSR matrix: values and columns of a stripe of rows with all of the direction, then four vectors
/// (direction, product, residual, solution) in step.
pub fn conjugate_gradient(blocks: u32, rounds: u32) -> Trace {
    let n = (blocks / 24).max(1);
    let stripes = (blocks - 4 * n) / 2;
    let [direction, product, residual, solution] = [0, n, 2 * n, 3 * n].map(|at| 2 * stripes + at);
    let multiply = |i: Block| {
        let to = product + i * n / stripes;
        let mut reads = vec![i, stripes + i, to];
        reads.extend(direction..direction + n);
        Launch { kernel: 0, tile: i, reads, writes: vec![to] }
    };
    let dot = |i: Block| Launch {
        kernel: 1,
        tile: i,
        reads: vec![direction + i, product + i],
        writes: vec![],
    };
    let step = |i: Block| Launch {
        kernel: 2,
        tile: i,
        reads: [direction, product, residual, solution].map(|at| at + i).to_vec(),
        writes: vec![residual + i, solution + i],
    };
    let turn = |i: Block| Launch {
        kernel: 3,
        tile: i,
        reads: vec![residual + i, direction + i],
        writes: vec![direction + i],
    };
    let all = || (0..n).map(dot).chain((0..n).map(step)).chain((0..n).map(turn));
    let launches = (0..rounds).flat_map(|_| (0..stripes).map(multiply).chain(all()));
    trace(&[stripes, stripes, n, n, n, n], launches.collect())
}

/// A three-point stencil between two grids.
pub fn stencil(blocks: u32, rounds: u32) -> Trace {
    let n = blocks / 2;
    let tile = |round: u32, i: Block| {
        let (from, to) = if round.is_multiple_of(2) { (0, n) } else { (n, 0) };
        let reads = (i.saturating_sub(1)..(i + 2).min(n)).map(|j| from + j).collect();
        Launch { kernel: round % 2, tile: i, reads, writes: vec![to + i] }
    };
    trace(&[n; 2], (0..rounds).flat_map(|round| (0..n).map(move |i| tile(round, i))).collect())
}

/// A network's forward pass, then its backward pass in reverse, weights updated in place.
pub fn training(blocks: u32, rounds: u32) -> Trace {
    let n = blocks / 2;
    let forward = |i: Block| Launch {
        kernel: 0,
        tile: i,
        reads: if i == 0 { vec![i] } else { vec![i, n + i - 1] },
        writes: vec![n + i],
    };
    let backward = |i: Block| Launch { kernel: 1, tile: i, reads: vec![i, n + i], writes: vec![i] };
    let round = || (0..n).map(forward).chain((0..n).rev().map(backward));
    trace(&[n; 2], (0..rounds).flat_map(|_| round()).collect())
}

/// `C = A B` by square tiles of one block, the sum innermost; `rounds` products of the same matrices.
pub fn matmul(blocks: u32, rounds: u32) -> Trace {
    // Rows, columns and length of the sum, as square as the number of blocks allows.
    let side = (f64::from(blocks) / 3.0).sqrt() as u32;
    let sizes = (side..side + 3).flat_map(|m| (side..side + 3).map(move |n| (m, n)));
    let (m, n, k) = sizes
        .map(|(m, n)| (m, n, (blocks.saturating_sub(m * n) / (m + n)).max(1)))
        .min_by_key(|(m, n, k)| blocks.abs_diff(m * n + k * (m + n)))
        .unwrap_or((1, 1, 1));
    let (b, c) = (m * k, m * k + k * n);
    let tile = |at: u32| {
        let (i, j, l) = (at / (n * k), at / k % n, at % k);
        let mut reads = vec![i * k + l, b + l * n + j];
        if l > 0 {
            reads.push(c + i * n + j);
        }
        Launch { kernel: 0, tile: at, reads, writes: vec![c + i * n + j] }
    };
    trace(&[m * k, k * n, m * n], (0..rounds).flat_map(|_| (0..m * n * k).map(tile)).collect())
}

/// Radix sort by four bits: each pass counts, then scatters each tile to the sixteen places that its digits have reached.
pub fn radix_sort(blocks: u32, passes: u32) -> Trace {
    const DIGITS: u32 = 16;
    let n = (blocks - 1) / 2;
    let counts = 2 * n;
    let mut dice = Dice::new(4);
    let mut launches = Vec::new();
    for pass in 0..passes {
        let (from, to) = if pass.is_multiple_of(2) { (0, n) } else { (n, 0) };
        // Digits are nearly, but not quite, equally frequent.
        let shares: Vec<f64> = (0..DIGITS).map(|_| f64::from(12 + dice.below(9))).collect();
        let all: f64 = shares.iter().sum();
        for tile in 0..n {
            let reads = vec![from + tile, counts];
            launches.push(Launch { kernel: 2 * (pass % 2), tile, reads, writes: vec![counts] });
        }
        for tile in 0..n {
            let (mut start, mut places) = (0.0, Vec::new());
            for share in &shares {
                let length = share / all;
                let (first, last) = (start * f64::from(n) + length * f64::from(tile), length);
                places.push(to + (first as u32).min(n - 1));
                places.push(to + ((first + last) as u32).min(n - 1));
                start += length;
            }
            places.sort_unstable();
            places.dedup();
            let reads = [&[from + tile, counts][..], &places].concat();
            launches.push(Launch { kernel: 2 * (pass % 2) + 1, tile, reads, writes: places });
        }
    }
    trace(&[n, n, 1], launches)
}

/// A triad and a training that share the device, each with half of the data, in random turns, two of the one for one of the other.
pub fn two_tenants(blocks: u32, rounds: u32) -> Trace {
    let one = triad(blocks / 2, rounds);
    let mut other = training(blocks / 2, rounds);
    let after = one.buffers.len() as u32;
    for launch in &mut other.launches {
        launch.kernel += 1;
        launch.reads.iter_mut().chain(&mut launch.writes).for_each(|block| *block += after);
    }
    let mut dice = Dice::new(2);
    let (mut ones, mut others) = (one.launches.into_iter().cycle(), other.launches.into_iter());
    let mut launches = Vec::new();
    while let Some(launch) = others.next() {
        launches.push(launch);
        launches.extend((0..dice.below(4)).filter_map(|_| ones.next()));
        // Now and then the training has two turns in a row.
        launches.extend(others.next().filter(|_| dice.below(4) == 0));
    }
    let buffers = other.buffers.iter().map(|buffer| buffer + 3);
    Trace { buffers: one.buffers.iter().copied().chain(buffers).collect(), launches }
}

/// A search through a graph: each launch reads four blocks of edges, some of them much more often than others, and updates one of marks.
pub fn random_blocks(blocks: u32, seed: u64) -> Trace {
    let marks = blocks / 6;
    let edges = blocks - marks;
    let mut dice = Dice::new(seed);
    let launch = |tile| {
        let mut reads: Vec<_> = (0..4)
            .map(|_| {
                let end = 1 + dice.below(edges);
                dice.below(end)
            })
            .collect();
        let mark = edges + dice.below(marks);
        reads.push(mark);
        reads.sort_unstable();
        reads.dedup();
        Launch { kernel: 0, tile, reads, writes: vec![mark] }
    };
    trace(&[edges, marks], (0..6 * blocks).map(launch).collect())
}

/// Sweeps, then a walk through a neighbourhood that drifts, then sweeps again, and so on: what one phase teaches is wrong in the next.
pub fn phase_change(blocks: u32, seed: u64) -> Trace {
    let mut dice = Dice::new(seed);
    let mut launches = Vec::new();
    let mut update = |block: Block, turn: u32| {
        let writes = if turn.is_multiple_of(3) { vec![block] } else { vec![] };
        launches.push(Launch { kernel: 0, tile: block, reads: vec![block], writes });
    };
    for phase in 0..3 {
        (0..2 * blocks).for_each(|turn| update(turn % blocks, turn));
        for turn in 0..3 * blocks {
            let drifted = turn / 4 + phase * blocks / 3;
            update((drifted + dice.below(blocks / 4)) % blocks, turn);
        }
    }
    trace(&[blocks], launches)
}
