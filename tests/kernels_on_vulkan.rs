//! Every shipped kernel on a Vulkan driver against its twin: the same bits, for arrays and grids of any sizes, and indices that lie.
//!
//! `cargo xtask test` names the driver and the validation layer; any word of the layer fails the test.
#![cfg(feature = "vulkan")]

#[path = "kernels/rounds.rs"]
mod rounds;

use std::{collections::BTreeSet, env, sync::Arc};

use hmmap::{Error, Hmmap, MemoryModel, SharedVec, core::backend::Provider, kernels::Mandelbrot};
use hmmap_vulkan::{Discovery, Options, Validation, discover};
use rounds::{CASES, Round};

const ROUNDS: u64 = 40;

#[test]
fn kernels_on_pages_that_move() {
    compare(MemoryModel::Migrate);
}

#[test]
fn kernels_on_host_memory_in_place() {
    compare(MemoryModel::Unified);
}

#[test]
fn no_kernel_is_left_out() {
    let manifest: serde_json::Value =
        serde_json::from_str(include_str!("../shaders/manifest.json")).unwrap();
    let shipped: BTreeSet<&str> =
        manifest["kernels"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(shipped, CASES.iter().map(|(name, _)| *name).collect());
}

#[test]
fn loops_run_to_their_end() {
    let Some(discovery) = drivers() else { return };
    for vulkan in &discovery.providers {
        let provider: Arc<dyn Provider> = vulkan.clone();
        let mem = Hmmap::builder().device(provider).build().unwrap();
        let mut steps = SharedVec::<u32>::new(&mem, 1).unwrap();
        let (out, x0, y0, dx, dy, max_iter) = (steps.write(), 0.0, 0.0, 0.0, 0.0, 200_000);
        mem.launch((1, 1), Mandelbrot { out, x0, y0, dx, dy, max_iter }).unwrap();
        let taken = steps.host(..).unwrap()[0];
        let probed = &mem.facts(mem.default_device().unwrap()).unwrap().capabilities.long_loops;
        assert_eq!(probed.is_proved(), taken == 200_000, "{probed}, and {taken} turns taken");
        if !probed.is_proved() {
            println!("HMMAP-SKIP: {}: long loops {probed}", vulkan.summary().driver);
        }
    }
}

fn compare(memory_model: MemoryModel) {
    let Some(discovery) = drivers() else { return };
    for vulkan in &discovery.providers {
        let options = hmmap::Options { memory_model, ..hmmap::Options::default() };
        let provider: Arc<dyn Provider> = vulkan.clone();
        let mem = Hmmap::builder().options(options).device(provider).build().unwrap();
        let device = mem.default_device().unwrap();
        let embedded = mem.devices().map(|(id, _)| id).last().unwrap();
        let facts = match mem.facts(device) {
            Ok(facts) => facts,
            Err(error) if memory_model == MemoryModel::Unified => {
                println!("HMMAP-SKIP: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        println!("{} rounds of {} kernels on {}", ROUNDS, CASES.len(), facts.summary.name);
        for (name, run) in CASES {
            for seed in 0..ROUNDS {
                let on = |device| -> Result<_, Error> { run(&mut Round::new(&mem, device, seed)) };
                let (there, twin) = (on(device).unwrap(), on(embedded).unwrap());
                let wrong = (0..twin.len()).find(|i| there[*i] != twin[*i]);
                let differ = wrong.map(|i| (i, there[i], twin[i]));
                assert_eq!(differ, None, "{name}, round {seed}: (element, device's bits, twin's)");
            }
        }
    }
    assert_eq!(discovery.messages.first(), Vec::<String>::new(), "the validation layer complains");
}

/// The devices of the driver that the environment names, watched where the validation layer is.
fn drivers() -> Option<Discovery> {
    let set = |name| env::var_os(name).is_some();
    if !set("VK_DRIVER_FILES") && !set("VK_ICD_FILENAMES") {
        println!("HMMAP-SKIP: no Vulkan driver is named by VK_DRIVER_FILES");
        return None;
    }
    let watched = set("HMMAP_TEST_LAYER_PATH");
    let validation = if watched { Validation::On } else { Validation::Off };
    match discover(&Options { validation, ..Options::default() }) {
        Ok(discovery) if discovery.providers.is_empty() => {
            println!("HMMAP-SKIP: no usable Vulkan device: {:?}", discovery.left_out);
            None
        }
        Ok(discovery) => Some(discovery),
        Err(error) => {
            println!("HMMAP-SKIP: {error}");
            None
        }
    }
}
