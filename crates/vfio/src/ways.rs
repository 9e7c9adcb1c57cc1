//! Whether a domain's devices reach another device's window, by what PCI says.
//!
//! An I/O address is nobody's on the bus: packets go up to the IOMMU, which sends them down again to the window. Whether a host bridge sends anything down that came from
//! below, and whether a switch takes a shorter way, is what [`hmmap_core::p2p`] answers; only its certain yes counts here.

use std::collections::HashMap;

use hmmap_core::{
    backend::{self, DeviceFacts},
    p2p::{Drivers, MapType, P2p, PciAddress, Possible},
    peer::Reach,
};
use parking_lot::Mutex;

/// From how far host memory is reached: up to the host bridge, and through it.
pub(crate) const HOST_HOPS: u32 = 2;

/// What was asked about each window so far. The answer does not change while devices stay where they are.
#[derive(Debug, Default)]
pub(crate) struct Ways(Mutex<HashMap<PciAddress, Reach>>);

impl Ways {
    /// How far the window of a provider is from these devices.
    pub(crate) fn reach(&self, provider: &DeviceFacts, devices: &[PciAddress]) -> Reach {
        // A double is host memory.
        let Some(at) = provider.summary.pci else { return Reach::Hops(HOST_HOPS) };
        let backend::PciAddress { domain, bus, device, function } = at;
        let Some(provider) = PciAddress::new(domain, bus, device, function) else {
            return Reach::No { reason: format!("{at} is no PCI function") };
        };
        if let Some(known) = self.0.lock().get(&provider) {
            return known.clone();
        }
        let reach = farthest(&P2p::live(), provider, devices);
        self.0.lock().insert(provider, reach.clone());
        reach
    }
}

/// How all of these devices reach a provider's window: as the one that is farthest away.
fn farthest(p2p: &P2p, provider: PciAddress, devices: &[PciAddress]) -> Reach {
    let mut hops = 1;
    for device in devices {
        match p2p.query(provider, *device, &Drivers::NotAsked).possible {
            // Both below one bridge.
            Possible::Yes { map_type: MapType::BusAddress, .. } => {}
            // Up as to the host's memory, and down again.
            Possible::Yes { .. } => hops = HOST_HOPS + 1,
            no => return Reach::No { reason: format!("{provider} from {device}: {no}") },
        }
    }
    Reach::Hops(hops)
}

#[cfg(test)]
#[path = "../../core/tests/pci/spec.rs"]
#[allow(dead_code, reason = "shared with the tests of the trees themselves")]
mod spec;

#[cfg(test)]
mod tests {
    use hmmap_core::p2p::{Cpu, PciTree, Platform};

    use super::{spec::Spec, *};

    fn p2p(name: &str) -> P2p {
        let trees = concat!(env!("CARGO_MANIFEST_DIR"), "/../core/tests/pci/trees/");
        let text = std::fs::read_to_string(format!("{trees}{name}.tree")).unwrap();
        let spec = Spec::parse(&text).unwrap();
        let cpu = spec.cpu.as_ref().map(|(vendor, family)| Cpu {
            vendor: vendor.trim_start_matches('-').to_owned(),
            family: *family,
        });
        P2p::new(PciTree::read(&spec.sysfs()), Platform { cpu, kernel: None })
    }

    fn at(name: &str) -> PciAddress {
        PciAddress::parse(name).unwrap()
    }

    fn from(tree: &str, devices: &[&str]) -> Reach {
        let devices: Vec<_> = devices.iter().map(|name| at(name)).collect();
        farthest(&p2p(tree), at("0000:03:00.0"), &devices)
    }

    #[test]
    fn q6_a_window_is_reached_where_pci_certainly_says_so() {
        let near = ["0000:04:00.0"];
        assert_eq!(from("one_switch", &near), Reach::Hops(1));
        assert_eq!(from("acs_provider_amd", &near), Reach::Hops(3));
        for (tree, word) in [("acs_provider_intel", "not listed"), ("unprivileged", "privilege")] {
            let Reach::No { reason } = from(tree, &near) else { panic!("{tree}") };
            assert!(reason.contains(word), "{reason}");
        }
        // One that does not reach it is one too many, as is one that nobody knows.
        let all = ["0000:04:00.0", "0000:05:00.0", "0000:7f:00.0"];
        assert_eq!(from("one_switch", &all[..2]), Reach::Hops(1));
        assert!(matches!(from("one_switch", &all), Reach::No { .. }));
    }
}
