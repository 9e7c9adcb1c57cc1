//! How things stand: nodes and vectors, for whoever watches a runtime.

use std::sync::Arc;

use super::VectorId;
use crate::{
    directory::PageSpan,
    node::{DeviceId, NodeId},
    runtime::Runtime,
    stats::Moved,
    units::PAGE_BYTES,
};

/// A node as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeReading {
    /// Which node.
    pub node: NodeId,
    /// The device whose memory it is, and its name; `None` for the host.
    pub device: Option<(DeviceId, String)>,
    /// Bytes of vectors that are current there.
    pub valid_bytes: u64,
    /// Memory taken there, in bytes; for the host the same as `valid_bytes`.
    pub used_bytes: u64,
    /// The most that is taken there; `None`: no limit of ours.
    pub limit_bytes: Option<u64>,
}

/// A vector as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VectorReading {
    /// Which vector.
    pub vector: VectorId,
    /// What the program calls it ([`crate::SharedVec::set_name`]).
    pub name: Option<Arc<str>>,
    /// Its memory, in whole pages.
    pub len_bytes: u64,
    /// Bytes that are current on each node that has any. A page that several nodes hold counts for each.
    pub valid_bytes: Vec<(NodeId, u64)>,
    /// Bytes that several nodes hold: all copies of them but one can be dropped for nothing.
    pub clean_bytes: u64,
    /// What was copied and zeroed for it so far, for whatever cause.
    pub moved: Moved,
    /// When a launch used it last, in launches of the runtime; 0: never.
    pub last_use: u64,
}

impl Runtime {
    /// Every vector as it is now. Waits for nothing but the locks of each for a moment; moves nothing.
    pub fn vectors(&self) -> Vec<VectorReading> {
        let inner = self.inner();
        let mut readings: Vec<_> = inner
            .buffers()
            .iter()
            .map(|buffer| {
                let mut state = buffer.state.lock();
                inner.settle(&mut state, buffer.all());
                let mut valid_bytes: Vec<(NodeId, u64)> = Vec::new();
                let mut clean_bytes = 0;
                for run in state.directory.residency(buffer.all()) {
                    let pages = PageSpan { first: run.pages.start, end: run.pages.end };
                    let bytes = pages.count() * PAGE_BYTES;
                    clean_bytes += if run.is_clean() { bytes } else { 0 };
                    for node in run.nodes {
                        match valid_bytes.iter_mut().find(|(known, _)| *known == node) {
                            Some((_, sum)) => *sum += bytes,
                            None => valid_bytes.push((node, bytes)),
                        }
                    }
                }
                valid_bytes.sort_unstable();
                VectorReading {
                    vector: state.number,
                    name: state.name.clone(),
                    len_bytes: buffer.span.len_bytes,
                    valid_bytes,
                    clean_bytes,
                    moved: state.moved,
                    last_use: state.last_use,
                }
            })
            .collect();
        readings.sort_unstable_by_key(|reading| reading.vector);
        readings
    }

    /// Every node as it is now, the host first, by what these vectors have there. Opens no device.
    pub fn nodes(&self, vectors: &[VectorReading]) -> Vec<NodeReading> {
        let inner = self.inner();
        let valid = |node: NodeId| -> u64 {
            let all = vectors.iter().flat_map(|vector| &vector.valid_bytes);
            all.filter(|(on, _)| *on == node).map(|(_, bytes)| bytes).sum()
        };
        let host = NodeReading {
            node: NodeId::HOST,
            device: None,
            valid_bytes: valid(NodeId::HOST),
            used_bytes: valid(NodeId::HOST),
            limit_bytes: None,
        };
        let opened = inner.slots.iter().filter_map(|slot| inner.opened(slot.id));
        let own = opened.filter(|open| !open.node.is_host()).map(|open| NodeReading {
            node: open.node,
            device: Some((open.id, open.device.facts().summary.name.clone())),
            valid_bytes: valid(open.node),
            used_bytes: open.budget.used_bytes(),
            limit_bytes: Some(open.budget.limit_bytes()),
        });
        std::iter::once(host).chain(own).collect()
    }
}
