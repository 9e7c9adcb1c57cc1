//! Which host bridges forward packets between their ports, and between each other, as the kernel lists them
//! (`pci_p2pdma_whitelist` in `drivers/pci/p2pdma.c`).
//!
//! A host bridge is known by the first function on its root bus, if that is `00.0` or a root port. Nothing in the hardware says
//! whether it forwards, so this is a list of machines that people have tried. A kernel says yes to what its own list has, so an entry
//! counts from the version on in which we have seen it. We have looked at 6.0, 6.12 and 7.3: an entry that is new since 6.12
//! counts from 7.3 on, though it may be some versions older.

use super::{
    address::RootBus,
    config::PcieKind,
    platform::KernelVersion,
    tree::{PciId, PciTree},
};

const INTEL: u16 = 0x8086;
const GOOGLE: u16 = 0x1ae0;
const NVIDIA: u16 = 0x10de;

const V6_0: KernelVersion = KernelVersion { major: 6, minor: 0 };
const V7_3: KernelVersion = KernelVersion { major: 7, minor: 3 };

/// Whether a pair may be below two different host bridges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    /// Both below the same one.
    Same,
    /// Both host bridges are listed.
    Any,
}

#[derive(Debug)]
struct Entry {
    vendor: u16,
    /// `None`: every device of the vendor.
    device: Option<u16>,
    reach: Reach,
    since: KernelVersion,
}

const fn entry(vendor: u16, device: u16, reach: Reach, since: KernelVersion) -> Entry {
    Entry { vendor, device: Some(device), reach, since }
}

#[rustfmt::skip]
const LIST: [Entry; 25] = [
    // Xeon E5, E7 v3 and E5 v3: between sockets it works, and is slower than it is worth.
    entry(INTEL,  0x3c00, Reach::Same, V6_0),
    entry(INTEL,  0x3c01, Reach::Same, V6_0),
    entry(INTEL,  0x2f00, Reach::Same, V6_0),
    entry(INTEL,  0x2f01, Reach::Same, V6_0),
    // Skylake and later.
    entry(INTEL,  0x2030, Reach::Any,  V6_0),
    entry(INTEL,  0x2031, Reach::Any,  V6_0),
    entry(INTEL,  0x2032, Reach::Any,  V6_0),
    entry(INTEL,  0x2033, Reach::Any,  V6_0),
    entry(INTEL,  0x2020, Reach::Any,  V6_0),
    entry(INTEL,  0x09a2, Reach::Any,  V6_0),
    // Data streaming and analytics accelerators.
    entry(INTEL,  0x0b25, Reach::Any,  V7_3),
    entry(INTEL,  0x0cfe, Reach::Any,  V7_3),
    entry(INTEL,  0x11fb, Reach::Any,  V7_3),
    entry(INTEL,  0x1212, Reach::Any,  V7_3),
    entry(INTEL,  0x1216, Reach::Any,  V7_3),
    // QuickAssist.
    entry(INTEL,  0x4940, Reach::Any,  V7_3),
    entry(INTEL,  0x4942, Reach::Any,  V7_3),
    entry(INTEL,  0x4944, Reach::Any,  V7_3),
    entry(INTEL,  0x4946, Reach::Any,  V7_3),
    entry(INTEL,  0x4948, Reach::Any,  V7_3),
    Entry { vendor: GOOGLE, device: None, reach: Reach::Any, since: V7_3 },
    // NVIDIA's processors.
    entry(NVIDIA, 0x2f95, Reach::Any,  V7_3),
    entry(NVIDIA, 0x2f96, Reach::Any,  V7_3),
    entry(NVIDIA, 0x2f97, Reach::Any,  V7_3),
    entry(NVIDIA, 0x2f98, Reach::Any,  V7_3),
];

/// What the list says of the host bridges above a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Listed {
    /// They forward.
    Yes,
    /// This one does not, as far as this kernel knows.
    No(RootBus),
    /// Whether this one is listed could not be read without privilege.
    Unknown(RootBus),
}

/// Looks a pair of host bridges up.
pub(super) fn look_up(
    tree: &PciTree,
    kernel: Option<KernelVersion>,
    provider: RootBus,
    client: RootBus,
) -> Listed {
    if provider == client {
        return one(tree, kernel, provider, Reach::Same);
    }
    let both = [provider, client].map(|root| one(tree, kernel, root, Reach::Any));
    // A no is a no, whatever the other is.
    let no = both.into_iter().find(|listed| matches!(listed, Listed::No(_)));
    no.or_else(|| both.into_iter().find(|listed| *listed != Listed::Yes)).unwrap_or(Listed::Yes)
}

/// One host bridge; `pair` is how the two functions of the pair lie to it.
fn one(tree: &PciTree, kernel: Option<KernelVersion>, root: RootBus, pair: Reach) -> Listed {
    let Some((first, id)) = tree.first_on(root).and_then(|first| Some((first, first.id?))) else {
        return Listed::No(root);
    };
    if !is_listed(kernel, id, pair) {
        return Listed::No(root);
    }
    match first.config.kind {
        _ if first.address.devfn() == 0 => Listed::Yes,
        PcieKind::RootPort => Listed::Yes,
        PcieKind::Unknown => Listed::Unknown(root),
        _ => Listed::No(root),
    }
}

fn is_listed(kernel: Option<KernelVersion>, id: PciId, pair: Reach) -> bool {
    // Of an unknown kernel only what they all have is believed.
    let kernel = kernel.unwrap_or(V6_0);
    let found = LIST.iter().find(|entry| {
        entry.vendor == id.vendor && entry.device.is_none_or(|device| device == id.device)
    });
    found.is_some_and(|entry| {
        entry.since <= kernel && (entry.reach == Reach::Any || pair == Reach::Same)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q6_the_list_depends_on_the_kernel_and_on_the_pair() {
        let at = |major, minor| Some(KernelVersion { major, minor });
        let id = |vendor, device| PciId { vendor, device };
        // (kernel, id, same host bridge, two host bridges)
        let rows = [
            (at(6, 12), id(INTEL, 0x3c00), true, false),
            (at(6, 12), id(INTEL, 0x2030), true, true),
            (at(6, 12), id(INTEL, 0x09a2), true, true),
            (at(6, 12), id(INTEL, 0x4940), false, false),
            (at(7, 3), id(INTEL, 0x4940), true, true),
            (at(7, 3), id(GOOGLE, 0xffff), true, true),
            (at(7, 2), id(NVIDIA, 0x2f98), false, false),
            (at(7, 3), id(NVIDIA, 0x2f98), true, true),
            (at(7, 3), id(NVIDIA, 0x2f99), false, false),
            (at(7, 3), id(0x1022, 0x1450), false, false),
            (at(5, 4), id(INTEL, 0x2030), false, false),
            (None, id(INTEL, 0x2030), true, true),
            (None, id(INTEL, 0x4940), false, false),
        ];
        for (kernel, id, same, any) in rows {
            let found = [Reach::Same, Reach::Any].map(|pair| is_listed(kernel, id, pair));
            assert_eq!(found, [same, any], "{kernel:?} {id:x?}");
        }
    }
}
