//! The suites: each file is one promise, its cases, and how they are measured.

pub(crate) mod alloc;
pub(crate) mod directory;
pub(crate) mod e2e;
pub(crate) mod fault;
pub(crate) mod guard;
pub(crate) mod hints;
pub(crate) mod launch;
pub(crate) mod migrate;
pub(crate) mod oversub;
pub(crate) mod peer;
mod processes;
pub(crate) mod sparse_update;
mod touched;

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;
/// A page of the library.
pub(crate) const PAGE_BYTES: u64 = hmmap::core::units::PAGE_BYTES;
