//! What the model explorer found once, kept small.

use super::*;
use crate::{
    fence::{Failure, FencePoint, FenceState, TimelineId},
    node::{DeviceId, NodeId},
    units::PageMask,
};

const HOST: NodeId = NodeId::HOST;
const PAGE: PageMask = PageMask::from_bits(1);
const OTHER_PAGE: PageMask = PageMask::from_bits(2);

fn node(device: usize) -> NodeId {
    NodeId::of_device(DeviceId::new(device).unwrap())
}

fn fence(device: usize, value: u64) -> FencePoint {
    FencePoint { timeline: TimelineId::new(DeviceId::new(device).unwrap(), 0), value }
}

/// A page that the host wrote.
fn written_by_host() -> Log {
    let mut log = Log::default();
    log.done(Effect::Write { on: HOST }, PAGE);
    log
}

fn promise(log: &mut Log, fence: FencePoint, effect: Effect) {
    log.promise(Promise::new(fence, effect, PAGE));
}

/// Settles with fences that stand as in the list; those that are not in it are pending.
fn settle(log: &mut Log, ended: &[(FencePoint, FenceState)]) -> usize {
    let mut reports = 0;
    let poll = |fence| {
        let known = ended.iter().find(|(point, _)| *point == fence);
        known.map_or(FenceState::Pending, |(_, state)| *state)
    };
    log.settle(poll, |_| reports += 1);
    reports
}

const INJECTED: FenceState = FenceState::Failed(Failure::Injected);
const DEPENDENCY: FenceState = FenceState::Failed(Failure::Dependency);

#[test]
fn a_lost_devices_copy_does_not_come_back_from_behind_slower_work() {
    let mut log = written_by_host();
    promise(&mut log, fence(0, 1), Effect::Copy { from: HOST, to: node(0) });
    promise(&mut log, fence(1, 1), Effect::Copy { from: HOST, to: node(1) });
    settle(&mut log, &[(fence(1, 1), FenceState::Ok)]);
    log.lose_node(node(1));
    settle(&mut log, &[(fence(0, 1), FenceState::Ok)]);
    assert_eq!(log.settled().holders(), [(HOST, PAGE), (node(0), PAGE)]);
}

#[test]
fn what_only_a_lost_device_held_is_lost_even_behind_slower_work() {
    let mut log = written_by_host();
    promise(&mut log, fence(0, 1), Effect::Copy { from: HOST, to: node(0) });
    promise(&mut log, fence(1, 1), Effect::Write { on: node(1) });
    settle(&mut log, &[(fence(1, 1), FenceState::Ok)]);
    log.lose_node(node(1));
    settle(&mut log, &[(fence(0, 1), FenceState::Ok)]);
    assert_eq!(log.settled().lost(), PAGE);
}

#[test]
fn work_that_never_began_leaves_the_copy_as_it_was() {
    let mut log = Log::default();
    log.done(Effect::Write { on: node(0) }, PAGE);
    promise(&mut log, fence(0, 1), Effect::Read { on: node(0) });
    promise(&mut log, fence(0, 2), Effect::Write { on: node(0) });
    let reports = settle(&mut log, &[(fence(0, 1), INJECTED), (fence(0, 2), DEPENDENCY)]);
    assert_eq!(reports, 2);
    assert_eq!(log.settled().valid_on(node(0)), PAGE);
}

#[test]
fn like_writes_are_one_promise_and_each_still_counts() {
    let write = Effect::Write { on: node(0) };
    let read = Effect::Read { on: node(0) };
    for (ends, holders, lost) in [
        ([FenceState::Ok, FenceState::Ok], &[(node(0), PAGE)][..], PageMask::EMPTY),
        ([FenceState::Ok, DEPENDENCY], &[(node(0), PAGE)], PageMask::EMPTY),
        ([FenceState::Ok, INJECTED], &[], PAGE),
        ([INJECTED, DEPENDENCY], &[(HOST, PAGE)], PageMask::EMPTY),
        ([DEPENDENCY, DEPENDENCY], &[(HOST, PAGE), (node(0), PAGE)], PageMask::EMPTY),
    ] {
        let mut log = written_by_host();
        log.done(Effect::Copy { from: HOST, to: node(0) }, PAGE);
        promise(&mut log, fence(0, 1), write);
        promise(&mut log, fence(0, 2), read);
        promise(&mut log, fence(0, 3), write);
        assert_eq!(log.promises().len(), 2, "reads do not keep writes apart");
        let [first, last] = ends;
        settle(
            &mut log,
            &[(fence(0, 1), first), (fence(0, 2), FenceState::Ok), (fence(0, 3), last)],
        );
        assert_eq!((log.settled().holders(), log.settled().lost()), (holders, lost), "{ends:?}");
    }
}

#[test]
fn a_log_stays_short_however_long_some_work_takes() {
    let mut log = written_by_host();
    log.done(Effect::Write { on: HOST }, OTHER_PAGE);
    promise(&mut log, fence(0, 1), Effect::Copy { from: HOST, to: node(0) });
    for value in 1..1000 {
        // Another page of the block, and the same page where the slow work does not stand in the way.
        log.done(Effect::Write { on: HOST }, OTHER_PAGE);
        promise(&mut log, fence(1, value), Effect::Write { on: node(1) });
        let end = if value % 3 == 0 { INJECTED } else { FenceState::Ok };
        settle(&mut log, &[(fence(1, value), end)]);
        assert!(log.promises().len() <= 4, "{} promises: {log:?}", log.promises().len());
    }
    assert_eq!(log.settled().valid_on(HOST), PAGE.or(OTHER_PAGE));
}

#[test]
fn launches_in_flight_on_one_queue_are_few_promises() {
    let mut log = written_by_host();
    for value in 1..=512 {
        let on = node(0);
        let effect = if value % 2 == 0 { Effect::Read { on } } else { Effect::Write { on } };
        promise(&mut log, fence(0, value), effect);
    }
    assert!(log.promises().len() <= 1 + 512 / 64, "{} promises", log.promises().len());
    let fences = log.promises().iter().flat_map(Promise::fences).count();
    assert_eq!(fences, 256 + 1, "each write, and one read for all");
}

#[test]
fn what_ended_behind_slower_work_is_settled_after_it() {
    let mut log = written_by_host();
    promise(&mut log, fence(0, 1), Effect::Write { on: node(0) });
    promise(&mut log, fence(1, 1), Effect::Write { on: node(1) });
    settle(&mut log, &[(fence(1, 1), FenceState::Ok)]);
    assert_eq!(log.settled().holders(), [(HOST, PAGE)]);
    assert_eq!(log.promised().holders(), [(node(1), PAGE)]);
    settle(&mut log, &[(fence(0, 1), INJECTED)]);
    assert_eq!(log.settled().holders(), [(node(1), PAGE)]);
}

#[test]
fn what_happened_before_slower_work_counts_though_the_same_copy_was_used_after_it() {
    let mut log = Log::default();
    promise(&mut log, fence(0, 1), Effect::Zero { on: node(0) });
    promise(&mut log, fence(1, 1), Effect::Zero { on: node(1) });
    promise(&mut log, fence(0, 2), Effect::Copy { from: node(1), to: node(0) });
    promise(&mut log, fence(1, 2), Effect::Copy { from: HOST, to: node(1) });
    settle(&mut log, &[(fence(1, 1), FenceState::Ok), (fence(1, 2), INJECTED)]);
    settle(&mut log, &[(fence(0, 1), INJECTED), (fence(0, 2), DEPENDENCY)]);
    assert_eq!(log.settled().lost(), PAGE, "it was on the second device alone, and went with it");
}
