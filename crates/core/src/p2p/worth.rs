//! Is it wise? What a direct transfer should reach, against two copies with host memory in between.
//!
//! A prediction, from what the links say of themselves: nothing is measured here.
//!
//! - *Direct*: the smallest link on the way. Every link works in both directions at once, so a way that goes up and down through one link
//!   is not halved by itself. Through a host bridge it is at most a part of the faster side ([`Assumptions`]): the root complex splits
//!   and reorders packets, and the sockets' own interconnect is slower still.
//! - *Staged*: the smallest link from the provider to the host, then the smallest from the host to the peer, one copy after the other.
//! - *Together*: transfers that use a link in the same direction at the same time share it equally.
//!
//! A link is known by its upper end, because all functions below one port share it. Speed and width are those of now: an idle device may
//! have slowed its link down, so the rate with every link at its best is given too.

use std::{collections::BTreeMap, fmt};

use super::{
    address::PciAddress,
    config::PcieKind,
    link::Link,
    map_type::{MapType, Way},
    tree::{PciFunction, PciTree},
};

/// What the links do not say. None of these was measured by this library; a probe copy on the machine itself is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Assumptions {
    /// The payload of a packet where it could not be read, in bytes.
    pub payload_bytes: u32,
    /// What is left of the faster side's rate through one host bridge, in percent.
    pub one_host_bridge_percent: u32,
    /// The same through two host bridges.
    pub two_host_bridges_percent: u32,
    /// The same between devices near to different nodes of memory.
    pub two_numa_nodes_percent: u32,
}

impl Default for Assumptions {
    fn default() -> Self {
        Self {
            payload_bytes: 256,
            one_host_bridge_percent: 75,
            two_host_bridges_percent: 60,
            two_numa_nodes_percent: 40,
        }
    }
}

/// What lies between two functions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum PathKind {
    /// Nothing: it is one function.
    SameFunction,
    /// A bridge that both are below.
    OneBridge,
    /// One host bridge.
    OneHostBridge,
    /// Two host bridges near to the same node of memory, or to no stated one.
    TwoHostBridges,
    /// The way between two nodes of memory.
    TwoNumaNodes,
}

/// The link that limits a way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Narrowest {
    /// The function at the link's lower end.
    pub below: PciAddress,
    /// The link, as it runs now.
    pub link: Link,
    /// How many functions that are no bridges share it; virtual ones are not counted.
    pub shared_by: u32,
}

/// What to do with a pair, by the prediction alone; whether it is possible is another question.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Advice {
    /// Go directly.
    Direct,
    /// Stage through host memory.
    ThroughHost,
    /// No link on the way says how fast it is: measure.
    Measure,
}

/// What a direct transfer should reach. Rates are in bytes/s, and `None` where a link on the way does not say how fast it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Worth {
    /// What lies between.
    pub path: PathKind,
    /// Steps up from both ends, as the kernel counts.
    pub hops: u32,
    /// Directly, with the links as they run now.
    pub direct_bytes_per_s: Option<u64>,
    /// Directly, with every link at its best.
    pub direct_at_best_bytes_per_s: Option<u64>,
    /// In two copies through host memory, with the links as they run now.
    pub staged_bytes_per_s: Option<u64>,
    /// What limits the direct way.
    pub narrowest: Option<Narrowest>,
}

impl Worth {
    /// What to do.
    pub fn advice(&self) -> Advice {
        match (self.path, self.direct_bytes_per_s, self.staged_bytes_per_s) {
            (PathKind::SameFunction, ..) => Advice::Direct,
            (_, Some(direct), Some(staged)) if direct > staged => Advice::Direct,
            (_, Some(_), Some(_)) => Advice::ThroughHost,
            _ => Advice::Measure,
        }
    }
}

impl fmt::Display for Worth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |rate: Option<u64>| match rate {
            Some(bytes_per_s) => format!("{:.1} GB/s", bytes_per_s as f64 / 1e9),
            None => "an unknown rate".to_owned(),
        };
        let (direct, staged) = (rate(self.direct_bytes_per_s), rate(self.staged_bytes_per_s));
        match self.advice() {
            _ if self.path == PathKind::SameFunction => return f.write_str("the same function"),
            Advice::Direct => write!(f, "worth it: {direct} predicted, {staged} through the host")?,
            Advice::ThroughHost => {
                write!(f, "not worth it: {direct} predicted, {staged} through the host")?;
            }
            Advice::Measure => f.write_str(
                "not known: a link on the way does not say how fast it is; measure a copy",
            )?,
        }
        write!(f, " ({}, {} steps)", self.path, self.hops)?;
        if let Some(Narrowest { below, link, shared_by }) = self.narrowest {
            write!(f, ", limited by the link of {below}, {link}, which {shared_by} share")?;
        }
        if self.direct_at_best_bytes_per_s > self.direct_bytes_per_s {
            let best = rate(self.direct_at_best_bytes_per_s);
            write!(f, "; {best} with every link at its best: idle devices slow theirs down")?;
        }
        Ok(())
    }
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SameFunction => "same function",
            Self::OneBridge => "one bridge",
            Self::OneHostBridge => "one host bridge",
            Self::TwoHostBridges => "two host bridges",
            Self::TwoNumaNodes => "two NUMA nodes",
        })
    }
}

/// The predictions for transfers from each provider to its client, all at the same time.
pub(super) fn together(
    tree: &PciTree,
    assumptions: &Assumptions,
    pairs: &[(PciAddress, PciAddress, &Way)],
) -> Vec<Worth> {
    let flows: Vec<_> = pairs.iter().map(|pair| Flow::new(tree, pair)).collect();
    // How many transfers use each link, in each direction.
    let mut users: BTreeMap<(PciAddress, Direction), u64> = BTreeMap::new();
    for hop in flows.iter().flat_map(Flow::hops) {
        *users.entry((hop.key, hop.direction)).or_default() += 1;
    }
    let worth = |flow: &Flow<'_>| {
        let model = Model { assumptions, users: &users, payload_bytes: flow.payload(assumptions) };
        let (from, to) = (&flow.whole[0], &flow.whole[1]);
        let narrowest = flow.hops().min_by_key(|hop| model.rate(hop, When::Now));
        Worth {
            path: flow.kind,
            hops: flow.distance,
            direct_bytes_per_s: model.direct(flow, When::Now),
            direct_at_best_bytes_per_s: model.direct(flow, When::AtBest),
            staged_bytes_per_s: model
                .smallest(from, When::Now)
                .zip(model.smallest(to, When::Now))
                .map(|(from, to)| {
                    let (from, to) = (u128::from(from), u128::from(to));
                    (from * to / (from + to).max(1)) as u64
                }),
            narrowest: narrowest.and_then(|hop| {
                let (below, shared_by) = (hop.function.address, shared_by(tree, hop));
                Some(Narrowest { below, link: hop.now?, shared_by })
            }),
        }
    };
    flows.iter().map(worth).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Direction {
    Up,
    Down,
}

/// Which speed and width of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    Now,
    AtBest,
}

/// A step between a function and what is above it, over a link.
#[derive(Debug)]
struct Hop<'a> {
    function: &'a PciFunction,
    /// The upper end; of a device on a root bus itself, as virtual machines have them, the device.
    key: PciAddress,
    direction: Direction,
    /// The link as its lower end tells it, else its upper end.
    now: Option<Link>,
    best: Option<Link>,
}

impl Hop<'_> {
    fn link(&self, when: When) -> Option<Link> {
        match when {
            When::Now => self.now,
            When::AtBest => self.best.or(self.now),
        }
    }
}

/// One transfer.
#[derive(Debug)]
struct Flow<'a> {
    kind: PathKind,
    distance: u32,
    /// Every link from each end to the host.
    whole: [Vec<Hop<'a>>; 2],
    /// How many of them, from the end on, the direct way uses.
    used: [usize; 2],
    /// Every function on the two ways up, physical ones for virtual ones.
    functions: Vec<&'a PciFunction>,
}

impl<'a> Flow<'a> {
    fn new(tree: &'a PciTree, &(provider, client, way): &(PciAddress, PciAddress, &Way)) -> Self {
        let paths = [tree.path(provider), tree.path(client)];
        let whole = [hops(tree, &paths[0], Direction::Up), hops(tree, &paths[1], Direction::Down)];
        let below_common = |path: &[&PciFunction], hops: &[Hop<'_>]| {
            let own = path.iter().take_while(|function| Some(function.address) != way.common);
            let own: Vec<_> = own.map(|function| function.address).collect();
            hops.iter().take_while(|hop| own.contains(&hop.function.address)).count()
        };
        let across = way.map_type == MapType::BusAddress;
        let used = [0, 1].map(|side| match across {
            true => below_common(&paths[side], &whole[side]),
            false => whole[side].len(),
        });
        let node = |path: &[&PciFunction]| path.iter().find_map(|function| function.numa_node);
        let (near, far) = (node(&paths[0]), node(&paths[1]));
        let kind = match way.roots {
            _ if provider == client => PathKind::SameFunction,
            _ if across => PathKind::OneBridge,
            _ if near.zip(far).is_some_and(|(near, far)| near != far) => PathKind::TwoNumaNodes,
            [a, b] if a == b => PathKind::OneHostBridge,
            _ => PathKind::TwoHostBridges,
        };
        // Virtual functions send packets as large as their physical one says, and have no say of their own.
        let physical = |function: &&'a PciFunction| match function.physical {
            Some(address) => tree.function(address).unwrap_or(function),
            None => function,
        };
        let functions = paths.iter().flatten().map(physical).collect();
        Self { kind, distance: way.distance, whole, used, functions }
    }

    /// The links of the direct way.
    fn hops(&self) -> impl Iterator<Item = &Hop<'a>> {
        let [from, to] = &self.whole;
        from[..self.used[0]].iter().chain(&to[..self.used[1]])
    }

    fn payload(&self, assumptions: &Assumptions) -> u32 {
        let read = self.functions.iter().filter_map(|function| function.config.max_payload_bytes);
        read.min().unwrap_or(assumptions.payload_bytes)
    }
}

/// The links on the way from a function to its root bus, the lowest first.
fn hops<'a>(tree: &'a PciTree, path: &[&'a PciFunction], direction: Direction) -> Vec<Hop<'a>> {
    let mut hops = Vec::new();
    let mut above: Option<(&PciFunction, PcieKind)> = None;
    for function in path.iter().rev() {
        let kind = kind(function, above.map(|(_, kind)| kind));
        // Ports tell of the link below them.
        let is_port = matches!(kind, PcieKind::RootPort | PcieKind::SwitchDownstream);
        if !is_port {
            let port = above.filter(|(_, kind)| {
                matches!(kind, PcieKind::RootPort | PcieKind::SwitchDownstream)
            });
            let port = port.map(|(port, _)| port);
            let own = function.physical.and_then(|address| tree.function(address));
            let own = own.unwrap_or(function);
            hops.push(Hop {
                function,
                key: above.map_or(own.address, |(above, _)| above.address),
                direction,
                now: own.link.or(port.and_then(|port| port.link)),
                best: smaller(own.max_link, port.and_then(|port| port.max_link)),
            });
        }
        above = Some((function, kind));
    }
    hops.reverse();
    hops
}

/// What a function is; where that could not be read, what it must be by its place, since ports and upper sides of switches alternate.
fn kind(function: &PciFunction, above: Option<PcieKind>) -> PcieKind {
    match (function.config.kind, function.is_bridge(), above) {
        (PcieKind::Unknown, false, _) => PcieKind::Endpoint,
        (PcieKind::Unknown, true, None) => PcieKind::RootPort,
        (PcieKind::Unknown, true, Some(PcieKind::SwitchUpstream)) => PcieKind::SwitchDownstream,
        (PcieKind::Unknown, true, Some(_)) => PcieKind::SwitchUpstream,
        (known, ..) => known,
    }
}

/// A link is as good as the worse of its ends.
fn smaller(one: Option<Link>, other: Option<Link>) -> Option<Link> {
    match (one, other) {
        (Some(one), Some(other)) => {
            let speed = one.speed_mts().min(other.speed_mts());
            Link::new(speed, one.lanes().min(other.lanes()))
        }
        (one, other) => one.or(other),
    }
}

fn shared_by(tree: &PciTree, hop: &Hop<'_>) -> u32 {
    let shares = |function: &&PciFunction| {
        let counts = !function.is_bridge() && function.physical.is_none();
        counts && tree.path(function.address).iter().any(|above| above.address == hop.key)
    };
    tree.functions().iter().filter(shares).count() as u32
}

#[derive(Debug)]
struct Model<'a> {
    assumptions: &'a Assumptions,
    users: &'a BTreeMap<(PciAddress, Direction), u64>,
    payload_bytes: u32,
}

impl Model<'_> {
    /// This transfer's part of a link.
    fn rate(&self, hop: &Hop<'_>, when: When) -> Option<u64> {
        let users = self.users.get(&(hop.key, hop.direction)).copied().unwrap_or(1);
        Some(hop.link(when)?.bytes_per_s(self.payload_bytes) / users.max(1))
    }

    /// The smallest of some links; `None` when there is none, or one of them does not say.
    fn smallest<'a>(&self, hops: impl IntoIterator<Item = &'a Hop<'a>>, when: When) -> Option<u64> {
        let rates = hops.into_iter().map(|hop| self.rate(hop, when));
        rates.reduce(|one, other| Some(one?.min(other?))).flatten()
    }

    fn direct(&self, flow: &Flow<'_>, when: When) -> Option<u64> {
        let smallest = self.smallest(flow.hops(), when)?;
        let percent = match flow.kind {
            PathKind::SameFunction | PathKind::OneBridge => return Some(smallest),
            PathKind::OneHostBridge => self.assumptions.one_host_bridge_percent,
            PathKind::TwoHostBridges => self.assumptions.two_host_bridges_percent,
            PathKind::TwoNumaNodes => self.assumptions.two_numa_nodes_percent,
        };
        // Slow devices keep their rate: the host bridge forwards for faster ones.
        let sides = flow.whole.iter().filter_map(|side| self.smallest(side, when));
        let bridge = sides.max()? / 100 * u64::from(percent);
        Some(smallest.min(bridge))
    }
}
