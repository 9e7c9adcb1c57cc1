//! Everything that a watch has kept.

use std::{collections::BTreeMap, sync::Arc};

use hmmap_core::{
    Cause, NodeId,
    events::{Event, RecordingFacts, VectorId, What},
    stats::Moved,
};

/// What happened between [`crate::Watch::start`] and [`crate::Watch::finish`].
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// What happened, oldest first.
    pub events: Vec<Event>,
    /// The nodes and what they are called, the host first.
    pub nodes: Vec<(NodeId, String)>,
    /// What vectors and kernels are called.
    pub names: Arc<RecordingFacts>,
    /// Events that found no room. Where there are any, sums are too small and maps may be wrong from there on.
    pub dropped_events: u64,
}

impl Log {
    /// What was copied and filled, by cause: the same as the counters' difference, unless events were dropped.
    pub fn moved(&self) -> BTreeMap<Cause, Moved> {
        let mut sums = BTreeMap::<Cause, Moved>::new();
        for event in &self.events {
            let bytes = event.what.bytes();
            match event.what {
                What::Copied { cause, from, to, .. } => {
                    let sum = sums.entry(cause).or_default();
                    sum.regions += 1;
                    match (from.is_host(), to.is_host()) {
                        (_, true) => sum.to_host_bytes += bytes,
                        (true, false) => sum.to_device_bytes += bytes,
                        (false, false) => sum.between_bytes += bytes,
                    }
                }
                What::Zeroed { cause: Some(cause), .. } => {
                    let sum = sums.entry(cause).or_default();
                    sum.regions += 1;
                    sum.zeroed_bytes += bytes;
                }
                _ => {}
            }
        }
        sums
    }

    /// What a vector is called: by its name, else by its number.
    pub fn name(&self, vector: VectorId) -> String {
        self.names.vectors.get(&vector).map_or_else(|| vector.to_string(), ToString::to_string)
    }

    /// What a node is called.
    pub fn node(&self, node: NodeId) -> String {
        let known = self.nodes.iter().find(|(known, _)| *known == node);
        known.map_or_else(|| node.to_string(), |(_, name)| name.clone())
    }

    /// The times of the first event and of the last, in nanoseconds.
    pub(crate) fn span_ns(&self) -> (u64, u64) {
        let times = || self.events.iter().map(|event| event.at_ns);
        (times().min().unwrap_or(0), times().max().unwrap_or(0))
    }
}
