//! How much peers that take no part may pin.
//!
//! A pin keeps pages from moving for as long as its mapping lives, so whoever may pin without bound can fill a device or the host for good. Each mapping of a static
//! peer takes its whole pages from one quota of the runtime, as each registration of an RDMA card does: pages that two of them pin count twice.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::PeerError;

/// The quota of one runtime.
#[derive(Debug)]
pub(crate) struct PinQuota {
    /// `u64::MAX`: none.
    limit_bytes: u64,
    /// A sum that says nothing of other memory: relaxed.
    pinned_bytes: AtomicU64,
    refused: AtomicU64,
}

/// A part of the quota, until it is dropped.
#[derive(Debug)]
pub(crate) struct Pin {
    quota: Arc<PinQuota>,
    len_bytes: u64,
}

impl PinQuota {
    pub(crate) fn new(limit_bytes: Option<u64>) -> Arc<Self> {
        let limit_bytes = limit_bytes.unwrap_or(u64::MAX);
        Arc::new(Self { limit_bytes, pinned_bytes: AtomicU64::new(0), refused: AtomicU64::new(0) })
    }

    /// Takes `asked_bytes` of it, all or nothing.
    pub(crate) fn pin(self: &Arc<Self>, asked_bytes: u64) -> Result<Pin, PeerError> {
        let fits = |pinned: u64| {
            pinned.checked_add(asked_bytes).filter(|pinned| *pinned <= self.limit_bytes)
        };
        match self.pinned_bytes.fetch_update(Relaxed, Relaxed, fits) {
            Ok(_) => Ok(Pin { quota: Arc::clone(self), len_bytes: asked_bytes }),
            Err(pinned_bytes) => {
                self.refused.fetch_add(1, Relaxed);
                let limit_bytes = self.limit_bytes;
                Err(PeerError::PinQuota { asked_bytes, pinned_bytes, limit_bytes })
            }
        }
    }

    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes.load(Relaxed)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.quota.pinned_bytes.fetch_sub(self.len_bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_taken_whole_or_not_at_all_and_comes_back() {
        let quota = PinQuota::new(Some(100));
        let first = quota.pin(60).unwrap();
        let refused = quota.pin(41).unwrap_err();
        let said = PeerError::PinQuota { asked_bytes: 41, pinned_bytes: 60, limit_bytes: 100 };
        assert_eq!((refused, quota.pinned_bytes(), quota.refused()), (said, 60, 1));
        let second = quota.pin(40).unwrap();
        assert!(quota.pin(u64::MAX).is_err());
        drop(first);
        assert_eq!(quota.pinned_bytes(), 40);
        drop(second);
        assert!(quota.pin(100).is_ok());
        assert!(PinQuota::new(None).pin(u64::MAX).is_ok());
    }
}
