//! What is in a vector, whatever its size and whichever part of it an argument names.

use hmmap::kernels::{Fill, StreamAdd};
use hmmap_core::{Cause, SharedVec, units::PAGE_BYTES};

use super::Verdict;
use crate::{
    case::{Case, Context, ensure},
    kernels::Increment,
    mirror::Mirror,
    rig::{BLOCK, PAGE, Rig},
    setup::Code,
    table::Model,
};

const GROUP: &str = "contents";

pub(super) const CASES: &[Case] = &[
    Case::new(
        GROUP,
        "untouched_memory_reads_as_zeros",
        "memory that nobody wrote is zero on host and device, also where others wrote before",
        &[],
        untouched,
    ),
    Case::new(
        GROUP,
        "odd_sizes",
        "sizes around pages and blocks make the round trip",
        &[],
        odd_sizes,
    ),
    Case::new(
        GROUP,
        "odd_byte_sizes",
        "so do sizes that are no whole elements",
        &[],
        odd_byte_sizes,
    ),
    Case::new(
        GROUP,
        "parts_as_arguments",
        "a range as an argument is that range, wherever it begins and ends",
        &[],
        parts,
    ),
    Case::new(
        GROUP,
        "two_ranges_of_one_vector",
        "one launch reads two ranges of one vector, and each page moves once",
        &[],
        two_ranges,
    ),
    Case::new(
        GROUP,
        "many_small_vectors",
        "vectors that share blocks do not disturb each other",
        &[],
        many_small,
    ),
    Case::new(GROUP, "nothing_at_all", "empty vectors, ranges and grids do nothing", &[], nothing),
];

/// Lengths around pages and blocks, in elements.
const LENGTHS: [usize; 9] = [
    1,
    PAGE - 1,
    PAGE,
    PAGE + 1,
    BLOCK - 1,
    BLOCK,
    BLOCK + 1,
    3 * BLOCK + 5 * PAGE,
    3 * BLOCK + 5 * PAGE + 1,
];

fn untouched(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    for round in 0..3 {
        for len in LENGTHS {
            let by_host = rig.zeros(len)?;
            rig.host_read(&by_host, ..)?;
            let by_device = rig.zeros(len)?;
            let mut seen = rig.filled(len, |_| 1.0)?;
            rig.copy(rig.device(), (&by_device, ..), (&mut seen, ..))?;
            rig.host_read(&seen, ..)?;
            let mut in_part = rig.zeros(len)?;
            rig.fill(rig.device(), &mut in_part, len / 3..len / 2, 2.0)?;
            rig.host_read(&in_part, ..)?;
            // Leaves something behind for those that get the memory next.
            let mut dirty = rig.filled(len, |_| -1.0)?;
            rig.fill(rig.device(), &mut dirty, .., -2.0)?;
            ensure!(dirty.len() == len, "round {round}");
        }
    }
    Ok(())
}

fn odd_sizes(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    for len in LENGTHS {
        let x = rig.filled(len, |i| (i % 4093) as f32)?;
        let mut y = rig.filled(len, |i| (i % 31) as f32 + 0.25)?;
        rig.saxpy(rig.device(), 2.0, (&x, ..), (&mut y, ..))?;
        rig.host_read(&y, ..)?;
        rig.host_write(&mut y, len - 1.., |_| 5.0)?;
        let mut copied = rig.zeros(len)?;
        rig.copy(rig.device(), (&y, ..), (&mut copied, ..))?;
        rig.host_read(&copied, ..)?;
    }
    Ok(())
}

fn odd_byte_sizes(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let (page, block) = (PAGE_BYTES as usize, BLOCK * size_of::<f32>());
    for len in [1, 3, page - 1, page + 1, block - 1, block + 1, 3 * block + 5 * page + 7] {
        let byte = |i: usize| (i * 7 % 251) as u8;
        let mut vec = SharedVec::from_fn(&rig.runtime, len, byte)?;
        let mut wanted: Vec<u8> = (0..len).map(byte).collect();
        if cx.setup().code == Code::Twins {
            rig.runtime.launch(len, Increment { bytes: vec.update() })?;
            wanted.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
        }
        ensure!(vec.host(..)? == wanted, "{len} bytes came back changed");
    }
    Ok(())
}

fn parts(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let len = 2 * BLOCK + 3 * PAGE + 11;
    let x = rig.filled(len, |i| (i % 8191) as f32)?;
    let mut y = rig.filled(len, |i| -((i % 127) as f32))?;
    let ends = [
        (0, 1),
        (PAGE - 1, PAGE + 1),
        (1, PAGE),
        (PAGE, 2 * PAGE),
        (BLOCK - 5, BLOCK + 5),
        (BLOCK + PAGE / 2, 2 * BLOCK + 1),
        (len - 1, len),
        (PAGE + 3, len),
    ];
    for (start, end) in ends {
        // Into a place that is differently aligned, as far as it fits.
        let to = (start * 7 + 13) % (len - (end - start) + 1);
        rig.saxpy(rig.device(), 3.0, (&x, start..end), (&mut y, to..to + (end - start)))?;
        rig.copy(rig.device(), (&x, start..end), (&mut y, to..to + (end - start)))?;
        rig.fill(rig.device(), &mut y, start..end, start as f32)?;
        rig.host_read(&y, to..to + (end - start))?;
    }
    rig.host_read(&y, ..)?;
    // A range of a range counts from where the first begins.
    let out = y.vec.write().range(100..200).range(10..=19);
    rig.runtime.launch(10, Fill { out, value: 77.0 })?;
    y.oracle[110..120].fill(77.0);
    rig.host_read(&y, ..)
}

fn two_ranges(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let pairs = [
        (0..PAGE, 0..PAGE, 1),
        (0..100, 50..150, 1),
        (0..PAGE + 1, PAGE..2 * PAGE, 2),
        (5 * PAGE..6 * PAGE, PAGE..2 * PAGE, 2),
        (BLOCK..BLOCK + 2 * PAGE, 0..2 * BLOCK, 64),
        (0..0, 3 * PAGE..4 * PAGE, 1),
    ];
    for (left, right, pages) in pairs {
        let x = rig.filled(2 * BLOCK, |i| (i % 509) as f32)?;
        let len = left.len().max(right.len());
        let mut sum = rig.zeros(len)?;
        let before = rig.runtime.stats();
        let kernel = StreamAdd {
            a: x.vec.read().range(left.clone()),
            b: x.vec.read().range(right.clone()),
            c: sum.vec.write(),
        };
        rig.runtime.launch(len, kernel)?;
        let both = left.len().min(right.len());
        for i in 0..both {
            sum.oracle[i] = x.oracle[left.start + i] + x.oracle[right.start + i];
        }
        let moved = (rig.runtime.stats() - before)[Cause::Launch].to_device_bytes;
        let wanted = if rig.model() == Model::Unified { 0 } else { pages * PAGE_BYTES };
        ensure!(moved == wanted, "{left:?} and {right:?}: {moved} bytes moved, not {wanted}");
        rig.host_read(&sum, ..)?;
        rig.host_read(&x, ..)?;
    }
    Ok(())
}

fn many_small(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let mut random = cx.random();
    let mut vecs: Vec<Mirror> = Vec::new();
    for round in 0..cx.scaled(3, 10) {
        for at in 0..cx.scaled(100, 400) {
            let len = random.usize(1..3 * PAGE);
            vecs.push(rig.filled(len, |i| (i + at + round) as f32)?);
        }
        for (at, vec) in vecs.iter_mut().enumerate() {
            if random.bool() {
                let start = random.usize(0..vec.len());
                rig.fill(rig.device(), vec, start.., at as f32)?;
            }
        }
        check_all(&rig, &vecs)?;
        random.shuffle(&mut vecs);
        vecs.truncate(vecs.len() / 2);
    }
    check_all(&rig, &vecs)
}

fn check_all(rig: &Rig<'_>, vecs: &[Mirror]) -> Verdict {
    vecs.iter().try_for_each(|vec| rig.host_read(vec, ..))
}

fn nothing(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let mut empty = rig.zeros(0)?;
    rig.host_read(&empty, ..)?;
    rig.host_write(&mut empty, .., |_| 1.0)?;
    ensure!(empty.vec.is_empty() && empty.vec.residency(..)?.is_empty(), "{:?}", empty.vec);
    // An empty vector beside one that is not, and a grid for more than there is.
    let x = rig.filled(PAGE, |i| i as f32)?;
    let mut y = rig.filled(PAGE, |i| i as f32)?;
    let kernel = StreamAdd { a: x.vec.read(), b: empty.vec.read(), c: y.vec.write() };
    rig.runtime.launch(PAGE, kernel)?;
    y.oracle.fill(0.0);
    rig.host_read(&y, ..)?;
    rig.runtime.launch(9, Fill { out: empty.vec.write(), value: 1.0 })?.wait()?;
    // A grid without items is no launch: even a Write leaves everything as it is.
    rig.host_write(&mut y, .., |i| i as f32)?;
    let before = (rig.runtime.stats(), y.vec.residency(..)?);
    let fence = rig.runtime.launch(0, Fill { out: y.vec.write(), value: 9.0 })?;
    ensure!(fence.point().is_none() && fence.has_ended(), "an empty launch has a fence");
    fence.wait()?;
    rig.runtime.launch((0, 5), Fill { out: y.vec.write(), value: 9.0 })?.wait()?;
    ensure!(before == (rig.runtime.stats(), y.vec.residency(..)?), "an empty launch did something");
    rig.fill(rig.device(), &mut y, 5..5, 9.0)?;
    rig.host_read(&y, 7..7)?;
    rig.host_read(&y, ..)
}
