//! One fault at a time, beside userfaultfd by hand.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use fastrand::Rng;

use super::super::{MIB, PAGE_BYTES, touched::Touched};
use crate::{
    BenchError, Case, Trial,
    bare_faults::{BareFaults, Rights},
    median,
    session::{Session, SharedLimit},
};

/// The memory that the touched pages are taken from, at random.
const AMONG_BYTES: u64 = 64 * MIB;
const PAGES: u64 = AMONG_BYTES / PAGE_BYTES;
/// So many faults make one run, which is their median: where the system puts the thread that answers depends on what both did just before.
const TOGETHER: usize = 64;
const PAGE_LEN: usize = PAGE_BYTES as usize / size_of::<u32>();

/// The device wrote a vector, the host reads one element of it. The limit: a fault that is answered by mapping its page, and the bare copy of
/// a page.
pub(super) struct Touch {
    touched: Touched,
    rng: Rng,
    bare: BareFaults,
    limit: SharedLimit,
}

impl Touch {
    pub(super) fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, device) = session.runtime(case)?;
        let mut touched = Touched::new(mem, device, AMONG_BYTES, PAGE_BYTES)?;
        // Both sides copy to memory that was written before.
        touched.vecs()[0].host_mut(..)?.fill(1);
        let (bare, limit) = (BareFaults::new(AMONG_BYTES)?, session.limit());
        Ok(Self { touched, rng: Rng::with_seed(1), bare, limit })
    }
}

impl Trial for Touch {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        self.touched.written_on_the_device()?;
        let vec = self.touched.first();
        let touch = |page: u64| {
            let started = Instant::now();
            black_box(vec[page as usize * PAGE_LEN]);
            Ok(started.elapsed())
        };
        median_of(pages(&mut self.rng), touch)
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        self.bare.revoke()?;
        let mut limit = self.limit.borrow_mut();
        let touch = |page| {
            let (_, fault) = self.bare.read(page * PAGE_BYTES);
            Ok(fault + limit.to_host(PAGE_BYTES)?)
        };
        median_of(pages(&mut self.rng), touch).map(Some)
    }
}

/// Host and device hold a page, the host writes an element of it. The limit: a write-protect fault that is answered by giving the page free.
pub(super) struct FirstWrite {
    touched: Touched,
    rng: Rng,
    bare: BareFaults,
}

impl FirstWrite {
    pub(super) fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, device) = session.runtime(case)?;
        let mut touched = Touched::new(mem, device, AMONG_BYTES, PAGE_BYTES)?;
        touched.vecs()[0].fill(1);
        let bare = BareFaults::new(AMONG_BYTES)?;
        bare.show(Rights::Write)?;
        Ok(Self { touched, rng: Rng::with_seed(1), bare })
    }
}

impl Trial for FirstWrite {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        self.touched.first().prefetch(.., self.touched.device())?.wait()?;
        let vec = &mut self.touched.vecs()[0];
        let write = |page: u64| {
            let started = Instant::now();
            vec[page as usize * PAGE_LEN] += 1;
            Ok(started.elapsed())
        };
        median_of(pages(&mut self.rng), write)
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        self.bare.protect(0..self.bare.len_bytes())?;
        median_of(pages(&mut self.rng), |page| Ok(self.bare.write(page * PAGE_BYTES, 2))).map(Some)
    }
}

/// Some pages at random, each once.
fn pages(rng: &mut Rng) -> Vec<u64> {
    rng.choose_multiple(0..PAGES, TOGETHER)
}

fn median_of(
    pages: Vec<u64>,
    mut time: impl FnMut(u64) -> Result<Duration, BenchError>,
) -> Result<Duration, BenchError> {
    let times: Result<Vec<f64>, _> =
        pages.into_iter().map(|page| Ok(time(page)?.as_secs_f64())).collect();
    times.map(|times| Duration::from_secs_f64(median(&times)))
}
