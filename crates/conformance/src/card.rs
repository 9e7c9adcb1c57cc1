//! A peer that holds addresses and answers as a case wants it. It touches nothing by them: what is at an address is for cases with a device that
//! can read there.

use std::{sync::Arc, time::Duration};

use hmmap_core::{
    peer::{Participation, Peer, PeerAddress, PeerFence, PeerMemory, Place, Reach, Revoked},
    revocation::Enforcement,
};
use parking_lot::{Condvar, Mutex};

/// How it answers a revocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Manners {
    /// Confirms at once.
    #[default]
    Honest,
    /// Not at all; the case does.
    Silent,
    /// Panics.
    Panics,
    /// Says that it has ended.
    Ends,
}

#[derive(Debug, Default)]
pub(crate) struct Card {
    pub(crate) manners: Manners,
    pub(crate) participation: Participation,
    /// Its mapping can be taken without it.
    pub(crate) can_be_cut_off: bool,
    pub(crate) seen: Mutex<Seen>,
    pub(crate) told: Condvar,
}

/// What happened to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) told: Vec<Revoked>,
    /// Addresses that it has.
    pub(crate) mapped: usize,
    /// Addresses that were taken from it.
    pub(crate) cut_off: usize,
}

impl Card {
    pub(crate) fn new(manners: Manners) -> Arc<Self> {
        Arc::new(Self { manners, ..Self::default() })
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }

    /// Waits until it is told for the `count`-th time, and returns what it was told then.
    pub(crate) fn await_told(&self, count: usize) -> Revoked {
        let mut seen = self.seen.lock();
        while seen.told.len() < count {
            self.told.wait(&mut seen);
        }
        seen.told[count - 1].clone()
    }
}

impl Peer for Card {
    fn name(&self) -> &str {
        "card"
    }

    fn participation(&self) -> Participation {
        self.participation
    }

    fn reach(&self, place: &Place<'_>) -> Reach {
        Reach::Hops(if place.node.is_host() { 2 } else { 1 })
    }

    fn map(&self, memory: PeerMemory<'_>) -> Result<PeerAddress, String> {
        self.seen.lock().mapped += 1;
        Ok(PeerAddress { address: memory.address(), kind: memory.kind(), token: 0 })
    }

    fn unmap(&self, _address: PeerAddress) {
        self.seen.lock().mapped -= 1;
    }

    fn enforcement(&self) -> Enforcement {
        if self.can_be_cut_off { Enforcement::CutOff } else { Enforcement::Nothing }
    }

    fn cut_off(&self, _address: PeerAddress) {
        let mut seen = self.seen.lock();
        seen.mapped -= 1;
        seen.cut_off += 1;
    }

    fn revoke(&self, revoked: Revoked) {
        self.seen.lock().told.push(revoked.clone());
        self.told.notify_all();
        match self.manners {
            Manners::Honest => revoked.confirm(),
            Manners::Silent => {}
            Manners::Panics => panic!("as the case wants it"),
            Manners::Ends => revoked.ended(),
        }
    }
}

/// Work that ends when the case says so.
#[derive(Debug, Default)]
pub(crate) struct Work {
    has_ended: Mutex<bool>,
    ended: Condvar,
}

impl Work {
    pub(crate) fn end(&self) {
        *self.has_ended.lock() = true;
        self.ended.notify_all();
    }
}

impl PeerFence for Work {
    fn wait(&self, timeout: Duration) -> bool {
        let mut has_ended = self.has_ended.lock();
        if !*has_ended {
            let _ = self.ended.wait_for(&mut has_ended, timeout);
        }
        *has_ended
    }
}
