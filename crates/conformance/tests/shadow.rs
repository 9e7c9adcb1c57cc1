//! The suite on a test double, not on a device: what the Vulkan device records, played over shadow memory behind caches that keep what nobody flushed.
//!
//! Drivers in software have one queue and coherent memory, so on them a dependency that was left out changes nothing. On the double it is stale data.
//! Its modes say `double` in their names, and its device says so in the report.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use hmmap_conformance::Setup;
use hmmap_core::{MemoryModel, backend::Provider};
use hmmap_vulkan::{
    Backing, HostCopies,
    shadow::{Queues, ShadowOptions, ShadowProvider},
};

mod harness;

fn main() {
    let plain = ShadowOptions::default();
    let one_queue = ShadowOptions { seed: 3, queues: Queues::One, ..plain };
    let committed = ShadowOptions { seed: 4, backing: Backing::Committed, ..one_queue };
    let staging = ShadowOptions { seed: 5, host_copies: HostCopies::Staging, ..plain };
    let setups = vec![
        mode("unified", MemoryModel::Unified, plain),
        mode("two_queues", MemoryModel::Migrate, ShadowOptions { seed: 2, ..plain }),
        mode("one_queue_committed", MemoryModel::Migrate, committed).backs_whole(),
        mode("staging", MemoryModel::Migrate, staging),
    ];
    harness::run(harness::tests(setups))
}

fn mode(name: &str, model: MemoryModel, options: ShadowOptions) -> Setup {
    let made = AtomicU64::new(0);
    let device = move || -> Arc<dyn Provider> {
        // No two doubles of one case do the same.
        let seed = options.seed.wrapping_mul(1000) + made.fetch_add(1, Relaxed);
        Arc::new(ShadowProvider::new(ShadowOptions { seed, ..options }))
    };
    Setup::new(format!("double_non_coherent_{name}"), model, device).seed(options.seed)
}
