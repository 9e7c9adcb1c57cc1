//! The modes that need no driver: the embedded CPU device's and the simulated device's.

use std::{num::NonZero, sync::Arc};

use hmmap_core::{
    MemoryModel,
    backend::Provider,
    embedded::{Backing, EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    simulated::{Queues, SimulatedControl, SimulatedMemory, SimulatedOptions, SimulatedProvider},
};
use parking_lot::Mutex;

use crate::setup::Setup;

/// Every mode of the embedded CPU device.
pub fn embedded() -> Vec<Setup> {
    vec![
        Setup::new("embedded_host_node", MemoryModel::Unified, || {
            embedded_device(EmbeddedMemory::Host, Backing::Blocks)
        }),
        Setup::new("embedded_own_node_blocks", MemoryModel::Migrate, || {
            embedded_device(EmbeddedMemory::Own, Backing::Blocks)
        }),
        Setup::new("embedded_own_node_whole", MemoryModel::Migrate, || {
            embedded_device(EmbeddedMemory::Own, Backing::Whole)
        }),
    ]
}

fn embedded_device(memory: EmbeddedMemory, backing: Backing) -> Arc<dyn Provider> {
    // Two threads on any machine, so that a result does not depend on it.
    let threads = NonZero::new(2).unwrap_or(NonZero::<usize>::MIN);
    Arc::new(EmbeddedProvider::new(EmbeddedOptions {
        threads,
        memory,
        backing,
        ..EmbeddedOptions::default()
    }))
}

/// Modes of the simulated device, each with a seed of its own. Whatever breach of the device contract it notices fails the case.
pub fn simulated() -> Vec<Setup> {
    let migrate = |name: &str, seed, backing, queues| {
        let options = SimulatedOptions { seed, backing, queues, ..SimulatedOptions::default() };
        simulated_mode(format!("simulated_{name}_seed_{seed}"), MemoryModel::Migrate, options)
    };
    let unified = |seed, queues| {
        let memory = SimulatedMemory::Host;
        let options = SimulatedOptions { seed, memory, queues, ..SimulatedOptions::default() };
        simulated_mode(format!("simulated_host_node_seed_{seed}"), MemoryModel::Unified, options)
    };
    vec![
        migrate("blocks", 1, Backing::Blocks, Queues::Two),
        migrate("blocks", 2, Backing::Blocks, Queues::Two),
        migrate("blocks_one_queue", 3, Backing::Blocks, Queues::One),
        migrate("whole", 4, Backing::Whole, Queues::Two),
        unified(5, Queues::Two),
    ]
}

fn simulated_mode(name: String, model: MemoryModel, options: SimulatedOptions) -> Setup {
    let made = Arc::new(Mutex::new(Vec::<SimulatedControl>::new()));
    let (seed, makes) = (options.seed, Arc::clone(&made));
    let device = move || -> Arc<dyn Provider> {
        let mut made = makes.lock();
        // No two devices of one case do the same.
        let seed = options.seed.wrapping_mul(1000) + made.len() as u64;
        let provider = SimulatedProvider::new(SimulatedOptions { seed, ..options.clone() });
        made.push(provider.control());
        Arc::new(provider)
    };
    Setup::new(name, model, device).seed(seed).complaints(move || {
        let controls = std::mem::take(&mut *made.lock());
        let violations = controls.iter().flat_map(SimulatedControl::violations);
        violations.map(|violation| format!("{violation:?}")).collect()
    })
}
