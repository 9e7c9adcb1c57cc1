//! Wrong about who may be evicted, against launches that use the block and faults that bring it home.

use hmmap_core::{coherence::Log, node::NodeId};

use crate::rules::{Rules, has_all_elsewhere};

/// A clean copy goes, whatever a launch does with it.
pub(crate) struct WaitsForNobody;

impl Rules for WaitsForNobody {
    fn may_evict(&self, log: &Log, node: NodeId) -> bool {
        has_all_elsewhere(log.settled(), node)
    }
}

/// What a fault brings home counts as there from when its copy was submitted.
pub(crate) struct TrustsWhatIsUnderWay;

impl Rules for TrustsWhatIsUnderWay {
    fn may_evict(&self, log: &Log, node: NodeId) -> bool {
        has_all_elsewhere(&log.promised(), node)
    }
}

/// The only copy goes as if it were clean.
pub(crate) struct TakesTheOnlyCopy;

impl Rules for TakesTheOnlyCopy {
    fn may_evict(&self, log: &Log, _node: NodeId) -> bool {
        log.is_settled()
    }
}
