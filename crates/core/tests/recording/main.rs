//! What is recorded adds up: bytes to the counters, and the events one after another to where each page is.
#![allow(unsafe_code, reason = "defines kernels")]

#[path = "../host_faults/kernels.rs"]
mod kernels;
#[path = "../host_faults/rig.rs"]
#[allow(dead_code, reason = "this file is shared")]
mod rig;

use std::{collections::BTreeMap, sync::Arc};

use hmmap_core::{
    Cause, NodeId, Options, Runtime, SharedVec, Stats, WithoutRoom,
    backend::Provider,
    directory::NodeSet,
    embedded::{Backing, EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    events::{Event, Gave, Recording, VectorId, What},
    fence::FenceState,
    host::HostFaults,
    stats::Moved,
    units::{BLOCK_BYTES, PAGE_BYTES},
};
use kernels::{Add, Break, Count};

/// Elements in a page.
const PAGE: usize = PAGE_BYTES as usize / 4;
const BLOCK: usize = BLOCK_BYTES as usize / 4;

/// A device with so many blocks of memory.
fn small(blocks: u64, without_room: WithoutRoom, host_faults: HostFaults) -> Runtime {
    let (memory, backing) = (EmbeddedMemory::Own, Backing::Blocks);
    let options = EmbeddedOptions { memory, backing, ..EmbeddedOptions::default() };
    let provider: Arc<dyn Provider> = Arc::new(EmbeddedProvider::new(options));
    let limit = Some(blocks * BLOCK_BYTES);
    let device_memory_limit_bytes = limit;
    let options =
        Options { device_memory_limit_bytes, host_faults, without_room, ..Options::default() };
    Runtime::new(vec![provider], options).unwrap()
}

fn only(node: NodeId) -> NodeSet {
    let mut nodes = NodeSet::default();
    nodes.insert(node);
    nodes
}

/// Who holds each page, by the events alone.
#[derive(Default)]
struct Replay(BTreeMap<VectorId, Vec<NodeSet>>);

impl Replay {
    fn apply(&mut self, events: &[Event]) {
        for event in events {
            let Some(vector) = event.what.vector() else { continue };
            if let What::Evicted { pages, from, gave, .. } = event.what {
                let held = &self.0[&vector][pages.first as usize..pages.end as usize];
                let is_clean = held.iter().any(|held| held.contains(from));
                assert_eq!(gave == Gave::Clean, is_clean, "{event:?}");
                let elsewhere = |held: &NodeSet| *held != only(from);
                assert!(held.iter().all(elsewhere), "the only copy went: {event:?}");
            }
            let mut each = |pages: hmmap_core::directory::PageSpan, to: &dyn Fn(&mut NodeSet)| {
                let held = self.0.get_mut(&vector).expect("told of before");
                held[pages.first as usize..pages.end as usize].iter_mut().for_each(to);
            };
            match event.what {
                What::Made { pages, .. } => {
                    self.0.insert(vector, vec![NodeSet::default(); pages as usize]);
                }
                What::Dropped { .. } => drop(self.0.remove(&vector)),
                What::Found { pages, nodes, .. } => each(pages, &|held| *held = nodes),
                What::Copied { pages, to: on, .. } | What::Zeroed { pages, on, .. } => {
                    each(pages, &|held| held.insert(on));
                }
                What::Written { pages, on, .. } => each(pages, &|held| *held = only(on)),
                What::Discarded { pages, .. } => each(pages, &|held| *held = NodeSet::default()),
                What::Evicted { pages, from, .. } => each(pages, &|held| held.remove(from)),
                _ => {}
            }
        }
    }

    fn check(&self, vec: &SharedVec<u32>) {
        let mut known = Vec::new();
        for run in vec.residency(..).unwrap() {
            let mut nodes = NodeSet::default();
            run.nodes.iter().for_each(|node| nodes.insert(*node));
            known.extend(run.pages.map(|_| nodes));
        }
        assert_eq!(self.0[&vec.id()], known, "{}", vec.id());
    }
}

/// Bytes by cause, from events.
fn moved(events: &[Event]) -> BTreeMap<Cause, Moved> {
    let mut sums = BTreeMap::<Cause, Moved>::new();
    for event in events {
        let (cause, from, to) = match event.what {
            What::Copied { cause, from, to, .. } => (cause, Some(from), to),
            What::Zeroed { cause: Some(cause), on, .. } => (cause, None, on),
            _ => continue,
        };
        let sum = sums.entry(cause).or_default();
        let bytes = event.what.bytes();
        sum.regions += 1;
        match from {
            None => sum.zeroed_bytes += bytes,
            Some(_) if to.is_host() => sum.to_host_bytes += bytes,
            Some(NodeId::HOST) => sum.to_device_bytes += bytes,
            Some(_) => sum.between_bytes += bytes,
        }
    }
    sums
}

fn adds_up(events: &[Event], stats: Stats) {
    let moved = moved(events);
    for cause in Cause::ALL {
        assert_eq!(moved.get(&cause).copied().unwrap_or_default(), stats[cause], "{cause}");
    }
    let count =
        |is: fn(&What) -> bool| events.iter().filter(|event| is(&event.what)).count() as u64;
    assert_eq!(count(|what| matches!(what, What::Launched { .. })), stats.launches);
    let blocks = |what: &What| match what {
        What::Evicted { pages, .. } => pages.count().div_ceil(BLOCK_BYTES / PAGE_BYTES),
        _ => 0,
    };
    let evicted: u64 = events.iter().map(|event| blocks(&event.what)).sum();
    assert_eq!(evicted, stats.evicted_blocks);
}

fn all(recording: &mut Recording) -> Vec<Event> {
    let mut events = Vec::new();
    recording.read(&mut events);
    events
}

/// Every way in which pages move and masks change here, at more than twice the device's memory, by a fixed sequence.
fn program(mem: &Runtime, vecs: &mut [SharedVec<u32>; 3], rounds: usize, mut each: impl FnMut()) {
    let mut dice = 12_345_u64;
    let mut roll = |sides: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as usize % sides
    };
    for round in 0..rounds {
        let (one, way) = (roll(3), roll(8));
        let first = roll(3 * BLOCK / PAGE) * PAGE;
        let range = first..(first + (1 + roll(24)) * PAGE).min(3 * BLOCK);
        let [x, y] = vecs.get_disjoint_mut([one, (one + 1) % 3]).unwrap();
        let count = range.len();
        match way {
            0 | 1 => {
                let (x, y) = (x.read().range(range.clone()), y.update().range(range));
                drop(mem.launch(count, Add { x, y }).unwrap());
            }
            2 => {
                let y = y.write().range(range);
                drop(mem.launch(count, Count { y, seed: round as u32, pause_ms: 0 }).unwrap());
            }
            3 => x.host_mut(range).unwrap()[0] = 1,
            4 => drop(x.prefetch(range, mem.default_device().unwrap()).unwrap()),
            5 => x.discard(range).unwrap(),
            6 => x[range.start] += 1,
            _ => assert!(x[range.end - 1] < u32::MAX),
        }
        each();
    }
}

#[test]
fn events_add_up_to_the_counters_and_to_where_every_page_is() {
    for rung in rig::RUNGS {
        let mem = small(4, WithoutRoom::Refuse, rung);
        let mut vecs = std::array::from_fn(|_| SharedVec::<u32>::new(&mem, 3 * BLOCK).unwrap());
        vecs[0].host_mut(..BLOCK).unwrap().fill(1);
        vecs[1].set_name("the second");
        program(&mem, &mut vecs, 40, || ());
        assert!(mem.record().is_some(), "one that nobody reads");
        let mut recording = mem.record().unwrap();
        assert!(mem.record().is_none(), "one at a time");
        let before = mem.stats();
        let mut events = Vec::new();
        program(&mem, &mut vecs, 400, || recording.read(&mut events));
        recording.read(&mut events);
        let facts = recording.facts();
        assert_eq!(facts.dropped_events, 0);
        assert_eq!(facts.vectors, BTreeMap::from([(vecs[1].id(), "the second".into())]));
        let kernels: Vec<_> = facts.kernels.values().copied().collect();
        assert_eq!(kernels.len(), 2, "{kernels:?}");
        adds_up(&events, mem.stats() - before);
        let mut replay = Replay::default();
        replay.apply(&events);
        vecs.iter().for_each(|vec| replay.check(vec));
        let evicted = |gave| {
            let is =
                |event: &&Event| matches!(event.what, What::Evicted { gave: g, .. } if g == gave);
            events.iter().filter(is).count()
        };
        assert!(evicted(Gave::Clean) > 0 && evicted(Gave::Nothing) > 0, "both kinds came up");
        assert!(moved(&events)[&Cause::Eviction].to_host_bytes > 0, "and dirty ones");
    }
}

#[test]
fn what_each_vector_had_moved_is_what_moved() {
    let mem = small(4, WithoutRoom::Refuse, HostFaults::Auto);
    let mut vecs = std::array::from_fn(|_| SharedVec::<u32>::new(&mem, 3 * BLOCK).unwrap());
    program(&mem, &mut vecs, 200, || ());
    let readings = mem.vectors();
    assert_eq!(readings.len(), 3);
    let (total, sum) = (mem.stats().total(), |bytes: fn(&Moved) -> u64| {
        readings.iter().map(|reading| bytes(&reading.moved)).sum::<u64>()
    });
    assert_eq!(sum(|moved| moved.to_device_bytes), total.to_device_bytes);
    assert_eq!(sum(|moved| moved.to_host_bytes), total.to_host_bytes);
    assert_eq!(sum(|moved| moved.zeroed_bytes), total.zeroed_bytes);
    let nodes = mem.nodes(&readings);
    let memory = mem.device_memory(mem.default_device().unwrap()).unwrap();
    assert_eq!(
        (nodes[1].used_bytes, nodes[1].limit_bytes),
        (memory.used_bytes, Some(memory.limit_bytes))
    );
    assert!(nodes[1].valid_bytes <= nodes[1].used_bytes && nodes[1].valid_bytes > 0);
}

#[test]
fn the_end_of_work_is_seen_once_and_never_before_its_beginning() {
    let mem = small(8, WithoutRoom::Refuse, HostFaults::Auto);
    let mut y = SharedVec::<u32>::new(&mem, BLOCK).unwrap();
    let mut recording = mem.record().unwrap();
    let fence = mem.launch(BLOCK, Count { y: y.write(), seed: 0, pause_ms: 5 }).unwrap();
    let early = all(&mut recording);
    let launched = |events: &[Event]| {
        events.iter().find(|event| matches!(event.what, What::Launched { .. })).copied()
    };
    let begun = launched(&early).unwrap();
    fence.wait().unwrap();
    let late = all(&mut recording);
    let ends = |events: &[Event]| -> Vec<Event> {
        let of = |event: &&Event| match event.what {
            What::Ended { fence, state } => {
                assert_eq!(state, FenceState::Ok);
                Some(fence) == begun.what.fence()
            }
            _ => false,
        };
        events.iter().filter(of).copied().collect()
    };
    assert_eq!(ends(&early).len() + ends(&late).len(), 1);
    assert!(ends(&late).iter().chain(&ends(&early)).all(|end| end.at_ns >= begun.at_ns));
    assert_eq!(ends(&all(&mut recording)).len(), 0);
}

#[test]
fn what_failed_is_told_as_it_is_and_a_runtime_that_ended_can_be_read() {
    let mem = small(8, WithoutRoom::Refuse, HostFaults::Off);
    let mut y = SharedVec::<u32>::new(&mem, BLOCK).unwrap();
    y.host_mut(..).unwrap().fill(1);
    let mut recording = mem.record().unwrap();
    assert!(mem.launch(BLOCK, Break { y: y.update() }).unwrap().wait().is_err());
    // Whoever looks first finds out.
    let _ = y.host(..);
    let mut events = all(&mut recording);
    let failed =
        |event: &&Event| matches!(event.what, What::Ended { state: FenceState::Failed(_), .. });
    assert!(events.iter().any(|event| failed(&event)), "{events:?}");
    let mut replay = Replay::default();
    replay.apply(&events);
    replay.check(&y);
    let id = y.id();
    drop(y);
    assert!(!recording.is_over());
    drop(mem);
    assert!(recording.is_over());
    recording.read(&mut events);
    assert!(events.iter().any(|event| event.what == What::Dropped { vector: id }));
}

#[test]
fn launches_that_use_windows_for_want_of_room_are_told() {
    let mem = small(2, WithoutRoom::Window, HostFaults::Auto);
    let mut recording = mem.record().unwrap();
    let x = SharedVec::<u32>::from_fn(&mem, 2 * BLOCK, |i| i as u32).unwrap();
    let mut y = SharedVec::<u32>::new(&mem, 2 * BLOCK).unwrap();
    mem.launch(2 * BLOCK, Add { x: x.read(), y: y.update() }).unwrap().wait().unwrap();
    assert_eq!(y.host(7..8).unwrap(), [7]);
    let events = all(&mut recording);
    let windowed: u64 = events
        .iter()
        .map(|event| match event.what {
            What::Windowed { vectors, .. } => u64::from(vectors),
            _ => 0,
        })
        .sum();
    assert_eq!(windowed, mem.stats().windowed);
    assert!(windowed > 0);
    let mut replay = Replay::default();
    replay.apply(&events);
    replay.check(&x);
    replay.check(&y);
}
