//! The modes of the devices that the library has: embedded, simulated, Vulkan, CUDA.

mod cuda;

use std::{num::NonZero, sync::Arc};

pub use cuda::{CUDA, cuda};

use hmmap_core::{
    MemoryModel,
    backend::{Capability, Provider},
    embedded::{Backing, EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    host::HostFaults,
    simulated::{Queues, SimulatedControl, SimulatedMemory, SimulatedOptions, SimulatedProvider},
};
use hmmap_vulkan::{Backing as VulkanBacking, HostCopies, Options as VulkanOptions, discover};
use parking_lot::Mutex;

use crate::setup::Setup;

/// Every rung of what the system may offer for plain indexing.
pub const RUNGS: [HostFaults; 4] =
    [HostFaults::Auto, HostFaults::NoSharing, HostFaults::UserModeOnly, HostFaults::Off];

/// The same modes with plain indexing in the place of guards, on some rungs. A rung of the best that the system has is the best there is: a
/// system without userfaultfd runs all of them on the last.
pub fn indexing(setups: &[Setup], rungs: &[HostFaults]) -> Vec<Setup> {
    let each = |setup: &Setup| rungs.iter().map(|rung| setup.clone().indexing(*rung)).collect();
    setups.iter().flat_map(|setup| -> Vec<_> { each(setup) }).collect()
}

/// The same modes with the host's memory on huge pages, by guards and by plain indexing.
pub fn on_huge_pages(setups: &[Setup]) -> Vec<Setup> {
    let each = |setup: &Setup| {
        let setup = setup.clone().on_huge_pages();
        [setup.clone(), setup.indexing(HostFaults::Auto)]
    };
    setups.iter().flat_map(each).collect()
}

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
        })
        .backs_whole(),
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
        migrate("whole", 4, Backing::Whole, Queues::Two).backs_whole(),
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

/// The names of the Vulkan modes.
pub const VULKAN: [&str; 5] =
    ["vulkan_unified", "vulkan_sparse", "vulkan_committed", "vulkan_staging", "vulkan_direct"];

/// The Vulkan modes of each device of this machine. With more than one device, the modes of the second and later ones end in its
/// number. Whatever the validation layer says, where `options` ask for it, fails the case.
///
/// # Errors
/// Why there is no device.
pub fn vulkan(options: &VulkanOptions) -> Result<Vec<Setup>, String> {
    let sparse = VulkanOptions { backing: VulkanBacking::Sparse, ..options.clone() };
    let committed = VulkanOptions { backing: VulkanBacking::Committed, ..options.clone() };
    let staging = VulkanOptions { host_copies: HostCopies::Staging, ..options.clone() };
    let [unified, by_block, whole, bounced, direct] = VULKAN;
    let mut setups = vulkan_mode(unified, MemoryModel::Unified, options)?;
    let sparse = vulkan_mode(by_block, MemoryModel::Migrate, &sparse)?;
    setups.extend(
        sparse.into_iter().map(|setup| {
            setup.must_be(|facts| lacks("sparse backing", &facts.capabilities.sparse))
        }),
    );
    let across = vulkan_mode(direct, MemoryModel::Migrate, &committed)?;
    let committed = vulkan_mode(whole, MemoryModel::Migrate, &committed)?;
    setups.extend(committed.into_iter().map(Setup::backs_whole));
    let staging = vulkan_mode(bounced, MemoryModel::Migrate, &staging)?;
    setups.extend(staging.into_iter().map(|setup| {
        setup.must_be(|facts| {
            let direct = facts.capabilities.direct_copy.is_proved();
            direct.then(|| "copies go directly although they were to bounce".to_owned())
        })
    }));
    setups.extend(across.into_iter().map(|setup| {
        let setup = setup.backs_whole().direct();
        setup.must_be(|facts| lacks("memory that is given out", &facts.capabilities.export))
    }));
    Ok(setups)
}

fn lacks(what: &str, capability: &Capability) -> Option<String> {
    (!capability.is_proved()).then(|| format!("no {what} ({capability})"))
}

/// One mode, of each device.
fn vulkan_mode(
    name: &str,
    model: MemoryModel,
    options: &VulkanOptions,
) -> Result<Vec<Setup>, String> {
    let found = discover(options).map_err(|error| error.to_string())?;
    if found.providers.is_empty() {
        return Err(format!("no Vulkan device can be used: {:?}", found.left_out));
    }
    let setup = |(number, provider)| {
        let name = if number == 0 { name.to_owned() } else { format!("{name}_{number}") };
        let (messages, told) = (Arc::clone(&found.messages), Mutex::new(0));
        Setup::new(name, model, move || Arc::clone(&provider) as Arc<dyn Provider>)
            .compiled()
            .complaints(move || {
                let before = std::mem::replace(&mut *told.lock(), messages.count());
                messages.first().into_iter().skip(before).collect()
            })
    };
    Ok(found.providers.into_iter().enumerate().map(setup).collect())
}
