//! How things stand, in words that travel: numbers only grow while a runtime lives, so two readings subtract to rates.

use hmmap_core::{Cause, Runtime, stats::Moved};
use serde::{Deserialize, Serialize};

/// A runtime at one moment.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Reading {
    /// The process.
    pub process: u32,
    /// Its program's name, as the system has it.
    pub program: String,
    /// Since the runtime was published, in seconds.
    pub at_s: f64,
    /// The nodes, the host first. Devices are there once they were used.
    pub nodes: Vec<NodeReading>,
    /// What has moved, for each cause.
    pub causes: Vec<MovedReading>,
    /// Vectors that are there.
    pub vectors: Vec<VectorReading>,
    /// Launches that devices accepted.
    pub launches: u64,
    /// Blocks that left devices to make room.
    pub evicted_blocks: u64,
    /// Answers of eviction policies that were ignored.
    pub ignored_victims: u64,
    /// Vectors that launches used through windows for want of room.
    pub windowed: u64,
    /// Mappings that were taken back from peers.
    pub revocations: u64,
    /// Bytes that peers pin.
    pub pinned_bytes: u64,
}

/// A node at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NodeReading {
    /// `host`, or `device 0`.
    pub node: String,
    /// The device's name.
    pub name: String,
    /// Bytes of vectors that are current there.
    pub valid_bytes: u64,
    /// Memory taken there.
    pub used_bytes: u64,
    /// The most that is taken there.
    pub limit_bytes: Option<u64>,
}

/// What has moved for one cause.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MovedReading {
    /// The cause.
    pub cause: String,
    /// From the host to devices.
    pub to_device_bytes: u64,
    /// From devices to the host.
    pub to_host_bytes: u64,
    /// From device to device.
    pub between_bytes: u64,
    /// Filled with zeros on devices.
    pub zeroed_bytes: u64,
}

/// A vector at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VectorReading {
    /// Its number.
    pub vector: u64,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its memory.
    pub len_bytes: u64,
    /// Bytes current on each node that has any.
    pub valid_bytes: Vec<(String, u64)>,
    /// Bytes that several nodes hold.
    pub clean_bytes: u64,
    /// Copied to devices for it so far.
    pub to_device_bytes: u64,
    /// Copied to the host for it so far.
    pub to_host_bytes: u64,
    /// The launch that used it last; 0: none.
    pub last_launch: u64,
}

impl Reading {
    /// A runtime of this process, now. Takes each vector's lock for a moment.
    pub fn take(runtime: &Runtime, at_s: f64) -> Self {
        let vectors = runtime.vectors();
        let nodes = runtime.nodes(&vectors);
        let stats = runtime.stats();
        let cause = |cause: Cause| {
            let Moved { to_device_bytes, to_host_bytes, between_bytes, zeroed_bytes, .. } =
                stats[cause];
            let cause = cause.to_string();
            MovedReading { cause, to_device_bytes, to_host_bytes, between_bytes, zeroed_bytes }
        };
        Self {
            process: std::process::id(),
            program: program(),
            at_s,
            nodes: nodes.into_iter().map(NodeReading::from).collect(),
            causes: Cause::ALL.into_iter().map(cause).collect(),
            vectors: vectors.into_iter().map(VectorReading::from).collect(),
            launches: stats.launches,
            evicted_blocks: stats.evicted_blocks,
            ignored_victims: stats.ignored_victims,
            windowed: stats.windowed,
            revocations: stats.revocations,
            pinned_bytes: stats.pinned_bytes,
        }
    }
}

impl From<hmmap_core::events::NodeReading> for NodeReading {
    fn from(node: hmmap_core::events::NodeReading) -> Self {
        Self {
            node: node.node.to_string(),
            name: node.device.map_or_else(|| "host memory".to_owned(), |(_, name)| name),
            valid_bytes: node.valid_bytes,
            used_bytes: node.used_bytes,
            limit_bytes: node.limit_bytes,
        }
    }
}

impl From<hmmap_core::events::VectorReading> for VectorReading {
    fn from(vector: hmmap_core::events::VectorReading) -> Self {
        let valid = vector.valid_bytes.into_iter();
        Self {
            vector: vector.vector.0,
            name: vector.name.map(|name| name.to_string()),
            len_bytes: vector.len_bytes,
            valid_bytes: valid.map(|(node, bytes)| (node.to_string(), bytes)).collect(),
            clean_bytes: vector.clean_bytes,
            to_device_bytes: vector.moved.to_device_bytes,
            to_host_bytes: vector.moved.to_host_bytes,
            last_launch: vector.last_use,
        }
    }
}

fn program() -> String {
    let path = std::env::current_exe().ok();
    let name = path.as_ref().and_then(|path| path.file_name());
    name.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
