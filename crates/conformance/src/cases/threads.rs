//! Several threads on one runtime.

use hmmap_core::DeviceId;

use super::{Verdict, on_threads, random::range};
use crate::{
    case::{Case, Context, Need, ensure},
    rig::{BLOCK, PAGE, Rig, Watch},
};

const GROUP: &str = "threads";

pub(super) const CASES: &[Case] = &[
    Case::new(GROUP, "on_their_own_vectors", "threads with vectors of their own", &[], |cx| {
        let rig = cx.rig()?;
        own_vectors(cx, &rig, &[rig.device()])
    }),
    Case::new(
        GROUP,
        "on_their_own_vectors_and_two_devices",
        "and with two devices",
        &[Need::TwoDevices],
        |cx| {
            let rig = cx.rig_of_two()?;
            own_vectors(cx, &rig, &[rig.device(), rig.other()])
        },
    ),
    Case::new(
        GROUP,
        "on_shared_vectors_that_are_read",
        "threads that read the same vectors at the same time, on the host and on devices",
        &[Need::Sharing],
        shared_reads,
    ),
    Case::new(
        GROUP,
        "one_after_the_other_on_one_vector",
        "a vector that goes from thread to thread with work in flight",
        &[],
        hand_over,
    ),
];

const THREADS: usize = 4;

fn own_vectors(cx: &Context<'_>, rig: &Rig<'_>, devices: &[DeviceId]) -> Verdict {
    rig.watch(Watch::Data);
    let (seed, steps) = (cx.random().u64(..), cx.scaled(60, 1500));
    on_threads(THREADS, &|number| {
        let mut random = fastrand::Rng::with_seed(seed ^ number);
        let x = rig.filled(BLOCK + PAGE, |i| (i as u64 % (number + 7)) as f32)?;
        let mut y = rig.zeros(BLOCK + PAGE)?;
        for _ in 0..steps {
            let at = range(&mut random, y.len());
            let device = devices[random.usize(0..devices.len())];
            match random.u8(0..6) {
                0 => rig.host_read(&y, at)?,
                1 => rig.host_write(&mut y, at, |i| (i as u64 % (number + 3)) as f32)?,
                2 => rig.fill(device, &mut y, at, number as f32).map(drop)?,
                3 => {
                    // Vectors come and go.
                    let small = rig.filled(at.len(), |i| i as f32)?;
                    rig.copy(device, (&small, ..), (&mut y, at))?;
                }
                _ => rig.saxpy(device, 0.5, (&x, at.clone()), (&mut y, at)).map(drop)?,
            }
        }
        rig.host_read(&y, ..)
    })
}

fn shared_reads(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    rig.watch(Watch::Data);
    let (seed, steps) = (cx.random().u64(..), cx.scaled(40, 500));
    let by_host = rig.filled(2 * BLOCK, |i| (i % 29) as f32)?;
    let mut by_device = rig.zeros(2 * BLOCK)?;
    rig.fill(rig.device(), &mut by_device, 7.., 3.0)?;
    let shared = [by_host, by_device];
    let before = rig.runtime.stats();
    on_threads(THREADS, &|number| {
        let mut random = fastrand::Rng::with_seed(seed ^ number);
        let mut mine = rig.zeros(2 * BLOCK)?;
        for _ in 0..steps {
            let x = &shared[random.usize(0..2)];
            let at = range(&mut random, x.len());
            match random.u8(0..3) {
                0 => rig.host_read(x, at)?,
                1 => rig.copy(rig.device(), (x, at.clone()), (&mut mine, at)).map(drop)?,
                _ => rig.saxpy(rig.device(), 0.5, (x, at.clone()), (&mut mine, at)).map(drop)?,
            }
        }
        rig.host_read(&mine, ..)
    })?;
    // However many read it, each page goes each way at most once; what the threads' own vectors moved is not more than they are.
    let moved = (rig.runtime.stats() - before).total();
    let most = 2 * 2 * BLOCK as u64 * 4 + THREADS as u64 * 2 * BLOCK as u64 * 4;
    ensure!(moved.bytes() <= most, "{moved:?}, more than {most} bytes");
    shared.iter().try_for_each(|vec| rig.host_read(vec, ..))
}

fn hand_over(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    rig.watch(Watch::Data);
    let ones = rig.filled(BLOCK, |_| 1.0)?;
    let vec = parking_lot::Mutex::new(rig.zeros(BLOCK)?);
    let rounds = cx.scaled(20, 300);
    on_threads(THREADS, &|number| {
        for round in 0..rounds {
            let mut vec = vec.lock();
            rig.saxpy(rig.device(), 1.0, (&ones, ..), (&mut vec, ..))?;
            if (round as u64 + number).is_multiple_of(5) {
                rig.host_read(&vec, round..)?;
            }
        }
        Ok(())
    })?;
    let vec = vec.into_inner();
    let total = (THREADS * rounds) as f32;
    ensure!(vec.oracle[0] == total, "the oracle counts {}, not {total}", vec.oracle[0]);
    rig.host_read(&vec, ..)
}
