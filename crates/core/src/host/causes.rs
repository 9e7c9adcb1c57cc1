//! Why a touch of a page ends with a signal, kept where a signal handler can read it.
//!
//! A table of fixed size, in numbers only. Each entry is a small sequence lock: writers (one at a time, by a lock that readers never
//! take) make its stamp odd, change it, and make it even; a reader that sees the stamp change gives up. So a handler reads it
//! without waiting, whatever thread it interrupts. When the table is full, the oldest entry goes.

use std::{
    fmt,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

use parking_lot::Mutex;

use crate::{
    fence::{Failure, FencePoint, TimelineId},
    node::DeviceId,
    units::PAGE_BYTES,
};

/// So many are known at once.
const ENTRIES: usize = 512;
const FIELDS: usize = 8;

/// Why a page cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    /// Its only copy went with this; `None`: nobody knows any more.
    Lost(Option<Spoiler>),
    /// The work did not end in the time that the option gives it.
    TooLate(FencePoint),
    /// The device refused to copy it home.
    Refused(DeviceId),
    /// The system refused to map it.
    System,
    /// Nobody has the memory: its vector was dropped.
    Nobody,
    /// The library failed.
    Broken,
}

/// What took the only copy of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spoiler {
    /// Work that did not end well; without a failure its device was lost before its end.
    Work(FencePoint, Option<Failure>),
    /// A device that was lost, with the page at rest on it.
    Device(DeviceId),
}

/// Pages whose touch ends with a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cause {
    /// Of the first page, as the program sees it.
    pub(crate) address: u64,
    /// One page, or all that come and go together with the one that cannot be had.
    pub(crate) len_bytes: u64,
    /// Of its vector; 0 when it has none.
    pub(crate) vector: u64,
    pub(crate) why: Reason,
}

struct Entry {
    stamp: AtomicU64,
    fields: [AtomicU64; FIELDS],
}

static ENTRY: [Entry; ENTRIES] =
    [const { Entry { stamp: AtomicU64::new(0), fields: [const { AtomicU64::new(0) }; FIELDS] } };
        ENTRIES];

/// The next entry to be used.
static NEXT: Mutex<usize> = Mutex::new(0);

/// Keeps a cause, in the place of what was known of the page.
pub(crate) fn record(cause: Cause) {
    let mut next = NEXT.lock();
    let known = ENTRY.iter().position(|entry| entry.fields[0].load(Relaxed) == cause.address);
    let place = known.unwrap_or_else(|| {
        *next = (*next + 1) % ENTRIES;
        *next
    });
    ENTRY[place].write(encode(cause));
}

/// Forgets what is known of pages.
pub(crate) fn forget(addresses: std::ops::Range<u64>) {
    let _next = NEXT.lock();
    let inside = |entry: &&Entry| addresses.contains(&entry.fields[0].load(Relaxed));
    ENTRY.iter().filter(inside).for_each(|entry| entry.write([0; FIELDS]));
}

/// What is known of the page with this byte. Waits for nothing and allocates nothing.
pub(crate) fn find(address: u64) -> Option<Cause> {
    let known = |entry: &Entry| {
        let cause = decode(entry.read()?)?;
        (cause.address..cause.address + cause.len_bytes).contains(&address).then_some(cause)
    };
    ENTRY.iter().find_map(known)
}

impl Entry {
    /// The writers' lock is held.
    fn write(&self, fields: [u64; FIELDS]) {
        let stamp = self.stamp.load(Relaxed);
        self.stamp.store(stamp + 1, Relaxed);
        fence(Release);
        for (place, field) in self.fields.iter().zip(fields) {
            place.store(field, Relaxed);
        }
        self.stamp.store(stamp + 2, Release);
    }

    /// `None` while it is being written.
    fn read(&self) -> Option<[u64; FIELDS]> {
        let before = self.stamp.load(Acquire);
        let fields = std::array::from_fn(|at| self.fields[at].load(Relaxed));
        fence(Acquire);
        let after = self.stamp.load(Relaxed);
        (before == after && before.is_multiple_of(2)).then_some(fields)
    }
}

/// Address, length, vector, why, and of work: timeline, value, whether and how it failed, a code.
fn encode(Cause { address, len_bytes, vector, why }: Cause) -> [u64; FIELDS] {
    let place = |fence: FencePoint| {
        let timeline = fence.timeline;
        [(timeline.device().index() as u64) << 8 | u64::from(timeline.queue()), fence.value]
    };
    let failed = |failure| match failure {
        None => [0, 0],
        Some(Failure::KernelPanicked) => [1, 0],
        Some(Failure::Driver(code)) => [2, u64::from(code.cast_unsigned())],
        Some(Failure::Injected) => [3, 0],
        Some(Failure::Dependency) => [4, 0],
    };
    let (number, [timeline, value], [kind, code]) = match why {
        Reason::Lost(None) => (0, [0; 2], [0; 2]),
        Reason::Lost(Some(Spoiler::Work(fence, failure))) => (1, place(fence), failed(failure)),
        Reason::Lost(Some(Spoiler::Device(device))) => {
            (7, [(device.index() as u64) << 8, 0], [0; 2])
        }
        Reason::TooLate(fence) => (2, place(fence), [0; 2]),
        Reason::Refused(device) => (3, [(device.index() as u64) << 8, 0], [0; 2]),
        Reason::System => (4, [0; 2], [0; 2]),
        Reason::Nobody => (5, [0; 2], [0; 2]),
        Reason::Broken => (6, [0; 2], [0; 2]),
    };
    [address, len_bytes, vector, number, timeline, value, kind, code]
}

fn decode(fields: [u64; FIELDS]) -> Option<Cause> {
    let [address, len_bytes, vector, number, timeline, value, kind, code] = fields;
    let device = DeviceId::new((timeline >> 8) as usize)?;
    let fence = FencePoint { timeline: TimelineId::new(device, timeline as u8), value };
    let failure = match kind {
        1 => Some(Failure::KernelPanicked),
        2 => Some(Failure::Driver((code as u32).cast_signed())),
        3 => Some(Failure::Injected),
        4 => Some(Failure::Dependency),
        _ => None,
    };
    let why = match number {
        0 => Reason::Lost(None),
        1 => Reason::Lost(Some(Spoiler::Work(fence, failure))),
        7 => Reason::Lost(Some(Spoiler::Device(device))),
        2 => Reason::TooLate(fence),
        3 => Reason::Refused(device),
        4 => Reason::System,
        5 => Reason::Nobody,
        _ => Reason::Broken,
    };
    Some(Cause { address, len_bytes, vector, why })
}

impl fmt::Display for Cause {
    /// Allocates nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, len_bytes, vector, why } = *self;
        let page = address.saturating_sub(vector) / PAGE_BYTES;
        if vector == 0 {
            write!(f, "the page at {address:#x} is no vector's")?;
        } else if len_bytes <= PAGE_BYTES {
            write!(f, "page {page} of the vector at {vector:#x} cannot be had")?;
        } else {
            let last = page + len_bytes / PAGE_BYTES - 1;
            write!(
                f,
                "pages {page} to {last} of the vector at {vector:#x} come and go together, "
            )?;
            write!(f, "and one of them cannot be had")?;
        }
        match why {
            Reason::Lost(None) => write!(f, ": its only copy was lost"),
            Reason::Lost(Some(Spoiler::Device(device))) => {
                write!(f, ": its only copy was lost with {device}")
            }
            Reason::Lost(Some(Spoiler::Work(fence, Some(failure)))) => {
                write!(f, ": its only copy was lost with {fence}, which failed: {failure}")
            }
            Reason::Lost(Some(Spoiler::Work(fence, None))) => {
                let device = fence.timeline.device();
                write!(f, ": its only copy was lost with {device} ({fence} was in flight)")
            }
            Reason::TooLate(fence) => {
                write!(f, ": {fence} did not end in the time that own_fence_deadline gives it")
            }
            Reason::Refused(device) => write!(f, ": {device} refused to copy it home"),
            Reason::System => write!(f, ": the system refused to map it"),
            Reason::Nobody => write!(f, "; the one that had it was dropped"),
            Reason::Broken => write!(f, ": the library failed, which is a bug in it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(page: u64, why: Reason) -> Cause {
        // No address of this process.
        let vector = 1 << 60;
        Cause { address: vector + page * PAGE_BYTES, len_bytes: PAGE_BYTES, vector, why }
    }

    #[test]
    fn what_is_recorded_is_found_by_any_byte_of_the_page_until_it_is_forgotten() {
        let device = DeviceId::new(3).unwrap();
        let fence = FencePoint { timeline: TimelineId::new(device, 1), value: 9 };
        let all = [
            Reason::Lost(None),
            Reason::Lost(Some(Spoiler::Work(fence, None))),
            Reason::Lost(Some(Spoiler::Work(fence, Some(Failure::Driver(-4))))),
            Reason::Lost(Some(Spoiler::Device(device))),
            Reason::TooLate(fence),
            Reason::Refused(device),
            Reason::System,
            Reason::Nobody,
            Reason::Broken,
        ];
        for (page, why) in all.into_iter().enumerate() {
            let cause = cause(page as u64, why);
            record(cause);
            assert_eq!(find(cause.address + PAGE_BYTES - 1), Some(cause));
        }
        let block = Cause { len_bytes: 32 * PAGE_BYTES, ..cause(32, Reason::System) };
        record(block);
        assert_eq!(find(block.address + 31 * PAGE_BYTES + 5), Some(block));
        assert_eq!(find(block.address + 32 * PAGE_BYTES), None);
        let again = cause(2, Reason::System);
        record(again);
        assert_eq!(find(again.address), Some(again), "the newest counts");
        forget(again.address..again.address + 1);
        assert_eq!(find(again.address), None);
        assert!(find(cause(3, Reason::System).address).is_some());
        let work = Spoiler::Work(fence, Some(Failure::KernelPanicked));
        let text = cause(7, Reason::Lost(Some(work))).to_string();
        assert_eq!(
            text,
            "page 7 of the vector at 0x1000000000000000 cannot be had: its only copy was lost with \
             device 3 queue 1 value 9, which failed: the kernel's Rust twin panicked"
        );
    }
}
