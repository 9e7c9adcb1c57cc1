//! A device is lost, and peers had addresses of its memory: they hear of it, and nobody waits for them.
//!
//! There is nothing to keep in order any more: the memory is gone whatever they do, so the five verbs shrink to the first two. The stamp has changed when they are
//! told, the event is an unmapping, and who maps again gets what is left: another node's copy, or that the range is lost.

use std::{sync::Arc, time::Instant};

use super::peers::tell;
use crate::{
    node::NodeId,
    peer::{PeerEvent, Revoked, SharedPeer, Stage},
    runtime::Inner,
    stats::Cause,
    vec::Buffer,
};

impl Inner {
    /// Tells every peer that had addresses on a lost node. No lock is held, and no fault is being answered.
    pub(crate) fn tell_peers_of_loss(&self, node: NodeId) {
        let buffers: Vec<Arc<Buffer>> =
            self.placed.lock().buffers.values().filter_map(std::sync::Weak::upgrade).collect();
        for buffer in buffers {
            for (peer, revoked) in self.lose_mappings(&buffer, node) {
                tell(&peer, revoked);
            }
        }
    }

    /// Ends the mappings that reach a lost node's memory, and says whom to tell.
    fn lose_mappings(&self, buffer: &Arc<Buffer>, node: NodeId) -> Vec<(SharedPeer, Revoked)> {
        let deadline = Instant::now() + self.peer_deadline();
        let mut state = buffer.state.lock();
        if state.peers.is_none() {
            return Vec::new();
        }
        // Before it, so that who maps in the end is not taken for one who had addresses.
        self.settle(&mut state, buffer.all());
        let Some(peers) = state.peers.as_deref_mut() else { return Vec::new() };
        let told = peers.entries_mut().filter_map(|entry| {
            let is_lost = entry.lost_on.take_if(|lost| *lost == node).is_some();
            // Who has mapped again since has found out.
            let hears = is_lost && entry.stage == Stage::Unmapped && !entry.is_static();
            let revoked = || entry.revoked(PeerEvent::Unmap, Cause::Peer, node, deadline);
            hears.then(|| (entry.peer.clone(), revoked()))
        });
        told.collect()
    }
}
