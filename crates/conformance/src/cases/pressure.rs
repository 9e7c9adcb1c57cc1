//! Devices that are too small.

use hmmap::kernels::{Fill, Saxpy};
use hmmap_core::{Cause, Error, Eviction, Options, WithoutRoom, units::BLOCK_BYTES};
use parking_lot::Mutex;

use super::Verdict;
use crate::{
    case::{Case, CaseFailure, Context, Need, ensure},
    rig::{BLOCK, PAGE, Rig, Watch},
};

const GROUP: &str = "pressure";
/// Threads that share a device that has not room for all of them.
const THREADS: usize = 4;
const MIGRATE: &[Need] = &[Need::Migrate];

pub(super) const CASES: &[Case] = &[
    Case::new(
        GROUP,
        "too_large_is_refused_in_numbers",
        "a working set that does not fit is refused with what was asked, free and the limit, and no data are lost",
        MIGRATE,
        too_large,
    ),
    Case::new(
        GROUP,
        "eviction_keeps_data",
        "vectors that take turns on a device that holds some of them keep what is in them",
        MIGRATE,
        keeps_data,
    ),
    Case::new(
        GROUP,
        "clean_blocks_go_for_nothing",
        "room is made of blocks that the host has too without a copy",
        MIGRATE,
        clean_is_free,
    ),
    Case::new(
        GROUP,
        "a_launch_keeps_what_it_reserved",
        "a launch that just fits takes its room from others, and launches like it need no more",
        MIGRATE,
        keeps_own,
    ),
    Case::new(
        GROUP,
        "parts_of_a_vector_larger_than_the_device",
        "a vector that does not fit is worked on in parts",
        &[Need::Migrate, Need::Sparse],
        in_parts,
    ),
    Case::new(
        GROUP,
        "a_launch_that_can_be_split_runs_in_tiles",
        "a launch larger than the device runs all the same when its arguments say how it can be split, and moves what it must",
        &[Need::Migrate, Need::Sparse],
        in_tiles,
    ),
    Case::new(
        GROUP,
        "too_large_works_in_place",
        "a launch larger than the device works on what has no room where it is, where the device reaches it there",
        &[Need::Migrate, Need::Window, Need::Sparse],
        in_place,
    ),
    Case::new(
        GROUP,
        "dropped_vectors_make_room",
        "room that a dropped vector still has is waited for",
        MIGRATE,
        dropped_make_room,
    ),
    Case::new(
        GROUP,
        "threads_that_cannot_all_fit",
        "launches of several threads that fit one at a time all come to an end",
        MIGRATE,
        threads,
    ),
];

/// A rig whose device holds so many blocks, and refuses what has no room there.
fn small_rig<'c>(cx: &'c Context<'c>, blocks: u64) -> Result<Rig<'c>, CaseFailure> {
    small_rig_or(cx, blocks, WithoutRoom::Refuse)
}

fn small_rig_or<'c>(
    cx: &'c Context<'c>,
    blocks: u64,
    without_room: WithoutRoom,
) -> Result<Rig<'c>, CaseFailure> {
    let limit = Some(blocks * BLOCK_BYTES);
    let options = Options { device_memory_limit_bytes: limit, without_room, ..cx.options() };
    let rig = cx.rig_with(options)?;
    rig.watch(Watch::Places);
    Ok(rig)
}

/// The refusal of a launch that must not fit, in blocks: asked, free, limit.
fn out_of_memory<T>(answer: Result<T, Error>) -> Result<[u64; 3], CaseFailure> {
    match answer {
        Err(Error::OutOfDeviceMemory { asked_bytes, free_bytes, limit_bytes, .. }) => {
            Ok([asked_bytes, free_bytes, limit_bytes].map(|bytes| bytes / BLOCK_BYTES))
        }
        Err(error) => Err(error.into()),
        Ok(_) => Err(CaseFailure::broken("a working set that cannot fit was taken".to_owned())),
    }
}

fn too_large(cx: &Context<'_>) -> Verdict {
    let rig = small_rig(cx, 4)?;
    let device = rig.device();
    let mut large = rig.filled(5 * BLOCK, |i| (i % 4001) as f32)?;
    let kernel = Fill { out: large.vec.write(), value: 1.0 };
    let numbers = out_of_memory(rig.runtime.launch(5 * BLOCK, kernel))?;
    ensure!(numbers == [5, 4, 4], "asked, free, limit: {numbers:?}");
    rig.host_read(&large, ..)?;
    // Beside what is there already and needed, and the only data of others, which come home for it.
    let mut bystander = rig.zeros(BLOCK)?;
    rig.fill(device, &mut bystander, .., 6.0)?;
    let mut mine = rig.zeros(3 * BLOCK)?;
    rig.fill(device, &mut mine, .., 7.0)?;
    let more = rig.filled(2 * BLOCK, |i| i as f32)?;
    let kernel = Saxpy { a: 1.0, x: more.vec.read(), y: mine.vec.update() };
    let numbers = out_of_memory(rig.runtime.launch(2 * BLOCK, kernel))?;
    ensure!(numbers[0] == 2 && numbers[2] == 4, "asked, free, limit: {numbers:?}");
    ensure!(numbers[1] < 2, "refused with {} blocks free", numbers[1]);
    rig.host_read(&bystander, ..)?;
    rig.host_read(&mine, ..)?;
    rig.host_read(&more, ..)?;
    // What was refused took nothing: a set that fits is taken.
    drop(large);
    rig.copy(device, (&more, ..), (&mut mine, ..2 * BLOCK)).map(drop).or_else(|refused| {
        // Three blocks and two do not fit where a vector has memory as a whole.
        let whole =
            matches!(refused, CaseFailure::Refused { source: Error::OutOfDeviceMemory { .. }, .. });
        if whole { Ok(()) } else { Err(refused) }
    })?;
    rig.fill(device, &mut mine, .., 8.0)?;
    rig.host_read(&mine, ..)
}

fn keeps_data(cx: &Context<'_>) -> Verdict {
    let rig = small_rig(cx, 5)?;
    let mut random = cx.random();
    let lens = [BLOCK, 2 * BLOCK, PAGE, 2 * BLOCK - PAGE, BLOCK + PAGE + 3, 2 * BLOCK];
    let vecs = lens.iter().map(|len| rig.filled(*len, |i| (i % 61) as f32));
    let mut vecs: Vec<_> = vecs.collect::<Result<_, _>>()?;
    for step in 0..cx.scaled(60, 1000) {
        random.shuffle(&mut vecs);
        let [x, y, ..] = vecs.as_mut_slice() else { return Ok(()) };
        let len = x.len().min(y.len());
        match random.u8(0..5) {
            0 => rig.fill(rig.device(), y, .., step as f32).map(drop)?,
            1 => rig.host_read(y, ..)?,
            2 => rig.copy(rig.device(), (x, ..len), (y, ..len)).map(drop)?,
            _ => rig.saxpy(rig.device(), 1.0, (x, ..len), (y, ..len)).map(drop)?,
        }
        let memory = rig.runtime.device_memory(rig.device())?;
        ensure!(memory.used_bytes <= memory.limit_bytes, "over the limit: {memory:?}");
    }
    vecs.iter().try_for_each(|vec| rig.host_read(vec, ..))?;
    let stats = rig.runtime.stats();
    ensure!(stats.evicted_blocks > 0, "nothing was evicted: no pressure");
    ensure!(stats[Cause::Eviction].to_host_bytes > 0, "no data were at stake: {stats}");
    ensure!(stats[Cause::Eviction].to_device_bytes == 0, "eviction to a device: {stats}");
    Ok(())
}

fn clean_is_free(cx: &Context<'_>) -> Verdict {
    // A policy that predicts may think a block that was only written of less use than one that was read.
    let options = Options {
        device_memory_limit_bytes: Some(4 * BLOCK_BYTES),
        eviction: Eviction::LeastRecentlyUsed,
        ..cx.options()
    };
    let rig = cx.rig_with(options)?;
    rig.watch(Watch::Places);
    let clean: Vec<_> =
        (0..3).map(|_| rig.filled(BLOCK, |i| i as f32)).collect::<Result<_, _>>()?;
    let mut out = rig.zeros(BLOCK)?;
    for vec in &clean {
        rig.copy(rig.device(), (vec, ..), (&mut out, ..))?;
    }
    rig.settle()?;
    let before = rig.runtime.stats();
    let mut large = rig.zeros(3 * BLOCK)?;
    rig.copy(rig.device(), (&out, ..), (&mut large, ..BLOCK))?;
    rig.fill(rig.device(), &mut large, .., 4.0)?;
    let stats = rig.runtime.stats() - before;
    ensure!(stats.evicted_blocks == 3, "{} blocks evicted, not 3", stats.evicted_blocks);
    ensure!(stats[Cause::Eviction].bytes() == 0, "clean blocks were copied: {stats}");
    clean.iter().try_for_each(|vec| rig.host_read(vec, ..))?;
    rig.host_read(&large, ..)
}

fn keeps_own(cx: &Context<'_>) -> Verdict {
    let rig = small_rig(cx, 4)?;
    let mut others = rig.zeros(2 * BLOCK)?;
    rig.fill(rig.device(), &mut others, .., 9.0)?;
    let x = rig.filled(2 * BLOCK, |i| (i % 7) as f32)?;
    let mut y = rig.zeros(2 * BLOCK)?;
    // Just fits: `Places` of the rig says that both are there as the launch begins.
    rig.saxpy(rig.device(), 1.0, (&x, ..), (&mut y, ..))?;
    let before = rig.runtime.stats();
    for _ in 0..20 {
        rig.saxpy(rig.device(), 1.0, (&x, ..), (&mut y, ..))?;
    }
    let stats = rig.runtime.stats() - before;
    ensure!(stats.evicted_blocks == 0, "a launch that has all it needs evicted {stats}");
    ensure!(stats.total().bytes() == 0, "a launch that has all it needs moved {stats}");
    rig.host_read(&y, ..)?;
    rig.host_read(&others, ..)
}

fn in_parts(cx: &Context<'_>) -> Verdict {
    let rig = small_rig(cx, 4)?;
    let x = rig.filled(9 * BLOCK, |i| (i % 31) as f32)?;
    let mut y = rig.zeros(9 * BLOCK)?;
    for round in 0..2 {
        for block in 0..9 {
            let part = block * BLOCK..(block + 1) * BLOCK;
            rig.saxpy(rig.device(), 1.0, (&x, part.clone()), (&mut y, part))?;
            ensure!(rig.used_bytes()? <= 4 * BLOCK_BYTES, "over the limit in round {round}");
        }
    }
    rig.host_read(&y, ..)
}

fn in_tiles(cx: &Context<'_>) -> Verdict {
    let rig = small_rig(cx, 4)?;
    let n = 9 * BLOCK + PAGE + 5;
    let (x, mut y) = (rig.filled(n, |i| (i % 31) as f32)?, rig.filled(n, |i| (i % 7) as f32)?);
    let before = rig.runtime.stats();
    let kernel = Saxpy { a: 2.0, x: x.vec.read().split(1), y: y.vec.update().split(1) };
    rig.runtime.launch(n, kernel)?.wait()?;
    y.oracle.iter_mut().zip(&x.oracle).for_each(|(y, x)| *y += 2.0 * *x);
    let stats = rig.runtime.stats() - before;
    ensure!(stats.launches > 4, "{} tiles", stats.launches);
    let used = rig.used_bytes()?;
    ensure!(used <= 4 * BLOCK_BYTES, "{used} bytes used, over the limit");
    let data = (n * 4).next_multiple_of(PAGE * 4) as u64;
    let came = stats.total().to_device_bytes;
    ensure!(came == 2 * data, "{came} bytes came for two vectors of {data}");
    rig.host_read(&y, ..)?;
    let went = (rig.runtime.stats() - before).total().to_host_bytes;
    ensure!(went == data, "{went} bytes went home for one vector of {data}");
    rig.host_read(&x, ..)
}

fn in_place(cx: &Context<'_>) -> Verdict {
    let rig = small_rig_or(cx, 4, WithoutRoom::WindowIfTooLarge)?;
    let n = 6 * BLOCK;
    let (x, mut y) = (rig.filled(BLOCK, |i| (i % 31) as f32)?, rig.filled(n, |i| (i % 7) as f32)?);
    for round in 0..3 {
        let kernel = Saxpy { a: 2.0, x: x.vec.read(), y: y.vec.update() };
        rig.runtime.launch(n, kernel)?;
        y.oracle.iter_mut().zip(&x.oracle).for_each(|(y, x)| *y += 2.0 * *x);
        let windowed = rig.runtime.stats().windowed;
        ensure!(windowed == round + 1, "{windowed} vectors used in place in {} rounds", round + 1);
        rig.host_read(&y, ..)?;
        // A part fits, and moves.
        rig.fill(rig.device(), &mut y, BLOCK..2 * BLOCK, round as f32)?;
    }
    rig.host_read(&y, ..)?;
    rig.host_read(&x, ..)
}

fn dropped_make_room(cx: &Context<'_>) -> Verdict {
    let rig = small_rig(cx, 3)?;
    rig.late();
    for round in 0..6 {
        let mut vec = rig.zeros(3 * BLOCK)?;
        rig.fill(rig.device(), &mut vec, .., round as f32)?;
        if round % 2 == 0 {
            rig.host_read(&vec, PAGE..2 * PAGE)?;
        }
        drop(vec);
    }
    rig.settle()?;
    rig.sweep()?;
    let used = rig.used_bytes()?;
    ensure!(used == 0, "{used} bytes are used by nobody");
    Ok(())
}

fn threads(cx: &Context<'_>) -> Verdict {
    let rig = small_rig(cx, 5)?;
    rig.watch(Watch::Data);
    let rounds = cx.scaled(15, 200);
    // All vectors live until all threads are done: whoever launches second has to evict, however
    // little the threads overlap.
    let vectors = (0..THREADS)
        .map(|_| {
            Ok((rig.filled(2 * BLOCK, |i| (i % 5) as f32)?, Mutex::new(rig.zeros(2 * BLOCK)?)))
        })
        .collect::<Result<Vec<_>, CaseFailure>>()?;
    let work = |number: u64| -> Verdict {
        let mut random = fastrand::Rng::with_seed(number);
        let (x, y) = &vectors[number as usize];
        let mut y = y.lock();
        for _ in 0..rounds {
            rig.saxpy(rig.device(), 1.0, (x, ..), (&mut y, ..))?;
            if random.u8(0..4) == 0 {
                rig.host_read(&y, ..)?;
            }
        }
        rig.host_read(&y, ..)
    };
    super::on_threads(THREADS, &work)?;
    ensure!(rig.runtime.stats().evicted_blocks > 0, "nothing was evicted: no pressure");
    Ok(())
}
