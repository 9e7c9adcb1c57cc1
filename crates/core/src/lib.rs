//! hmmap without its drivers.
//!
//! Layers, each of which uses only those below it:
//!
//! ```text
//! vec, runtime                 SharedVec, guards, launch
//! engine                       plan (pure) -> execute
//! coherence                    (state, event) -> state: pure, no I/O, no lock
//! directory | hints | host     runs of blocks | ranges | arena
//! backend                      the device trait; embedded and simulated devices behind it
//! fence, kernel, access, node, units
//!
//! p2p                          beside them: which PCI function can reach which, and whether it pays
//! ```
#![deny(unsafe_code)]

pub mod access;
pub mod backend;
pub mod coherence;
pub mod directory;
pub mod embedded;
pub mod engine;
pub mod error;
pub mod events;
pub mod fence;
mod group;
pub mod hints;
pub mod home;
pub mod host;
pub mod kernel;
pub mod node;
mod options;
pub mod p2p;
pub mod peer;
pub mod revocation;
pub mod runtime;
pub mod simulated;
pub mod stats;
mod sync;
pub mod units;
pub mod vec;

pub use access::Access;
pub use engine::{Detour, DeviceCopies, Fence, MeasuredRates, Route};
pub use error::Error;
pub use group::{Group, Share};
pub use hints::Hint;
pub use hmmap_eviction as eviction;
pub use kernel::{Grid, Kernel, Source};
pub use node::{DeviceId, NodeId};
pub use options::{CustomEviction, Eviction, MemoryModel, Options, WithoutRoom};
pub use runtime::Runtime;
pub use stats::{Cause, Stats};
#[doc(hidden)]
pub use sync::locks_held;
pub use vec::{
    AtomicWord, DeviceDmaBuf, HostDmaBuf, Imported, Lent, LentOn, Mappable, Punch, Read, Recall,
    Refused, SharedVec, Update, Write,
};
