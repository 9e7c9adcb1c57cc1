//! A runtime over a device that the program made itself, as the README shows it.
#![cfg(feature = "vulkan")]
#![allow(unsafe_code, reason = "plays the program that brings a Vulkan device")]

#[path = "../crates/vk-backend/tests/program/mod.rs"]
#[allow(dead_code, reason = "the backend's own tests use the rest")]
mod program;

use std::sync::Arc;

use hmmap::{Hmmap, SharedVec, kernels::Saxpy};
use hmmap_vulkan::{Options, VulkanProvider};
use program::Program;

#[test]
fn a_kernel_runs_on_the_programs_own_device() {
    let Some(program) = Program::new() else { return };
    // SAFETY: the handles belong together and outlive the runtime; the features are those that the device was made with; nobody else uses the
    // queue.
    let provider = unsafe { VulkanProvider::from_existing(program.existing(), Options::default()) };
    let provider = Arc::new(provider.unwrap());
    let mem = Hmmap::from_vulkan(provider.clone()).unwrap();
    assert!(provider.device().is_none(), "nobody has asked for it yet");
    let n = 100_000;
    let x = SharedVec::from_fn(&mem, n, |i| i as f32).unwrap();
    let mut y = SharedVec::from_fn(&mem, n, |_| 1.0).unwrap();
    mem.launch(n, Saxpy { a: 2.0, x: x.read(), y: y.update() }).unwrap().wait().unwrap();
    assert!(provider.device().is_some(), "the default device is the program's");
    assert!(y.host(..).unwrap().iter().enumerate().all(|(i, y)| *y == 2.0 * i as f32 + 1.0));
    assert_eq!(mem.devices().count(), 2, "it and the embedded one");
    drop((x, y, mem));
}
