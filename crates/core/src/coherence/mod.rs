//! The coherence rules: what is valid where, what an access needs, what a failure takes away.
//!
//! Everything here is a pure function over the state of one block: no I/O, no lock, no clock. The engine drives these very
//! functions, and a model test explores them exhaustively.
//!
//! **State.** Per page the set of nodes whose copy is current ([`BlockState`]). A page is *empty* (valid nowhere, reads as
//! zero, costs no copy), *valid* on some nodes, or *lost* (its only copy went with a failure; reads report it until it is
//! overwritten).
//!
//! **Effects and promises.** Work in flight has promised an [`Effect`]; the promise is kept in the block's [`Log`], in the order in
//! which the driver accepted the work. What everybody plans with is the *promised* state: the settled state with all promises applied.
//!
//! ```text
//!            promise            fence ends Ok (in order)
//! settled ------------> log ---------------------------> settled
//!                        |  fence ends Failed or Lost
//!                        +---------------------------> the promise is withdrawn: settled as before the work,
//!                                                       minus the copy that the work may have half overwritten
//!
//! What has ended is folded page by page, in order: a page waits for nothing but earlier work on that page.
//! ```
//!
//! | effect (pages P)  | valid set of a page in P afterwards | reads the copy on | overwrites the copy on |
//! |-------------------|-------------------------------------|-------------------|------------------------|
//! | `Copy{from, to}`  | + to                                | from              | to                     |
//! | `Zero{on}`        | + on (the page was empty)           |                   | on                     |
//! | `Write{on}`       | {on}; no longer lost                | on                | on                     |
//! | `Read{on}`        | unchanged                           | on                |                        |
//! | `Discard`         | nobody; no longer lost              |                   |                        |
//! | torn `Write{on}`, and whatever else overwrites `on` | as before, - on; lost if that leaves nothing of what was there | | |
//! | work that never began | as before             |                       |                        |
//!
//! Work that failed is *torn*: it may have stopped half way. Work that ended [`Failure::Dependency`](crate::fence::Failure::Dependency)
//! *never began*, and what it would have overwritten is as good as it was.
//!
//! Two pieces of work on one page must be ordered when one overwrites a copy that the other reads or overwrites:
//! [`Effect::must_follow`]. That is the whole dependency rule; it speaks of *copies*, so a write on one node does not wait for readers of
//! another node's copy.

mod effect;
mod invariant;
mod log;
mod rules;
mod state;

pub use effect::Effect;
pub use invariant::{Violation, check};
pub use log::{Log, Promise, Settlement};
pub use rules::{Needs, needs};
pub use state::BlockState;

#[cfg(test)]
mod tests;
