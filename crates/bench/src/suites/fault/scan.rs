//! A device wrote all of a vector, the host reads all of it through a slice.

use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use hmmap::{
    DeviceId, Error, Hmmap, Options,
    core::host::{HostError, HostPages},
};
use rayon::prelude::*;

use super::{
    super::{PAGE_BYTES, touched::Touched},
    sum,
};
use crate::{BenchError, Case, Trial, host_memory::Mapping, session::Session};

/// Who reads, and what that is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Readers {
    /// One thread; memcpy of the same bytes, then the scan.
    One,
    /// Two threads, half each; one thread.
    Two,
    /// Whom rayon takes; one thread.
    Rayon,
}

pub(super) struct Scan {
    touched: Touched,
    readers: Readers,
    copy: Option<(Mapping, Mapping)>,
}

impl Scan {
    pub(super) fn new(
        session: &mut Session,
        case: &Case,
        readers: Readers,
    ) -> Result<Self, BenchError> {
        let (mem, device) = session.runtime(case)?;
        Self::of(mem, device, case, readers)
    }

    /// One reader, on huge pages of the host.
    pub(super) fn on_huge_pages(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let memory_model = case.model(session.asked_model())?.into();
        let options = Options { memory_model, host_pages: HostPages::Huge, ..Options::default() };
        let made = || {
            let mem = Hmmap::builder().options(options).build()?;
            Self::of(mem, session.device(), case, Readers::One)
        };
        made().map_err(|error| match error {
            BenchError::Hmmap(Error::Host(
                lacks @ (HostError::NoHugePages { .. } | HostError::TooFewHugePages { .. }),
            )) => BenchError::DoesNotApply(lacks.to_string()),
            error => error,
        })
    }

    fn of(mem: Hmmap, device: DeviceId, case: &Case, readers: Readers) -> Result<Self, BenchError> {
        let mut touched = Touched::new(mem, device, case.bytes, PAGE_BYTES)?;
        // Both sides read into memory that was written before.
        touched.vecs()[0].host_mut(..)?.fill(1);
        let copy = match readers {
            Readers::One => {
                let mut copy = (Mapping::shared(case.bytes)?, Mapping::private(case.bytes)?);
                copy.0.bytes_mut().fill(1);
                copy.1.bytes_mut().fill(2);
                Some(copy)
            }
            Readers::Two | Readers::Rayon => None,
        };
        Ok(Self { touched, readers, copy })
    }

    fn scan(&mut self, readers: Readers) -> Result<Duration, BenchError> {
        self.touched.written_on_the_device()?;
        let vec = self.touched.first();
        let started = Instant::now();
        black_box(match readers {
            Readers::One => sum(vec),
            Readers::Two => {
                let (first, second) = vec.split_at(vec.len() / 2);
                thread::scope(|scope| {
                    let other = scope.spawn(|| sum(second));
                    sum(first).wrapping_add(other.join().unwrap_or(0))
                })
            }
            Readers::Rayon => vec.par_iter().copied().reduce(|| 0, u32::wrapping_add),
        });
        Ok(started.elapsed())
    }
}

impl Trial for Scan {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        self.scan(self.readers)
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        let Some((to, from)) = &mut self.copy else { return self.scan(Readers::One).map(Some) };
        let started = Instant::now();
        to.bytes_mut().copy_from_slice(from.bytes());
        black_box(sum(bytemuck::cast_slice(to.bytes())));
        Ok(Some(started.elapsed()))
    }
}
