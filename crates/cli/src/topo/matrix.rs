//! Every pair of functions that may have memory or want some.

use hmmap::core::p2p::{Advice, Answer, Drivers, MapType, P2p, PciAddress, PciFunction, Possible};
use serde::Serialize;

use crate::table;

/// A terminal is not wider.
pub(super) const MOST_IN_TEXT: usize = 12;
/// Pairs are as many as the square.
pub(super) const MOST_IN_JSON: usize = 128;

/// The answers, and whom there was no room for.
#[derive(Serialize)]
pub(super) struct Matrix {
    pairs: Vec<Pair>,
    /// Functions that were not asked about, because there are too many.
    not_in_matrix: Vec<String>,
    #[serde(skip)]
    functions: Vec<PciAddress>,
}

#[derive(Serialize)]
struct Pair {
    provider: String,
    peer: String,
    possible: &'static str,
    map_type: String,
    distance: u32,
    because: Vec<String>,
    path: String,
    direct_bytes_per_s: Option<u64>,
    direct_at_best_bytes_per_s: Option<u64>,
    staged_bytes_per_s: Option<u64>,
    worth: &'static str,
    #[serde(skip)]
    cell: String,
}

impl Matrix {
    /// Asks about every pair of at most so many functions; those that are likelier to have memory of their own first.
    pub(super) fn new(p2p: &P2p, most: usize) -> Self {
        let functions = p2p.tree().functions().iter().filter(|function| !is_bridge(function));
        let mut functions: Vec<_> = functions.collect();
        functions.sort_by_key(|function| (rank(function), function.address));
        let left_out = functions.split_off(functions.len().min(most));
        let mut functions: Vec<_> = functions.iter().map(|function| function.address).collect();
        functions.sort_unstable();
        let pairs = functions.iter().flat_map(|&a| functions.iter().map(move |&b| (a, b)));
        Self {
            pairs: pairs.filter_map(|(a, b)| Pair::new(p2p, a, b)).collect(),
            not_in_matrix: left_out.iter().map(|function| function.address.to_string()).collect(),
            functions,
        }
    }

    pub(super) fn text(&self) -> String {
        let count = self.functions.len();
        if count == 0 {
            return "\nOnly bridges: nothing that could have memory, or want it.\n".to_owned();
        }
        let numbers = (1..=count).map(|number| format!("to {number}"));
        let header = ["".to_owned(), "memory of".to_owned()].into_iter().chain(numbers);
        let mut table = table::plain([""; 0]);
        table.set_header(header);
        for (row, pairs) in self.pairs.chunks(count).enumerate() {
            let own = [(row + 1).to_string(), self.functions[row].to_string()];
            table.add_row(own.into_iter().chain(pairs.iter().map(|pair| pair.cell.clone())));
        }
        let mut text = format!(
            "\n{table}\n\nbus: across a bridge, by bus addresses; host: up through a host bridge; no; ?: not known.\n\
             Then the distance, and the predicted GB/s directly | in two copies through host memory (-: no link says).\n\
             This is PCI's answer; drivers may still refuse. Rates are predictions from the links, nothing was measured.\n"
        );
        if !self.not_in_matrix.is_empty() {
            let names = self.not_in_matrix.join(", ");
            text.push_str(&format!(
                "Not in the matrix, for want of room: {names} (`--json` has them)\n"
            ));
        }
        self.reasons(&mut text);
        text
    }

    /// Every reason once, with the pairs that it is about.
    fn reasons(&self, text: &mut String) {
        let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
        let count = self.functions.len();
        for (index, pair) in self.pairs.iter().enumerate() {
            let name = format!("{}-{}", index / count + 1, index % count + 1);
            for reason in &pair.because {
                match reasons.iter_mut().find(|(known, _)| known == reason) {
                    Some((_, pairs)) => pairs.push(name.clone()),
                    None => reasons.push((reason, vec![name.clone()])),
                }
            }
        }
        for (reason, pairs) in reasons {
            let shown = match pairs.len() {
                0..=8 => pairs.join(", "),
                many => format!("{} and {} more", pairs[..8].join(", "), many - 8),
            };
            text.push_str(&format!("\n{shown}:\n  {reason}\n"));
        }
    }
}

impl Pair {
    fn new(p2p: &P2p, provider: PciAddress, peer: PciAddress) -> Option<Self> {
        let way = p2p.way(provider, peer)?;
        let Answer { possible, worth } = p2p.query(provider, peer, &Drivers::NotAsked);
        let worth = worth?;
        let gb = |rate: Option<u64>| {
            rate.map_or("-".to_owned(), |rate| format!("{:.1}", rate as f64 / 1e9))
        };
        let word = match way.map_type {
            MapType::BusAddress => "bus",
            MapType::ThroughHostBridge => "host",
            MapType::NotSupported => "no",
            MapType::Unknown => "?",
        };
        let rates = format!(" {}|{}", gb(worth.direct_bytes_per_s), gb(worth.staged_bytes_per_s));
        let rates = if provider == peer { String::new() } else { rates };
        Some(Self {
            provider: provider.to_string(),
            peer: peer.to_string(),
            possible: match possible {
                Possible::Yes { .. } => "yes",
                Possible::No { .. } => "no",
                Possible::Unknown { .. } => "unknown",
            },
            map_type: way.map_type.to_string(),
            distance: way.distance,
            because: possible.because().iter().map(ToString::to_string).collect(),
            path: worth.path.to_string(),
            direct_bytes_per_s: worth.direct_bytes_per_s,
            direct_at_best_bytes_per_s: worth.direct_at_best_bytes_per_s,
            staged_bytes_per_s: worth.staged_bytes_per_s,
            worth: match worth.advice() {
                Advice::Direct => "direct",
                Advice::ThroughHost => "through-host",
                Advice::Measure => "measure",
            },
            cell: format!("{word} {}{rates}", way.distance),
        })
    }
}

/// Bridges of every kind, also what stands for a host bridge.
fn is_bridge(function: &PciFunction) -> bool {
    function.class.is_some_and(|class| class >> 16 == 0x06)
}

/// Less for what is likelier to have memory that others want.
fn rank(function: &PciFunction) -> u8 {
    match (function.physical, function.class.unwrap_or(0) >> 16) {
        (Some(_), _) => 4,
        (None, 0x03 | 0x0b | 0x12) => 0,
        (None, 0x02) => 1,
        (None, 0x01) => 2,
        _ => 3,
    }
}
