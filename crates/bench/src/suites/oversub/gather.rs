//! Random gathers, of which nobody can say what they read: of tables that go round, on the simulated device's virtual clock, with numbers in round figures (a link of
//! 25 GB/s, memory of 2 TB/s, accesses of 128 bytes at 1 us to the host, 64 at once). On lavapipe a window costs nothing, so there is nothing to choose.
//!
//! A case is named `gather/elements/factor/way`. `brought` and `there` are told by hints, `chosen` is left to the library; the value is the time over that of
//! the better of the two that are told, in the same run. The numbers are the same on every machine. `few` elements never pay for bringing a table in so many rounds, `some` do
//! after a few, `many` at once. `turn` is where the program ends just when its tables have come: what nobody can choose well who does not
//! know that, so it has no goal.

use std::sync::Arc;

use hmmap::{
    Hint, NodeId, Options, Runtime, SharedVec,
    core::{
        backend::Provider,
        simulated::{LinkModel, SimulatedControl, SimulatedOptions, SimulatedProvider},
        units::BLOCK_BYTES,
    },
    kernels::Gather,
};

use super::Named;
use crate::{
    BenchError, Case, Suite,
    case::{Measure, Wants},
    session::Session,
    suites::MIB,
};

const TABLES: u64 = 12;
const TABLE_BYTES: u64 = 4 * MIB;

/// A program: its name, elements read of a table at a time, and how often each table is read.
struct Kind {
    name: &'static str,
    elements: usize,
    rounds: usize,
}

/// Bringing a table takes 179 us, reading 64 elements of it there one.
const KINDS: [Kind; 4] = [
    Kind { name: "gather/few", elements: 64, rounds: 50 },
    Kind { name: "gather/some", elements: 64 * 40, rounds: 200 },
    Kind { name: "gather/many", elements: 64 * 400, rounds: 50 },
    Kind { name: "gather/turn", elements: 64 * 40, rounds: 5 },
];

const fn case(name: &'static str, goal: Option<f64>) -> Case {
    Case {
        suite: Suite::Oversub,
        name,
        bytes: TABLES * TABLE_BYTES,
        goal,
        wants: Wants::Any,
        memory_bytes: 6 * TABLES * TABLE_BYTES,
        measure: Measure::Moved("time_over_better", time_over_better),
    }
}

macro_rules! at {
    ($kind:literal, $factor:literal, $goal:expr) => {
        [
            case(concat!("gather/", $kind, "/", $factor, "/brought"), None),
            case(concat!("gather/", $kind, "/", $factor, "/there"), None),
            case(concat!("gather/", $kind, "/", $factor, "/chosen"), $goal),
        ]
    };
}

macro_rules! kind {
    ($kind:literal, $goal:expr) => {
        [
            at!($kind, "50%", $goal),
            at!($kind, "100%", $goal),
            at!($kind, "105%", $goal),
            at!($kind, "125%", $goal),
            at!($kind, "200%", $goal),
            at!($kind, "300%", $goal),
        ]
    };
}

const ALL: &[[[Case; 3]; 6]] = &[
    kind!("few", Some(1.1)),
    kind!("some", Some(1.1)),
    kind!("many", Some(1.1)),
    kind!("turn", None),
];

pub(super) const CASES: &[Case] = ALL.as_flattened().as_flattened();

/// Whether tables are brought.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Brought,
    There,
    Chosen,
}

fn time_over_better(_: &mut Session, case: &Case) -> Result<(u64, f64), BenchError> {
    let no_such = || BenchError::DoesNotApply(format!("no program {}", case.name));
    let named = Named::of(case.name).ok_or_else(no_such)?;
    let kind = KINDS.iter().find(|kind| kind.name == named.program).ok_or_else(no_such)?;
    let run = |way| Tables::new(kind, named.factor, way)?.run(kind.rounds);
    let (brought, there) = (run(Way::Brought)?, run(Way::There)?);
    let better_ns = brought.ns.min(there.ns);
    let own = match named.policy {
        "brought" => brought,
        "there" => there,
        _ => run(Way::Chosen)?,
    };
    Ok((own.bytes, own.ns as f64 / better_ns as f64))
}

struct Ran {
    ns: u64,
    bytes: u64,
}

struct Tables {
    mem: Runtime,
    control: SimulatedControl,
    tables: Vec<SharedVec<u32>>,
    index: SharedVec<u32>,
    out: SharedVec<u32>,
}

impl Tables {
    fn new(kind: &Kind, factor: f64, way: Way) -> Result<Self, BenchError> {
        let link = LinkModel { memory_bytes_per_s: 2_000_000_000_000, ..LinkModel::default() };
        let provider = SimulatedProvider::new(SimulatedOptions { link, ..Default::default() });
        let control = provider.control();
        let provider: Arc<dyn Provider> = Arc::new(provider);
        let blocks = ((TABLES * TABLE_BYTES) as f64 / factor) as u64 / BLOCK_BYTES;
        // A block more for the indices and what comes of them.
        let device_memory_limit_bytes = Some((blocks + 1) * BLOCK_BYTES);
        let options = Options { device_memory_limit_bytes, ..Options::default() };
        let mem = Runtime::new(vec![provider], options)?;
        let device = mem.node(mem.default_device()?)?;
        let len = TABLE_BYTES as usize / size_of::<u32>();
        let tables = (0..TABLES as u32).map(|table| {
            let vec = SharedVec::from_fn(&mem, len, |at| at as u32 ^ table.rotate_right(4))?;
            match way {
                Way::Brought => _ = vec.hint(.., Hint::PreferredLocation(device))?,
                Way::There => _ = vec.hint(.., Hint::PreferredLocation(NodeId::HOST))?,
                Way::Chosen => {}
            }
            Ok(vec)
        });
        let tables = tables.collect::<Result<_, hmmap::Error>>()?;
        let mut rng = fastrand::Rng::with_seed(0x6a7e);
        let index = SharedVec::from_fn(&mem, kind.elements, |_| rng.u32(..len as u32))?;
        let out = SharedVec::new(&mem, kind.elements)?;
        Ok(Self { mem, control, tables, index, out })
    }

    fn run(&mut self, rounds: usize) -> Result<Ran, BenchError> {
        let began_ns = self.control.clock_ns();
        for _ in 0..rounds {
            for src in &self.tables {
                let (src, index) = (src.read(), self.index.read());
                let gather = Gather { src, index, out: self.out.write() };
                self.mem.launch(self.index.len(), gather)?.wait()?;
            }
        }
        let ran =
            Ran { ns: self.control.clock_ns() - began_ns, bytes: self.mem.stats().total().bytes() };
        self.check()?;
        Ok(ran)
    }

    /// What the last gather found is what is in the last table.
    fn check(&self) -> Result<(), BenchError> {
        let (index, out) = (self.index.host(..)?, self.out.host(..)?);
        let table = (TABLES as u32 - 1).rotate_right(4);
        let wrong = index.iter().zip(out.iter()).filter(|(at, found)| **at ^ table != **found);
        match wrong.count() as u64 + self.control.violations().len() as u64 {
            0 => Ok(()),
            found => Err(BenchError::Unexpected { what: "wrong elements", expected: 0, found }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_names_a_program_a_factor_and_a_way() {
        for case in CASES {
            let named = Named::of(case.name).unwrap();
            assert!(KINDS.iter().any(|kind| kind.name == named.program), "{}", case.name);
            assert!(["brought", "there", "chosen"].contains(&named.policy), "{}", case.name);
        }
        assert_eq!(CASES.len(), KINDS.len() * 6 * 3);
    }
}
