//! What a device is, and what was proved about it before it is used.

use std::fmt;

use super::Rates;
use crate::p2p::DriverView;

/// What kind of processor a device is; ordered, the one to prefer first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum DeviceKind {
    /// A graphics processor with memory of its own.
    DiscreteGpu,
    /// A graphics processor that shares the host's memory.
    IntegratedGpu,
    /// A graphics processor inside a virtual machine.
    VirtualGpu,
    /// A driver that runs on the CPU.
    Cpu,
    /// A test double.
    Simulated,
    /// No processor at all: memory of a device, which runs no kernels.
    Memory,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DiscreteGpu => "discrete GPU",
            Self::IntegratedGpu => "integrated GPU",
            Self::VirtualGpu => "virtual GPU",
            Self::Cpu => "CPU",
            Self::Simulated => "simulated",
            Self::Memory => "memory",
        })
    }
}

/// A PCI function's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct PciAddress {
    /// Domain (segment).
    pub domain: u32,
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.domain, self.bus, self.device, self.function)
    }
}

/// What is known of a device before it is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceSummary {
    /// The name that the driver gives.
    pub name: String,
    /// The programming interface: `vulkan`, `cuda`, `embedded`, `simulated`, `window`.
    pub api: &'static str,
    /// The driver and its version, as it calls itself.
    pub driver: String,
    /// What kind of processor it is.
    pub kind: DeviceKind,
    /// The driver's stable identifier of the physical device, where it has one.
    pub uuid: Option<[u8; 16]>,
    /// Where it sits, where that can be known.
    pub pci: Option<PciAddress>,
    /// How much memory it reports as its own, in bytes.
    pub memory_bytes: u64,
}

/// Whether a device can do one thing, as found by trying it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Capability {
    /// Tried when the device was opened, and it worked.
    Proved,
    /// The driver does not offer it.
    Absent {
        /// What is missing: an extension, a feature bit.
        reason: String,
    },
    /// The driver offers it, and the trial went wrong.
    Refuted {
        /// What was seen.
        reason: String,
    },
    /// Switched off by an option.
    Masked,
}

impl Capability {
    /// Not offered, and why.
    pub fn none(reason: impl Into<String>) -> Self {
        Self::Absent { reason: reason.into() }
    }

    /// True when the device may be asked for it.
    pub fn is_proved(&self) -> bool {
        matches!(self, Self::Proved)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proved => f.write_str("proved"),
            Self::Absent { reason } => write!(f, "absent: {reason}"),
            Self::Refuted { reason } => write!(f, "offered, but does not work: {reason}"),
            Self::Masked => f.write_str("switched off by an option"),
        }
    }
}

/// What an open device can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Host memory reachable by kernels at a device address.
    pub host_window: Capability,
    /// Copies between the arena and the device without a bounce through a staging ring.
    pub direct_copy: Capability,
    /// Memory put under single blocks of a reservation.
    pub sparse: Capability,
    /// A queue that copies while another computes.
    pub transfer_queue: Capability,
    /// Loops of a kernel that take more than 65,535 turns. Without them, launches are still accepted: results that need longer
    /// loops are wrong, and a warning said so when the device was opened.
    pub long_loops: Capability,
    /// Memory that other devices of the same driver take in and reach in place.
    pub export: Capability,
    /// Memory that any driver takes in as a dma-buf.
    pub dma_buf: Capability,
}

impl Capabilities {
    /// Each capability with its name and what it means to a user, for reports.
    pub fn table(&self) -> [(&'static str, &'static str, &Capability); 7] {
        [
            ("host window", "kernels can reach host memory in place", &self.host_window),
            (
                "direct copy",
                "pages move without a bounce through staging memory",
                &self.direct_copy,
            ),
            ("sparse backing", "single blocks of a buffer can be backed and evicted", &self.sparse),
            ("transfer queue", "copies overlap with kernels", &self.transfer_queue),
            ("long loops", "a kernel's loops run to their end, however long", &self.long_loops),
            (
                "shared memory",
                "other devices of the same driver reach memory in place",
                &self.export,
            ),
            ("dma-buf", "any driver can take memory in", &self.dma_buf),
        ]
    }
}

/// What an open device is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceFacts {
    /// What was known before it was opened.
    pub summary: DeviceSummary,
    /// What was proved when it was opened.
    pub capabilities: Capabilities,
    /// True when the device's memory is the host's memory, so that moving pages to it gains nothing.
    pub shares_host_memory: bool,
    /// In which ways it was proved to give memory out and to take memory in, and by whose driver; `None` for a device that does neither.
    pub external: Option<DriverView>,
    /// The most workgroups in one launch, per axis.
    pub max_groups: [u32; 3],
    /// How fast it is reached and reaches; `None` where nobody knows: then [`Rates::ASSUMED`] stands in.
    pub rates: Option<Rates>,
}
