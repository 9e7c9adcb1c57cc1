//! The cases, by what they are about.

mod coherence;
mod contents;
mod movement;
mod random;
mod refusals;

use crate::case::{Case, CaseFailure, Context, Need};

/// What a case's program answers.
type Verdict = Result<(), CaseFailure>;

/// Every case, in the order in which they run.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [coherence::CASES, contents::CASES, movement::CASES, random::CASES, refusals::CASES]
        .into_iter()
        .flatten()
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
}
