//! Block traces of programs, made to measure: the data has `blocks` blocks in all, whatever the device holds.

use crate::{Block, Launch, simulator::Trace};

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
