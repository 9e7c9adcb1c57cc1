//! Two devices share one vector: each writes its half, both at once; then both read all of it.
//!
//! `cargo run --release --example 05_two_devices`
//!
//! New here: `launch_on` says which device; pages that both read are in both memories, and no copy is ever made twice.

use std::sync::Arc;

use anyhow::{Result, ensure};
use hmmap::{
    Cause, Choice, DeviceId, Hmmap, MemoryModel, Options, SharedVec,
    core::embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    kernels::{PartialDots, Saxpy},
};

fn main() -> Result<()> {
    run(Choice::Best)
}

pub(crate) fn run(choice: Choice) -> Result<()> {
    // The second device is a CPU with a memory of its own, so that there are two on every machine.
    let own = EmbeddedOptions { memory: EmbeddedMemory::Own, ..EmbeddedOptions::default() };
    let options = Options { memory_model: MemoryModel::Migrate, ..Options::default() };
    let builder = Hmmap::builder().devices(choice).options(options);
    let mem = builder.device(Arc::new(EmbeddedProvider::new(own))).build()?;
    let devices: Vec<DeviceId> = mem.devices().map(|(id, _)| id).take(2).collect();
    for device in &devices {
        println!("{device} is {}", mem.facts(*device)?.summary.name);
    }

    let half = 1 << 20;
    let x = SharedVec::from_fn(&mem, 2 * half, |i| (i % 100) as f32)?;
    let mut y = SharedVec::<f32>::new(&mem, 2 * half)?;
    let before = mem.stats();
    for (device, range) in devices.iter().zip([0..half, half..2 * half]) {
        let a = 2.0 + device.index() as f32;
        let (x, y) = (x.read().range(range.clone()), y.update().range(range));
        mem.launch_on(*device, half, Saxpy { a, x, y })?; // does not wait for the one before
    }
    println!("\neach has written its half of y:");
    y.residency(..)?.iter().for_each(|run| println!("  {run}"));
    let written = mem.stats();
    println!("  {}", written - before);
    let moved = (written - before)[Cause::Launch].to_device_bytes;
    ensure!(
        moved == 4 * 2 * half as u64,
        "{moved} bytes of x went to the devices, wanted each once"
    );

    let mut dots = Vec::new();
    for device in &devices {
        let mut partials = SharedVec::<f32>::new(&mem, 64)?;
        let (x, y) = (x.read(), y.read());
        mem.launch_on(*device, 2 * half, PartialDots { x, y, partials: partials.write() })?;
        dots.push(partials.to_vec()?);
    }
    println!("\nboth have read all of x and y:");
    y.residency(..)?.iter().for_each(|run| println!("  {run}"));
    println!("  {}", mem.stats() - written);
    let route = mem.route(devices[0], devices[1])?;
    println!("from one device's memory to the other's: {route}");
    ensure!(dots[0] == dots[1], "the devices disagree: {:?}", dots);
    println!("both devices have the same {} partial sums, bit for bit", dots[0].len());

    let right = |(i, y): (usize, &f32)| *y == [2.0, 3.0][i / half] * (i % 100) as f32;
    ensure!(y.host(..)?.iter().enumerate().all(right), "y is wrong");
    Ok(())
}
