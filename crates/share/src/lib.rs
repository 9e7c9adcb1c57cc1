//! What processes that share vectors say to each other.
//!
//! **Problem.** A vector's pages are used by another process, and have to come back when their home wants them. The two talk over a socket, and
//! neither trusts the other: whatever arrives may be cut short, be of another version, or lie.
//!
//! [`wire`] is the language, as pure functions between bytes and [`Message`]s; `docs/wire.md` is the same for readers. It knows no socket and no
//! vector: what a message may mean at a given time (is this buffer open? was that recalled?) is decided by who receives it.
#![forbid(unsafe_code)]

pub mod wire;

pub use wire::{Message, WireError};
