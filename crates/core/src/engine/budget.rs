//! The library's own account of a device's memory. Drivers overcommit and report system-wide numbers.

use super::{
    ledger::Told,
    working_set::{Kept, NoRoom},
};
use crate::{error::Error, node::DeviceId, runtime::Runtime, sync::Mutex};

/// Bytes in use against a limit.
#[derive(Debug)]
pub(crate) struct Budget {
    account: Mutex<Account>,
}

#[derive(Debug, Default)]
struct Account {
    limit_bytes: u64,
    used_bytes: u64,
    /// How many times something was given back.
    gifts: u64,
}

impl Budget {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { account: Mutex::new(Account { limit_bytes, ..Account::default() }) }
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.account.lock().used_bytes
    }

    pub(crate) fn limit_bytes(&self) -> u64 {
        self.account.lock().limit_bytes
    }

    /// Sets the limit, below what is in use too: then nothing more is given out. Returns the one before.
    pub(super) fn set_limit(&self, limit_bytes: u64) -> u64 {
        std::mem::replace(&mut self.account.lock().limit_bytes, limit_bytes)
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        let account = self.account.lock();
        account.limit_bytes.saturating_sub(account.used_bytes)
    }

    /// What is in use beyond the limit.
    pub(super) fn excess_bytes(&self) -> u64 {
        let account = self.account.lock();
        account.used_bytes.saturating_sub(account.limit_bytes)
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
            Some(sum) if sum <= account.limit_bytes => {
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

impl Runtime {
    /// Sets the most memory that the library takes of one device from now on, in bytes; [`crate::Options::device_memory_limit_bytes`] is where it begins. What is in
    /// use beyond it leaves before this returns: clean blocks for nothing, the others by way of home. Opens the device.
    ///
    /// # Errors
    /// [`Error::BudgetInUse`] when something keeps more than that in place (a peer's pin, an [`crate::engine::Acquired`], a hint); the limit is
    /// then what it was before, and some may have left. What is in flight is waited for. As [`Runtime::facts`], and as a launch for what went wrong on the
    /// way home.
    pub fn set_device_memory_limit(&self, device: DeviceId, limit_bytes: u64) -> Result<(), Error> {
        let inner = self.inner();
        let (open, slot) = (inner.open(device)?, inner.slot(device)?);
        let _turn = slot.turn.lock();
        let before_bytes = open.budget.set_limit(limit_bytes);
        let mut left = Ok(());
        while left.is_ok() {
            let (shortfall_bytes, gifts) = (open.budget.excess_bytes(), open.budget.gifts());
            if shortfall_bytes == 0 {
                break;
            }
            let no_room = NoRoom { asked_bytes: 0, shortfall_bytes, gifts };
            let told = Told { coming: None, queue: &[] };
            left = inner.make_room(open, no_room, Kept::default(), told);
        }
        inner.tell_losses();
        left.map_err(|error| {
            open.budget.set_limit(before_bytes);
            match error {
                Error::OutOfDeviceMemory { device, pinned_bytes, .. } => Error::BudgetInUse {
                    device,
                    asked_bytes: limit_bytes,
                    used_bytes: open.budget.used_bytes(),
                    pinned_bytes,
                },
                other => other,
            }
        })
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

    #[test]
    fn a_limit_below_what_is_in_use_gives_nothing_out_until_enough_came_back() {
        let budget = Budget::new(10);
        assert!(budget.try_take(8));
        assert_eq!(budget.set_limit(5), 10);
        assert_eq!((budget.excess_bytes(), budget.free_bytes()), (3, 0));
        budget.give(3);
        assert!(!budget.try_take(1));
        budget.give(1);
        assert!(budget.try_take(1));
    }
}
