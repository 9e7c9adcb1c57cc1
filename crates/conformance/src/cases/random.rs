//! Random operations in random order against the oracle.

use hmmap_core::{DeviceId, Options, units::BLOCK_BYTES};

use super::Verdict;
use crate::{
    case::{Case, CaseFailure, Context, Need, ensure},
    mirror::Mirror,
    rig::{BLOCK, PAGE, Rig, Watch},
};

const GROUP: &str = "random";

pub(super) const CASES: &[Case] = &[
    Case::new(GROUP, "one_device", "any order of accesses by host and device", &[], |cx| {
        let rig = cx.rig()?;
        play(cx, &rig, &[rig.device()], 1)
    }),
    Case::new(GROUP, "two_devices", "and by two devices", &[Need::TwoDevices], |cx| {
        let rig = cx.rig_of_two()?;
        play(cx, &rig, &[rig.device(), rig.other()], 1)
    }),
    Case::new(
        GROUP,
        "late_news",
        "and when work never ends before somebody waits for it",
        &[Need::TwoDevices],
        |cx| {
            let rig = cx.rig_of_two()?;
            rig.late();
            play(cx, &rig, &[rig.device(), rig.other()], 1)
        },
    ),
    Case::new(
        GROUP,
        "under_pressure",
        "and when the devices cannot hold all of it",
        &[Need::TwoDevices, Need::Migrate],
        |cx| {
            // As much as two of the vectors can need, a third of what all are.
            let limit = Some(4 * BLOCK_BYTES);
            let options = Options { device_memory_limit_bytes: limit, ..cx.options() };
            let rig = cx.rig_of_two_with(options)?;
            rig.watch(Watch::Places);
            play(cx, &rig, &[rig.device(), rig.other()], 3)?;
            let evicted = rig.runtime.stats().evicted_blocks;
            ensure!(evicted > 0, "nothing was evicted: no pressure");
            Ok(())
        },
    ),
];

/// A range that is now and then a whole vector, whole pages, or a few elements.
pub(super) fn range(random: &mut fastrand::Rng, len: usize) -> std::ops::Range<usize> {
    let (start, end) = match random.u8(0..6) {
        0 => (0, len),
        1 => (random.usize(0..len) / PAGE * PAGE, len),
        2 => (0, (random.usize(0..len) / PAGE + 1) * PAGE),
        3 => {
            let start = random.usize(0..len);
            (start, start + random.usize(1..100))
        }
        _ => {
            let start = random.usize(0..len);
            (start, random.usize(start..len) + 1)
        }
    };
    start..end.min(len)
}

/// Random operations on `sets` times five vectors.
fn play(cx: &Context<'_>, rig: &Rig<'_>, devices: &[DeviceId], sets: usize) -> Verdict {
    let mut random = cx.random();
    let lens = [PAGE / 3, 5 * PAGE + 17, BLOCK - PAGE, BLOCK + 9 * PAGE + 1, 2 * BLOCK];
    let vecs = lens.repeat(sets).into_iter().map(|len| rig.zeros(len));
    let mut vecs: Vec<_> = vecs.collect::<Result<_, _>>()?;
    for step in 0..cx.scaled(250, 5000) {
        one_step(rig, &mut random, devices, &mut vecs).map_err(|failure| {
            CaseFailure::broken(format!("step {step} (seed {}): {failure}", cx.setup().seed))
        })?;
    }
    vecs.iter().try_for_each(|vec| rig.host_read(vec, ..))
}

/// One random operation.
fn one_step(
    rig: &Rig<'_>,
    random: &mut fastrand::Rng,
    devices: &[DeviceId],
    vecs: &mut Vec<Mirror>,
) -> Verdict {
    // Two different vectors: one to read, one to touch.
    random.shuffle(vecs);
    let [x, y, ..] = vecs.as_mut_slice() else { return Ok(()) };
    let device = devices[random.usize(0..devices.len())];
    let at = range(random, y.len());
    let value = f32::from(random.u8(..));
    let len = at.len().min(x.len());
    let from = random.usize(0..=x.len() - len);
    let to = at.start..at.start + len;
    match random.u8(0..24) {
        0..5 => rig.host_read(y, at),
        5..9 => rig.host_write(y, at, |i| value + (i % 13) as f32),
        9..12 => rig.fill(device, y, at, value).map(drop),
        12..15 => rig.copy(device, (x, from..from + len), (y, to)).map(drop),
        // The factor keeps sums exact for any number of steps: they grow by addition alone and are overwritten often.
        15..18 => rig.saxpy(device, 0.5, (x, from..from + len), (y, to)).map(drop),
        18 => rig.prefetch(device, y, at).map(drop),
        19 => match rig.fill(device, y, at, value)? {
            Some(fence) => Ok(fence.wait()?),
            None => Ok(()),
        },
        20 | 21 => rig.host_overwrite(y, at, |i| value - (i % 17) as f32),
        22 => rig.discard(y, at),
        _ => {
            // A vector ends with whatever is in flight on it, and one of another length begins.
            *y = rig.zeros(random.usize(1..2 * BLOCK))?;
            Ok(())
        }
    }
}
