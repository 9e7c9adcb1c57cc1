//! hmmap without its drivers.
//!
//! Layers, each of which uses only those below it:
//!
//! ```text
//! vec, runtime                 SharedVec, guards, launch
//! engine                       plan (pure) -> execute
//! coherence                    (state, event) -> state: pure, no I/O, no lock
//! directory | host             runs of blocks | arena
//! backend                      the device trait; embedded and simulated devices behind it
//! fence, kernel, access, node, units
//! ```
#![deny(unsafe_code)]

pub mod access;
pub mod backend;
pub mod coherence;
pub mod directory;
pub mod embedded;
pub mod fence;
pub mod host;
pub mod kernel;
pub mod node;
pub mod units;
pub mod vec;
