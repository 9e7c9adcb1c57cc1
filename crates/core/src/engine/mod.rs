//! The engine: brings pages where an access needs them, and keeps the directory true while it does.
//!
//! Every access goes the same way, whoever asks:
//!
//! ```text
//! lock buffers (in order of address) -> settle what has ended -> plan (pure) -> back memory
//!   -> submit copies, record their promises -> submit the launch, record its promises -> unlock -> emit events
//! ```
//!
//! Nobody waits while holding a lock. Where something must be waited for on the host (another device's work, room on a device), the attempt
//! gives the locks back, waits, and starts again from the directory as it is then. Masks change only for work that
//! a driver has accepted, so an attempt that stops anywhere leaves the truth behind.

mod acquire;
mod across;
mod back_and_forth;
mod batch;
mod budget;
mod discard;
mod evict;
mod fault;
mod grants;
mod hinted;
mod host_access;
mod lack;
mod launch;
mod leavers;
mod ledger;
mod lend;
mod locked;
mod look_ahead;
mod memory;
mod neighbours;
mod peer_loss;
mod peer_map;
mod peers;
mod pins;
mod placement;
mod plan;
mod prefetch;
mod reach;
mod retire;
mod route;
mod scattered;
mod settle;
mod shares;
mod split;
mod strides;
mod user_view;
mod wait;
mod watcher;
mod working_set;

pub use acquire::{Acquired, DeviceArray};
pub(crate) use across::TakenInList;
pub(crate) use budget::Budget;
pub(crate) use fault::FaultResolver;
pub(crate) use ledger::Ledger;
pub(crate) use look_ahead::Streams;
pub(crate) use neighbours::are_neighbours;
pub(crate) use peers::unmap;
pub(crate) use plan::Request;
pub use route::{Detour, DeviceCopies, MeasuredRates, Route};
pub(crate) use scattered::Rents;
pub(crate) use strides::Strides;
pub use wait::Fence;
pub(crate) use wait::Waiters;
pub(crate) use watcher::Watcher;
