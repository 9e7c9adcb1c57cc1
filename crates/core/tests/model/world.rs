//! One state of the world: the log that the rules keep, and beside it what is really so.

use hmmap_core::{
    coherence::{Effect, Log, Promise},
    fence::{FencePoint, FenceState, TimelineId},
    node::{DeviceId, NodeId},
    units::PageMask,
};
use smallvec::SmallVec;

use crate::ghost::{GARBAGE, History, Version, ZEROS, renumber, renumber_down};

pub(crate) const PAGES: usize = 2;
pub(crate) const DEVICES: usize = 2;
pub(crate) const QUEUES: usize = 2;
pub(crate) const NODES: usize = DEVICES + 1;
pub(crate) const TIMELINES: usize = DEVICES * QUEUES;

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// How many of the pages are accessed.
    pub(crate) pages: usize,
    /// Whether each device only ever accesses both pages at once.
    pub(crate) whole_only: [bool; DEVICES],
    /// Whether each device has memory of its own; one that has not works on the host's.
    pub(crate) own_memory: [bool; DEVICES],
    /// Whether each device copies on another queue than it computes on.
    pub(crate) transfer_queue: [bool; DEVICES],
    /// Whether a device copies out of the other's memory; else pages go through the host.
    pub(crate) direct_copies: bool,
    /// The most submissions in flight at once on each device.
    pub(crate) in_flight: [usize; DEVICES],
    /// The most submissions in flight at once.
    pub(crate) in_flight_total: usize,
    /// Whether each device can be lost.
    pub(crate) can_be_lost: [bool; DEVICES],
    /// Whether the host's read guards stay open while others go on.
    pub(crate) open_guards: bool,
    /// Whether the host gives up pages now and then: a great many more states.
    pub(crate) discards: bool,
}

impl Shape {
    pub(crate) fn node(&self, device: usize) -> NodeId {
        if self.own_memory[device] { own_node(device) } else { NodeId::HOST }
    }
}

pub(crate) fn device_id(device: usize) -> DeviceId {
    DeviceId::new(device).expect("two devices are not too many")
}

pub(crate) fn own_node(device: usize) -> NodeId {
    NodeId::of_device(device_id(device))
}

pub(crate) fn timeline(device: usize, queue: usize) -> TimelineId {
    TimelineId::new(device_id(device), queue as u8)
}

pub(crate) fn timeline_index(timeline: TimelineId) -> usize {
    timeline.device().index() * QUEUES + timeline.queue() as usize
}

pub(crate) fn each_page(pages: PageMask) -> impl Iterator<Item = usize> {
    (0..PAGES).filter(move |page| pages.bits() & (1 << page) != 0)
}

/// One effect of a submission, and what it will find and make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) effect: Effect,
    pub(crate) pages: PageMask,
    /// The pages whose bytes matter to it.
    pub(crate) reads: PageMask,
    /// Per page the write that was the last one when this was accepted.
    pub(crate) after: [Version; PAGES],
    /// Per page the write that this is.
    pub(crate) makes: [Version; PAGES],
}

/// A submission that has not ended.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) point: FencePoint,
    pub(crate) items: SmallVec<[Item; 2]>,
    /// What it waits for and what has not ended.
    pub(crate) waits: SmallVec<[FencePoint; 2]>,
    /// Something that it waits for has failed.
    pub(crate) doomed: bool,
    /// Per timeline the last value that must have ended before this begins, waits of waits included.
    pub(crate) behind: [u64; TIMELINES],
}

impl Work {
    pub(crate) fn device(&self) -> usize {
        self.point.timeline.device().index()
    }

    /// True when it overwrites the copy of one of these pages on the node.
    pub(crate) fn overwrites(&self, node: NodeId, pages: PageMask) -> bool {
        self.items.iter().any(|i| i.effect.overwrites() == Some(node) && i.pages.overlaps(pages))
    }

    pub(crate) fn touches(&self, node: NodeId) -> bool {
        let touch = |i: &Item| [i.effect.overwrites(), i.effect.reads()].contains(&Some(node));
        self.items.iter().any(touch)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) enum Health {
    Alive,
    /// Lost, and the directory does not know yet.
    Lost,
    /// Lost, and the directory knows.
    Gone,
}

/// One state.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) log: Log,
    /// What each node's copy of each page holds.
    pub(crate) copies: [[Version; PAGES]; NODES],
    pub(crate) histories: [History; PAGES],
    /// In the order in which it was accepted.
    pub(crate) in_flight: SmallVec<[Work; 4]>,
    /// How the fences ended that the log may still ask for.
    pub(crate) ended: SmallVec<[(FencePoint, FenceState); 4]>,
    pub(crate) last_value: [u64; TIMELINES],
    pub(crate) backed: [bool; DEVICES],
    pub(crate) health: [Health; DEVICES],
    /// Pages under an open read guard of the host.
    pub(crate) guarded: PageMask,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            log: Log::default(),
            copies: [[GARBAGE; PAGES]; NODES],
            histories: std::array::from_fn(|_| History::new()),
            in_flight: SmallVec::new(),
            ended: SmallVec::new(),
            last_value: [0; TIMELINES],
            backed: [false; DEVICES],
            health: [Health::Alive; DEVICES],
            guarded: PageMask::EMPTY,
        }
    }

    /// How a fence really stands.
    pub(crate) fn fate(&self, point: FencePoint) -> FenceState {
        let device = point.timeline.device();
        if point == FencePoint::never(device) {
            let is_alive = self.health[device.index()] == Health::Alive;
            return if is_alive { FenceState::Pending } else { FenceState::Lost };
        }
        if self.in_flight.iter().any(|work| work.point == point) {
            return FenceState::Pending;
        }
        let known = self.ended.iter().find(|(ended, _)| *ended == point);
        known.map_or_else(|| panic!("{point:?} was forgotten too early"), |(_, state)| *state)
    }

    /// The submissions that have not ended, or that nobody has seen to have ended.
    pub(crate) fn unsettled(&self) -> SmallVec<[FencePoint; 4]> {
        let pending = self.log.promises().iter().filter(|promise| promise.is_pending());
        let mut points: SmallVec<[FencePoint; 4]> = pending.flat_map(Promise::fences).collect();
        points.extend(self.in_flight.iter().map(|work| work.point));
        points.sort_unstable();
        points.dedup();
        points
    }

    /// How many submissions have ended and are still pending to the rules.
    pub(crate) fn ended_unseen(&self) -> usize {
        let running = self.in_flight.iter().map(|work| work.point);
        self.unsettled().len() - running.count()
    }

    pub(crate) fn copy_mut(&mut self, node: NodeId, page: usize) -> &mut Version {
        &mut self.copies[node.index()][page]
    }

    pub(crate) fn copy(&self, node: NodeId, page: usize) -> Version {
        self.copies[node.index()][page]
    }

    /// Forgets what can no longer matter, so that states that differ in nothing else become one.
    pub(crate) fn normalise(&mut self) {
        for page in 0..PAGES {
            let bit = PageMask::from_bits(1 << page);
            let items = self.in_flight.iter().flat_map(|work| &work.items);
            let readers = items.filter(|i| i.reads.overlaps(bit)).map(|i| i.after[page]);
            let keep = self.histories[page].relevant(readers);
            self.histories[page].compact(keep);
            for node in &mut self.copies {
                node[page] = match node[page] {
                    ZEROS => self.histories[page].zeros(),
                    version => renumber(version, keep),
                };
            }
            for item in self.in_flight.iter_mut().flat_map(|work| &mut work.items) {
                let reads = item.reads.overlaps(bit);
                item.after[page] = if reads { renumber_down(item.after[page], keep) } else { 0 };
                item.makes[page] = renumber(item.makes[page], keep);
            }
        }
        let log = &self.log;
        self.ended.retain(|(point, _)| {
            let pending = log.promises().iter().filter(|promise| promise.is_pending());
            pending.flat_map(Promise::fences).any(|asked| asked == *point)
        });
        self.ended.sort_unstable_by_key(|(point, _)| *point);
    }
}
