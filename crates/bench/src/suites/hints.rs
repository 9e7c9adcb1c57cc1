//! What it costs to say something about a range, and to ask what was said: by the hints that lie in it, and not by its length.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use hmmap::{Hint, SharedVec};

use super::{GIB, MIB, PAGE_BYTES};
use crate::{
    BenchError, Case, Suite, Trial,
    case::{Measure, Wants},
    session::Session,
};

const fn case(name: &'static str, measure: Measure) -> Case {
    Case {
        suite: Suite::Hints,
        name,
        // The vectors are address space alone, so what a limit on sizes is about is this.
        bytes: MIB,
        goal: Some(50e-6),
        wants: Wants::Any,
        memory_bytes: MIB,
        measure,
    }
}

pub(crate) const CASES: &[Case] = &[
    case("set/1MiB", Measure::Seconds(|session, case| Said::of(session, case, SMALL, Said::set))),
    case("set/700GiB", Measure::Seconds(|session, case| Said::of(session, case, LARGE, Said::set))),
    case("get/1MiB", Measure::Seconds(|session, case| Said::of(session, case, SMALL, Said::get))),
    case("get/700GiB", Measure::Seconds(|session, case| Said::of(session, case, LARGE, Said::get))),
    case(
        "set-over-16-parts/700GiB",
        Measure::Seconds(|session, case| Said::of(session, case, IN_PARTS, Said::set)),
    ),
    case(
        "get-over-16-parts/700GiB",
        Measure::Seconds(|session, case| Said::of(session, case, IN_PARTS, Said::get)),
    ),
];

/// A vector, and how many parts of it something else was said of.
#[derive(Clone, Copy)]
struct Size {
    bytes: u64,
    parts: usize,
}

const SMALL: Size = Size { bytes: MIB, parts: 0 };
/// Next to all that one vector can have: the address window of a runtime is 1 TiB, a quarter of which is for small vectors.
const LARGE: Size = Size { bytes: 700 * GIB, parts: 0 };
/// Single pages, so with what is between them and at the ends the range is in 16 parts and one more.
const IN_PARTS: Size = Size { parts: 8, ..LARGE };
/// So many are timed together, since a clock reading takes tens of nanoseconds itself.
const TOGETHER: u32 = 100;

type Saying = fn(&SharedVec<u64>, u32) -> Result<(), BenchError>;

/// A vector that nobody has written, so it takes no memory, and of which something was said.
struct Said {
    vec: SharedVec<u64>,
    saying: Saying,
}

impl Said {
    fn of(
        session: &mut Session,
        case: &Case,
        size: Size,
        saying: Saying,
    ) -> Result<Box<dyn Trial>, BenchError> {
        let (mem, _) = session.runtime(case)?;
        let len = size.bytes as usize / size_of::<u64>();
        let vec = SharedVec::new(&mem, len)?;
        for part in 0..size.parts {
            let start = len / size.parts * part + len / size.parts / 2;
            vec.hint(start..start + PAGE_BYTES as usize / size_of::<u64>(), Hint::Pin)?;
        }
        Ok(Box::new(Self { vec, saying }))
    }

    fn set(vec: &SharedVec<u64>, number: u32) -> Result<(), BenchError> {
        let hint = if number.is_multiple_of(2) { Hint::Sequential } else { Hint::Random };
        black_box(vec.hint(.., hint)?);
        Ok(())
    }

    fn get(vec: &SharedVec<u64>, _number: u32) -> Result<(), BenchError> {
        black_box(black_box(vec).hints(..)?);
        Ok(())
    }
}

impl Trial for Said {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let started = Instant::now();
        for number in 0..TOGETHER {
            (self.saying)(&self.vec, number)?;
        }
        Ok(started.elapsed() / TOGETHER)
    }
}
