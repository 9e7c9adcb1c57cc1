//! Groups of vectors: what one has reserved is nobody else's, what one may have at most is all it gets, and whatever happens the data are right.

use super::{BLOCK, kernels, runtime, runtime_or};
use std::sync::{Arc, Mutex};

use hmmap_core::{
    DeviceId, Error, Eviction, Group, Hint, NodeId, Runtime, Share, SharedVec, WithoutRoom,
    embedded::Backing,
    eviction::{Block, Candidate, Launch, Policy},
    units::BLOCK_BYTES,
};
use kernels::{Add, Element, Fill, element, value};

/// A device of so many blocks, and groups with so many blocks of reserve and of limit.
pub(super) fn grouped<const N: usize>(
    blocks: u64,
    shares: [(u64, u64); N],
) -> (Runtime, [Group; N]) {
    let mem = runtime(blocks, Backing::Blocks, Eviction::Predicted);
    let groups = shares.map(|share| {
        let group = Group::new(&mem, format!("{share:?}"));
        group.set_share(device(&mem), of_blocks(share)).unwrap();
        group
    });
    (mem, groups)
}

pub(super) fn of_blocks((reserve, limit): (u64, u64)) -> Share {
    let limit_bytes = limit.saturating_mul(BLOCK_BYTES);
    Share { reserve_bytes: reserve * BLOCK_BYTES, limit_bytes }
}

pub(super) fn device(mem: &Runtime) -> DeviceId {
    mem.default_device().unwrap()
}

/// A vector of so many blocks, one launch for each; they are only on the device then, as far as they had room.
pub(super) fn filled(
    mem: &Runtime,
    blocks: usize,
    value: u32,
) -> Result<SharedVec<Element>, Error> {
    let mut y = SharedVec::new(mem, blocks * BLOCK)?;
    fill(&mut y, value)?;
    Ok(y)
}

pub(super) fn fill(y: &mut SharedVec<Element>, value: u32) -> Result<(), Error> {
    let mem = y.runtime().clone();
    for at in 0..y.len() / BLOCK {
        let y = y.write().range(at * BLOCK..(at + 1) * BLOCK);
        mem.launch(BLOCK, Fill { y, value: value + at as u32 })?;
    }
    Ok(())
}

pub(super) fn used_blocks(group: &Group) -> u64 {
    group.used_bytes(device(group)).unwrap() / BLOCK_BYTES
}

/// Checks what a vector holds: one value for each block, counted from this one.
pub(super) fn holds(y: &SharedVec<Element>, value: u32) {
    for (at, found) in y.host(..).unwrap().iter().enumerate().step_by(BLOCK / 2) {
        assert_eq!(kernels::value(found), Some(value + (at / BLOCK) as u32), "element {at}");
    }
}

#[test]
fn a_streaming_tenant_takes_nothing_of_what_another_has_reserved() {
    for (backing, eviction) in [
        (Backing::Blocks, Eviction::Predicted),
        (Backing::Blocks, Eviction::LeastRecentlyUsed),
        (Backing::Whole, Eviction::LeastRecentlyUsed),
    ] {
        let mem = runtime(8, backing, eviction);
        let tenant = Group::new(&mem, "in core");
        let streaming = Group::new(&mem, "streaming");
        tenant.set_share(device(&mem), of_blocks((4, u64::MAX))).unwrap();
        let mut kept = filled(&tenant, 4, 100).unwrap();
        let new = |_| SharedVec::new(&streaming, 3 * BLOCK).unwrap();
        let mut stream: Vec<_> = (0..4).map(new).collect();
        let mut moved = Vec::new();
        for round in 0..5 {
            for (part, x) in (0..).zip(&mut stream) {
                fill(x, 1000 * round + part).unwrap();
            }
            assert_eq!(used_blocks(&tenant), 4, "{backing:?}");
            let before = mem.stats();
            fill(&mut kept, 200 + round).unwrap();
            moved.push((mem.stats() - before).total().bytes());
        }
        assert_eq!(moved, [0; 5], "{backing:?}");
        holds(&kept, 204);
        assert!(mem.stats().evicted_blocks > 12, "{backing:?}");
        (0..).zip(&stream).for_each(|(part, x)| holds(x, 4000 + part));
    }
}

#[test]
fn a_groups_own_policy_says_which_of_its_blocks_leave() {
    let mem = runtime(4, Backing::Blocks, Eviction::LeastRecentlyUsed);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (told, first) = (asked.clone(), Group::new(&mem, "others"));
    let group = Group::with_eviction(&mem, "own", &Eviction::custom(move || Last(told.clone())));
    let mut x = filled(&group, 2, 10).unwrap();
    let y = filled(&first, 2, 20).unwrap();
    // The least recently used is the group's first block; its own policy gives up its last.
    let z = filled(&first, 1, 30).unwrap();
    let there = |at: usize| {
        let runs = x.residency(at * BLOCK..(at + 1) * BLOCK).unwrap();
        runs.iter().all(|run| run.nodes.contains(&NodeId::of_device(device(&mem))))
    };
    assert_eq!([there(0), there(1)], [true, false]);
    assert_eq!(*asked.lock().unwrap(), [2], "of its own blocks alone");
    assert_eq!((used_blocks(&group), used_blocks(&first)), (1, 3));
    fill(&mut x, 40).unwrap();
    holds(&x, 40);
    holds(&y, 20);
    holds(&z, 30);
}

/// Names the last of the candidates, and writes down how many there were.
struct Last(Arc<Mutex<Vec<usize>>>);

impl Policy for Last {
    fn launched(&mut self, _: u64, _: &Launch) {}

    fn victims(&mut self, candidates: &[Candidate], _: usize, victims: &mut Vec<Block>) {
        self.0.lock().unwrap().push(candidates.len());
        victims.extend(candidates.iter().map(|one| one.block).max());
    }
}

#[test]
fn without_a_reserve_it_does() {
    let mem = runtime(8, Backing::Blocks, Eviction::LeastRecentlyUsed);
    let (tenant, streaming) = (Group::new(&mem, "in core"), Group::new(&mem, "streaming"));
    let kept = filled(&tenant, 4, 100).unwrap();
    let x = filled(&streaming, 8, 7).unwrap();
    assert_eq!((used_blocks(&tenant), used_blocks(&streaming)), (0, 8));
    holds(&kept, 100);
    holds(&x, 7);
}

#[test]
fn a_group_at_its_limit_takes_its_own_and_nobody_elses() {
    let (mem, [small]) = grouped(8, [(0, 3)]);
    let others = filled(&mem, 3, 500).unwrap();
    let x = filled(&small, 6, 10).unwrap();
    assert_eq!(used_blocks(&small), 3);
    let used = mem.device_memory(device(&mem)).unwrap();
    assert_eq!(used.used_bytes, 6 * BLOCK_BYTES, "the others are where they were");
    holds(&x, 10);
    holds(&others, 500);
    // Larger than that at once: in numbers, and nobody leaves.
    let mut y = SharedVec::<Element>::new(&small, 4 * BLOCK).unwrap();
    let before = mem.stats();
    let refused = small.launch(4 * BLOCK, Fill { y: y.write(), value: 1 }).map(drop);
    let expected = Error::OutOfShare {
        device: device(&mem),
        group: "(0, 3)".to_owned(),
        asked_bytes: 4 * BLOCK_BYTES,
        used_bytes: 3 * BLOCK_BYTES,
        limit_bytes: 3 * BLOCK_BYTES,
        pinned_bytes: 0,
    };
    assert_eq!(refused, Err(expected));
    assert_eq!((mem.stats() - before).evicted_blocks, 0);
    // What it has is pinned: there is room on the device, and none for the group.
    let z = filled(&small, 3, 20).unwrap();
    z.hint(.., Hint::Pin).unwrap();
    let refused = filled(&small, 1, 1).unwrap_err();
    let says = refused.to_string();
    assert!(
        matches!(refused, Error::OutOfShare { pinned_bytes, .. } if pinned_bytes == 3 * BLOCK_BYTES)
    );
    assert!(says.contains("`(0, 3)`") && says.contains("set_share"), "{says}");
    filled(&mem, 2, 1).unwrap();
}

#[test]
fn what_is_reserved_and_not_used_is_refused_to_others_in_numbers() {
    let (mem, [_idle]) = grouped(4, [(3, 4)]);
    let x = filled(&mem, 2, 1).unwrap();
    assert_eq!(mem.device_memory(device(&mem)).unwrap().idle_reserve_bytes, 3 * BLOCK_BYTES);
    let mut y = SharedVec::<Element>::new(&mem, 2 * BLOCK).unwrap();
    let refused = mem.launch(2 * BLOCK, Fill { y: y.write(), value: 1 }).map(drop).unwrap_err();
    let Error::OutOfDeviceMemory { asked_bytes, free_bytes, limit_bytes, reserved_bytes, .. } =
        refused
    else {
        panic!("{refused}")
    };
    let blocks = [asked_bytes, free_bytes, limit_bytes, reserved_bytes].map(|of| of / BLOCK_BYTES);
    assert_eq!(blocks, [2, 0, 4, 3]);
    holds(&x, 1);
}

#[test]
fn a_reserve_that_cannot_be_kept_is_refused_and_one_that_can_drives_others_out() {
    let (mem, [a, b]) = grouped(8, [(3, 8), (0, 8)]);
    let device = device(&mem);
    let refused = |group: &Group, share| match group.set_share(device, of_blocks(share)) {
        Err(Error::ReserveRefused { most_bytes, .. }) => most_bytes / BLOCK_BYTES,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&b, (6, 8)), 5, "what the other has reserved");
    assert_eq!(refused(&b, (2, 1)), 1, "its own limit");
    assert_eq!(b.share(device).unwrap(), of_blocks((0, 8)));
    let x = filled(&mem, 5, 50).unwrap();
    b.set_share(device, of_blocks((4, 5))).unwrap();
    assert_eq!(mem.device_memory(device).unwrap().used_bytes, BLOCK_BYTES);
    holds(&x, 50);
    // What is pinned cannot make way.
    let pinned = filled(&mem, 1, 9).unwrap();
    pinned.hint(.., Hint::Pin).unwrap();
    assert_eq!(refused(&b, (5, 5)), 4);
    assert_eq!(b.share(device).unwrap(), of_blocks((4, 5)));
    // A device's own limit cannot go below what is promised.
    let error = mem.set_device_memory_limit(device, 6 * BLOCK_BYTES).unwrap_err();
    assert!(
        matches!(error, Error::BudgetInUse { reserved_bytes, .. } if reserved_bytes == 7 * BLOCK_BYTES)
    );
    // With the group its reserve goes.
    drop(b);
    assert_eq!(mem.device_memory(device).unwrap().idle_reserve_bytes, 3 * BLOCK_BYTES);
    a.set_share(device, of_blocks((7, 7))).unwrap();
}

#[test]
fn a_limit_shrunk_below_use_evicts_or_says_what_holds_it() {
    let (mem, [group]) = grouped(8, [(0, 8)]);
    let device = device(&mem);
    let x = filled(&group, 5, 10).unwrap();
    group.set_share(device, of_blocks((0, 2))).unwrap();
    assert_eq!(used_blocks(&group), 2);
    let held = mem.acquire(device, [x.read().range(..2 * BLOCK).into()]).unwrap();
    let error = group.set_share(device, of_blocks((0, 1))).unwrap_err();
    let Error::BudgetInUse { group: name, asked_bytes, used_bytes, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(name.as_deref(), Some("(0, 8)"));
    assert_eq!([*asked_bytes, *used_bytes], [1, 2].map(|blocks| blocks * BLOCK_BYTES));
    assert_eq!(group.share(device).unwrap(), of_blocks((0, 2)), "what was refused changes nothing");
    drop(held);
    group.set_share(device, of_blocks((0, 0))).unwrap();
    assert_eq!(used_blocks(&group), 0);
    holds(&x, 10);
}

#[test]
fn a_vector_stays_in_its_group_and_the_group_while_it_lives() {
    let (mem, [group]) = grouped(8, [(4, 5)]);
    let mut x = filled(&group, 1, 10).unwrap();
    let first = x.len();
    x.resize(2 * BLOCK, element(11)).unwrap();
    assert!(x.capacity() > first);
    let mut y = x.try_clone().unwrap();
    drop(group);
    fill(&mut x, 20).unwrap();
    fill(&mut y, 30).unwrap();
    let memory = || mem.device_memory(device(&mem)).unwrap();
    assert_eq!((memory().used_bytes, memory().idle_reserve_bytes), (4 * BLOCK_BYTES, 0));
    // Another five blocks of others have no room, since what the group has reserved stays.
    let others = filled(&mem, 5, 40).unwrap();
    assert_eq!(memory().used_bytes, 8 * BLOCK_BYTES);
    drop(x);
    assert_eq!(memory().idle_reserve_bytes, 2 * BLOCK_BYTES);
    holds(&y, 30);
    holds(&others, 40);
    drop(y);
    assert_eq!(memory().idle_reserve_bytes, 0);
}

#[test]
fn a_launch_larger_than_its_group_runs_in_tiles_or_through_the_window() {
    let mem = runtime_or(WithoutRoom::default(), 16, Backing::Blocks, Eviction::Predicted);
    let group = Group::new(&mem, "small");
    group.set_share(device(&mem), of_blocks((0, 4))).unwrap();
    let others = filled(&mem, 6, 70).unwrap();
    let ones = SharedVec::from_fn(&group, 9 * BLOCK, |_| element(1)).unwrap();
    let mut y = SharedVec::from_fn(&group, 9 * BLOCK, |_| element(5)).unwrap();
    let kernel = Add { x: ones.read().split(1), y: y.update().split(1) };
    mem.launch(9 * BLOCK, kernel).unwrap().wait().unwrap();
    assert_eq!(mem.stats().windowed, 0);
    assert!(mem.stats().launches > 2 && used_blocks(&group) <= 4);
    // The same, which says nothing of tiles; the largest vector of the launch is another's, which needs no help.
    let mut x = SharedVec::from_fn(&mem, 9 * BLOCK, |_| element(3)).unwrap();
    let kernel = Add { x: y.read().range(..5 * BLOCK), y: x.update() };
    mem.launch(5 * BLOCK, kernel).unwrap().wait().unwrap();
    assert_eq!(mem.stats().windowed, 1);
    let there = x.residency(..).unwrap().iter().all(|run| run.nodes.iter().count() > 0);
    assert!(there && mem.device_memory(device(&mem)).unwrap().used_bytes >= 9 * BLOCK_BYTES);
    assert_eq!((value(&x[0]), value(&x[5 * BLOCK]), value(&y[0])), (Some(9), Some(3), Some(6)));
    holds(&others, 70);
}
