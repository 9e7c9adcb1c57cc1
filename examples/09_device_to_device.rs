//! Two Vulkan devices pass one vector to and fro: pages go from one device's memory to the other's in one copy, and a device can be a peer that
//! reaches them where they are.
//!
//! `cargo run --release --example 09_device_to_device`
//!
//! New here: `route` says how pages get from device to device and why; `device_peer` gives a device addresses of memory that is not its own.

use anyhow::{Result, ensure};
use hmmap::{
    DeviceId, MemoryModel, Options, SharedVec,
    core::Runtime,
    kernels::{Fill, Saxpy},
    vulkan::{Backing, Options as VulkanOptions, discover},
};

fn main() -> Result<()> {
    run()
}

pub(crate) fn run() -> Result<()> {
    // Memory that one device gives to another is a plain buffer, not one that is bound block by block.
    let vulkan = VulkanOptions { backing: Backing::Committed, ..VulkanOptions::default() };
    let found = match discover(&vulkan) {
        Ok(found) => found.providers,
        Err(error) => {
            println!("no Vulkan here: {error}");
            return Ok(());
        }
    };
    let Some(first) = found.first().cloned() else {
        println!("no Vulkan device here");
        return Ok(());
    };
    // Where there is one device only, it is opened twice: two logical devices, each with a memory of its own.
    let second = found.get(1).unwrap_or(&first).clone();
    let options = Options { memory_model: MemoryModel::Migrate, ..Options::default() };
    let mem = Runtime::new(vec![first, second], options)?;
    let devices: Vec<DeviceId> = mem.devices().map(|(device, _)| device).collect();
    let (a, b) = (devices[0], devices[1]);
    let route = mem.route(a, b)?;
    println!("from {a} to {b}: {route}");

    let n = 1 << 20;
    let mut x = SharedVec::<f32>::new(&mem, n)?;
    let ones = SharedVec::from_fn(&mem, n, |_| 1.0)?;
    mem.launch_on(a, n, Fill { out: x.write(), value: 40.0 })?;
    let before = mem.stats();
    for device in [b, a, b] {
        mem.launch_on(device, n, Saxpy { a: 1.0, x: ones.read(), y: x.update() })?;
    }
    println!("\nthree launches, each on the device that does not have the pages:");
    println!("  {}", mem.stats() - before);
    x.residency(..)?.iter().for_each(|run| println!("  {run}"));
    if route.is_direct() {
        let between = (mem.stats() - before).total().between_bytes;
        ensure!(between >= 3 * 4 * n as u64, "{between} bytes went directly");
    }

    // The first device again, this time without moving anything: addresses of its own for pages in the other's memory.
    let peer = mem.device_peer(a)?;
    let mut wanted = 43.0;
    match x.map_peer(peer, ..) {
        Ok(mapping) => {
            let segments = mapping.segments()?;
            println!("\n{a} reaches the pages of {b} at:");
            for segment in segments.list() {
                println!(
                    "  {:#x}, {} bytes, an address of {}",
                    segment.addr, segment.len_bytes, segment.kind
                );
            }
            wanted = 1.0;
            mem.launch_on(b, n, Fill { out: x.write(), value: wanted })?;
            ensure!(mapping.retry(segments.stamp()), "the pages were written under the peer");
            println!("{b} wrote them again: the addresses were taken back first");
        }
        Err(error) => println!("\n{a} does not reach them: {error}"),
    }
    ensure!(x.host(..)?.iter().all(|x| *x == wanted), "x is wrong");
    Ok(())
}
