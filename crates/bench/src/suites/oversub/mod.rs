//! Data larger than the device: what each policy moves and how long it takes, over the least that any could.
//!
//! | part | where | a case | its value |
//! |---|---|---|---|
//! | [`traced`] | a simulator of policies | `program/factor/policy` | bytes over the lower bound |
//! | [`timed`] | the device under test, with a budget | `time/program/factor/policy` | time over (time in core + bytes of the bound at the rate of a bare copy) |
//! | [`gather`] | the simulated device's virtual clock | `gather/elements/factor/way` | time over that of the better way |
//! | [`single`] | the device under test | a name | what eviction must not cost |
//!
//! Goals are held by ours alone; other policies are there to be compared with.

mod gather;
mod programs;
mod single;
mod timed;
mod traced;

use hmmap_eviction::simulator::TooLarge;

use crate::{BenchError, Case};

/// What a policy's ratio is a number of.
pub(crate) const BYTES_OVER_BOUND: &str = "bytes_over_bound";
/// What a program's ratio is a number of.
pub(crate) const TIME_OVER_BOUND: &str = "time_over_bound";

const PARTS: [&[Case]; 4] = [traced::CASES, timed::CASES, gather::CASES, single::CASES];
const COUNT: usize = PARTS[0].len() + PARTS[1].len() + PARTS[2].len() + PARTS[3].len();

pub(crate) const CASES: &[Case] = &{
    let mut all = [PARTS[0][0]; COUNT];
    let (mut part, mut first, mut at) = (0, 0, 0);
    while at < COUNT {
        if at - first == PARTS[part].len() {
            first = at;
            part += 1;
        }
        all[at] = PARTS[part][at - first];
        at += 1;
    }
    all
};

/// What the name of a case says.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Named<'a> {
    /// The program; of a timed one, with `time/` before it.
    pub(crate) program: &'a str,
    /// Data over the device's budget.
    pub(crate) factor: f64,
    pub(crate) policy: &'a str,
}

impl<'a> Named<'a> {
    /// `None` for a case that is not named by program, factor, and policy.
    pub(crate) fn of(name: &'a str) -> Option<Self> {
        let (rest, policy) = name.rsplit_once('/')?;
        let (program, percent) = rest.rsplit_once('/')?;
        let percent: f64 = percent.strip_suffix('%')?.parse().ok()?;
        Some(Self { program, factor: percent / 100.0, policy })
    }

    fn is_at(&self, factor: f64) -> bool {
        (self.factor - factor).abs() < 0.005
    }
}

fn too_large(error: &TooLarge) -> BenchError {
    let TooLarge { launch, needed_blocks } = error;
    BenchError::DoesNotApply(format!("launch {launch} needs {needed_blocks} blocks"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_program_factor_and_policy_or_nothing() {
        let named = Named::of("time/triad/125%/lru").unwrap();
        assert_eq!((named.program, named.policy), ("time/triad", "lru"));
        assert!(named.is_at(1.25) && !named.is_at(1.24));
        for other in ["triad", "clean/64MiB", "triad/x%/lru", "a/b/c"] {
            assert_eq!(Named::of(other), None, "{other}");
        }
    }
}
