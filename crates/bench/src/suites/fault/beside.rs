//! Faults beside one that waits.
#![allow(unsafe_code, reason = "a kernel of its own, that sleeps")]

use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use hmmap::{
    Choice, Hmmap, Kernel, MemoryModel, Options, SharedVec, Source, Update,
    core::kernel::{Arguments, Twin},
};

use super::super::PAGE_BYTES;
use crate::{BenchError, Case, median, percentile, session::Session};

/// So long one fault waits.
const SLEEPS: Duration = Duration::from_secs(2);
const FAULTS: usize = 1000;
const ROUNDS: usize = 7;
const PAGE_LEN: usize = PAGE_BYTES as usize / size_of::<u32>();

/// Writes nothing, in two seconds.
struct Sleep<'a> {
    slept: Update<'a, u32>,
}

static SLEEP: Source = Source {
    name: "sleep",
    spirv: &[],
    ptx: "",
    workgroup: [1; 3],
    twin: Some(|_: &Twin<'_>| thread::sleep(SLEEPS)),
};

// SAFETY: (1) to (3) the code touches no memory; (4) it is for the embedded device alone, and looks at no argument.
unsafe impl Kernel for Sleep<'_> {
    fn source() -> &'static Source {
        &SLEEP
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.update(&self.slept).grid();
    }
}

/// First writes to 1,000 pages that host and device hold: the 99th percentile while another thread's fault waits for a kernel of 2 s,
/// in times of the same without that. It is about the threads that answer faults, so the device is the embedded one, whose kernel only
/// sleeps: the processors are as free as before.
pub(super) fn times_beside_a_wait(_: &mut Session, _: &Case) -> Result<f64, BenchError> {
    let options = Options { memory_model: MemoryModel::Migrate, ..Options::default() };
    let mem = Hmmap::builder().devices(Choice::Embedded).options(options).build()?;
    if mem.host_faults().is_none() {
        return Err(BenchError::DoesNotApply("there are no page faults here".to_owned()));
    }
    let mut slept = SharedVec::<u32>::new(&mem, PAGE_LEN)?;
    let mut written = SharedVec::<u32>::new(&mem, FAULTS * PAGE_LEN)?;
    written.fill(1);
    let (mut alone, mut beside, mut rng) = (Vec::new(), Vec::new(), Rng::with_seed(1));
    for _ in 0..ROUNDS {
        // Once before and once after, so that what changes from round to round changes both.
        held_by_both(&mem, &written)?;
        alone.push(first_writes(&mut written, &mut rng));
        // Before the launch: the device does one thing after the other.
        held_by_both(&mem, &written)?;
        let fence = mem.launch(1, Sleep { slept: slept.update() })?;
        let (found, too_late) = thread::scope(|scope| {
            scope.spawn(|| black_box(slept[0]));
            let found = first_writes(&mut written, &mut rng);
            (found, fence.has_ended())
        });
        if too_late {
            let what = "faults that ended while the kernel slept";
            return Err(BenchError::Unexpected { what, expected: FAULTS as u64, found: 0 });
        }
        fence.wait()?;
        beside.push(found);
        held_by_both(&mem, &written)?;
        alone.push(first_writes(&mut written, &mut rng));
    }
    Ok(median(&beside) / median(&alone))
}

fn held_by_both(mem: &Hmmap, written: &SharedVec<u32>) -> Result<(), BenchError> {
    Ok(written.prefetch(.., mem.default_device()?)?.wait()?)
}

/// The 99th percentile of first writes to pages in random order, in seconds.
fn first_writes(written: &mut SharedVec<u32>, rng: &mut Rng) -> f64 {
    let mut pages: Vec<usize> = (0..FAULTS).collect();
    rng.shuffle(&mut pages);
    let times = pages.into_iter().map(|page| {
        let started = Instant::now();
        written[page * PAGE_LEN] += 1;
        started.elapsed().as_secs_f64()
    });
    percentile(&times.collect::<Vec<_>>(), 99.0)
}
