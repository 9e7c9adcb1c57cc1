//! The cases, by what they are about.

mod acquire;
mod coherence;
mod contents;
mod ends;
mod hints;
mod in_place;
mod kernels;
mod memory;
mod movement;
mod peers;
mod pipeline;
mod pressure;
mod random;
mod refusals;
mod renewal;
mod shared;
mod threads;

use std::thread;

use crate::case::{Case, CaseFailure, Context, Need};

/// What a case's program answers.
type Verdict = Result<(), CaseFailure>;

/// Every case, in the order in which they run.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        coherence::CASES,
        contents::CASES,
        renewal::CASES,
        movement::CASES,
        pipeline::CASES,
        random::CASES,
        refusals::CASES,
        ends::CASES,
        peers::CASES,
        in_place::CASES,
        shared::CASES,
        acquire::CASES,
        kernels::CASES,
        pressure::CASES,
        threads::CASES,
        memory::CASES,
        hints::CASES,
    ]
    .into_iter()
    .flatten()
}

/// The same on several threads at once, each with a number of its own; the first failure, if there is one.
fn on_threads(count: usize, work: &(impl Fn(u64) -> Verdict + Sync)) -> Verdict {
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..count as u64).map(|number| scope.spawn(move || work(number))).collect();
        let ends = threads.into_iter().map(|thread| match thread.join() {
            Ok(verdict) => verdict,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ends.collect::<Vec<_>>().into_iter().collect()
    })
}

impl Case {
    const fn new(
        group: &'static str,
        name: &'static str,
        shows: &'static str,
        needs: &'static [Need],
        run: fn(&Context<'_>) -> Verdict,
    ) -> Self {
        Self { group, name, shows, needs, run }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_plain() {
        let mut paths: Vec<_> = all().map(Case::path).collect();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
        assert!(paths.iter().all(|path| path.chars().all(plain)), "{paths:?}");
        paths.sort();
        let count = paths.len();
        paths.dedup();
        assert_eq!(paths.len(), count);
    }

    /// A group is one test, so its cases stand together.
    #[test]
    fn groups_stand_together() {
        let mut groups: Vec<_> = all().map(|case| case.group).collect();
        groups.dedup();
        let count = groups.len();
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(groups.len(), count, "{groups:?}");
    }
}
