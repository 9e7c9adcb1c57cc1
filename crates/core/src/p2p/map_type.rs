//! How packets go from one function to another: the kernel's algorithm (`calc_map_type_and_dist` in `drivers/pci/p2pdma.c`).
//!
//! | between the two | map type |
//! |---|---|
//! | a function that both are below (or are), and nobody on the way redirects | [`MapType::BusAddress`] |
//! | such a function, and somebody redirects up; or none | as the host bridges are trusted: [`MapType::ThroughHostBridge`] or [`MapType::NotSupported`] |
//! | anything on the way could not be read, and it is not refused either way | [`MapType::Unknown`] |
//!
//! *On the way*: the provider, the bridges above it up to and including the common one, and from the client up to below the common
//! one. That the provider itself and the common bridge count, and the client only on its own side, is the kernel's doing.
//! The *distance* is the number of steps up from both to the common one, or out of the tree where there is none. It is the same with and
//! without redirection, so it does not say which way packets go.
//!
//! Ways up form a forest, so the common function is where two ways, compared from their upper ends, part; and what redirects between is
//! a difference of two sums.

use super::{
    address::{PciAddress, RootBus},
    host_bridges::{self, Listed},
    platform::Platform,
    tree::{PciFunction, PciTree},
};

/// How packets go from a client to a provider's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum MapType {
    /// Across a bridge that both are below, with addresses of the bus; the host bridge and its IOMMU see nothing of it.
    BusAddress,
    /// Up through a host bridge and down again, with addresses that the IOMMU gives, where there is one.
    ThroughHostBridge,
    /// Not at all.
    NotSupported,
    /// What decides could not be read.
    Unknown,
}

/// The way between two functions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Way {
    /// How packets go.
    pub map_type: MapType,
    /// Steps up from both ends, as the kernel counts.
    pub distance: u32,
    /// The function that both are below, or are.
    pub common: Option<PciAddress>,
    /// Who redirects, the provider's side first.
    pub redirects: Vec<PciAddress>,
    /// Whose access control could not be read, the provider's side first.
    pub unread: Vec<PciAddress>,
    /// What is believed of the host bridges; only asked where packets may go through one.
    pub host_bridge: Option<HostBridges>,
    /// The root buses of provider and client.
    pub roots: [RootBus; 2],
}

/// What is believed of the host bridges above a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostBridges {
    /// The processor's forward any pair.
    Processor,
    /// The kernel lists them.
    Listed,
    /// This one is not listed.
    NotListed(RootBus),
    /// Whether this one is listed could not be read without privilege.
    Unread(RootBus),
    /// They are not listed, and the processor is not known.
    ProcessorNotKnown,
}

impl HostBridges {
    fn look(tree: &PciTree, platform: &Platform, roots: [RootBus; 2]) -> Self {
        if platform.cpu.as_ref().is_some_and(super::Cpu::forwards_any_pair) {
            return Self::Processor;
        }
        match host_bridges::look_up(tree, platform.kernel, roots[0], roots[1]) {
            Listed::Yes => Self::Listed,
            _ if platform.cpu.is_none() => Self::ProcessorNotKnown,
            Listed::No(root) => Self::NotListed(root),
            Listed::Unknown(root) => Self::Unread(root),
        }
    }

    /// Whether they forward; `None` where that is not known.
    pub fn forward(self) -> Option<bool> {
        match self {
            Self::Processor | Self::Listed => Some(true),
            Self::NotListed(_) => Some(false),
            Self::Unread(_) | Self::ProcessorNotKnown => None,
        }
    }
}

/// Finds the way between two functions of a tree; `None` when one of them is not in it.
pub(super) fn way(
    tree: &PciTree,
    platform: &Platform,
    provider: PciAddress,
    client: PciAddress,
) -> Option<Way> {
    let (up_a, up_b) = (tree.path(provider), tree.path(client));
    let roots = [up_a.first()?.root, up_b.first()?.root];
    let from_above = up_a.iter().rev().zip(up_b.iter().rev());
    let shared = from_above.take_while(|(a, b)| a.address == b.address).count();
    // Without a common one everything counts, up to the root buses.
    let (own_a, own_b) = (up_a.len() - shared, up_b.len() - shared);
    let way_a = &up_a[..(own_a + 1).min(up_a.len())];
    let on_way = || way_a.iter().chain(&up_b[..own_b]);
    let those = |redirects: Option<bool>| {
        let chosen = on_way().filter(|function| function.config.acs.redirects() == redirects);
        chosen.map(|function: &&PciFunction| function.address).collect::<Vec<_>>()
    };
    let common = up_a.get(own_a).map(|function| function.address);
    let unread = those(None);
    // Without a common one packets go up anyway.
    let redirects = if common.is_some() { those(Some(true)) } else { Vec::new() };
    let straight = common.is_some() && redirects.is_empty();
    let host_bridge =
        (!straight || !unread.is_empty()).then(|| HostBridges::look(tree, platform, roots));
    let forward = host_bridge.and_then(HostBridges::forward);
    let map_type = match (straight, unread.is_empty(), forward) {
        (true, true, _) => MapType::BusAddress,
        (false, _, Some(false)) => MapType::NotSupported,
        (_, true, Some(true)) => MapType::ThroughHostBridge,
        // Never a yes to what was not read, also where the kernel would not look.
        _ => MapType::Unknown,
    };
    let distance = (own_a + own_b) as u32;
    Some(Way { map_type, distance, common, redirects, unread, host_bridge, roots })
}
