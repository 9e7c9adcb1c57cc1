//! What moves, what stays, and what it costs.

use hmmap_core::{Cause, Fence, units::PAGE_BYTES};

use super::Verdict;
use crate::{
    case::{Case, Context, Need, ensure},
    rig::{BLOCK, PAGE, Rig},
    table::Model,
};

const GROUP: &str = "movement";

pub(super) const CASES: &[Case] = &[
    Case::new(
        GROUP,
        "reads_duplicate_and_stay",
        "pages that are only read are moved once, and are in both places then",
        &[Need::Sharing],
        reads_stay,
    ),
    Case::new(
        GROUP,
        "updates_move_and_invalidate",
        "pages that are written are in one place then, and come back when the others need them",
        &[],
        updates_move,
    ),
    Case::new(
        GROUP,
        "whole_writes_copy_nothing",
        "pages that are overwritten whole are not copied first",
        &[],
        writes_copy_nothing,
    ),
    Case::new(
        GROUP,
        "partial_writes_keep_their_neighbours",
        "what lies beside a written range in its first and last page stays",
        &[],
        neighbours_stay,
    ),
    Case::new(
        GROUP,
        "only_written_pages_move_again",
        "after the host wrote 1 % of the pages, a launch over all of them moves these pages alone",
        &[Need::Guards],
        one_percent,
    ),
    Case::new(
        GROUP,
        "neighbouring_pages_move_as_one",
        "pages next to each other take one copy, whatever blocks they are in",
        &[Need::Migrate, Need::Guards],
        one_region,
    ),
    Case::new(
        GROUP,
        "looking_changes_nothing",
        "asking where pages are neither waits nor moves nor submits anything",
        &[],
        looking,
    ),
    Case::new(
        GROUP,
        "statistics_add_up",
        "the counters are the sum of what each operation moved",
        &[],
        statistics,
    ),
];

/// What so many pages are in bytes where pages move at all.
fn pages(rig: &Rig<'_>, count: u64) -> u64 {
    if rig.model() == Model::Unified { 0 } else { count * PAGE_BYTES }
}

fn reads_stay(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let x = rig.filled(BLOCK + 3 * PAGE, |i| (i % 77) as f32)?;
    let mut out = rig.zeros(x.len())?;
    let before = rig.runtime.stats();
    for _ in 0..3 {
        rig.copy(rig.device(), (&x, ..), (&mut out, ..))?;
        rig.host_read(&x, ..)?;
    }
    let moved = rig.runtime.stats() - before;
    ensure!(moved.total().to_device_bytes == pages(&rig, 35), "{moved}");
    ensure!(moved.total().to_host_bytes == 0, "clean pages cost something on return: {moved}");
    rig.host_read(&out, ..)
}

fn updates_move(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let x = rig.filled(BLOCK, |i| (i % 77) as f32)?;
    let mut y = rig.filled(BLOCK, |_| 0.0)?;
    let before = rig.runtime.stats();
    for round in 0..3 {
        rig.saxpy(rig.device(), 1.0, (&x, ..), (&mut y, ..))?;
        rig.saxpy(rig.device(), 1.0, (&x, ..), (&mut y, ..))?;
        rig.host_read(&y, ..)?;
        rig.host_write(&mut y, .., |i| (i + round) as f32)?;
    }
    let moved = (rig.runtime.stats() - before).total();
    // x once, y each round; and y back each round.
    ensure!(moved.to_device_bytes == pages(&rig, 32 * 4), "{moved:?}");
    ensure!(moved.to_host_bytes == pages(&rig, 32 * 3), "{moved:?}");
    Ok(())
}

fn writes_copy_nothing(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let mut y = rig.filled(2 * BLOCK + PAGE / 2, |i| i as f32)?;
    let before = rig.runtime.stats();
    rig.fill(rig.device(), &mut y, .., 3.0)?;
    rig.fill(rig.device(), &mut y, PAGE..BLOCK + PAGE, 4.0)?;
    ensure!((rig.runtime.stats() - before).total().bytes() == 0, "a whole write moved something");
    rig.host_read(&y, ..)
}

fn neighbours_stay(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    // The written range begins and ends in the middle of a page; the neighbours are in turn the host's, the device's, and empty.
    let ranges = [
        (PAGE / 2, PAGE / 2 + 3),
        (PAGE / 2, 5 * PAGE + 7),
        (BLOCK - 1, BLOCK + 1),
        (1, 2 * BLOCK - 1),
    ];
    for (start, end) in ranges {
        let mut by_host = rig.filled(2 * BLOCK, |i| (i % 1000) as f32)?;
        rig.fill(rig.device(), &mut by_host, start..end, 0.5)?;
        rig.host_read(&by_host, ..)?;
        let mut by_device = rig.zeros(2 * BLOCK)?;
        rig.fill(rig.device(), &mut by_device, .., 7.0)?;
        rig.fill(rig.device(), &mut by_device, start..end, 0.25)?;
        rig.host_read(&by_device, ..)?;
        let mut empty = rig.zeros(2 * BLOCK)?;
        rig.fill(rig.device(), &mut empty, start..end, 0.125)?;
        rig.host_write(&mut empty, end - 1..end + 1, |_| -1.0)?;
        rig.fill(rig.device(), &mut empty, end..end + 1, 0.0625)?;
        rig.host_read(&empty, ..)?;
    }
    Ok(())
}

fn one_percent(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let mut random = cx.random();
    let count = cx.scaled(400, 4000);
    let mut x = rig.filled(count * PAGE, |i| (i % 333) as f32)?;
    let mut out = rig.zeros(x.len())?;
    rig.copy(rig.device(), (&x, ..), (&mut out, ..))?;
    for _ in 0..3 {
        let written = random.choose_multiple(0..count, count / 100);
        let before = rig.runtime.stats();
        for page in &written {
            let at = page * PAGE + random.usize(0..PAGE);
            rig.host_write(&mut x, at..at + 1, |i| (i % 100) as f32 + 0.5)?;
        }
        ensure!((rig.runtime.stats() - before).total().bytes() == 0, "a clean page was moved");
        rig.copy(rig.device(), (&x, ..), (&mut out, ..))?;
        let moved = (rig.runtime.stats() - before)[Cause::Launch];
        ensure!(moved.to_device_bytes == pages(&rig, written.len() as u64), "{moved:?}");
    }
    rig.host_read(&out, ..)
}

fn one_region(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let x = rig.filled(3 * BLOCK + PAGE, |i| (i % 333) as f32)?;
    let mut out = rig.zeros(x.len())?;
    let before = rig.runtime.stats();
    rig.copy(rig.device(), (&x, ..), (&mut out, ..))?;
    let regions = (rig.runtime.stats() - before).total().regions;
    ensure!(regions == 1, "{regions} copies for one stretch of pages");
    let before = rig.runtime.stats();
    rig.host_read(&out, PAGE / 2..3 * BLOCK)?;
    let regions = (rig.runtime.stats() - before).total().regions;
    ensure!(regions == 1, "{regions} copies home for one stretch of pages");
    Ok(())
}

fn looking(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let mut y = rig.filled(BLOCK + PAGE, |i| i as f32)?;
    rig.late();
    let fence = rig.fill(rig.device(), &mut y, 10..BLOCK, 1.0)?;
    let state = || {
        let gate = rig.gate(rig.device());
        (rig.runtime.stats(), rig.waits(), gate.submissions())
    };
    let before = state();
    let first = (y.vec.residency(..)?, y.vec.in_flight(..)?);
    ensure!(!first.1.is_empty(), "nothing is in flight after a launch that nobody waited for");
    for _ in 0..100 {
        let again = (y.vec.residency(..)?, y.vec.in_flight(..)?);
        ensure!(again == first, "looking gave {first:?}, then {again:?}");
        ensure!(!format!("{:?}", y.vec).is_empty(), "no name");
        ensure!(!fence.as_ref().is_some_and(Fence::has_ended), "looking let the work end");
    }
    ensure!(state() == before, "looking did something");
    rig.settle()?;
    ensure!(y.vec.in_flight(..)?.is_empty(), "ended work counts as in flight");
    rig.host_read(&y, ..)
}

fn statistics(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let mut random = cx.random();
    let x = rig.filled(BLOCK, |i| (i % 19) as f32)?;
    let mut y = rig.zeros(BLOCK)?;
    let start = rig.runtime.stats();
    let (mut launches, mut last) = (0, start);
    let (mut to_device, mut to_host, mut zeroed) = (0, 0, 0);
    for _ in 0..cx.scaled(60, 600) {
        let at = random.usize(0..BLOCK);
        let end = random.usize(at..BLOCK) + 1;
        match random.u8(0..3) {
            0 => rig.host_write(&mut y, at..end, |i| (i % 10) as f32)?,
            1 => rig.host_read(&y, at..end)?,
            _ => {
                rig.saxpy(rig.device(), 1.0, (&x, at..end), (&mut y, at..end))?;
                launches += 1;
            }
        }
        let now = rig.runtime.stats();
        let step = (now - last).total();
        (to_device, to_host) = (to_device + step.to_device_bytes, to_host + step.to_host_bytes);
        zeroed += step.zeroed_bytes;
        last = now;
    }
    let all = rig.runtime.stats() - start;
    let total = all.total();
    let sum = (to_device, to_host, zeroed);
    ensure!(
        sum == (total.to_device_bytes, total.to_host_bytes, total.zeroed_bytes),
        "the steps add up to {sum:?}, the counters say {total:?}"
    );
    ensure!(all.launches == launches, "{} launches counted, {launches} made", all.launches);
    ensure!(total.bytes() == to_device + to_host, "{total:?}");
    ensure!(all.evicted_blocks == 0, "something was evicted without need");
    rig.host_read(&y, ..)
}
