//! The messages, their bodies, and the bounds of their fields.

use std::ops::Range;

use hmmap_core::{
    home::{Grant, Keep},
    units::{BLOCK_BYTES, PAGE_BYTES},
};

use super::{
    MAX_NAME_BYTES, MAX_PAGES, MAX_RUNS, WireError,
    body::{Reader, Writer},
};

/// A run of pages of 64 KiB, counted from the start of a buffer. Not empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pages {
    /// The first one.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Pages {
    /// As a range of page numbers. Empty if the sum is beyond any page, which no message that was read is.
    #[must_use]
    pub fn range(self) -> Range<u64> {
        self.first..self.end().unwrap_or(self.first)
    }

    /// Of a range of page numbers.
    #[must_use]
    pub fn of(pages: &Range<u64>) -> Self {
        Self { first: pages.start, count: pages.end.saturating_sub(pages.start) }
    }

    fn end(self) -> Option<u64> {
        self.first.checked_add(self.count).filter(|&end| self.count > 0 && end <= MAX_PAGES)
    }

    fn check(self) -> Result<(), WireError> {
        self.end().map(drop).ok_or(WireError::Field { field: "pages", value: self.count })
    }

    fn write(self, to: &mut Writer<'_>) {
        to.u64(self.first);
        to.u64(self.count);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { first: from.u64()?, count: from.u64()? })
    }
}

/// What a [`Message::OpenedDmaBuf`] says of a dma-buf. To be believed as little.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenedDmaBuf {
    /// Its number on this connection.
    pub buffer: u64,
    /// Its size, in bytes, as the kernel gives it.
    pub len_bytes: u64,
    /// Where in it the vector begins, in bytes.
    pub offset_bytes: u64,
    /// How much of it is the vector's, in bytes, from there on.
    pub used_bytes: u64,
}

impl OpenedDmaBuf {
    fn check(&self) -> Result<(), WireError> {
        if self.len_bytes == 0 || self.len_bytes > i64::MAX as u64 {
            return Err(WireError::Field { field: "len_bytes", value: self.len_bytes });
        }
        if self.offset_bytes > self.len_bytes {
            return Err(WireError::Field { field: "offset_bytes", value: self.offset_bytes });
        }
        if self.used_bytes > self.len_bytes - self.offset_bytes {
            return Err(WireError::Field { field: "used_bytes", value: self.used_bytes });
        }
        Ok(())
    }
}

/// Why something is refused, or why a side leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// Nothing is wrong; who leaves is done.
    Done,
    /// The application does not let this process in.
    Denied,
    /// No vector has this name, or no open buffer this number.
    Unknown,
    /// The buffer was shared for reading.
    ReadOnly,
    /// More is open or asked for than one peer may have.
    Quota,
    /// The other side did not keep to the protocol.
    Protocol,
    /// It did not answer in time.
    Late,
    /// The home cannot: its own memory or device failed.
    Failed,
    /// A vector was asked for as a dma-buf, or a dma-buf as a vector.
    Otherwise,
}

impl Code {
    /// For people.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Denied => "this process is not let in",
            Self::Unknown => "there is no such buffer, or not any more",
            Self::ReadOnly => "the buffer is shared for reading",
            Self::Quota => "more is open or asked for than one importer may have",
            Self::Protocol => "the protocol was not kept to",
            Self::Late => "no answer in time",
            Self::Failed => "the home's own memory or device failed",
            Self::Otherwise => "the buffer is served otherwise: as a vector, or as a dma-buf",
        }
    }
}

const CODES: [Code; 9] = [
    Code::Done,
    Code::Denied,
    Code::Unknown,
    Code::ReadOnly,
    Code::Quota,
    Code::Protocol,
    Code::Late,
    Code::Failed,
    Code::Otherwise,
];

/// What a [`Message::Opened`] says of a buffer. Nothing of it is to be believed before the descriptor itself has been looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Its number on this connection.
    pub buffer: u64,
    /// The size of the file, in bytes: whole blocks, at least one.
    pub len_bytes: u64,
    /// How much of it is the vector's, in bytes, from the first on.
    pub used_bytes: u64,
    /// The size of a page, in bytes.
    pub page_bytes: u32,
    /// The seals on the file, as `F_GET_SEALS` gives them.
    pub seals: u32,
    /// The most that will be granted.
    pub most: Grant,
}

impl Opened {
    fn check(&self) -> Result<(), WireError> {
        let pages = PAGE_BYTES as u32;
        if self.page_bytes != pages {
            return Err(WireError::Field { field: "page_bytes", value: self.page_bytes.into() });
        }
        let whole = self.len_bytes > 0 && self.len_bytes.is_multiple_of(BLOCK_BYTES);
        if !whole || self.len_bytes > i64::MAX as u64 {
            return Err(WireError::Field { field: "len_bytes", value: self.len_bytes });
        }
        if self.used_bytes > self.len_bytes {
            return Err(WireError::Field { field: "used_bytes", value: self.used_bytes });
        }
        Ok(())
    }
}

/// What one side says to the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Both sides, first of all: that they speak this version.
    Hello,
    /// The importer wants a vector.
    Open {
        /// Its name: 1 to 255 bytes.
        name: String,
    },
    /// The exporter gives it; one descriptor comes with it.
    Opened(Opened),
    /// The importer wants pages, or more access to them than it has.
    Ask {
        /// Of which buffer.
        buffer: u64,
        /// Which ones.
        pages: Pages,
        /// For what.
        access: Grant,
    },
    /// The exporter gives what was asked for under this sequence number.
    Granted,
    /// It does not, or does not open.
    Refused {
        /// Why.
        code: Code,
    },
    /// The exporter wants pages back.
    Recall {
        /// Of which buffer.
        buffer: u64,
        /// Which ones.
        pages: Pages,
        /// What the importer may keep.
        keep: Keep,
        /// When it is cut off, in milliseconds from the sending.
        deadline_ms: u32,
    },
    /// The importer has stopped using what was recalled under this sequence number.
    Confirmed {
        /// What it may have written; ascending, with gaps between.
        dirty: Vec<Pages>,
        /// What it wrote and could not bring home; the same.
        lost: Vec<Pages>,
    },
    /// A buffer is over, for whichever side says so. Once, and final.
    Release {
        /// Which one.
        buffer: u64,
        /// What the importer wrote and could not bring home, as in [`Message::Confirmed`]; empty from an exporter.
        lost: Vec<Pages>,
    },
    /// The connection is over.
    Bye {
        /// Why.
        code: Code,
    },
    /// An importer wants the dma-buf that is served under this name.
    OpenDmaBuf {
        /// The name, 1 to [`MAX_NAME_BYTES`] bytes.
        name: String,
    },
    /// It has it, for good. Comes with the dma-buf's descriptor.
    OpenedDmaBuf(OpenedDmaBuf),
}

impl Message {
    /// How many descriptors come with it.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        usize::from(matches!(self, Self::Opened(_) | Self::OpenedDmaBuf(_)))
    }

    pub(super) fn kind(&self) -> u16 {
        match self {
            Self::Hello => 1,
            Self::Open { .. } => 2,
            Self::Opened(_) => 3,
            Self::Ask { .. } => 4,
            Self::Granted => 5,
            Self::Refused { .. } => 6,
            Self::Recall { .. } => 7,
            Self::Confirmed { .. } => 8,
            Self::Release { .. } => 9,
            Self::Bye { .. } => 10,
            Self::OpenDmaBuf { .. } => 11,
            Self::OpenedDmaBuf(_) => 12,
        }
    }

    /// Bounds that hold on both sides.
    pub(super) fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Open { name } | Self::OpenDmaBuf { name }
                if name.is_empty() || name.len() > MAX_NAME_BYTES =>
            {
                Err(WireError::Field { field: "name", value: name.len() as u64 })
            }
            Self::Opened(opened) => opened.check(),
            Self::OpenedDmaBuf(opened) => opened.check(),
            Self::Ask { pages, .. } | Self::Recall { pages, .. } => pages.check(),
            Self::Confirmed { dirty, lost } => {
                check_runs("dirty", dirty).and_then(|()| check_runs("lost", lost))
            }
            Self::Release { lost, .. } => check_runs("lost", lost),
            Self::Refused { code: Code::Done } => Err(WireError::Field { field: "code", value: 0 }),
            _ => Ok(()),
        }
    }

    pub(super) fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Hello | Self::Granted => {}
            Self::Open { name } | Self::OpenDmaBuf { name } => {
                to.u32(name.len() as u32);
                to.bytes(name.as_bytes());
            }
            Self::Opened(opened) => {
                to.u64(opened.buffer);
                to.u64(opened.len_bytes);
                to.u64(opened.used_bytes);
                to.u32(opened.page_bytes);
                to.u32(opened.seals);
                to.u32(grant_number(opened.most));
            }
            Self::OpenedDmaBuf(opened) => {
                to.u64(opened.buffer);
                to.u64(opened.len_bytes);
                to.u64(opened.offset_bytes);
                to.u64(opened.used_bytes);
            }
            Self::Ask { buffer, pages, access } => {
                to.u64(*buffer);
                pages.write(to);
                to.u32(grant_number(*access));
            }
            Self::Refused { code } | Self::Bye { code } => to.u32(*code as u32),
            Self::Recall { buffer, pages, keep, deadline_ms } => {
                to.u64(*buffer);
                pages.write(to);
                to.u32(match keep {
                    Keep::Nothing => 0,
                    Keep::Reading => 1,
                });
                to.u32(*deadline_ms);
            }
            Self::Confirmed { dirty, lost } => {
                to.u32(dirty.len() as u32);
                to.u32(lost.len() as u32);
                dirty.iter().chain(lost).for_each(|run| run.write(to));
            }
            Self::Release { buffer, lost } => {
                to.u64(*buffer);
                to.u32(lost.len() as u32);
                lost.iter().for_each(|run| run.write(to));
            }
        }
    }

    pub(super) fn read(kind: u16, from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match kind {
            1 => Self::Hello,
            2 => Self::Open { name: read_name(from)? },
            3 => Self::Opened(Opened {
                buffer: from.u64()?,
                len_bytes: from.u64()?,
                used_bytes: from.u64()?,
                page_bytes: from.u32()?,
                seals: from.u32()?,
                most: read_grant("most", from)?,
            }),
            4 => Self::Ask {
                buffer: from.u64()?,
                pages: Pages::read(from)?,
                access: read_grant("access", from)?,
            },
            5 => Self::Granted,
            6 => Self::Refused { code: read_code(from)? },
            7 => Self::Recall {
                buffer: from.u64()?,
                pages: Pages::read(from)?,
                keep: match from.u32()? {
                    0 => Keep::Nothing,
                    1 => Keep::Reading,
                    value => return Err(WireError::Field { field: "keep", value: value.into() }),
                },
                deadline_ms: from.u32()?,
            },
            8 => {
                let dirty = read_count("dirty", from)?;
                let lost = read_count("lost", from)?;
                Self::Confirmed { dirty: read_runs(dirty, from)?, lost: read_runs(lost, from)? }
            }
            9 => {
                let buffer = from.u64()?;
                let lost = read_count("lost", from)?;
                Self::Release { buffer, lost: read_runs(lost, from)? }
            }
            10 => Self::Bye { code: read_code(from)? },
            11 => Self::OpenDmaBuf { name: read_name(from)? },
            12 => Self::OpenedDmaBuf(OpenedDmaBuf {
                buffer: from.u64()?,
                len_bytes: from.u64()?,
                offset_bytes: from.u64()?,
                used_bytes: from.u64()?,
            }),
            found => return Err(WireError::Kind { found }),
        })
    }
}

/// At most [`MAX_RUNS`], ascending, with a gap between each two: so each set of pages has one form.
fn check_runs(field: &'static str, runs: &[Pages]) -> Result<(), WireError> {
    if runs.len() > MAX_RUNS {
        return Err(WireError::Field { field, value: runs.len() as u64 });
    }
    let mut before = None;
    for run in runs {
        run.check()?;
        if before.is_some_and(|end| run.first <= end) {
            return Err(WireError::Field { field, value: run.first });
        }
        before = run.end();
    }
    Ok(())
}

/// Looked at before anything is allocated for so many.
fn read_count(field: &'static str, from: &mut Reader<'_>) -> Result<usize, WireError> {
    let count = from.u32()?;
    if count as usize > MAX_RUNS {
        return Err(WireError::Field { field, value: count.into() });
    }
    Ok(count as usize)
}

fn read_runs(count: usize, from: &mut Reader<'_>) -> Result<Vec<Pages>, WireError> {
    (0..count).map(|_| Pages::read(from)).collect()
}

fn read_name(from: &mut Reader<'_>) -> Result<String, WireError> {
    let len = from.u32()?;
    let wrong = WireError::Field { field: "name", value: len.into() };
    if len as usize > MAX_NAME_BYTES {
        return Err(wrong);
    }
    let bytes = from.bytes(len as usize)?;
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| wrong)
}

fn read_code(from: &mut Reader<'_>) -> Result<Code, WireError> {
    let value = from.u32()?;
    CODES
        .get(value as usize)
        .copied()
        .ok_or(WireError::Field { field: "code", value: value.into() })
}

fn grant_number(grant: Grant) -> u32 {
    match grant {
        Grant::Read => 0,
        Grant::Write => 1,
    }
}

fn read_grant(field: &'static str, from: &mut Reader<'_>) -> Result<Grant, WireError> {
    match from.u32()? {
        0 => Ok(Grant::Read),
        1 => Ok(Grant::Write),
        value => Err(WireError::Field { field, value: value.into() }),
    }
}
