//! The simulated device: a test double that does what the device contract allows and drivers rarely do.
//!
//! It has private memory behind addresses that no process can have, and no threads. A seed decides which work runs next, so
//! that for a seed and a sequence of calls everything happens the same way again. What it does to find defects above it:
//!
//! | promise of the contract | how a breach shows |
//! |---|---|
//! | work ends some time after it was submitted | late, by the seed ([`Progress`]), out of order within a queue and across queues |
//! | works are ordered by their waits only | works that touch the same bytes without a wait chain are a [`Violation::Hazard`] |
//! | memory is backed before it is touched | [`Violation::Work`], and the fence ends failed |
//! | memory is given back after its last work | [`Violation::InUse`] |
//! | fresh backing holds anything | it holds garbage, never zeros |
//! | a `Write` argument is overwritten whole | it holds garbage when the kernel begins |
//! | any call, any work can fail, the device can be lost | [`SimulatedControl::faults`], [`SimulatedControl::fail_nth_work`], [`SimulatedControl::lose`] |
//!
//! A failed work leaves what it was to write alone, or full of garbage. A lost device has done some of what was asked,
//! and says of all that had not ended that it is lost.
//!
//! ```text
//! provider --open--> device --\
//!    \--control()--> control ---+--> Shared { schedule, memory, violations }   one lock; nobody is called under it
//! ```
//!
//! A poll or a wait executes works on the calling thread (their twins in one thread that all simulated devices share, so that a
//! parallel reduction gives the same bits each time), and holds the device's lock meanwhile: a poll by another thread
//! then takes as long as the work. A twin must not use the device that it runs on.

mod control;
mod device;
mod link;
mod order;
mod record;
mod schedule;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use control::{Progress, SimulatedControl};
use device::{Shared, SimulatedDevice};
pub use link::{LinkCounters, LinkModel};
pub use record::{Request, Violation, WorkRecord};

use crate::{
    backend::{
        Capabilities, Capability, Device, DeviceError, DeviceFacts, DeviceKind, DeviceSummary,
        OpenContext, Provider,
    },
    embedded::Backing,
};

/// Which memory the device says is its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SimulatedMemory {
    /// Private memory: pages move to it and back.
    #[default]
    Own,
    /// Host memory: nothing moves, kernels reach it through windows.
    Host,
}

/// Whether kernels can reach host memory in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HostWindows {
    /// They can.
    #[default]
    Offered,
    /// They cannot.
    Absent,
}

/// How many queues the device has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Queues {
    /// One for everything, as some drivers have.
    One,
    /// One for launches, one for transfers.
    #[default]
    Two,
}

/// Whether a work is ordered after another whose end the host saw before it submitted the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SeenFences {
    /// It is: the host's look is a link of the chain.
    #[default]
    Order,
    /// Only waits order works, as the letter of the contract has it for visibility.
    DoNotOrder,
}

/// How the device is set up.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SimulatedOptions {
    /// Decides everything that is left open.
    pub seed: u64,
    /// When works are executed.
    pub progress: Progress,
    /// Which memory the device says is its own.
    pub memory: SimulatedMemory,
    /// How memory is put under a reservation.
    pub backing: Backing,
    /// Whether kernels can reach host memory in place.
    pub windows: HostWindows,
    /// How many queues the device has.
    pub queues: Queues,
    /// The most device memory, in bytes; `None`: as much as the system gives.
    pub memory_limit_bytes: Option<u64>,
    /// How fast it is on its virtual clock.
    pub link: LinkModel,
    /// What counts as an order between works.
    pub seen_fences: SeenFences,
}

/// A simulated device, not yet opened. It is one device: it can be open once at a time, and opening it again begins anew but for the
/// violations noted so far. Clones are the same device.
#[derive(Clone, Debug)]
pub struct SimulatedProvider {
    options: SimulatedOptions,
    summary: DeviceSummary,
    shared: Arc<Shared>,
}

impl SimulatedProvider {
    /// A device with these options.
    pub fn new(options: SimulatedOptions) -> Self {
        let summary = DeviceSummary {
            name: format!("simulated device (seed {})", options.seed),
            api: "simulated",
            driver: concat!("hmmap ", env!("CARGO_PKG_VERSION")).to_owned(),
            kind: DeviceKind::Simulated,
            uuid: None,
            pci: None,
            memory_bytes: options.memory_limit_bytes.unwrap_or(u64::MAX),
        };
        let shared = Arc::new(Shared::new(options.progress));
        Self { options, summary, shared }
    }

    /// The test's hand on the device.
    pub fn control(&self) -> SimulatedControl {
        SimulatedControl { shared: Arc::clone(&self.shared) }
    }

    fn facts(&self) -> DeviceFacts {
        let when = |offered| if offered { Capability::Proved } else { Capability::Masked };
        let options = &self.options;
        DeviceFacts {
            summary: self.summary.clone(),
            capabilities: Capabilities {
                host_window: when(options.windows == HostWindows::Offered),
                direct_copy: Capability::Proved,
                sparse: when(options.backing == Backing::Blocks),
                transfer_queue: when(options.queues == Queues::Two),
                long_loops: Capability::Proved,
                export: Capability::none("memory of this process, which nobody else takes in"),
                dma_buf: Capability::none("memory of this process, which nobody else takes in"),
            },
            shares_host_memory: options.memory == SimulatedMemory::Host,
            external: None,
            max_groups: [65_535; 3],
            rates: Some(options.link.rates()),
        }
    }
}

impl Provider for SimulatedProvider {
    fn summary(&self) -> &DeviceSummary {
        &self.summary
    }

    fn open(&self, context: OpenContext) -> Result<Arc<dyn Device>, DeviceError> {
        let device = SimulatedDevice::open(self.facts(), &self.options, &self.shared, context)?;
        Ok(Arc::new(device))
    }
}
