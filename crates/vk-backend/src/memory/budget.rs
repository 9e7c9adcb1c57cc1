//! How much device memory may be used. Drivers overcommit and report numbers of the whole system, so this is what counts.

use std::sync::atomic::{AtomicU64, Ordering};

use hmmap_core::backend::DeviceError;

/// A limit and what is used of it, in bytes.
#[derive(Debug)]
pub(crate) struct Budget {
    limit_bytes: u64,
    used_bytes: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, used_bytes: AtomicU64::new(0) }
    }

    /// Takes bytes, all or none.
    pub(crate) fn take(&self, len_bytes: u64) -> Result<(), DeviceError> {
        let fits = |used: u64| used.checked_add(len_bytes).filter(|sum| *sum <= self.limit_bytes);
        // Relaxed: a plain count, nothing is published through it.
        let taken = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.map(drop).map_err(|_| DeviceError::OutOfMemory { asked_bytes: len_bytes })
    }

    /// Gives bytes back.
    pub(crate) fn give(&self, len_bytes: u64) {
        self.used_bytes.fetch_sub(len_bytes, Ordering::Relaxed);
    }

    /// Bytes in use.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_granted_whole_or_not_at_all() {
        let budget = Budget::new(100);
        budget.take(60).unwrap();
        assert_eq!(budget.take(41), Err(DeviceError::OutOfMemory { asked_bytes: 41 }));
        assert_eq!(budget.take(u64::MAX), Err(DeviceError::OutOfMemory { asked_bytes: u64::MAX }));
        budget.take(40).unwrap();
        budget.give(60);
        assert_eq!(budget.used_bytes(), 40);
    }
}
