//! The ring that events go through.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use crossbeam_queue::ArrayQueue;

use super::{Event, VectorId, What};
use crate::{
    kernel::KernelId,
    node::DeviceId,
    sync::{Mutex, MutexGuard},
};

/// Events between two readings at most: 5 MiB of memory, taken when the first recording of a runtime begins.
pub(super) const RING_EVENTS: usize = 1 << 16;

/// Where a runtime's events go. Every access is relaxed but the ring's own: an event says nothing of other memory.
#[derive(Debug)]
pub(crate) struct Recorder {
    epoch: Instant,
    /// Somebody records. Read on every path, written by [`Recorder::begin`] and [`Recorder::end`] alone.
    is_on: AtomicBool,
    /// Made by the first recording, and kept: what is still about to push when a recording ends finds it.
    ring: OnceLock<ArrayQueue<Event>>,
    dropped: AtomicU64,
    /// Vectors that were made.
    vectors: AtomicU64,
    names: Mutex<Names>,
}

/// What vectors and kernels are called.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) vectors: BTreeMap<VectorId, Arc<str>>,
    pub(super) kernels: BTreeMap<(DeviceId, u32), &'static str>,
}

thread_local! {
    /// The system's number of this thread; 0 until somebody asks.
    static THREAD: Cell<u32> = const { Cell::new(0) };
}

/// The system's number of the calling thread. Asks the system once; neither allocates nor waits.
fn thread() -> u32 {
    let known = THREAD.get();
    if known != 0 {
        return known;
    }
    let number = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    THREAD.set(number);
    number
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            is_on: AtomicBool::new(false),
            ring: OnceLock::new(),
            dropped: AtomicU64::new(0),
            vectors: AtomicU64::new(0),
            names: Mutex::default(),
        }
    }

    /// The next vector's number.
    pub(crate) fn number(&self) -> VectorId {
        VectorId(self.vectors.fetch_add(1, Relaxed) + 1)
    }

    /// True while somebody records.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// Something happened: made only while somebody records.
    #[inline]
    pub(crate) fn note(&self, what: impl FnOnce() -> What) {
        if self.is_on() {
            self.push(what());
        }
    }

    #[cold]
    fn push(&self, what: What) {
        let event = Event { at_ns: self.now_ns(), thread: thread(), what };
        let kept = self.ring.get().is_some_and(|ring| ring.push(event).is_ok());
        if !kept {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// False when somebody records already.
    pub(super) fn begin(&self) -> bool {
        self.ring.get_or_init(|| ArrayQueue::new(RING_EVENTS));
        if self.is_on.swap(true, Relaxed) {
            return false;
        }
        self.dropped.store(0, Relaxed);
        *self.names.lock() = Names::default();
        true
    }

    pub(super) fn end(&self) {
        self.is_on.store(false, Relaxed);
    }

    /// The oldest event that nobody has read.
    pub(super) fn take(&self) -> Option<Event> {
        self.ring.get()?.pop()
    }

    /// True when readers should hurry.
    pub(super) fn is_filling(&self) -> bool {
        self.ring.get().is_some_and(|ring| ring.len() > RING_EVENTS / 2)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    pub(super) fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock()
    }

    /// What a vector is called from now on. Never from a thread that answers faults.
    pub(crate) fn name(&self, vector: VectorId, name: Arc<str>) {
        if self.is_on() {
            self.names.lock().vectors.insert(vector, name);
        }
    }

    /// What a kernel is called. Never from a thread that answers faults.
    pub(crate) fn name_kernel(&self, device: DeviceId, kernel: KernelId, name: &'static str) {
        if self.is_on() {
            self.names.lock().kernels.entry((device, kernel.0)).or_insert(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_and_what_is_there_stays() {
        let recorder = Recorder::new();
        let event = |answers| What::Ignored { device: DeviceId::new(0).unwrap(), answers };
        recorder.note(|| unreachable!("nobody records"));
        assert!(recorder.begin());
        assert!(!recorder.begin(), "one recording at a time");
        let most = RING_EVENTS as u64;
        (0..most + 3).for_each(|number| recorder.note(|| event(number)));
        assert_eq!(recorder.dropped(), 3);
        recorder.end();
        recorder.note(|| unreachable!("nobody records"));
        let read: Vec<_> = std::iter::from_fn(|| recorder.take()).map(|one| one.what).collect();
        assert_eq!(read, (0..most).map(event).collect::<Vec<_>>());
        assert!(recorder.begin());
        assert_eq!(recorder.dropped(), 0);
    }
}
