//! Peer to peer: where two PCI functions sit, whether one can reach the other's memory, and whether it pays.
//!
//! # Problem
//!
//! A page of a vector is in a device's memory, and another device wants it. Whether its packets arrive depends on the bridges between the
//! two: a switch turns them round by itself, unless its access control (ACS) sends them up; a host bridge may forward them, or drop them
//! without a word. The kernel knows, for drivers inside of it. Here the same answer is derived from what sysfs shows, so that a program
//! has it before it asks a driver for anything.
//!
//! # Two answers, never one
//!
//! [`P2p::query`] says whether it is [`Possible`], with reasons and what would change them; and apart from that what it is [`Worth`]: a
//! predicted rate against two copies through host memory. A path can be possible and not worth it (between sockets), or worth it and not
//! possible (a host bridge that nobody has listed yet).
//!
//! # Words
//!
//! *Provider*: the function whose memory it is. *Peer*, or *client* in the kernel's words: the function that reaches for it. *Map type* and
//! *distance* are the kernel's ([`map_type`](MapType)). *Way*: what lies between the two.
//!
//! # Protocol
//!
//! ```text
//! Sysfs (trait) -> PciTree --+
//! Platform (cpu, kernel) ----+-> P2p -> way (map type, distance) -+-> Possible   (+ Drivers: what the drivers were asked)
//!                                                                 +-> Worth      (+ Assumptions: what links do not say)
//! ```
//!
//! All but [`SysfsFolder`] and [`Platform`]'s two readers is pure. An unprivileged reader sees 64 bytes of configuration space, which
//! do not show access control: then the answer is `Unknown`, and never a yes.

mod address;
mod config;
mod drivers;
mod host_bridges;
mod link;
mod map_type;
mod platform;
mod possible;
mod sysfs;
mod tree;
mod worth;

pub use address::{PciAddress, RootBus};
pub use config::{Acs, ConfigFacts, PcieKind};
pub use drivers::{DriverView, Drivers, HandleKinds, Opaque};
pub use link::Link;
pub use map_type::{HostBridges, MapType, Way};
pub use platform::{Cpu, KernelVersion, Platform};
pub use possible::{Possible, Reason};
pub use sysfs::{Beginning, Sysfs, SysfsFolder};
pub use tree::{MAX_FUNCTIONS, PciFunction, PciId, PciTree, Problem};
pub use worth::{Advice, Assumptions, Narrowest, PathKind, Worth};

use std::path::Path;

/// Answers for the pairs of one machine.
#[derive(Clone, Debug)]
pub struct P2p {
    tree: PciTree,
    platform: Platform,
    assumptions: Assumptions,
}

/// The two answers for a pair.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Whether it is possible.
    pub possible: Possible,
    /// Whether it pays, were it possible; `None` when one of the two is no PCI function of the tree.
    pub worth: Option<Worth>,
}

/// Why there is no distance to many clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoDistance {
    /// There are no clients.
    #[error("no clients were given")]
    NoClients,
    /// This client belongs to no PCI function of the tree, or the provider is none.
    #[error("client {client} or the provider is not below a PCI function of this tree")]
    NotPci {
        /// Its place among the clients.
        client: usize,
    },
    /// This client cannot reach the provider.
    #[error("client {client} cannot reach the provider")]
    NotSupported {
        /// Its place among the clients.
        client: usize,
    },
    /// Whether this client reaches the provider could not be read.
    #[error("whether client {client} can reach the provider is unknown without privilege")]
    Unknown {
        /// Its place among the clients.
        client: usize,
    },
}

impl P2p {
    /// Answers about a tree on a platform.
    pub fn new(tree: PciTree, platform: Platform) -> Self {
        Self { tree, platform, assumptions: Assumptions::default() }
    }

    /// Answers about the machine that this program runs on.
    pub fn live() -> Self {
        Self::new(PciTree::read(&SysfsFolder::new("/sys")), Platform::live())
    }

    /// Answers about a recorded machine: a folder with the `bus` and `devices` of a sysfs, and `cpuinfo` and `osrelease` beside them.
    pub fn recorded(root: &Path) -> Self {
        Self::new(PciTree::read(&SysfsFolder::new(root)), Platform::recorded(root))
    }

    /// The same with other assumptions.
    #[must_use]
    pub fn assuming(mut self, assumptions: Assumptions) -> Self {
        self.assumptions = assumptions;
        self
    }

    /// The tree.
    pub fn tree(&self) -> &PciTree {
        &self.tree
    }

    /// Processor and kernel.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Whether `peer` can reach the memory of `provider` in place, and whether it pays.
    pub fn query(&self, provider: PciAddress, peer: PciAddress, drivers: &Drivers) -> Answer {
        let Some(way) = self.way(provider, peer) else {
            let missing = [provider, peer].into_iter().find(|&a| self.tree.function(a).is_none());
            let address = missing.unwrap_or(provider);
            let possible = Possible::No { because: vec![Reason::NotPci { address }] };
            return Answer { possible, worth: None };
        };
        let root = match way.host_bridge {
            Some(HostBridges::NotListed(root) | HostBridges::Unread(root)) => root,
            _ => way.roots[0],
        };
        let first = self.tree.first_on(root).map(|first| (first.address, first.id));
        let possible = Possible::of(&way, drivers, first, self.platform.cpu.as_ref());
        let worth = worth::together(&self.tree, &self.assumptions, &[(provider, peer, &way)]).pop();
        Answer { possible, worth }
    }

    /// The way from `peer` to `provider`, as the kernel sees it; `None` when one of them is not in the tree.
    pub fn way(&self, provider: PciAddress, peer: PciAddress) -> Option<Way> {
        map_type::way(&self.tree, &self.platform, provider, peer)
    }

    /// The sum of the distances from a provider to its clients, as `pci_p2pdma_distance_many` has it. A client is what
    /// [`PciTree::owner`] found for a device, `None` for one that is below no function.
    ///
    /// # Errors
    ///
    /// There is no client, or one that does not certainly reach the provider: the kernel's -1.
    pub fn distance_many(
        &self,
        provider: PciAddress,
        clients: &[Option<PciAddress>],
    ) -> Result<u32, NoDistance> {
        let mut sum = (!clients.is_empty()).then_some(0).ok_or(NoDistance::NoClients)?;
        for (client, &address) in clients.iter().enumerate() {
            let way = address.and_then(|address| self.way(provider, address));
            let way = way.ok_or(NoDistance::NotPci { client })?;
            match way.map_type {
                MapType::BusAddress | MapType::ThroughHostBridge => sum += way.distance,
                MapType::NotSupported => return Err(NoDistance::NotSupported { client }),
                MapType::Unknown => return Err(NoDistance::Unknown { client }),
            }
        }
        Ok(sum)
    }

    /// What each of these transfers, from a provider to a peer, should reach while all of them run: links that they share in one direction
    /// are divided. `None` for a pair that is not in the tree.
    pub fn worth_together(&self, pairs: &[(PciAddress, PciAddress)]) -> Vec<Option<Worth>> {
        let ways: Vec<_> = pairs.iter().map(|&(a, b)| self.way(a, b)).collect();
        let known = pairs.iter().zip(&ways);
        let known = known.filter_map(|(&(a, b), way)| Some((a, b, way.as_ref()?)));
        let known: Vec<_> = known.collect();
        let mut found = worth::together(&self.tree, &self.assumptions, &known).into_iter();
        ways.iter().map(|way| way.as_ref().and_then(|_| found.next())).collect()
    }
}
