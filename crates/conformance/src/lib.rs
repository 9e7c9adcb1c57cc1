//! One suite that every device of hmmap, and every mode of it, must pass.
//!
//! A [`Setup`] says what is tested: which device, in which mode. [`run_all`] runs every [`Case`] on it and gives a [`Report`]. A case
//! has a runtime of its own, made of fresh devices, so no case sees what another left behind.
//!
//! ```text
//! Setup --(devices behind gates)--> Rig: a runtime, vectors with an oracle, operations that are watched
//!   Case --operations--> Rig --before and after--> coverage: which rows of the coherence table were seen
//!                         |                              and did each go as the table says
//!                         +--> the device under test
//! ```
//!
//! **The coherence table** ([`Row`]) is written down here a second time, apart from the rules that the library ships: where a page is, what is
//! in flight on it, who touches it how; and what that must lead to ([`Expected`]): where the page is afterwards, which copies it costs,
//! whether the host waits. Every operation of a [`Rig`] looks at the pages before and after and compares. A row counts as
//! covered when it was *seen*, never because a case claims it.
//!
//! **The revocation table** ([`RevocationRow`]) has what can become of a peer's mapping whose range is needed. Its rows are timings and answers, which no
//! look at pages shows, so here a case says what it has proved.
//!
//! **A gate** ([`Gate`]) stands between the runtime and each device. It can hold back the news that work has ended, so that "in
//! flight" is a state that a case decides on and not a race that it has to win; it counts waits; and it can declare the device lost.
#![deny(unsafe_code)]

mod card;
mod case;
mod cases;
mod coverage;
mod gate;
mod kernels;
mod mirror;
pub mod modes;
mod observe;
mod report;
mod revocation;
mod rig;
mod setup;
mod suite;
mod table;

pub use case::{Case, CaseFailure, Context, Need};
pub use cases::all as cases;
pub use coverage::Coverage;
pub use gate::Gate;
pub use mirror::Mirror;
pub use report::{CaseReport, Outcome, Report};
pub use revocation::Row as RevocationRow;
pub use rig::{Rig, Watch};
pub use setup::{PEERS, Profile, Setup, TABLE};
pub use suite::{run_all, run_case, run_some};
pub use table::{Expected, Flight, Model, Place, Row, Touch};
