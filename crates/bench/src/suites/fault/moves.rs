//! Pages that leave and come back while the program has them mapped.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use hmmap::{Cause, kernels::Fill};

use super::super::{PAGE_BYTES, touched::Touched};
use crate::{
    BenchError, Case, Trial,
    bare_faults::{BareFaults, Rights},
    session::{Session, SharedLimit},
};

const PAGE_LEN: usize = PAGE_BYTES as usize / size_of::<u32>();

/// The host writes an element of each page, so all of them are mapped for writing.
fn written_by_the_host(touched: &mut Touched) {
    touched.vecs()[0].iter_mut().step_by(PAGE_LEN).for_each(|element| *element = 1);
}

/// A launch that overwrites a vector which the host has mapped for writing: until the call returns. The limit: `MADV_DONTNEED` of as much.
pub(super) struct Revoke {
    touched: Touched,
    bare: BareFaults,
}

impl Revoke {
    pub(super) fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, device) = session.runtime(case)?;
        let touched = Touched::new(mem, device, case.bytes, PAGE_BYTES)?;
        Ok(Self { touched, bare: BareFaults::new(case.bytes)? })
    }
}

impl Trial for Revoke {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        written_by_the_host(&mut self.touched);
        let (mem, device) = (self.touched.mem().clone(), self.touched.device());
        let kernel = Fill { out: self.touched.vecs()[0].write(), value: 1 };
        let started = Instant::now();
        let fence = mem.launch_on(device, 1, kernel)?;
        let took = started.elapsed();
        fence.wait()?;
        Ok(took)
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        self.bare.show(Rights::Write)?;
        self.bare.revoke().map(Some)
    }
}

/// A prefetch of what the host has mapped for writing. The limit: the bare copy, and write protection of as much.
pub(super) struct Out {
    touched: Touched,
    bare: BareFaults,
    limit: SharedLimit,
}

impl Out {
    pub(super) fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, device) = session.runtime(case)?;
        let touched = Touched::new(mem, device, case.bytes, PAGE_BYTES)?;
        let bare = BareFaults::new(case.bytes)?;
        bare.show(Rights::Write)?;
        Ok(Self { touched, bare, limit: session.limit() })
    }
}

impl Trial for Out {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        written_by_the_host(&mut self.touched);
        let started = Instant::now();
        self.touched.first().prefetch(.., self.touched.device())?.wait()?;
        Ok(started.elapsed())
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        self.bare.unprotect()?;
        let protect = self.bare.protect(0..self.bare.len_bytes())?;
        Ok(Some(protect + self.limit.borrow_mut().to_device(self.bare.len_bytes())?))
    }
}

/// The device wrote a vector, the host touches every page of it in order. The limit: the bare copy, and one `UFFDIO_CONTINUE` of as much. Touching is
/// what maps: no verb of the library brings pages home into the user view without it. So the faults are part of ours, and not of the limit.
pub(super) struct Back {
    touched: Touched,
    bare: BareFaults,
    limit: SharedLimit,
}

impl Back {
    pub(super) fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, device) = session.runtime(case)?;
        let mut touched = Touched::new(mem, device, case.bytes, PAGE_BYTES)?;
        // Both sides copy to memory that was written before.
        touched.vecs()[0].host_mut(..)?.fill(1);
        let (bare, limit) = (BareFaults::new(case.bytes)?, session.limit());
        Ok(Self { touched, bare, limit })
    }
}

impl Trial for Back {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        self.touched.written_on_the_device()?;
        let vec = self.touched.first();
        let started = Instant::now();
        black_box(vec.iter().step_by(PAGE_LEN).fold(0, |sum: u32, one| sum.wrapping_add(*one)));
        Ok(started.elapsed())
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        self.bare.revoke()?;
        let copy = self.limit.borrow_mut().to_host(self.bare.len_bytes())?;
        Ok(Some(copy + self.bare.show(Rights::Read)?))
    }
}

/// The host adds one to an element of one page between launches; pages moved a round.
pub(super) fn ping_pong(session: &mut Session, case: &Case) -> Result<f64, BenchError> {
    const ROUNDS: u64 = 20;
    let (mem, device) = session.runtime(case)?;
    let mut touched = Touched::new(mem, device, case.bytes, PAGE_BYTES)?;
    touched.written_on_the_device()?;
    let middle = touched.first().len() / 2;
    let before = touched.mem().stats();
    for _ in 0..ROUNDS {
        touched.vecs()[0][middle] += 1;
        touched.written_on_the_device()?;
    }
    let moved = touched.mem().stats() - before;
    let (expected, found) = (ROUNDS, u64::from(touched.first()[middle]));
    if expected != found {
        return Err(BenchError::Unexpected { what: "the element", expected, found });
    }
    debug_assert!(moved[Cause::Fault].bytes() > 0);
    Ok(moved.total().bytes() as f64 / PAGE_BYTES as f64 / ROUNDS as f64)
}
