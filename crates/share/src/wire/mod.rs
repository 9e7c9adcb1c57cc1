//! The wire format: one message is one datagram of a SEQPACKET socket.
//!
//! ```text
//!  0        4         6      8            12       16          24
//!  | magic  | version | kind | len_bytes  | 0      | sequence  | body, len_bytes - 24 ...
//! ```
//!
//! All numbers are little-endian. Every message has one form: what [`decode`] accepts, [`encode`] gives back bit for bit, so nothing can be hidden in
//! padding, and two readers cannot take the same bytes for two things. Descriptors travel beside the bytes; how many belong to a message
//! follows from its kind ([`Message::descriptors`]), and the receiver refuses more or fewer.

mod body;
mod message;

pub use message::{Code, Message, Opened, OpenedDmaBuf, Pages};

use body::{Reader, Writer};

/// The first four bytes of each message: `hmms`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"hmms");

/// The version that this crate speaks, and the only one: a version is a set of messages and their forms, and whatever changes it has another number.
pub const VERSION: u16 = 2;

/// The bytes before a body.
pub const HEADER_BYTES: usize = 24;

/// The longest message, in bytes. Who receives needs no larger buffer, and a datagram that does not fit was not sent by us.
pub const MAX_BYTES: usize = 4096;

/// The longest name of a vector, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 255;

/// The most runs of pages in each list of a [`Message::Confirmed`]. Who has more tells a run that covers several: to call a clean page dirty is always allowed.
pub const MAX_RUNS: usize = 64;

/// Pages are numbered below this, so that the number of a byte fits in an `i64`, as a file's size does.
pub const MAX_PAGES: u64 = (i64::MAX as u64) / hmmap_core::units::PAGE_BYTES;

/// Why bytes are not a message, or a message has no bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// Fewer bytes than the message needs.
    #[error("the message ends after {len_bytes} bytes")]
    Short {
        /// How many there are.
        len_bytes: usize,
    },
    /// More bytes than a message may have, or than it says.
    #[error("the message has {len_bytes} bytes, which is more than it may have")]
    Long {
        /// How many there are.
        len_bytes: usize,
    },
    /// The first bytes are not [`MAGIC`].
    #[error("it begins with {found:#010x}, as nothing of this protocol does")]
    NotOurs {
        /// What they are.
        found: u32,
    },
    /// Another version.
    #[error("version {found} is not spoken here, but {VERSION}")]
    Version {
        /// Which one.
        found: u16,
    },
    /// A kind that this version lacks.
    #[error("there is no message of kind {found}")]
    Kind {
        /// Which one.
        found: u16,
    },
    /// The length in the header is not the datagram's.
    #[error("it says that it has {said} bytes, and has {len_bytes}")]
    Length {
        /// What it says.
        said: u32,
        /// What is true.
        len_bytes: usize,
    },
    /// A field has a value that no sender of ours gives it.
    #[error("the field `{field}` cannot be {value}")]
    Field {
        /// Its name in `docs/wire.md`.
        field: &'static str,
        /// Its value, or the length of a name.
        value: u64,
    },
}

/// Writes a message into `to`, which is emptied first. `sequence` numbers a question; its answer carries the same.
///
/// # Errors
/// [`WireError::Field`] if a field is out of its bounds: nothing is sent that [`decode`] would refuse. `to` is left empty.
pub fn encode(sequence: u64, message: &Message, to: &mut Vec<u8>) -> Result<(), WireError> {
    to.clear();
    message.check()?;
    let mut writer = Writer { to };
    writer.u32(MAGIC);
    writer.u16(VERSION);
    writer.u16(message.kind());
    writer.u32(0);
    writer.u32(0);
    writer.u64(sequence);
    message.write(&mut writer);
    // Bounds of names and lists, which were checked, keep this below `MAX_BYTES`.
    let len_bytes = to.len() as u32;
    to[8..12].copy_from_slice(&len_bytes.to_le_bytes());
    Ok(())
}

/// Reads a datagram: its sequence number and what it says.
///
/// # Errors
/// Anything that [`encode`] does not write is refused; the error says which field.
pub fn decode(datagram: &[u8]) -> Result<(u64, Message), WireError> {
    let len_bytes = datagram.len();
    if len_bytes > MAX_BYTES {
        return Err(WireError::Long { len_bytes });
    }
    let mut reader = Reader::new(datagram);
    let magic = reader.u32()?;
    if magic != MAGIC {
        return Err(WireError::NotOurs { found: magic });
    }
    let version = reader.u16()?;
    if version != VERSION {
        return Err(WireError::Version { found: version });
    }
    let kind = reader.u16()?;
    let said = reader.u32()?;
    if usize::try_from(said) != Ok(len_bytes) {
        return Err(WireError::Length { said, len_bytes });
    }
    reader.zero("reserved")?;
    let sequence = reader.u64()?;
    let message = Message::read(kind, &mut reader)?;
    reader.end()?;
    message.check()?;
    Ok((sequence, message))
}
