//! The library's own account of a device's memory. Drivers overcommit and report system-wide numbers.

use crate::sync::Mutex;

/// Bytes in use against a limit.
#[derive(Debug)]
pub(crate) struct Budget {
    account: Mutex<Account>,
    limit_bytes: u64,
}

#[derive(Debug, Default)]
struct Account {
    used_bytes: u64,
    /// How many times something was given back.
    gifts: u64,
}

impl Budget {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { account: Mutex::default(), limit_bytes }
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.account.lock().used_bytes
    }

    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes())
    }

    /// How many times something was given back. Who found no room, and sees this grow, tries again before it despairs.
    pub(crate) fn gifts(&self) -> u64 {
        self.account.lock().gifts
    }

    /// Takes all of it or nothing.
    #[must_use]
    pub(crate) fn try_take(&self, bytes: u64) -> bool {
        let mut account = self.account.lock();
        match account.used_bytes.checked_add(bytes) {
            Some(sum) if sum <= self.limit_bytes => {
                account.used_bytes = sum;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn give(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let mut account = self.account.lock();
        debug_assert!(account.used_bytes >= bytes, "more device memory given back than taken");
        account.used_bytes = account.used_bytes.saturating_sub(bytes);
        account.gifts += 1;
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
