//! A kernel of our own: its SPIR-V for Vulkan, its Rust closure for the embedded CPU device, and the struct that names
//! its arguments. `README.md` says how it is made.

use anyhow::{Result, ensure};
use hmmap::{
    Hmmap, Kernel, SharedVec, Source, Update,
    core::kernel::{Arguments, Twin},
};

/// Brings the elements of `y` into the range from `low` to `high`.
struct Clamp<'a> {
    y: Update<'a, f32>,
    low: f32,
    high: f32,
}

static CLAMP: Source = Source {
    name: "clamp_f32",
    spirv: include_bytes!("../kernel/clamp.spv"),
    ptx: "", // not for CUDA
    workgroup: [256, 1, 1],
    twin: Some(|launch: &Twin<'_>| {
        let (y, low, high) = (launch.write::<f32>(0), launch.f32(0), launch.f32(1));
        for y in y.iter_mut().take(launch.n()) {
            if *y < low {
                *y = low;
            } else if *y > high {
                *y = high;
            }
        }
    }),
};

// SAFETY: in `clamp.slang`, (1) i < min(n, y_len) holds for `y[i]`, and nothing else touches memory; (2) y is an Update; (3) any
// bits are an f32, and element i is one invocation's; (4) ClampArgs is y, grid, low, high. The closure goes through a slice.
unsafe impl Kernel for Clamp<'_> {
    fn source() -> &'static Source {
        &CLAMP
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.update(&self.y).grid().f32(self.low).f32(self.high);
    }
}

fn main() -> Result<()> {
    let mem = Hmmap::new()?;
    let n = 1_000_000;
    let devices: Vec<_> = mem.devices().map(|(id, summary)| (id, summary.clone())).collect();
    for (device, summary) in devices {
        let mut y = SharedVec::from_fn(&mem, n, |i| i as f32 - 500_000.0)?;
        let fence = mem.launch_on(device, n, Clamp { y: y.update(), low: -3.0, high: 1e5 })?;
        fence.wait()?;
        let wanted = |i: usize| (i as f32 - 500_000.0).clamp(-3.0, 1e5);
        let wrong = y.host(..)?.iter().enumerate().find(|(i, y)| **y != wanted(*i));
        ensure!(wrong.is_none(), "{}: {wrong:?} is wrong", summary.name);
        println!("{n} elements clamped on {} (by {})", summary.name, summary.api);
    }
    println!("{}", mem.stats());
    Ok(())
}
