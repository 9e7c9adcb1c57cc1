//! Vectors that several processes share.
//!
//! **Problem.** A vector's pages are used by another process, and have to come back when their home wants them. The two talk over a socket, and
//! neither trusts the other: whatever arrives may be cut short, be of another version, or lie; whoever is to answer may be stopped, dead, or
//! against us.
//!
//! ```text
//! exporter (home)                                    importer
//! Exporter::export("frames", &vec)     Open  <----   Importer::open("frames")  ->  Imported<T>: read, write, launch
//!                                      Opened ---->     with the vector's file
//!   brings the block to the host       Ask   <----   first use of a page: by the host, by a kernel, by a page fault
//!                                      Granted --->     maps it, copies it to a device ...
//! somebody wants a page: its owner, or another importer
//!                                      Recall ---->  waits for its fences, brings dirty pages home, drops copies
//!                                      Confirmed <-
//! ```
//!
//! [`wire`] is the language, as pure functions between bytes and [`wire::Message`]s; `docs/wire.md` is the same for readers. Who may have which page is decided
//! by pure code (`exporter::arbiter`, `exporter::desk`, `importer::session`), which knows no socket and no thread.
//!
//! **What holds against whom.** An importer that is late, lies, floods or dies costs its home one deadline, once; its connection ends, and what it may have
//! written and did not bring home is reported ([`ExportEvent::Lost`]). What is exported to be read is sealed against writing by the kernel. What is exported to be
//! written is lent, and its owner has no slices of it: a process that keeps the file after it was cut off can still write it, as it could before, until the vector is taken back, which moves it to another file. An exporter
//! that dies leaves an importer with the pages that it has. An importer checks size and seals of what it is given before it maps it.
#![forbid(unsafe_code)]

mod error;
pub mod exporter;
pub mod importer;
mod socket;
pub mod wire;

pub use error::ShareError;
pub use exporter::{ExportEvent, Exporter, ExporterOptions, Quota};
pub use importer::{ImportedDmaBuf, Importer, ImporterOptions};
pub use socket::Credentials;
pub use wire::{Message, WireError};
