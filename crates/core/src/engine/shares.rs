//! Budgets that change while they are in use: a device's limit, and what a group may have of it.

use std::sync::Arc;

use super::{
    ledger::Told,
    working_set::{Kept, NoRoom},
};
use crate::{
    error::Error,
    group::{GroupId, Member, Share},
    node::DeviceId,
    runtime::{Inner, OpenDevice, Runtime},
};

impl Runtime {
    /// Sets the most memory that the library takes of one device from now on, in bytes; [`crate::Options::device_memory_limit_bytes`] is where it begins. What is in
    /// use beyond it leaves before this returns: clean blocks for nothing, the others by way of home. Opens the device.
    ///
    /// # Errors
    /// [`Error::BudgetInUse`] when something keeps more than that in place (a peer's pin, an [`crate::engine::Acquired`], a hint), or groups have reserved more; the
    /// limit is then what it was before, and some may have left. What is in flight is waited for. As [`Runtime::facts`], and as a launch for what went wrong on the
    /// way home.
    pub fn set_device_memory_limit(&self, device: DeviceId, limit_bytes: u64) -> Result<(), Error> {
        let inner = self.inner();
        let (open, slot) = (inner.open(device)?, inner.slot(device)?);
        let _turn = slot.turn.lock();
        let before_bytes = open.budget.set_limit(limit_bytes);
        let left = inner.come_down(open);
        inner.tell_losses();
        left.map_err(|error| {
            let error = in_use(open, error, limit_bytes);
            open.budget.set_limit(before_bytes);
            error
        })
    }

    /// [`crate::Group::set_share`].
    pub(crate) fn set_share(
        &self,
        device: DeviceId,
        group: &Arc<Member>,
        share: Share,
    ) -> Result<(), Error> {
        let inner = self.inner();
        let (open, slot) = (inner.open(device)?, inner.slot(device)?);
        let _turn = slot.turn.lock();
        let refused = |most_bytes| Error::ReserveRefused {
            device,
            group: group.name.to_string(),
            reserve_bytes: share.reserve_bytes,
            most_bytes,
        };
        let mine_bytes = open.budget.share(group.id).reserve_bytes;
        let others_bytes = open.budget.reserved_bytes() - mine_bytes;
        let unreserved_bytes = open.budget.limit_bytes().saturating_sub(others_bytes);
        // What has no memory of its own here has no account either.
        let most_bytes = if open.node.is_host() { u64::MAX } else { unreserved_bytes };
        let most_bytes = most_bytes.min(share.limit_bytes);
        if share.reserve_bytes > most_bytes {
            return Err(refused(most_bytes));
        }
        let before = open.budget.set_share(group, share);
        if open.node.is_host() {
            return Ok(());
        }
        let left = inner.come_down(open);
        inner.tell_losses();
        left.map_err(|error| {
            let excess_bytes = open.budget.lack(&Default::default()).bytes();
            let error = match in_use(open, error, share.limit_bytes) {
                Error::BudgetInUse { group: None, .. } => {
                    refused(share.reserve_bytes.saturating_sub(excess_bytes))
                }
                other => other,
            };
            open.budget.set_share(group, before);
            error
        })
    }
}

impl Inner {
    /// Has whatever is in use beyond a limit leave.
    fn come_down(&self, open: &OpenDevice) -> Result<(), Error> {
        loop {
            let no_room = NoRoom { gifts: open.budget.gifts(), ..NoRoom::default() };
            if no_room.lack(open).is_met() {
                return Ok(());
            }
            let told = Told { coming: None, queue: &[] };
            self.make_room(open, &no_room, Kept::default(), told)?;
        }
    }

    /// Nothing of a group is left.
    pub(crate) fn forget_group(&self, group: GroupId) {
        for slot in &self.slots {
            slot.ledger.forget_group(group);
            if let Some(open) = self.opened(slot.id) {
                open.budget.forget_group(group);
            }
        }
    }
}

/// What keeps a limit from coming down so far.
fn in_use(open: &OpenDevice, error: Error, asked_bytes: u64) -> Error {
    let (device, budget) = (open.id, &open.budget);
    let reserved_bytes = budget.reserved_bytes();
    match error {
        Error::OutOfDeviceMemory { pinned_bytes, .. } => Error::BudgetInUse {
            device,
            group: None,
            asked_bytes,
            used_bytes: budget.used_bytes(),
            pinned_bytes,
            reserved_bytes,
        },
        Error::OutOfShare { group, used_bytes, pinned_bytes, .. } => Error::BudgetInUse {
            device,
            group: Some(group),
            asked_bytes,
            used_bytes,
            pinned_bytes,
            reserved_bytes,
        },
        other => other,
    }
}
