//! Plain indexing: a vector that a device holds is read and written as a `Vec` is. What is touched comes home by a page fault.
//!
//! `cargo run --release --example 07_index`

use anyhow::{Result, ensure};
use hmmap::{Cause, Hmmap, NodeId, SharedVec, kernels::Saxpy};
use rayon::prelude::*;

fn main() -> Result<()> {
    run(&Hmmap::new()?)
}

pub(crate) fn run(mem: &Hmmap) -> Result<()> {
    let n = 4 << 20;
    let mut x = SharedVec::<f32>::new(mem, n)?;
    let mut y = SharedVec::<f32>::new(mem, n)?;

    x[42] = 1.0;
    mem.launch(n, Saxpy { a: 2.0, x: x.read(), y: y.update() })?; // asynchronous
    ensure!(y[42] == 2.0); // waits for the kernel, and brings one page home
    let one = mem.stats()[Cause::Fault];

    // Anything that takes a slice takes the vector, from any thread. Each page faults once, for whoever comes first.
    x.par_iter_mut().enumerate().for_each(|(i, x)| *x = (i % 1000) as f32);
    mem.launch(n, Saxpy { a: 1.0, x: x.read(), y: y.update() })?;
    let sum: f64 = y.par_iter().map(|y| f64::from(*y)).sum();
    let wanted: f64 = (0..n).map(|i| (i % 1000) as f64).sum();
    ensure!(sum == wanted + 2.0, "the sum is {sum}");

    match mem.host_faults() {
        Some(facts) => println!("touches of what is elsewhere fault: {facts}"),
        None => println!("no page faults here: a vector comes home whole when it is indexed"),
    }
    if mem.node(mem.default_device()?)? == NodeId::HOST {
        println!("nothing came home: the device works in host memory");
        return Ok(());
    }
    let all = mem.stats()[Cause::Fault];
    println!("{} KiB came home for y[42]", one.to_host_bytes >> 10);
    println!(
        "{} KiB came home for all of y, by any number of threads",
        (all - one).to_host_bytes >> 10
    );
    Ok(())
}
