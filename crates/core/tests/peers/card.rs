//! A "network card": reads by address, and gives ranges back as it was built to.
#![allow(unsafe_code, reason = "reads memory by address, as a card does")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use hmmap_core::{
    NodeId,
    peer::{
        AddressLimits, BusSegment, Participation, Peer, PeerAddress, PeerFence, PeerMapping,
        PeerMemory, Place, Reach, Revoked,
    },
};
use parking_lot::{Condvar, Mutex};

/// How it answers a revocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Manners {
    /// Confirms at once, or when the read that is under way is over.
    Honest,
    /// Keeps every revocation until the test confirms it.
    Silent,
    Panics,
}

pub(crate) struct Card {
    pub(crate) manners: Manners,
    pub(crate) participation: Participation,
    pub(crate) limits: AddressLimits,
    pub(crate) reaches_host: bool,
    pub(crate) reaches_devices: bool,
    /// As behind an IOMMU that maps for reading.
    pub(crate) enforces_reading: bool,
    pub(crate) told: Mutex<Vec<Revoked>>,
    pub(crate) mapped: AtomicI64,
    pub(crate) using: Mutex<Using>,
}

#[derive(Default)]
pub(crate) struct Using {
    readers: u32,
    waiting: Vec<Revoked>,
}

impl Card {
    pub(crate) fn new(manners: Manners) -> Self {
        Self {
            manners,
            participation: Participation::Dynamic,
            limits: AddressLimits::default(),
            reaches_host: true,
            reaches_devices: true,
            enforces_reading: false,
            told: Mutex::default(),
            mapped: AtomicI64::new(0),
            using: Mutex::default(),
        }
    }

    pub(crate) fn honest() -> Arc<Self> {
        Arc::new(Self::new(Manners::Honest))
    }

    /// Reads what is mapped, unless it is taken back before; `None` then.
    pub(crate) fn read(&self, mapping: &PeerMapping) -> Option<Vec<u32>> {
        let segments = mapping.segments().ok()?;
        self.using.lock().readers += 1;
        // Whoever took it back before that did not wait for us.
        let is_ours = !mapping.retry(segments.stamp());
        let words = is_ours.then(|| segments.list().iter().flat_map(unsafe_words).collect());
        let mut using = self.using.lock();
        using.readers -= 1;
        if using.readers == 0 {
            using.waiting.drain(..).for_each(|revoked| revoked.confirm());
        }
        words
    }

    /// What it was told last.
    pub(crate) fn last(&self) -> Revoked {
        self.told.lock().last().cloned().expect("it was told nothing")
    }
}

/// The words of a segment, read as hardware would.
pub(crate) fn unsafe_words(segment: &BusSegment) -> Vec<u32> {
    let start = segment.addr as *const u32;
    let count = segment.len_bytes as usize / 4;
    // SAFETY: the library gave the address, and keeps the memory until the mapping is confirmed as gone, which the tests do after this;
    // volatile, since the owner may write meanwhile where a test lets it.
    (0..count).map(|i| unsafe { start.add(i).read_volatile() }).collect()
}

impl Peer for Card {
    fn name(&self) -> &str {
        "card"
    }

    fn limits(&self) -> AddressLimits {
        self.limits
    }

    fn participation(&self) -> Participation {
        self.participation
    }

    fn enforces_reading(&self) -> bool {
        self.enforces_reading
    }

    fn reach(&self, place: &Place<'_>) -> Reach {
        let (reaches, hops) = match place.node {
            NodeId::HOST => (self.reaches_host, 2),
            _ => (self.reaches_devices, 1),
        };
        let reason = || "the test keeps it away".to_owned();
        if reaches { Reach::Hops(hops) } else { Reach::No { reason: reason() } }
    }

    fn map(&self, memory: PeerMemory<'_>) -> Result<PeerAddress, String> {
        self.mapped.fetch_add(1, SeqCst);
        Ok(PeerAddress { address: memory.address(), kind: memory.kind(), token: 7 })
    }

    fn unmap(&self, address: PeerAddress) {
        assert_eq!(address.token, 7);
        self.mapped.fetch_sub(1, SeqCst);
    }

    fn revoke(&self, revoked: Revoked) {
        self.told.lock().push(revoked.clone());
        match self.manners {
            Manners::Honest => {
                let mut using = self.using.lock();
                match using.readers {
                    0 => revoked.confirm(),
                    _ => using.waiting.push(revoked),
                }
            }
            Manners::Silent => {}
            Manners::Panics => panic!("as the test wants it"),
        }
    }
}

/// Work of the card's that ends when the test says so.
#[derive(Default)]
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
            self.ended.wait_for(&mut has_ended, timeout);
        }
        *has_ended
    }
}
