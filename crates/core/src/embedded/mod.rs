//! The embedded CPU device: what runs kernels where no driver is to be had.
//!
//! It runs each kernel's Rust twin ([`crate::kernel::Source::twin`]) in a rayon pool of its own, so a machine without a
//! graphics driver still runs everything, and every test has a device. By option it lives
//!
//! - on the **host's node** ([`EmbeddedMemory::Host`]): its memory is host memory, windows are the arena itself, nothing is ever
//!   copied for it; or
//! - on a **node of its own** ([`EmbeddedMemory::Own`]): it has private memory, whole or by blocks
//!   ([`Backing`]), with a limit, so that migration, sparse backing and eviction work as they do for a card.
//!
//! Both kinds answer every method of [`Device`]; the option says what the device reports, which is what placement goes by.
//!
//! ```text
//! submit_launch   -> compute queue  -> worker, a thread of the pool -> twin, its parallel iterators in the pool
//! submit_transfer -> transfer queue -> worker, a thread of its own  -> memcpy, memset
//! ```
//!
//! A panic inside a twin is caught (unless the program is built to abort on panics): the fence ends
//! [`crate::fence::Failure::KernelPanicked`] and the device lives on. Work that waits for work that did not end Ok
//! does not run, and ends [`crate::fence::Failure::Dependency`]. A twin that never returns cannot be stopped: dropping the device then
//! waits for it.

mod device;
pub(crate) mod kernels;
mod mapping;
pub(crate) mod memory;
pub(crate) mod operation;
pub(crate) mod place;
mod progress;
mod queue;
#[cfg(test)]
mod tests;

use std::{num::NonZero, sync::Arc, thread};

use device::EmbeddedDevice;
pub use memory::Backing;
pub use place::MemorySpace;
pub use progress::Progress;

use crate::backend::{
    Capabilities, Capability, Device, DeviceError, DeviceFacts, DeviceKind, DeviceSummary,
    OpenContext, Provider,
};

/// Which memory the device says is its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EmbeddedMemory {
    /// Host memory: nothing moves.
    #[default]
    Host,
    /// Private memory: pages move to it and back.
    Own,
}

/// How the device is set up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EmbeddedOptions {
    /// Threads in the pool that runs kernels. Default: one for each CPU this process may use.
    pub threads: NonZero<usize>,
    /// Which memory the device says is its own.
    pub memory: EmbeddedMemory,
    /// How memory is put under a reservation.
    pub backing: Backing,
    /// The most private memory, in bytes; `None`: as much as the system gives.
    pub memory_limit_bytes: Option<u64>,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            threads: thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
            memory: EmbeddedMemory::default(),
            backing: Backing::default(),
            memory_limit_bytes: None,
        }
    }
}

/// The embedded CPU device, not yet opened. Each opening is a device with threads of its own.
#[derive(Clone, Debug)]
pub struct EmbeddedProvider {
    options: EmbeddedOptions,
    summary: DeviceSummary,
}

impl EmbeddedProvider {
    /// A device with these options.
    pub fn new(options: EmbeddedOptions) -> Self {
        let threads = options.threads;
        let plural = if threads.get() == 1 { "" } else { "s" };
        let summary = DeviceSummary {
            name: format!("embedded CPU device ({threads} thread{plural})"),
            api: "embedded",
            driver: concat!("hmmap ", env!("CARGO_PKG_VERSION")).to_owned(),
            kind: DeviceKind::Cpu,
            uuid: None,
            pci: None,
            memory_bytes: options.memory_limit_bytes.unwrap_or_else(host_memory_bytes),
        };
        Self { options, summary }
    }

    fn facts(&self) -> DeviceFacts {
        let sparse = match self.options.backing {
            Backing::Blocks => Capability::Proved,
            Backing::Whole => Capability::Masked,
        };
        DeviceFacts {
            summary: self.summary.clone(),
            capabilities: Capabilities {
                host_window: Capability::Proved,
                direct_copy: Capability::Proved,
                sparse,
                transfer_queue: Capability::Proved,
                long_loops: Capability::Proved,
                export: Capability::none("memory of this process, which nobody else takes in"),
                dma_buf: Capability::none("memory of this process, which nobody else takes in"),
            },
            shares_host_memory: self.options.memory == EmbeddedMemory::Host,
            external: None,
            max_groups: [u32::MAX; 3],
            rates: None,
        }
    }
}

impl Default for EmbeddedProvider {
    fn default() -> Self {
        Self::new(EmbeddedOptions::default())
    }
}

impl Provider for EmbeddedProvider {
    fn summary(&self) -> &DeviceSummary {
        &self.summary
    }

    fn open(&self, context: OpenContext) -> Result<Arc<dyn Device>, DeviceError> {
        Ok(Arc::new(EmbeddedDevice::open(self.facts(), &self.options, context)?))
    }
}

/// How much memory the machine has.
fn host_memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(info.mem_unit.into())
}
