//! CUDA and Vulkan on one card, in one program: kernels of both work on the same vector, and no byte moves between them.
//!
//! `cargo run --release --features cuda --example 14_cuda_and_vulkan`
//!
//! New here: two drivers of one card, which its identifier tells, reach each other's memory. A vector below 2 MiB is reached as it is; a larger one has to be
//! shareable, since memory that is given out is one piece. Where there is no such card, it says what there is instead.

use anyhow::{Result, ensure};
use hmmap::{
    DeviceId, Hmmap, MemoryModel, Options, SharedVec,
    kernels::{Fill, Saxpy},
};

fn main() -> Result<()> {
    run().map(drop)
}

/// The bytes that moved between the two; `None` where there are no two.
pub(crate) fn run() -> Result<Option<u64>> {
    // Software Vulkan would work in host memory, where nothing has to move anyway: here every device has a memory of its own.
    let options = Options { memory_model: MemoryModel::Migrate, ..Options::default() };
    let mem = Hmmap::builder().options(options).build()?;
    let Some((cuda, vulkan)) = both(&mem) else {
        println!("No card here that CUDA and Vulkan both drive.");
        mem.devices().for_each(|(id, found)| println!("  {id}: {}, {}", found.name, found.api));
        mem.absent().iter().for_each(|absent| println!("  {absent}"));
        return Ok(None);
    };
    println!("CUDA: {cuda}, {}", mem.facts(cuda)?.summary.name);
    println!("Vulkan: {vulkan}, {}", mem.facts(vulkan)?.summary.name);
    let route = mem.route(cuda, vulkan)?;
    println!("from CUDA to Vulkan: {route}\n");

    let n = 4 << 20;
    let mut x = SharedVec::<f32>::shareable(&mem, n)?;
    let mut y = SharedVec::<f32>::shareable(&mem, n)?;
    mem.launch_on(cuda, n, Fill { out: x.write(), value: 2.0 })?;
    mem.launch_on(cuda, n, Fill { out: y.write(), value: 1.0 })?;
    let before = mem.stats();
    for (turn, device) in [vulkan, cuda, vulkan].into_iter().enumerate() {
        let kernel = Saxpy { a: 10.0_f32.powi(turn as i32), x: x.read(), y: y.update() };
        mem.launch_on(device, n, kernel)?;
    }
    println!("Vulkan, CUDA and Vulkan again have added x to y:");
    y.residency(..)?.iter().for_each(|run| println!("  {run}"));
    let moved = (mem.stats() - before).total();
    let moved = moved.to_device_bytes + moved.to_host_bytes + moved.between_bytes;
    println!("  {moved} bytes have moved for it");
    ensure!(!route.is_direct() || moved == 0, "{moved} bytes moved on one card");
    // And one comes home at last, because it is looked at.
    ensure!(y[n - 1] == 223.0, "y is {}", y[n - 1]);
    Ok(Some(moved))
}

/// A CUDA device and a Vulkan device that are the same card.
fn both(mem: &Hmmap) -> Option<(DeviceId, DeviceId)> {
    let of = |api: &'static str| mem.devices().filter(move |(_, found)| found.api == api);
    of("cuda").find_map(|(cuda, card)| {
        let same = |(_, other): &(_, &hmmap::core::backend::DeviceSummary)| other.uuid == card.uuid;
        Some((cuda, of("vulkan").find(same)?.0))
    })
}
