//! Wrong records of what accepted work will have done.

use hmmap_core::{
    coherence::{Effect, Log, Promise},
    node::NodeId,
    units::PageMask,
};

use crate::rules::Rules;

/// A write adds its copy to the others instead of replacing them.
pub(crate) struct WriteKeepsOtherCopies;

impl Rules for WriteKeepsOtherCopies {
    fn promise(&self, log: &mut Log, mut promise: Promise) {
        if let Effect::Write { on } = promise.effect {
            promise.effect = Effect::Copy { from: on, to: on };
        }
        log.promise(promise);
    }
}

/// A copy is current as soon as it was asked for.
pub(crate) struct CopyCountsAtOnce;

impl Rules for CopyCountsAtOnce {
    fn promise(&self, log: &mut Log, promise: Promise) {
        match promise.effect {
            Effect::Copy { .. } => log.done(promise.effect, promise.pages),
            _ => log.promise(promise),
        }
    }
}

/// Of several reads in flight only the first is kept.
pub(crate) struct SecondReadIsNotKept;

impl Rules for SecondReadIsNotKept {
    fn promise(&self, log: &mut Log, promise: Promise) {
        let known = log.promises().iter().any(|earlier| earlier.effect == promise.effect);
        if !(known && matches!(promise.effect, Effect::Read { .. })) {
            log.promise(promise);
        }
    }
}

/// What a kernel writes is recorded as if it had only read it.
pub(crate) struct WriteIsForgotten;

impl Rules for WriteIsForgotten {
    fn promise(&self, log: &mut Log, mut promise: Promise) {
        if let Effect::Write { on } = promise.effect {
            promise.effect = Effect::Read { on };
        }
        log.promise(promise);
    }
}

/// What is given up still counts.
pub(crate) struct DiscardIsForgotten;

impl Rules for DiscardIsForgotten {
    fn done(&self, log: &mut Log, effect: Effect, pages: PageMask) {
        if effect != Effect::Discard {
            log.done(effect, pages);
        }
    }
}

/// What is given up while something is in flight on it comes back with that.
pub(crate) struct DiscardDoesNotQueue;

impl Rules for DiscardDoesNotQueue {
    fn done(&self, log: &mut Log, effect: Effect, pages: PageMask) {
        if effect != Effect::Discard || log.is_settled() {
            log.done(effect, pages);
        }
    }
}

/// Makes a log whose settled state is this, by way of the rules themselves. Lost pages are lost on a node that nobody uses.
pub(super) fn log_of(holders: &[(NodeId, PageMask)], lost: PageMask) -> Log {
    let mut log = Log::default();
    let nowhere =
        NodeId::of_device(hmmap_core::node::DeviceId::new(14).expect("14 is below the limit"));
    log.done(Effect::Write { on: nowhere }, lost);
    log.lose_node(nowhere);
    let mut made = PageMask::EMPTY;
    for (node, pages) in holders {
        log.done(Effect::Write { on: *node }, pages.without(made));
        log.done(Effect::Copy { from: NodeId::HOST, to: *node }, pages.and(made));
        made = made.or(*pages);
    }
    log
}
