//! Who uses which window of a device: registers for its driver, any number of times, or memory of vectors, once and alone.

use std::{collections::HashMap, os::fd::OwnedFd, sync::Arc};

use parking_lot::Mutex;

use crate::VfioDomain;

/// What a window is used as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    Registers,
    Memory,
}

/// The windows of a domain's devices that are in use. The kernel gives a group to one domain at a time, so nobody else has them.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<HashMap<(String, u32), (Use, usize)>>);

/// The right to use one window, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    domain: Arc<VfioDomain>,
    key: (String, u32),
}

/// What keeps a window for whoever has it mapped.
#[derive(Debug)]
#[expect(dead_code, reason = "held until the mapping goes")]
pub(crate) enum Owner {
    /// A device of ours.
    Claimed(Claim),
    /// A file that is locked against others who lock it.
    Locked(OwnedFd),
    /// Memory that others use meanwhile as they like.
    Nobody,
}

impl Claim {
    /// `None` when the window is used as something else, or as memory already.
    pub(crate) fn take(
        domain: &Arc<VfioDomain>,
        device: &str,
        index: u32,
        wanted: Use,
    ) -> Option<Self> {
        let key = (device.to_owned(), index);
        let mut claims = domain.claims.0.lock();
        let (used, count) = claims.entry(key.clone()).or_insert((wanted, 0));
        if *count > 0 && (*used, wanted) != (Use::Registers, Use::Registers) {
            return None;
        }
        (*used, *count) = (wanted, *count + 1);
        drop(claims);
        Some(Self { domain: domain.clone(), key })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some((_, count)) = self.domain.claims.0.lock().get_mut(&self.key) {
            *count -= 1;
        }
    }
}
