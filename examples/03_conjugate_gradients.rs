//! Real input: a Matrix Market file, solved by conjugate gradients.
//!
//! `cargo run --release --example 03_conjugate_gradients -- [MATRIX.mtx]`; the file holds a symmetric positive definite matrix.
//! Without one, the heat conduction in a steel plate of `examples/data`.
//!
//! New here: vectors stay on the device for as long as only kernels use them; a step brings two numbers home, no more.

use std::{env, fs};

use anyhow::{Context, Result, ensure};
use hmmap::{
    Cause, Hmmap, SharedVec,
    core::units::PAGE_BYTES,
    kernels::{Saxpy, SpmvCsr, Xpby, dot},
};

#[path = "matrix_market/mod.rs"]
mod matrix_market;

fn main() -> Result<()> {
    let text = match env::args().nth(1) {
        Some(path) => fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?,
        None => include_str!("data/plate.mtx").to_owned(),
    };
    run(&Hmmap::new()?, &text)
}

pub(crate) fn run(mem: &Hmmap, text: &str) -> Result<()> {
    let matrix = matrix_market::read(text)?;
    let n = matrix.size();
    let row_ptr = SharedVec::from_slice(mem, &matrix.row_ptr)?;
    let col_idx = SharedVec::from_slice(mem, &matrix.col_idx)?;
    let values = SharedVec::from_slice(mem, &matrix.values)?;

    // The right side that makes every unknown 1, so that the answer can be checked.
    let b = matrix.row_sums();
    let mut x = SharedVec::<f32>::new(mem, n)?;
    let mut r = SharedVec::from_slice(mem, &b)?;
    let mut p = SharedVec::from_slice(mem, &b)?;
    let mut q = SharedVec::<f32>::new(mem, n)?;
    let first = dot(mem, &r, &r)?;
    let (mut rr, mut steps) = (first, 0);
    let before = mem.stats();
    while rr > 1e-12 * first {
        let (row_ptr, col_idx, values) = (row_ptr.read(), col_idx.read(), values.read());
        mem.launch(n, SpmvCsr { row_ptr, col_idx, values, x: p.read(), y: q.write() })?;
        let pq = dot(mem, &p, &q)?;
        ensure!(pq > 0.0, "the matrix is not positive definite: step {steps} finds {pq}");
        let a = rr / pq;
        mem.launch(n, Saxpy { a, x: p.read(), y: x.update() })?;
        mem.launch(n, Saxpy { a: -a, x: q.read(), y: r.update() })?;
        let (old, new) = (rr, dot(mem, &r, &r)?);
        mem.launch(n, Xpby { b: new / old, x: r.read(), y: p.update() })?;
        (rr, steps) = (new, steps + 1);
        if steps % 20 == 0 || rr <= 1e-12 * first {
            println!("step {steps:4}: residual {:.1e} of the first", (rr / first).sqrt());
        }
        ensure!(steps < 10 * n, "no solution after {steps} steps");
    }

    let moved = mem.stats() - before;
    println!("{n} unknowns, {steps} steps; {moved}");
    let pages = moved[Cause::Guard].to_host_bytes / PAGE_BYTES;
    println!("{pages} pages came home: at most one for each dot product, and none of a vector");
    ensure!(pages <= 2 * steps as u64, "that is too much");
    let worst = x.host(..)?.iter().map(|x| (x - 1.0).abs()).fold(0.0, f32::max);
    println!("the worst of the unknowns is off by {worst:.1e}");
    ensure!(x.host(..)?.iter().all(|x| (x - 1.0).abs() < 1e-2), "that is too much");
    Ok(())
}
