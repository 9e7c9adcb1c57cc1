//! Loops over what is on the host already, beside the same loops over a `Vec`.

use std::{
    hint::black_box,
    ops::{Deref, DerefMut},
    time::{Duration, Instant},
};

use hmmap::{Hmmap, Options, SharedVec, core::host::HostFaults};

use super::super::{PAGE_BYTES, touched::Touched};
use crate::{BenchError, Case, Trial, session::Session};

/// A loop that the compiler may make of it what it can.
#[inline(never)]
pub(super) fn sum(elements: &[u32]) -> u32 {
    elements.iter().fold(0, |sum, element| sum.wrapping_add(*element))
}

pub(super) type Sum<V> = fn(&V) -> u32;

/// `for i in 0..n { s += x[i] }`, as it is written.
#[inline(never)]
pub(super) fn by_index<V: Deref<Target = [u32]>>(elements: &V) -> u32 {
    let mut sum = 0u32;
    for i in 0..elements.len() {
        sum = sum.wrapping_add(elements[i]);
    }
    sum
}

pub(super) fn by_slice<V: Deref<Target = [u32]>>(elements: &V) -> u32 {
    sum(elements)
}

/// A loop over a vector that is on the host, beside the same over a `Vec`.
pub(super) struct Loop {
    vec: SharedVec<u32>,
    plain: Vec<u32>,
    ours: Sum<SharedVec<u32>>,
    theirs: Sum<Vec<u32>>,
}

impl Loop {
    pub(super) fn new(
        case: &Case,
        host_faults: HostFaults,
        ours: Sum<SharedVec<u32>>,
    ) -> Result<Self, BenchError> {
        let mem =
            Hmmap::builder().options(Options { host_faults, ..Options::default() }).build()?;
        let len = case.bytes as usize / size_of::<u32>();
        let mut vec = SharedVec::new(&mem, len)?;
        vec.fill(1);
        let theirs = if std::ptr::fn_addr_eq(ours, by_slice::<SharedVec<u32>> as Sum<_>) {
            by_slice
        } else {
            by_index
        };
        Ok(Self { vec, plain: vec![1; len], ours, theirs })
    }
}

impl Trial for Loop {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let started = Instant::now();
        black_box((self.ours)(black_box(&self.vec)));
        Ok(started.elapsed())
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        let started = Instant::now();
        black_box((self.theirs)(black_box(&self.plain)));
        Ok(Some(started.elapsed()))
    }
}

/// `for i in 0..n { x[i] += 3 }`, as it is written.
#[inline(never)]
fn bump<V: DerefMut<Target = [u32]>>(elements: &mut V) {
    for i in 0..elements.len() {
        elements[i] = elements[i].wrapping_add(3);
    }
}

/// A loop that writes elements that are on the host, beside the same over a `Vec`.
pub(super) struct Bump {
    vec: SharedVec<u32>,
    plain: Vec<u32>,
}

impl Bump {
    pub(super) fn new(case: &Case) -> Result<Self, BenchError> {
        let mem = Hmmap::new()?;
        let len = case.bytes as usize / size_of::<u32>();
        let mut vec = SharedVec::new(&mem, len)?;
        vec.fill(1);
        Ok(Self { vec, plain: vec![1; len] })
    }
}

impl Trial for Bump {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let started = Instant::now();
        bump(black_box(&mut self.vec));
        Ok(started.elapsed())
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        let started = Instant::now();
        bump(black_box(&mut self.plain));
        Ok(Some(started.elapsed()))
    }
}

/// A loop over a vector right after a launch that worked on it in host memory: the vector cannot know that the kernel has ended
/// without asking.
pub(super) struct InPlace {
    touched: Touched,
    plain: Vec<u32>,
}

impl InPlace {
    pub(super) fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, device) = session.runtime(case)?;
        let touched = Touched::new(mem, device, case.bytes, PAGE_BYTES)?;
        let plain = vec![1; touched.first().len()];
        Ok(Self { touched, plain })
    }
}

impl Trial for InPlace {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        self.touched.written_on_the_device()?;
        let started = Instant::now();
        black_box(by_index(black_box(self.touched.first())));
        Ok(started.elapsed())
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        let started = Instant::now();
        black_box(by_index(black_box(&self.plain)));
        Ok(Some(started.elapsed()))
    }
}
