//! Two processes that share vectors, for real: a socket, descriptors, page faults and kernels on both sides.

#[path = "../../../core/tests/peers/card.rs"]
#[allow(dead_code, reason = "shared with the tests of peers")]
mod card;
mod dma_buf;
mod harness;
#[path = "../../../core/tests/host_faults/kernels.rs"]
#[allow(dead_code, reason = "shared with the tests of page faults")]
mod kernels;
mod reading;
#[path = "../../../core/tests/host_faults/rig.rs"]
#[allow(dead_code, reason = "shared with the tests of page faults")]
mod rig;
mod soak;
#[path = "../../../core/tests/shared_memory/stranger.rs"]
#[allow(dead_code, reason = "shared with the tests of shared memory")]
mod stranger;
#[path = "../../../core/tests/dma_buf/vgem.rs"]
mod vgem;
mod writing;

use hmmap_core::{Runtime, embedded::EmbeddedMemory, host::HostFaults};

/// Elements in a page.
const PAGE: usize = 65_536 / 4;
/// Elements in a block.
const BLOCK: usize = 32 * PAGE;

/// A runtime with one device that has memory of its own.
fn runtime() -> Runtime {
    rig::runtime(HostFaults::Auto, EmbeddedMemory::Own, 1)
}
