//! The main job: `y = a*x + y` on the best device of this machine.
//!
//! `cargo run --release --example 01_saxpy`

use anyhow::{Result, ensure};
use hmmap::{Cause, Hmmap, SharedVec, core::backend::DeviceKind, kernels::Saxpy};

fn main() -> Result<()> {
    run(&Hmmap::new()?)
}

pub(crate) fn run(mem: &Hmmap) -> Result<()> {
    say_where(mem)?;

    let n = 16 << 20;
    let x = SharedVec::from_fn(mem, n, |i| i as f32)?;
    let mut y = SharedVec::<f32>::new(mem, n)?; // reads as zeros, costs nothing yet
    let before = mem.stats();
    mem.launch(n, Saxpy { a: 2.0, x: x.read(), y: y.update() })?; // asynchronous
    ensure!(y.host(42..43)? == [84.0], "y[42] is {:?}", y.host(42..43)); // waits, brings one page
    let one_page = mem.stats();
    ensure!(y.host(..)?.iter().enumerate().all(|(i, y)| *y == 2.0 * i as f32)); // brings the rest

    let kib = |bytes: u64| format!("{} KiB", bytes >> 10);
    let launch = (mem.stats() - before)[Cause::Launch];
    let first = (one_page - before)[Cause::Guard].to_host_bytes;
    let rest = (mem.stats() - one_page)[Cause::Guard].to_host_bytes;
    println!("x and y have {} each, and all of y is right", kib(4 * n as u64));
    if launch.bytes() + first + rest == 0 {
        println!("nothing moved: the device works in host memory");
        return Ok(());
    }
    println!("{} went to the device, because the kernel reads x", kib(launch.to_device_bytes));
    println!("{} became zeros there, because y was never written", kib(launch.zeroed_bytes));
    println!("{} came home for y[42]: one page", kib(first));
    println!("{} came home for all of y: the other pages", kib(rest));
    Ok(())
}

/// Says which device it is, and how to get a better one.
fn say_where(mem: &Hmmap) -> Result<()> {
    let device = &mem.facts(mem.default_device()?)?.summary;
    println!("running on {} ({}, by {})", device.name, device.kind, device.api);
    mem.absent().iter().for_each(|absent| println!("  {absent}"));
    let better = match (device.api, device.kind) {
        ("embedded", _) => {
            ("no Vulkan driver serves here, so Rust code on the CPU does it; to get one", SOFTWARE)
        }
        (_, DeviceKind::Cpu) => ("this is a software driver; for a GPU, install its own", HARDWARE),
        _ => return Ok(()),
    };
    println!("{}:", better.0);
    better.1.iter().for_each(|(system, command)| println!("  {system:<18}{command}"));
    Ok(())
}

const SOFTWARE: &[(&str, &str)] = &[
    ("Debian, Ubuntu", "sudo apt install libvulkan1 mesa-vulkan-drivers"),
    ("Fedora", "sudo dnf install vulkan-loader mesa-vulkan-drivers"),
    ("Arch", "sudo pacman -S vulkan-icd-loader vulkan-swrast"),
    ("openSUSE", "sudo zypper install libvulkan1 libvulkan_lvp"),
    ("Alpine", "sudo apk add vulkan-loader mesa-vulkan-swrast"),
];

const HARDWARE: &[(&str, &str)] = &[
    ("AMD, Intel", "Debian, Ubuntu, Fedora: the package mesa-vulkan-drivers has them"),
    ("", "Arch: sudo pacman -S vulkan-radeon (AMD) or vulkan-intel (Intel)"),
    ("NVIDIA", "Debian: sudo apt install nvidia-driver; Ubuntu: sudo ubuntu-drivers install"),
    ("", "Fedora (RPM Fusion): sudo dnf install akmod-nvidia; Arch: sudo pacman -S nvidia-utils"),
    ("in a container", "pass /dev/dri in, or for NVIDIA --gpus all with graphics capabilities"),
];
