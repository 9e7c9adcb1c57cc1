//! Memory of a Vulkan device in other hands: another process's, by a dma-buf, and a PCI device's, by I/O address. Runs in the lab's machine (`cargo xtask lab`), and skips
//! elsewhere.
#![cfg(all(feature = "vulkan", feature = "vfio", feature = "share"))]

#[path = "../../crates/vfio/tests/lab/edu.rs"]
#[allow(dead_code, reason = "shared with the lab's other tests")]
mod edu;
#[path = "../../crates/share/tests/processes/harness.rs"]
#[allow(dead_code, reason = "shared with the tests of processes")]
mod harness;
mod pci;
mod processes;
#[path = "../../crates/core/tests/shared_memory/stranger.rs"]
#[allow(dead_code, reason = "shared with the tests of shared memory")]
mod stranger;
#[path = "../../crates/core/tests/dma_buf/vgem.rs"]
mod vgem;

use std::time::Duration;

use hmmap::{DeviceId, MemoryModel, Options, Runtime, vulkan};

/// Longer than anything here takes, on a machine that is emulated and busy.
const LONG: Duration = Duration::from_secs(20);

/// A runtime with the software device, and the device's number; `None`, and a line that says so, outside of the lab.
fn runtime(options: Options) -> Option<(Runtime, DeviceId)> {
    if std::env::var_os("HMMAP_LAB").is_none() {
        println!("HMMAP-SKIP: not in the lab's machine (cargo xtask lab)");
        return None;
    }
    let backing = vulkan::Backing::Committed;
    let found = vulkan::discover(&vulkan::Options { backing, ..Default::default() }).unwrap();
    let provider = found.providers.first().expect("the lab has Mesa's software device").clone();
    // Its own memory, as a card has it, and not the host's in place.
    let options = Options { memory_model: MemoryModel::Migrate, ..options };
    let runtime = Runtime::new(vec![provider], options).unwrap();
    let device = runtime.default_device().unwrap();
    Some((runtime, device))
}
