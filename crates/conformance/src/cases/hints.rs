//! What is said about ranges: it can be read back, changes where pages are and what is copied, and never what anybody reads.

use std::ops::Range;

use hmmap::kernels::Fill;
use hmmap_core::{
    Cause, Error, Hint, NodeId, Options,
    hints::{Common, Granularity, HintEffect, HintStats, NoEffect, Order},
    units::BLOCK_BYTES,
};

use super::Verdict;
use crate::{
    case::{Case, CaseFailure, Context, Need, ensure},
    mirror::Mirror,
    rig::{BLOCK, PAGE, Rig, Watch},
    table::Model,
};

const GROUP: &str = "hints";
const KIB_64: u64 = 64 << 10;

pub(super) const CASES: &[Case] = &[
    Case::new(
        GROUP,
        "said_and_read_back",
        "setting splits ranges, of one kind the last counts, and the common value is read back or that there is none",
        &[],
        read_back,
    ),
    Case::new(
        GROUP,
        "used_where_it_is_at_home",
        "kernels work on the host's pages in place where the host is the preferred location, and nothing moves",
        &[Need::Migrate, Need::Window],
        at_home,
    ),
    Case::new(
        GROUP,
        "accessed_where_it_is",
        "who accesses a range works on the host's pages where they are, and on its own where they are its own",
        &[Need::Migrate, Need::Window],
        accessed,
    ),
    Case::new(
        GROUP,
        "read_mostly_duplicates",
        "readers get copies of their own against what else was said, and a write leaves one",
        &[Need::Migrate, Need::TwoDevices, Need::Sharing],
        duplicates,
    ),
    Case::new(
        GROUP,
        "granularity_of_a_launch",
        "a launch moves the granules of what it uses, and no page is stale for it",
        &[Need::Migrate, Need::Guards],
        granules,
    ),
    Case::new(
        GROUP,
        "sent_home",
        "what is sent home behind a kernel is there when it is asked for",
        &[Need::Migrate, Need::Guards],
        sent_home,
    ),
    Case::new(
        GROUP,
        "pinned_stays",
        "eviction leaves what is pinned, and with everything pinned a launch is refused with how much",
        &[Need::Migrate],
        pinned,
    ),
    Case::new(
        GROUP,
        "any_order_of_hints_and_uses",
        "whatever is said in between, every reader sees the last write",
        &[],
        any_order,
    ),
];

fn gpu(rig: &Rig<'_>) -> NodeId {
    NodeId::of_device(rig.device())
}

/// What happened to hints, and how many bytes moved, since `before`.
fn since(rig: &Rig<'_>, before: hmmap_core::Stats) -> (HintStats, u64) {
    let stats = rig.runtime.stats() - before;
    (stats.hints, stats.total().bytes())
}

fn read_back(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let y = rig.zeros(9 * PAGE)?.vec;
    y.hint(.., Hint::Sequential)?;
    y.hint(2 * PAGE + 1..4 * PAGE, Hint::Random)?;
    y.hint(3 * PAGE.., Hint::PreferredLocation(gpu(&rig)))?;
    let order = |range: Range<usize>| Ok::<_, CaseFailure>(y.hints(range)?.order);
    ensure!(order(0..9 * PAGE)? == Common::Mixed, "of all: {:?}", y.hints(..)?);
    ensure!(order(2 * PAGE..4 * PAGE)? == Common::All(Order::Random), "{:?}", y.hint_runs(..)?);
    let runs: Vec<_> = y.hint_runs(..)?.into_iter().map(|run| run.pages).collect();
    ensure!(runs == [0..2, 2..3, 3..4, 4..9], "{runs:?}");
    y.hint(.., Hint::NormalOrder)?;
    y.hint(.., Hint::NoPreferredLocation)?;
    ensure!(y.hint_runs(..)?.len() == 1, "{:?}", y.hint_runs(..)?);
    let outside = y.hint(..9 * PAGE + 1, Hint::Pin);
    ensure!(matches!(outside, Err(Error::OutOfRange { .. })), "{outside:?}");
    let effect = y.hint(.., Hint::AccessedBy(gpu(&rig)))?;
    let window = rig.runtime.facts(rig.device())?.capabilities.host_window.is_proved();
    let wanted = match rig.model() {
        Model::Unified => HintEffect::KeptOnly(NoEffect::NothingMoves),
        _ if !window => HintEffect::KeptOnly(NoEffect::NoWindow),
        _ => HintEffect::Acts,
    };
    ensure!(effect == wanted, "{effect:?}, should be {wanted:?}");
    Ok(())
}

fn at_home(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    rig.watch(Watch::Data);
    let x = rig.filled(3 * PAGE + 5, |i| i as f32)?;
    let mut y = rig.filled(3 * PAGE + 5, |i| 2.0 * i as f32)?;
    for vec in [&x.vec, &y.vec] {
        vec.hint(.., Hint::PreferredLocation(NodeId::HOST))?;
    }
    let before = rig.runtime.stats();
    for round in 0..3 {
        rig.saxpy(rig.device(), 2.0, (&x, ..), (&mut y, ..))?;
        // Behind the kernel, and before the next.
        rig.host_read(&y, PAGE..2 * PAGE)?;
        rig.host_write(&mut y, 7..9, |i| (i + round) as f32)?;
    }
    rig.fill(rig.device(), &mut y, PAGE + 1.., 4.0)?;
    rig.host_read(&y, ..)?;
    let (hints, bytes) = since(&rig, before);
    ensure!(bytes == 0 && hints.in_place == 7, "{bytes} bytes moved; {hints}");
    ensure!(rig.used_bytes()? == 0, "{} bytes of device memory are used", rig.used_bytes()?);
    // Taken back of one, that one moves, into memory of the device, beside its window.
    y.vec.hint(.., Hint::NoPreferredLocation)?;
    let before = rig.runtime.stats();
    rig.saxpy(rig.device(), 2.0, (&x, ..), (&mut y, ..))?;
    let (hints, bytes) = since(&rig, before);
    ensure!(bytes == 4 * KIB_64 && hints.in_place == 1, "{bytes} bytes moved; {hints}");
    // And home again for the next.
    y.vec.hint(.., Hint::PreferredLocation(NodeId::HOST))?;
    rig.saxpy(rig.device(), 2.0, (&x, ..), (&mut y, ..))?;
    let (_, bytes) = since(&rig, before);
    ensure!(bytes == 8 * KIB_64, "{bytes} bytes moved");
    rig.host_read(&y, ..)
}

fn accessed(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    rig.watch(Watch::Data);
    let mut y = rig.filled(2 * PAGE, |i| i as f32)?;
    let x = rig.filled(2 * PAGE, |i| i as f32)?;
    rig.fill(rig.device(), &mut y, .., 1.0)?;
    for vec in [&x.vec, &y.vec] {
        vec.hint(.., Hint::AccessedBy(gpu(&rig)))?;
    }
    let before = rig.runtime.stats();
    rig.saxpy(rig.device(), 3.0, (&x, ..), (&mut y, ..))?;
    let (hints, bytes) = since(&rig, before);
    let wanted = HintStats { in_place: 1, ..HintStats::default() };
    ensure!(bytes == 0 && hints == wanted, "{bytes} bytes moved; {hints}");
    ensure!(y.vec.residency(..)?[0].nodes.as_slice() == [gpu(&rig)], "the device's own went home");
    rig.host_read(&y, ..)
}

fn duplicates(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig_of_two()?;
    rig.watch(Watch::Data);
    let mut x = rig.filled(3 * PAGE, |i| i as f32)?;
    x.vec.hint(.., Hint::PreferredLocation(NodeId::HOST))?;
    x.vec.hint(.., Hint::ReadMostly)?;
    let mut to = rig.zeros(3 * PAGE)?;
    for device in [rig.device(), rig.other()] {
        rig.copy(device, (&x, ..), (&mut to, ..))?;
    }
    let holders = |x: &Mirror| x.vec.residency(PAGE..2 * PAGE).map(|runs| runs[0].nodes.len());
    ensure!(holders(&x)? == 3, "{:?}", x.vec.residency(..)?);
    let before = rig.runtime.stats();
    rig.host_read(&x, ..)?;
    ensure!(holders(&x)? == 3, "a reader took somebody's copy: {:?}", x.vec.residency(..)?);
    rig.fill(rig.other(), &mut x, PAGE..2 * PAGE, 5.0)?;
    ensure!(holders(&x)? == 1, "{:?}", x.vec.residency(..)?);
    let (hints, _) = since(&rig, before);
    ensure!(hints.collapsed_pages == 1, "{hints}");
    rig.copy(rig.device(), (&x, ..), (&mut to, ..))?;
    rig.host_read(&to, ..)
}

fn granules(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    rig.watch(Watch::Data);
    let mut y = rig.filled(70 * PAGE, |i| i as f32)?;
    let size = Granularity::of_bytes(8 * KIB_64);
    let Some(size) = size else { return Err(CaseFailure::broken("512 KiB is no size".into())) };
    y.vec.hint(.., Hint::Granularity(size))?;
    let launch = |y: &mut Mirror, at: Range<usize>| {
        let before = rig.runtime.stats();
        rig.fill(rig.device(), y, at, 1.0)?;
        Ok::<_, CaseFailure>((rig.runtime.stats() - before)[Cause::Launch].to_device_bytes / KIB_64)
    };
    let moved = launch(&mut y, 10 * PAGE..11 * PAGE)?;
    ensure!(moved == 7, "{moved} pages beside the one that is overwritten");
    let moved = launch(&mut y, 12 * PAGE..13 * PAGE)?;
    ensure!(moved == 0, "{moved} pages that were there");
    rig.host_write(&mut y, 13 * PAGE..13 * PAGE + 3, |i| -(i as f32))?;
    let moved = launch(&mut y, 13 * PAGE + 1..13 * PAGE + 2)?;
    ensure!(moved == 1, "{moved} pages: the one that the host has written");
    let moved = launch(&mut y, 69 * PAGE..70 * PAGE)?;
    ensure!(moved == 5, "{moved} pages at the end of the vector");
    rig.host_read(&y, ..)
}

fn sent_home(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    rig.watch(Watch::Data);
    rig.late();
    let mut y = rig.filled(5 * PAGE, |i| i as f32)?;
    rig.fill(rig.device(), &mut y, PAGE.., 2.0)?;
    let fence = y.vec.prefetch(.., NodeId::HOST)?;
    fence.wait()?;
    let before = rig.runtime.stats();
    rig.host_read(&y, ..)?;
    let (_, bytes) = since(&rig, before);
    ensure!(bytes == 0, "{bytes} bytes moved after all");
    let last = y.vec.hints(..)?.last_prefetch;
    ensure!(last == Common::All(Some(NodeId::HOST)), "{last:?}");
    Ok(())
}

fn pinned(cx: &Context<'_>) -> Verdict {
    let limit = Some(4 * BLOCK_BYTES);
    let rig = cx.rig_with(Options { device_memory_limit_bytes: limit, ..cx.options() })?;
    rig.watch(Watch::Data);
    let mut vecs = (0..2).map(|_| rig.zeros(2 * BLOCK)).collect::<Result<Vec<_>, _>>()?;
    for (vec, value) in vecs.iter_mut().zip([1.0, 2.0]) {
        rig.fill(rig.device(), vec, .., value)?;
        vec.vec.hint(.., Hint::Pin)?;
    }
    let mut third = rig.zeros(BLOCK)?;
    let fill = Fill { out: third.vec.write(), value: 3.0 };
    match rig.runtime.launch_on(rig.device(), BLOCK, fill) {
        Err(Error::OutOfDeviceMemory { pinned_bytes, .. }) => {
            ensure!(pinned_bytes == 4 * BLOCK_BYTES, "{pinned_bytes} bytes are pinned");
        }
        other => return Err(CaseFailure::broken(format!("with all pinned: {other:?}"))),
    }
    vecs[1].vec.hint(.., Hint::Unpin)?;
    rig.fill(rig.device(), &mut third, .., 3.0)?;
    let stays = vecs[0].vec.residency(..)?;
    ensure!(stays.iter().all(|run| run.nodes.contains(&gpu(&rig))), "{stays:?}");
    vecs.iter().try_for_each(|vec| rig.host_read(vec, ..))?;
    rig.host_read(&third, ..)
}

/// Some hint, for vectors on one device or two.
fn any_hint(random: &mut fastrand::Rng, rig: &Rig<'_>) -> Hint {
    let nodes = [NodeId::HOST, gpu(rig), NodeId::of_device(rig.other())];
    let node = nodes[random.usize(..3)];
    let size = Granularity::of_bytes(KIB_64 << random.u32(..6)).unwrap_or_default();
    match random.u32(..13) {
        0 => Hint::ReadMostly,
        1 => Hint::NotReadMostly,
        2 | 3 => Hint::PreferredLocation(node),
        4 => Hint::NoPreferredLocation,
        5 | 6 => Hint::AccessedBy(node),
        7 => Hint::NotAccessedBy(node),
        8 => Hint::Sequential,
        9 => Hint::Random,
        10 => Hint::NormalOrder,
        11 => [Hint::Pin, Hint::Unpin][random.usize(..2)],
        _ => Hint::Granularity(size),
    }
}

fn any_order(cx: &Context<'_>) -> Verdict {
    let two = cx.setup().second.is_some();
    let rig = if two { cx.rig_of_two()? } else { cx.rig()? };
    rig.watch(Watch::Data);
    let mut random = cx.random();
    let mut vecs = [rig.filled(70 * PAGE + 3, |i| i as f32)?, rig.zeros(70 * PAGE + 3)?];
    for _ in 0..cx.scaled(150, 3000) {
        let device = [rig.device(), rig.other()][random.usize(..2)];
        let (start, len) = (random.usize(..70 * PAGE), random.usize(1..20 * PAGE));
        let at = start..(start + len).min(70 * PAGE + 3);
        let all = 0..70 * PAGE + 3;
        let at = if random.u32(..3) == 0 { all } else { at };
        let [one, other] = &mut vecs;
        let (one, other) = if random.bool() { (one, other) } else { (other, one) };
        let value = random.u32(..100) as f32;
        match random.u32(..12) {
            0..4 => drop(one.vec.hint(at, any_hint(&mut random, &rig))?),
            4 => drop(rig.fill(device, one, at, value)?),
            5 => drop(rig.copy(device, (&*other, at.clone()), (one, at))?),
            6 => drop(rig.saxpy(device, 0.5, (&*other, at.clone()), (one, at))?),
            7 => rig.host_read(one, at)?,
            8 => rig.host_write(one, at, |i| value + (i % 7) as f32)?,
            9 => rig.discard(one, at)?,
            10 => drop(one.vec.prefetch(at, NodeId::HOST)?),
            _ => drop(rig.prefetch(device, one, at)?),
        }
    }
    vecs.iter().try_for_each(|vec| rig.host_read(vec, ..))
}
