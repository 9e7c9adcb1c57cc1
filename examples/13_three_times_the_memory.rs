//! Data up to three times as large as what may be used of the device, passed over again and again. Nobody says what goes when; three policies are compared.
//!
//! `cargo run --release --example 13_three_times_the_memory`
//!
//! New here: `device_memory_limit_bytes` is the budget; `split(1)` says that item `i` of the grid uses element `i` alone, so that a launch which does not fit
//! is run in tiles; `Eviction` says which blocks leave.

use std::time::Instant;

use anyhow::{Result, ensure};
use hmmap::{
    Choice, Eviction, Hmmap, MemoryModel, Options, SharedVec,
    core::embedded::{Backing, EmbeddedMemory, EmbeddedOptions},
    kernels::StreamTriad,
};

const MIB: usize = 1 << 20;
const DATA_BYTES: usize = 96 * MIB;
const ROUNDS: u32 = 6;
const FACTORS: [f64; 4] = [1.0, 1.5, 2.0, 3.0];

fn main() -> Result<()> {
    run(Choice::Best)
}

pub(crate) fn run(choice: Choice) -> Result<()> {
    println!("{} MiB, {ROUNDS} rounds of a = b + 3 c; each # is 16 MiB moved\n", DATA_BYTES / MIB);
    for factor in FACTORS {
        println!("data {factor} times the budget:");
        let show = |name, eviction| -> Result<u64> {
            let (round_ms, moved_mib) = rounds(choice, factor, eviction)?;
            let bar = "#".repeat(moved_mib.div_ceil(16) as usize);
            println!("{name:>15} {bar:36} {moved_mib:4} MiB, {round_ms:.0} ms a round");
            Ok(moved_mib)
        };
        let predicted = show("predicted use", Eviction::Predicted)?;
        let last_use = show("last use", Eviction::LeastRecentlyUsed)?;
        show("first come", Eviction::FirstCome)?;
        ensure!(factor > 1.0 || last_use * MIB as u64 == DATA_BYTES as u64, "it fits");
        ensure!(factor <= 1.0 || predicted < last_use, "a prediction is worth something");
    }
    println!("\nof more than fits, what was used last is what comes last again");
    Ok(())
}

/// Milliseconds a round, and what moved, the way there and the results' way home included.
fn rounds(choice: Choice, factor: f64, eviction: Eviction) -> Result<(f64, u64)> {
    let options = Options {
        memory_model: MemoryModel::Migrate,
        device_memory_limit_bytes: Some((DATA_BYTES as f64 / factor) as u64),
        eviction,
        ..Options::default()
    };
    // Where there is no other device: one in memory of its own, block by block.
    let (memory, backing) = (EmbeddedMemory::Own, Backing::Blocks);
    let embedded = EmbeddedOptions { memory, backing, ..EmbeddedOptions::default() };
    let mem = Hmmap::builder().devices(choice).options(options).embedded(embedded).build()?;
    let len = DATA_BYTES / 3 / size_of::<f32>();
    let b = SharedVec::from_fn(&mem, len, |i| (i % 1000) as f32)?;
    let c = SharedVec::from_fn(&mem, len, |i| (i % 10) as f32)?;
    let mut a = SharedVec::<f32>::new(&mem, len)?;
    let started = Instant::now();
    for _ in 0..ROUNDS {
        let (b, c) = (b.read().split(1), c.read().split(1));
        mem.launch(len, StreamTriad { b, c, a: a.write().split(1), scalar: 3.0 })?;
    }
    let wrong = a.host(..)?.iter().enumerate().find(|(i, x)| **x != (i % 1000 + i % 10 * 3) as f32);
    let took = started.elapsed().as_secs_f64() * 1e3 / f64::from(ROUNDS);
    ensure!(wrong.is_none(), "a[i] is {wrong:?}");
    Ok((took, mem.stats().total().bytes() / MIB as u64))
}
