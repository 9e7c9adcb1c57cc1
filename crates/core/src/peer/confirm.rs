//! What a peer is told when its range is needed, and how it answers.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use crate::{node::NodeId, stats::Cause};

/// What becomes of the range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum PeerEvent {
    /// It is freed here and its contents go: a discard, or a device that was lost with its memory ([`Revoked::initiator`] is its node then).
    Unmap,
    /// It goes to another node, or room is made where it is.
    Migrate,
    /// It stays where it is and is about to be written there.
    Protect,
    /// The vector goes. This comes once and is final: the range cannot be mapped again.
    Release,
}

/// A range that a peer is to give back.
#[derive(Clone, Debug)]
pub struct Revoked {
    pub(crate) bytes: Range<u64>,
    pub(crate) event: PeerEvent,
    pub(crate) cause: Cause,
    pub(crate) initiator: NodeId,
    pub(crate) deadline: Instant,
    pub(crate) confirmation: Arc<Confirmation>,
}

impl Revoked {
    /// The bytes of the vector, as they were mapped.
    pub fn bytes(&self) -> Range<u64> {
        self.bytes.clone()
    }

    /// What becomes of them.
    pub fn event(&self) -> PeerEvent {
        self.event
    }

    /// What they are needed for.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// The node that needs them. A peer that works for that node itself knows its own move by it.
    pub fn initiator(&self) -> NodeId {
        self.initiator
    }

    /// Until when to confirm.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Nothing uses the addresses any more but work under attached fences. From any thread; a second time changes nothing.
    pub fn confirm(&self) {
        self.confirmation.confirm();
    }

    /// The peer has ended, and its mapping and its work with it: neither its confirmation nor its fences are waited for. Whoever says so of a peer that
    /// can still reach the memory breaks it.
    pub fn ended(&self) {
        self.confirmation.answer(Answer::Ended);
    }
}

/// What came back so far.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum Answer {
    #[default]
    None,
    /// The mapping is gone; work under fences may go on.
    Confirmed,
    /// The peer is gone.
    Ended,
}

/// One answer.
#[derive(Debug, Default)]
pub(crate) struct Confirmation {
    answer: Mutex<Answer>,
    given: Condvar,
}

impl Confirmation {
    pub(crate) fn confirm(&self) {
        self.answer(Answer::Confirmed);
    }

    pub(crate) fn answer(&self, answer: Answer) {
        let mut known = self.answer.lock();
        *known = answer.max(*known);
        self.given.notify_all();
    }

    pub(crate) fn is_given(&self) -> bool {
        *self.answer.lock() != Answer::None
    }

    /// True when the peer has ended, and its work with it.
    pub(crate) fn has_ended(&self) -> bool {
        *self.answer.lock() == Answer::Ended
    }

    /// Waits for it; false when the deadline came first.
    pub(crate) fn wait_until(&self, deadline: Instant) -> bool {
        let mut known = self.answer.lock();
        while *known == Answer::None {
            if self.given.wait_until(&mut known, deadline).timed_out() {
                return *known != Answer::None;
            }
        }
        true
    }
}

impl super::PeerFence for Confirmation {
    fn wait(&self, timeout: Duration) -> bool {
        self.wait_until(Instant::now() + timeout)
    }
}
