//! The library's own account of a device's memory. Drivers overcommit and report system-wide numbers.

use parking_lot::Mutex;

/// Bytes in use against a limit.
#[derive(Debug)]
pub(crate) struct Budget {
    used_bytes: Mutex<u64>,
    limit_bytes: u64,
}

impl Budget {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { used_bytes: Mutex::new(0), limit_bytes }
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        *self.used_bytes.lock()
    }

    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes())
    }

    /// Takes all of it or nothing.
    #[must_use]
    pub(crate) fn try_take(&self, bytes: u64) -> bool {
        let mut used = self.used_bytes.lock();
        match used.checked_add(bytes) {
            Some(sum) if sum <= self.limit_bytes => {
                *used = sum;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn give(&self, bytes: u64) {
        let mut used = self.used_bytes.lock();
        debug_assert!(*used >= bytes, "more device memory given back than taken");
        *used = used.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_all_or_nothing() {
        let budget = Budget::new(10);
        assert!(budget.try_take(10));
        assert!(!budget.try_take(1));
        budget.give(4);
        assert!(!budget.try_take(5));
        assert!(!budget.try_take(u64::MAX));
        assert!(budget.try_take(4));
        assert_eq!(budget.free_bytes(), 0);
    }
}
