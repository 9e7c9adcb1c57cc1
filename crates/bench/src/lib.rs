//! The benchmark suites of hmmap.
//!
//! A **suite** is a list of **cases** about one promise; a case has a stable, plain name (`h2d/64MiB`). A case ends in a
//! **record**: a time beside the machine's own limit for the same bytes, or a number beside its goal.
//!
//! **Limits.** A time alone says little on a busy machine, so each case that takes time also does the same thing with nothing in
//! between, and takes turns: ours, limit, limit, ours, ... The record holds both medians and `ratio = limit / ours`: 1.0 means
//! that the library costs nothing. On a Vulkan device the limit is Vulkan written by hand ([`raw`]), elsewhere
//! memcpy and a hand-over to a waiting thread.
//!
//! ```text
//! Suite -> Case --(Session: device, memory model, limits)--> Trial { ours, limit } --sample--> Record -> Report (JSON, plot)
//! ```
//!
//! The `hmmap` command, the criterion benches and the bundle all come here; nothing is measured in two ways.
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "calls userfaultfd by hand, to compare with")]
mod bare_faults;
#[cfg(feature = "vulkan")]
#[path = "../../../benches/by_hand/mod.rs"]
#[allow(unsafe_code, reason = "Vulkan by hand, to compare with")]
mod by_hand;
mod case;
mod error;
#[allow(unsafe_code, reason = "maps memory, to measure what the system alone takes for it")]
mod host_memory;
mod limit;
pub mod machine;
#[allow(unsafe_code, reason = "reads another process's memory as a slice")]
mod other_process;
mod plot;
#[cfg(feature = "vulkan")]
#[allow(unsafe_code, reason = "Vulkan by hand, to compare with")]
pub mod raw;
mod record;
mod report;
mod run;
mod sample;
mod session;
mod suites;

pub use case::{Case, Model, Suite, Trial};
pub use error::BenchError;
pub use other_process::play_other_process;
pub use plot::plot;
pub use record::{Outcome, Record, Value};
pub use report::Report;
pub use run::{Watch, run};
pub use sample::{Samples, Settings, median, percentile};
pub use session::{Session, SessionOptions, choose};
