//! Launches one behind the other without the host waiting in between: the result is that of one after the other.

use std::{
    future::Future as _,
    pin::pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, Wake, Waker},
    thread::{self, Thread},
};

use hmmap_core::Fence;

use super::Verdict;
use crate::{
    case::{Case, Context, Need, ensure},
    rig::{BLOCK, PAGE, Watch},
};

const GROUP: &str = "pipeline";

pub(super) const CASES: &[Case] = &[
    Case::new(
        GROUP,
        "chains_equal_one_after_the_other",
        "reads after writes, writes after reads and writes after writes come in order, and nobody waits on the host",
        &[],
        chains,
    ),
    Case::new(
        GROUP,
        "copies_and_kernels_overlap_in_order",
        "pages come and go while kernels work on their neighbours",
        &[],
        overlap,
    ),
    Case::new(
        GROUP,
        "across_two_devices",
        "two devices take turns on one vector and share another",
        &[Need::TwoDevices],
        two_devices,
    ),
    Case::new(
        GROUP,
        "fences_end_in_order",
        "fences can be waited for in any order, again, by several threads, and in an async program",
        &[],
        fences,
    ),
];

fn chains(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let mut random = cx.random();
    let len = cx.scaled(2, 16) * BLOCK + 3 * PAGE;
    let ones = rig.filled(len, |_| 1.0)?;
    let (mut a, mut b, mut c) = (rig.zeros(len)?, rig.zeros(len)?, rig.zeros(len)?);
    let device = rig.device();
    let waits = rig.waits();
    for round in 0..cx.scaled(8, 40) {
        let value = round as f32;
        let half = random.usize(1..len);
        rig.fill(device, &mut a, .., value)?;
        rig.copy(device, (&a, ..), (&mut b, ..))?;
        rig.fill(device, &mut a, ..half, value + 100.0)?;
        rig.saxpy(device, 2.0, (&a, ..), (&mut c, ..))?;
        rig.saxpy(device, 1.0, (&ones, ..), (&mut a, ..))?;
        rig.saxpy(device, 1.0, (&a, half..), (&mut b, half..))?;
        rig.copy(device, (&b, ..half), (&mut a, len - half..))?;
        rig.fill(device, &mut b, half - 1..half, -1.0)?;
        rig.fill(device, &mut b, half - 1..half, -2.0)?;
    }
    ensure!(rig.waits() == waits, "the host waited {} times in between", rig.waits() - waits);
    [a, b, c].iter().try_for_each(|vec| rig.host_read(vec, ..))
}

fn overlap(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let device = rig.device();
    let parts = 6;
    let part = cx.scaled(1, 8) * BLOCK;
    let mut x = rig.filled(parts * part, |i| (i % 1009) as f32)?;
    let mut y = rig.zeros(parts * part)?;
    for round in 0..cx.scaled(3, 10) {
        for at in 0..parts {
            let range = at * part..(at + 1) * part;
            rig.saxpy(device, 1.0, (&x, range.clone()), (&mut y, range.clone()))?;
            // The part before goes home while this one is worked on, and is written there.
            if at > 0 {
                rig.host_read(&y, range.start - part..range.start - part / 2)?;
                rig.host_write(&mut x, range.start - part..range.start - part / 2, |i| {
                    ((i + round) % 17) as f32
                })?;
            }
        }
    }
    rig.host_read(&y, ..)?;
    rig.host_read(&x, ..)
}

fn two_devices(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig_of_two()?;
    let (first, second) = (rig.device(), rig.other());
    let len = BLOCK + 5 * PAGE + 3;
    let x = rig.filled(len, |i| (i % 101) as f32)?;
    let mut y = rig.zeros(len)?;
    let mut z = rig.zeros(len)?;
    for _ in 0..cx.scaled(6, 40) {
        rig.saxpy(first, 1.0, (&x, ..), (&mut y, ..))?;
        rig.saxpy(second, 1.0, (&x, ..), (&mut y, ..))?;
        rig.copy(first, (&y, ..), (&mut z, ..))?;
        rig.saxpy(second, 0.5, (&y, ..PAGE + 1), (&mut z, PAGE..2 * PAGE + 1))?;
        rig.fill(first, &mut y, 10..PAGE, 3.0)?;
    }
    rig.host_read(&y, ..)?;
    rig.host_read(&z, ..)?;
    rig.host_read(&x, ..)
}

fn fences(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let mut y = rig.zeros(BLOCK)?;
    let mut fences = Vec::new();
    for round in 0..20 {
        fences.extend(rig.fill(rig.device(), &mut y, round * 7.., round as f32)?);
    }
    ensure!(fences.len() == 20, "{} launches have a fence", fences.len());
    rig.watch(Watch::Data);
    thread::scope(|scope| {
        let waiting = fences.iter().rev().map(|fence| scope.spawn(|| fence.wait()));
        let waiting: Vec<_> = waiting.collect();
        waiting.into_iter().try_for_each(|thread| match thread.join() {
            Ok(end) => end,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    for fence in &fences {
        ensure!(fence.has_ended(), "{fence:?} was waited for and has not ended");
        fence.wait()?;
    }
    if let Some(fence) = rig.fill(rig.device(), &mut y, 5..BLOCK - 5, 9.0)? {
        let clone = fence.clone();
        block_on(fence)?;
        ensure!(clone.has_ended(), "an awaited fence has not ended");
    }
    rig.host_read(&y, ..)
}

/// The smallest executor: parks the thread until it is woken.
fn block_on(fence: Fence) -> Result<(), hmmap_core::Error> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(fence.into_future());
    loop {
        match future.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            Poll::Ready(end) => return end,
            Poll::Pending => thread::park(),
        }
    }
}
