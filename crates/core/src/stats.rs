//! What moved, and why: counters by cause.

use std::{
    fmt,
    ops::{Index, Sub},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::hints::{HintCounters, HintStats};

/// Why bytes moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// A launch needed them on its device.
    Launch,
    /// The host asked for them.
    Guard,
    /// The host touched them.
    Fault,
    /// A prefetch.
    Prefetch,
    /// Room was made on a device.
    Eviction,
    /// A peer.
    Peer,
}

impl Cause {
    /// Every cause, in the order in which reports list them.
    pub const ALL: [Self; 6] =
        [Self::Launch, Self::Guard, Self::Fault, Self::Prefetch, Self::Eviction, Self::Peer];
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Launch => "launch",
            Self::Guard => "guard",
            Self::Fault => "fault",
            Self::Prefetch => "prefetch",
            Self::Eviction => "eviction",
            Self::Peer => "peer",
        })
    }
}

/// What moved for one cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moved {
    /// Bytes copied from the host to devices.
    pub to_device_bytes: u64,
    /// Bytes copied from devices to the host.
    pub to_host_bytes: u64,
    /// Bytes copied from device to device without the host.
    pub between_bytes: u64,
    /// Bytes filled with zeros on devices.
    pub zeroed_bytes: u64,
    /// Contiguous copies and fills that this took.
    pub regions: u64,
}

impl Moved {
    /// Bytes copied, whichever way.
    pub fn bytes(&self) -> u64 {
        self.to_device_bytes + self.to_host_bytes + self.between_bytes
    }
}

impl Sub for Moved {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            to_device_bytes: self.to_device_bytes - earlier.to_device_bytes,
            to_host_bytes: self.to_host_bytes - earlier.to_host_bytes,
            between_bytes: self.between_bytes - earlier.between_bytes,
            zeroed_bytes: self.zeroed_bytes - earlier.zeroed_bytes,
            regions: self.regions - earlier.regions,
        }
    }
}

/// A reading of the counters. Two readings subtract to what happened between them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    moved: [Moved; Cause::ALL.len()],
    /// Launches that a device accepted.
    pub launches: u64,
    /// Blocks whose device memory was taken back to make room.
    pub evicted_blocks: u64,
    /// Answers of eviction policies that made no sense, and were ignored.
    pub ignored_victims: u64,
    /// Vectors that launches used in host memory, through a window, because no room could be made for them on the device.
    pub windowed: u64,
    /// Vectors that launches used in host memory, through a window, because they went back and forth between host and device.
    pub kept_home: u64,
    /// Vectors that launches used in host memory, through a window, because they read little of them.
    pub left_home: u64,
    /// Ranges that peers were given addresses of, again after each revocation.
    pub peer_maps: u64,
    /// Mappings that were taken back from peers.
    pub revocations: u64,
    /// Of those, the ones whose peer did not give them back in time.
    pub late_peers: u64,
    /// Mappings that were refused because the quota for pins was used up.
    pub refused_pins: u64,
    /// Bytes that static peers pin at the time of the reading: a state, not a count, so a difference has that of the later reading.
    pub pinned_bytes: u64,
    /// What came of hints.
    pub hints: HintStats,
}

impl Stats {
    /// What moved, all causes together.
    pub fn total(&self) -> Moved {
        self.moved.iter().fold(Moved::default(), |sum, moved| Moved {
            to_device_bytes: sum.to_device_bytes + moved.to_device_bytes,
            to_host_bytes: sum.to_host_bytes + moved.to_host_bytes,
            between_bytes: sum.between_bytes + moved.between_bytes,
            zeroed_bytes: sum.zeroed_bytes + moved.zeroed_bytes,
            regions: sum.regions + moved.regions,
        })
    }
}

impl Index<Cause> for Stats {
    type Output = Moved;

    fn index(&self, cause: Cause) -> &Moved {
        &self.moved[cause as usize]
    }
}

impl Sub for Stats {
    type Output = Self;

    fn sub(mut self, earlier: Self) -> Self {
        for (now, before) in self.moved.iter_mut().zip(earlier.moved) {
            *now = *now - before;
        }
        self.launches -= earlier.launches;
        self.evicted_blocks -= earlier.evicted_blocks;
        self.ignored_victims -= earlier.ignored_victims;
        self.windowed -= earlier.windowed;
        self.kept_home -= earlier.kept_home;
        self.left_home -= earlier.left_home;
        self.peer_maps -= earlier.peer_maps;
        self.revocations -= earlier.revocations;
        self.late_peers -= earlier.late_peers;
        self.refused_pins -= earlier.refused_pins;
        self.hints = self.hints - earlier.hints;
        self
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} launches", self.launches)?;
        for cause in Cause::ALL {
            let moved = self[cause];
            if moved != Moved::default() {
                write!(
                    f,
                    "; {cause}: {} KiB to devices, {} KiB to the host, {} KiB zeroed",
                    moved.to_device_bytes >> 10,
                    moved.to_host_bytes >> 10,
                    moved.zeroed_bytes >> 10
                )?;
                if moved.between_bytes > 0 {
                    write!(f, ", {} KiB between devices", moved.between_bytes >> 10)?;
                }
            }
        }
        if self.evicted_blocks > 0 {
            write!(f, "; {} blocks evicted", self.evicted_blocks)?;
        }
        if self.windowed > 0 {
            write!(f, "; {} vectors used through host windows for want of room", self.windowed)?;
        }
        if self.kept_home > 0 {
            write!(f, "; {} used in host memory for going back and forth", self.kept_home)?;
        }
        if self.left_home > 0 {
            write!(f, "; {} used in host memory for being read little", self.left_home)?;
        }
        if self.ignored_victims > 0 {
            write!(f, "; {} answers of eviction policies ignored", self.ignored_victims)?;
        }
        if self.revocations > 0 {
            let (taken, late) = (self.revocations, self.late_peers);
            write!(f, "; {taken} mappings taken back from peers, {late} late")?;
        }
        if self.pinned_bytes > 0 {
            write!(f, "; {} KiB pinned by peers", self.pinned_bytes >> 10)?;
        }
        if self.refused_pins > 0 {
            write!(f, "; {} pins refused by quota", self.refused_pins)?;
        }
        if self.hints != HintStats::default() {
            write!(f, "; {}", self.hints)?;
        }
        Ok(())
    }
}

/// The counters themselves. They say how much, never that something has become visible, so every access is relaxed.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    moved: [MovedCounters; Cause::ALL.len()],
    pub(crate) launches: AtomicU64,
    pub(crate) evicted_blocks: AtomicU64,
    pub(crate) ignored_victims: AtomicU64,
    pub(crate) windowed: AtomicU64,
    pub(crate) kept_home: AtomicU64,
    pub(crate) left_home: AtomicU64,
    pub(crate) peer_maps: AtomicU64,
    pub(crate) revocations: AtomicU64,
    pub(crate) late_peers: AtomicU64,
    pub(crate) hints: HintCounters,
}

#[derive(Debug, Default)]
struct MovedCounters {
    to_device_bytes: AtomicU64,
    to_host_bytes: AtomicU64,
    between_bytes: AtomicU64,
    zeroed_bytes: AtomicU64,
    regions: AtomicU64,
}

impl Counters {
    pub(crate) fn add(&self, cause: Cause, moved: Moved) {
        let counters = &self.moved[cause as usize];
        counters.to_device_bytes.fetch_add(moved.to_device_bytes, Relaxed);
        counters.to_host_bytes.fetch_add(moved.to_host_bytes, Relaxed);
        counters.between_bytes.fetch_add(moved.between_bytes, Relaxed);
        counters.zeroed_bytes.fetch_add(moved.zeroed_bytes, Relaxed);
        counters.regions.fetch_add(moved.regions, Relaxed);
    }

    pub(crate) fn read(&self) -> Stats {
        Stats {
            moved: std::array::from_fn(|cause| Moved {
                to_device_bytes: self.moved[cause].to_device_bytes.load(Relaxed),
                to_host_bytes: self.moved[cause].to_host_bytes.load(Relaxed),
                between_bytes: self.moved[cause].between_bytes.load(Relaxed),
                zeroed_bytes: self.moved[cause].zeroed_bytes.load(Relaxed),
                regions: self.moved[cause].regions.load(Relaxed),
            }),
            launches: self.launches.load(Relaxed),
            evicted_blocks: self.evicted_blocks.load(Relaxed),
            ignored_victims: self.ignored_victims.load(Relaxed),
            windowed: self.windowed.load(Relaxed),
            kept_home: self.kept_home.load(Relaxed),
            left_home: self.left_home.load(Relaxed),
            peer_maps: self.peer_maps.load(Relaxed),
            revocations: self.revocations.load(Relaxed),
            late_peers: self.late_peers.load(Relaxed),
            refused_pins: 0,
            pinned_bytes: 0,
            hints: self.hints.read(),
        }
    }
}
