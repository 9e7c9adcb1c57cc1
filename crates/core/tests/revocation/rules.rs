//! What is explored: the shipped rules, or wrong ones.

use hmmap_core::revocation::{Actions, Enforcement, Event, Pinned, Revocation};

/// How a revocation goes.
pub(crate) trait Rules: Sync {
    fn begin(&self, parties: &[Enforcement]) -> Result<(Revocation, Actions), Pinned> {
        Revocation::begin(parties.iter().copied())
    }

    fn step(&self, revocation: &mut Revocation, event: Event) -> Actions {
        revocation.step(event)
    }
}

/// The rules that the engine uses.
pub(crate) struct Shipped;

impl Rules for Shipped {}
