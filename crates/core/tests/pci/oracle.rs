//! What the kernel would say of a pair, worked out step by step over the tree's text. No shared code with what it checks: it knows no
//! sysfs, climbs where that compares, and runs the kernel's steps once for each thing that what could not be read may have been.

use super::spec::{Function, Node, Spec, What};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Map {
    BusAddress,
    ThroughHostBridge,
    NotSupported,
    Unknown,
}

/// What stands where nothing was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guess {
    Best,
    Worst,
}

/// Map type and distance for a provider and a client, by place.
pub(crate) fn answer(spec: &Spec, provider: usize, client: usize) -> (Map, u32) {
    let (best, distance) = kernel(spec, provider, client, Guess::Best);
    let (worst, _) = kernel(spec, provider, client, Guess::Worst);
    let unread = unread_on_the_way(spec, provider, client) || best != worst;
    match (best, worst) {
        (Map::NotSupported, Map::NotSupported) => (Map::NotSupported, distance),
        (same, _) if !unread => (same, distance),
        _ => (Map::Unknown, distance),
    }
}

/// The kernel's steps.
fn kernel(spec: &Spec, provider: usize, client: usize, guess: Guess) -> (Map, u32) {
    let (mut dist_a, mut redirects) = (0, 0);
    let mut a = Some(provider);
    while let Some(at) = a {
        redirects += u32::from(redirects_up(spec, at, guess));
        let mut dist_b = 0;
        let mut b = Some(client);
        while let Some(on_b) = b {
            if on_b == at {
                let mut below = client;
                while below != at {
                    redirects += u32::from(redirects_up(spec, below, guess));
                    below = up(spec, below).unwrap();
                }
                if redirects == 0 {
                    return (Map::BusAddress, dist_a + dist_b);
                }
                return (host_bridge(spec, provider, client, guess), dist_a + dist_b);
            }
            b = up(spec, on_b);
            dist_b += 1;
        }
        a = up(spec, at);
        dist_a += 1;
        if a.is_none() {
            return (host_bridge(spec, provider, client, guess), dist_a + dist_b);
        }
    }
    unreachable!("the loop ends by returning");
}

fn function(spec: &Spec, at: usize) -> &Function {
    match &spec.nodes[at].what {
        What::Function(function) => function,
        other => panic!("{other:?} is no function"),
    }
}

/// The bridge above, of a virtual function that of its physical one.
fn up(spec: &Spec, at: usize) -> Option<usize> {
    let physical = function(spec, at).physfn.as_ref();
    let physical = physical.and_then(|name| spec.nodes.iter().position(|node| node.name == *name));
    let parent = spec.nodes[physical.unwrap_or(at)].parent?;
    matches!(spec.nodes[parent].what, What::Function(_)).then_some(parent)
}

fn is_cut(function: &Function) -> bool {
    let whole = match (&function.bytes, function.kind) {
        (Some((_, size)), _) => *size,
        (None, Some(_)) => 4096,
        (None, None) => 256,
    };
    function.reads.is_some_and(|reads| reads < whole)
}

fn redirects_up(spec: &Spec, at: usize, guess: Guess) -> bool {
    let function = function(spec, at);
    if is_cut(function) {
        return guess == Guess::Worst;
    }
    let (request, completion, egress) = (0x04, 0x08, 0x20);
    function.acs.is_some_and(|control| control & (request | completion | egress) != 0)
}

fn unread_on_the_way(spec: &Spec, provider: usize, client: usize) -> bool {
    let way = |from| std::iter::successors(Some(from), |&at| up(spec, at)).collect::<Vec<_>>();
    let (a, b) = (way(provider), way(client));
    let common = a.iter().copied().find(|at| b.contains(at));
    let below = |way: &[usize]| way.iter().copied().take_while(|&at| Some(at) != common).collect();
    let on_way: Vec<Vec<usize>> = vec![below(&a), common.into_iter().collect(), below(&b)];
    on_way.concat().into_iter().any(|at| is_cut(function(spec, at)))
}

fn host_bridge(spec: &Spec, provider: usize, client: usize, guess: Guess) -> Map {
    let zen = |(vendor, family): &(String, u32)| vendor == "AuthenticAMD" && *family >= 0x17;
    if spec.cpu.as_ref().is_some_and(zen) {
        return Map::ThroughHostBridge;
    }
    let (a, b) = (root_bus(spec, provider), root_bus(spec, client));
    let listed = match a == b {
        true => is_listed(spec, a, true, guess),
        false => is_listed(spec, a, false, guess) && is_listed(spec, b, false, guess),
    };
    match listed || (spec.cpu.is_none() && guess == Guess::Best) {
        true => Map::ThroughHostBridge,
        false => Map::NotSupported,
    }
}

fn root_bus(spec: &Spec, at: usize) -> usize {
    let mut at = at;
    while !matches!(spec.nodes[at].what, What::RootBus) {
        at = spec.nodes[at].parent.unwrap();
    }
    at
}

fn is_listed(spec: &Spec, root: usize, same: bool, guess: Guess) -> bool {
    // Names of one bus sort as device and function numbers do.
    let on_bus = |node: &&Node| node.parent == Some(root) && matches!(node.what, What::Function(_));
    let mut on_bus: Vec<&Node> = spec.nodes.iter().filter(on_bus).collect();
    on_bus.sort_by_key(|node| node.name.clone());
    let Some(first) = on_bus.first() else { return false };
    let What::Function(function) = &first.what else { return false };
    let cut = function.reads.is_some_and(|reads| reads <= 64);
    let is_port = if cut && function.kind.is_some() {
        guess == Guess::Best
    } else {
        function.kind == Some(4)
    };
    if !first.name.ends_with(":00.0") && !is_port {
        return false;
    }
    let newest = spec.kernel.as_deref() == Some("7.3");
    match (function.vendor, function.device) {
        (0x8086, 0x3c00 | 0x3c01 | 0x2f00 | 0x2f01) => same,
        (0x8086, 0x2030..=0x2033 | 0x2020 | 0x09a2) => true,
        (0x8086, 0x0b25 | 0x0cfe | 0x11fb | 0x1212 | 0x1216) => newest,
        (0x8086, 0x4940 | 0x4942 | 0x4944 | 0x4946 | 0x4948) => newest,
        (0x1ae0, _) => newest,
        (0x10de, 0x2f95..=0x2f98) => newest,
        _ => false,
    }
}
