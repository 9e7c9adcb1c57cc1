//! Ranges that begin anew: overwritten by the host, or given up. What they held, where it was and whether it is lost does not matter.

use hmmap_core::{Stats, stats::Moved, units::PAGE_BYTES};

use super::Verdict;
use crate::{
    case::{Case, Context, Need, ensure},
    mirror::Mirror,
    rig::{BLOCK, PAGE, Rig},
    table::Model,
};

const GROUP: &str = "renewal";

pub(super) const CASES: &[Case] = &[
    Case::new(
        GROUP,
        "the_host_overwrites",
        "the host overwrites ranges of any shape; only pages covered in part come home",
        &[],
        overwrites,
    ),
    Case::new(
        GROUP,
        "what_is_discarded_is_zeros",
        "discarded ranges of any shape are zeros to host and device, and nothing is copied",
        &[],
        discards,
    ),
    Case::new(
        GROUP,
        "discarded_behind_work_in_flight",
        "a discard is behind the work that was queued before it and before what is queued after",
        &[],
        behind_work,
    ),
    Case::new(
        GROUP,
        "nobody_sees_another_vectors_bytes",
        "what an earlier vector left is seen neither under an overwrite nor after a discard",
        &[],
        strangers,
    ),
    Case::new(
        GROUP,
        "lost_and_made_good",
        "both make good what went with a device, for guards and for indexing",
        &[Need::TwoDevices],
        lost,
    ),
];

const LEN: usize = 2 * BLOCK + 3 * PAGE + 11;

/// Ranges within [`LEN`], and how many pages they cover in part.
const SHAPES: [(usize, usize, u64); 8] = [
    (0, LEN, 0),
    (0, PAGE, 0),
    (1, 2, 1),
    (PAGE - 1, PAGE + 1, 2),
    (PAGE / 2, 4 * PAGE, 1),
    (BLOCK, 2 * BLOCK + 1, 1),
    (7, 2 * BLOCK + PAGE - 7, 2),
    (LEN - 1, LEN, 1),
];

fn moved_since(rig: &Rig<'_>, before: Stats) -> Moved {
    (rig.runtime.stats() - before).total()
}

/// A vector that a device has written.
fn by_device(rig: &Rig<'_>, len: usize) -> Result<Mirror, crate::case::CaseFailure> {
    let mut vec = rig.filled(len, |i| (i % 61) as f32)?;
    rig.fill(rig.device(), &mut vec, .., 5.0)?;
    rig.settle()?;
    Ok(vec)
}

fn overwrites(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    for (start, end, in_part) in SHAPES {
        let mut vec = by_device(&rig, LEN)?;
        let before = rig.runtime.stats();
        rig.host_overwrite(&mut vec, start..end, |i| (i % 97) as f32 + 0.5)?;
        let wanted = if rig.model() == Model::Unified { 0 } else { in_part * PAGE_BYTES };
        let moved = moved_since(&rig, before);
        ensure!(moved.bytes() == wanted, "{start}..{end}: {moved:?}, not {wanted} bytes");
        rig.host_read(&vec, ..)?;
        let mut seen = rig.zeros(LEN)?;
        rig.copy(rig.device(), (&vec, ..), (&mut seen, ..))?;
        rig.host_read(&seen, ..)?;
    }
    Ok(())
}

fn discards(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    for (start, end, in_part) in SHAPES {
        for read_first in [false, true] {
            let mut vec = by_device(&rig, LEN)?;
            if read_first {
                rig.host_read(&vec, ..)?;
            }
            let before = rig.runtime.stats();
            rig.discard(&mut vec, start..end)?;
            let moved = moved_since(&rig, before);
            let stays = read_first || rig.model() == Model::Unified;
            let wanted = if stays { 0 } else { in_part * PAGE_BYTES };
            ensure!(moved.bytes() == wanted, "{start}..{end}: {moved:?}, not {wanted} bytes");
            let mut seen = rig.filled(LEN, |_| 1.0)?;
            rig.copy(rig.device(), (&vec, ..), (&mut seen, ..))?;
            rig.host_read(&seen, ..)?;
            rig.host_read(&vec, start..end)?;
            // Nothing but zeros, whoever is first.
            rig.discard(&mut vec, start..end)?;
            rig.host_read(&vec, ..)?;
        }
    }
    Ok(())
}

fn behind_work(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    rig.late();
    let ones = rig.filled(LEN, |_| 1.0)?;
    for round in 0..4 {
        let mut vec = rig.filled(LEN, |i| i as f32)?;
        rig.fill(rig.device(), &mut vec, .., 5.0)?;
        let before = rig.waits();
        rig.discard(&mut vec, PAGE..LEN)?;
        let waited = rig.waits() > before;
        ensure!(waited == (rig.model() == Model::Unified), "waited: {waited}");
        if round % 2 == 0 {
            rig.saxpy(rig.device(), 2.0, (&ones, ..), (&mut vec, ..))?;
        }
        if round / 2 == 0 {
            rig.settle()?;
        }
        rig.host_read(&vec, ..)?;
    }
    Ok(())
}

fn strangers(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    for round in 0..4 {
        // The next vector of this length gets the memory.
        drop(rig.filled(BLOCK, |_| -1.0)?);
        let mut vec = rig.zeros(BLOCK)?;
        if round % 2 == 0 {
            rig.fill(rig.device(), &mut vec, .., 3.0)?;
            rig.settle()?;
        }
        let shown = vec.vec.overwrite(..BLOCK / 2)?;
        ensure!(!shown.contains(&-1.0), "round {round}: another vector's bytes are shown");
        shown.fill(2.0);
        vec.oracle[..BLOCK / 2].fill(2.0);
        rig.discard(&mut vec, PAGE..)?;
        rig.host_read(&vec, ..)?;
    }
    Ok(())
}

fn lost(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig_of_two()?;
    let mut vecs = Vec::new();
    for _ in 0..3 {
        let mut vec = rig.filled(LEN, |i| i as f32)?;
        rig.late();
        rig.fill(rig.other(), &mut vec, .., 9.0)?;
        vecs.push(vec);
    }
    if rig.model() != Model::Unified {
        rig.settle()?;
    }
    rig.gate(rig.other()).lose();
    for (number, mut vec) in vecs.into_iter().enumerate() {
        // Each loss is told once, then what is lost is lost.
        for _ in 0..3 {
            let _ = vec.vec.host(..);
        }
        let refused = vec.vec.host_mut(..).err();
        ensure!(refused.is_some(), "nothing was lost");
        match number {
            0 => rig.host_overwrite(&mut vec, .., |i| (i % 71) as f32)?,
            1 => rig.discard(&mut vec, ..)?,
            _ => {
                rig.discard(&mut vec, ..BLOCK)?;
                rig.host_overwrite(&mut vec, BLOCK.., |_| 4.0)?;
            }
        }
        rig.host_read(&vec, ..)?;
        rig.host_write(&mut vec, 5.., |i| i as f32)?;
        let mut seen = rig.zeros(LEN)?;
        rig.copy(rig.device(), (&vec, ..), (&mut seen, ..))?;
        rig.host_read(&seen, ..)?;
    }
    Ok(())
}
