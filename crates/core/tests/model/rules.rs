//! The seam between the model and the rules: what is explored is whatever stands behind [`Rules`].

use hmmap_core::{
    access::Access,
    coherence::{self, BlockState, Effect, Log, Needs, Promise, Settlement},
    directory::FenceSet,
    fence::{FencePoint, FenceState},
    node::NodeId,
    units::PageMask,
};

/// The rules that the engine drives. Each method delegates to the shipped function; a mutant overrides one.
pub(crate) trait Rules {
    fn needs(
        &self,
        state: &BlockState,
        node: NodeId,
        access: Access,
        pages: PageMask,
        whole: PageMask,
    ) -> Needs {
        coherence::needs(state, node, access, pages, whole)
    }

    fn waits(&self, log: &Log, effect: Effect, pages: PageMask, into: &mut FenceSet) {
        into.extend(log.waits(effect, pages));
    }

    fn promise(&self, log: &mut Log, promise: Promise) {
        log.promise(promise);
    }

    fn done(&self, log: &mut Log, effect: Effect, pages: PageMask) {
        log.done(effect, pages);
    }

    fn settle(
        &self,
        log: &mut Log,
        poll: &mut dyn FnMut(FencePoint) -> FenceState,
        report: &mut dyn FnMut(Settlement),
    ) {
        log.settle(poll, report);
    }

    fn lose_node(&self, log: &mut Log, node: NodeId) {
        log.lose_node(node);
    }

    fn drop_clean(&self, log: &mut Log, node: NodeId, pages: PageMask) {
        log.drop_clean(node, pages);
    }

    /// Who may be evicted, as the engine's survey finds them: a block that is at rest, with no page that is only there.
    fn may_evict(&self, log: &Log, node: NodeId) -> bool {
        log.is_settled() && has_all_elsewhere(log.settled(), node)
    }

    /// A device's part of the protocol: work whose wait failed does not begin.
    fn runs_after_a_failed_wait(&self) -> bool {
        false
    }

    /// The engine's part of the protocol: the host waits for the fences of other devices before it submits.
    fn waits_for_foreign_fences(&self) -> bool {
        true
    }

    /// And for copies out of another device's memory, the device's own, too.
    fn waits_for_copies_between_devices(&self) -> bool {
        true
    }
}

/// Whether other nodes have each page that a node has.
pub(crate) fn has_all_elsewhere(state: &BlockState, node: NodeId) -> bool {
    let others = state.holders().iter().filter(|(holder, _)| *holder != node);
    let elsewhere = others.fold(PageMask::EMPTY, |sum, (_, held)| sum.or(*held));
    state.valid_on(node).without(elsewhere).is_empty()
}

/// The shipped rules.
pub(crate) struct Shipped;

impl Rules for Shipped {}
