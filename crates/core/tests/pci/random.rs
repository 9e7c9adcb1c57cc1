//! Random trees against the oracle.

use hmmap_core::p2p::{MapType, P2p};
use proptest::prelude::*;

use crate::{
    at, cases,
    oracle::{self, Map},
    spec::{Function, Node, Spec, What},
};

/// Compares every pair of a tree.
pub(crate) fn agree(spec: &Spec, p2p: &P2p) -> Result<(), String> {
    for (provider, _) in spec.functions() {
        for (client, _) in spec.functions() {
            let [a, b] = [provider, client].map(|at| spec.nodes[at].name.as_str());
            let way = p2p.way(at(a), at(b)).ok_or_else(|| format!("no way from {a} to {b}"))?;
            let found = match way.map_type {
                MapType::BusAddress => Map::BusAddress,
                MapType::ThroughHostBridge => Map::ThroughHostBridge,
                MapType::NotSupported => Map::NotSupported,
                MapType::Unknown => Map::Unknown,
            };
            let expected = oracle::answer(spec, provider, client);
            if (found, way.distance) != expected {
                return Err(format!("{a} {b}: {expected:?} by the oracle, found {way:?}"));
            }
        }
    }
    Ok(())
}

/// A node below an earlier one: which, and what it is like.
#[derive(Clone, Debug)]
struct Seed {
    below: usize,
    kind: Option<u8>,
    id: (u16, u16),
    acs: Option<u16>,
    reads: Option<usize>,
    is_virtual: bool,
}

fn seed() -> impl Strategy<Value = Seed> {
    let kind = prop_oneof![
        2 => Just(Some(0)), 3 => Just(Some(4)), 2 => Just(Some(5)), 2 => Just(Some(6)), 1 => Just(Some(9)), 1 => Just(None),
    ];
    let id = prop_oneof![
        Just((0x8086, 0x2020)),
        Just((0x8086, 0x2031)),
        Just((0x8086, 0x3c01)),
        Just((0x8086, 0x4940)),
        Just((0x1ae0, 7)),
        Just((0x10de, 0x2f97)),
        Just((0x8086, 0x4668)),
    ];
    let acs = prop_oneof![
        4 => Just(None), 2 => Just(Some(0)), 1 => Just(Some(0x53)), 1 => Just(Some(0x1d)), 1 => Just(Some(0x04)),
        1 => Just(Some(0x08)), 1 => Just(Some(0x20)),
    ];
    let reads = prop_oneof![12 => Just(None), 1 => Just(Some(64))];
    (0..1000usize, kind, id, acs, reads, prop::bool::weighted(0.15)).prop_map(
        |(below, kind, id, acs, reads, is_virtual)| Seed {
            below,
            kind,
            id,
            acs,
            reads,
            is_virtual,
        },
    )
}

/// Grows a tree: up to three root buses, the last below a function where that is asked, then functions below any bus.
fn grow(
    cpu: Option<(String, u32)>,
    kernel: &str,
    roots: usize,
    first_slot: u8,
    seeds: &[Seed],
) -> Spec {
    let mut spec = Spec { cpu, kernel: Some(kernel.into()), nodes: Vec::new() };
    // Of each node that functions can be below: its domain, its bus number and the next slot.
    let mut buses: Vec<(usize, u32, u8, u8)> = Vec::new();
    for root in 0..roots {
        let domain = root as u32;
        buses.push((spec.nodes.len(), domain, 0, first_slot));
        spec.nodes.push(Node {
            name: format!("pci{domain:04x}:00"),
            parent: None,
            what: What::RootBus,
        });
    }
    for (number, seed) in seeds.iter().enumerate() {
        let at = seed.below % buses.len();
        let (parent, domain, bus, slot) = buses[at];
        if slot >= 32 {
            continue;
        }
        buses[at].3 += 1;
        let name = format!("{domain:04x}:{bus:02x}:{slot:02x}.0");
        let physfn = physical_for(&spec, parent).filter(|_| seed.is_virtual);
        let place = spec.nodes.len();
        if physfn.is_none() {
            match seed.below % 17 {
                // A domain of its own below this function.
                0 => {
                    let inner = 0x10000 + number as u32;
                    let what = What::RootBus;
                    buses.push((place + 1, inner, 0xe0, first_slot));
                    spec.nodes.push(function(&name, parent, seed, physfn));
                    spec.nodes.push(Node {
                        name: format!("pci{inner:04x}:e0"),
                        parent: Some(place),
                        what,
                    });
                    continue;
                }
                _ => buses.push((place, domain, number as u8 + 1, 0)),
            }
        }
        spec.nodes.push(function(&name, parent, seed, physfn));
    }
    spec
}

/// Whom a virtual function below `parent` can stand for: an earlier function as deep below the same root bus, also one that is not
/// beside it, which no machine has and the rule covers.
fn physical_for(spec: &Spec, parent: usize) -> Option<String> {
    let place_of = |parent| {
        let path = spec.path(parent);
        let root = path.split('/').rfind(|part| part.starts_with("pci")).map(str::to_owned);
        (path.split('/').count(), root)
    };
    let mut earlier = spec.functions().filter(|(at, function)| {
        let other = spec.nodes[*at].parent;
        function.physfn.is_none() && other.map(place_of) == Some(place_of(parent))
    });
    earlier.next().map(|(at, _)| spec.nodes[at].name.clone())
}

fn function(name: &str, parent: usize, seed: &Seed, physfn: Option<String>) -> Node {
    let Seed { kind, id: (vendor, device), acs, reads, .. } = *seed;
    let class = if kind == Some(0) { 0x0003_0200 } else { 0x0006_0400 };
    // A conventional function has no room for access control.
    let acs = acs.filter(|_| kind.is_some());
    let what = Function { vendor, device, class, kind, acs, reads, physfn, ..Function::default() };
    Node { name: name.into(), parent: Some(parent), what: What::Function(Box::new(what)) }
}

proptest! {
    #![proptest_config(cases::cases(2000))]

    #[test]
    fn q6_random_trees_get_what_the_oracle_says(
        cpu in prop_oneof![
            Just(Some(("AuthenticAMD", 0x19))), Just(Some(("AuthenticAMD", 0x16))), Just(Some(("HygonGenuine", 0x18))),
            Just(Some(("GenuineIntel", 6))), Just(None),
        ],
        kernel in prop_oneof![Just("6.12"), Just("7.3")],
        roots in 1..4usize,
        first_slot in 0..2u8,
        seeds in prop::collection::vec(seed(), 1..20),
    ) {
        let cpu = cpu.map(|(vendor, family)| (vendor.to_owned(), family));
        let spec = grow(cpu, kernel, roots, first_slot, &seeds);
        let p2p = crate::in_memory(&spec);
        prop_assert_eq!(p2p.tree().functions().len(), spec.functions().count());
        agree(&spec, &p2p).map_err(TestCaseError::fail)?;
    }
}
