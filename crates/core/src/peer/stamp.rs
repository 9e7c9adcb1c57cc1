//! Stamps: whether addresses are still good, for readers that must not take a lock.
//!
//! A sequence count. Even: at rest. Odd: the range is being taken back. A reader *begins* (and sleeps while it is odd), uses what it read, and asks
//! whether to *retry*. Writers change the count under the buffer's lock.

use std::time::{Duration, Instant};

use crate::sync::kernel::{AtomicU64, Condvar, Mutex, Ordering};

/// What a reader began with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Stamp(u64);

/// The count of one mapping.
#[derive(Debug, Default)]
pub(crate) struct StampCell {
    count: AtomicU64,
    /// Nothing under it; who sleeps looks at the count again under it, so no wake is lost.
    sleepers: Mutex<()>,
    even: Condvar,
}

impl StampCell {
    /// A cell whose range is being taken back already, or not.
    pub(crate) fn new(marked: bool) -> Self {
        Self { count: AtomicU64::new(u64::from(marked)), ..Self::default() }
    }

    /// Waits until nothing is being taken back; `None` when that takes longer.
    pub(crate) fn begin(&self, timeout: Duration) -> Option<Stamp> {
        // Acquire: pairs with the Release in `turn`; whoever sees the count sees what was done before it changed.
        let count = self.count.load(Ordering::Acquire);
        if count.is_multiple_of(2) { Some(Stamp(count)) } else { self.sleep(timeout) }
    }

    #[cold]
    fn sleep(&self, timeout: Duration) -> Option<Stamp> {
        let deadline = Instant::now() + timeout;
        let mut sleepers = self.sleepers.lock();
        loop {
            let count = self.count.load(Ordering::Acquire);
            if count.is_multiple_of(2) {
                return Some(Stamp(count));
            }
            if self.even.wait_until(&mut sleepers, deadline).timed_out() {
                return None;
            }
        }
    }

    /// True when the range was taken back, or is being, since `stamp` was read.
    pub(crate) fn retry(&self, stamp: Stamp) -> bool {
        self.count.load(Ordering::Acquire) != stamp.0
    }

    /// Even becomes odd, odd becomes even. Under the buffer's lock.
    pub(crate) fn turn(&self) {
        let before = self.count.fetch_add(1, Ordering::Release);
        if !before.is_multiple_of(2) {
            // Whoever saw it odd holds this lock until it sleeps.
            drop(self.sleepers.lock());
            self.even.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_begins_sleeps_until_it_is_even_again() {
        let cell = StampCell::new(false);
        let stamp = cell.begin(Duration::ZERO).unwrap();
        assert!(!cell.retry(stamp));
        cell.turn();
        assert!(cell.retry(stamp));
        assert_eq!(cell.begin(Duration::from_millis(1)), None);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| cell.begin(Duration::from_secs(60)));
            cell.turn();
            let after = sleeper.join().unwrap().unwrap();
            assert!(!cell.retry(after) && cell.retry(stamp));
        });
    }
}
