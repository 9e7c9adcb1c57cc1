//! Groups: vectors that share a part of each device's memory, with something kept for them and a limit of their own.
//!
//! ```text
//! let tenant = Group::new(&mem, "tenant");
//! tenant.set_share(device, Share { reserve_bytes: 1 << 30, limit_bytes: 4 << 30 })?;
//! let x = SharedVec::from_slice(&tenant, &table)?;        // as with `&mem`, but in the group
//! ```
//!
//! A group is its runtime, seen so that vectors made through it belong to the group: it can be given wherever a [`Runtime`] is asked for. A vector stays in its
//! group, also when it grows. The group is there as long as it or one of its vectors is; then its reserve is free for others.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    error::Error,
    node::DeviceId,
    options::Eviction,
    runtime::{Inner, Runtime},
};

/// What a group may have of one device's memory, in bytes. Cgroups have the same under the names `memory.min` and `memory.max`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Share {
    /// Kept for the group: nobody else gets it, used or not, and what the group has there up to so much leaves only for vectors of its own.
    pub reserve_bytes: u64,
    /// The most it may have; [`u64::MAX`] for as much as the device.
    pub limit_bytes: u64,
}

impl Default for Share {
    /// Nothing reserved, and no limit but the device's.
    fn default() -> Self {
        Self { reserve_bytes: 0, limit_bytes: u64::MAX }
    }
}

/// Vectors that share a part of each device's memory: this module's documentation. Clones are the same group.
#[derive(Clone, Debug)]
pub struct Group {
    runtime: Runtime,
    member: Arc<Member>,
}

impl Group {
    /// A new group of a runtime; the name is for errors and reports. It has no share of any device yet: nothing is reserved for it, and it has no limit.
    /// Made through another group, it is beside that one and not in it.
    pub fn new(runtime: &Runtime, name: impl Into<Arc<str>>) -> Self {
        let member = Member::new(runtime.inner(), name.into());
        Self { runtime: runtime.within(Some(member.clone())), member }
    }

    /// As [`Group::new`], with a policy of its own: where the device's says that some of the group leave, the group's says which. It hears of all launches on the
    /// device, and is asked about blocks of the group alone.
    pub fn with_eviction(
        runtime: &Runtime,
        name: impl Into<Arc<str>>,
        eviction: &Eviction,
    ) -> Self {
        let group = Self::new(runtime, name);
        let slots = runtime.inner().slots.iter();
        slots.for_each(|slot| slot.ledger.add_policy(group.member.id, eviction));
        group
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.member.name
    }

    /// The runtime, outside of any group.
    pub fn runtime(&self) -> Runtime {
        self.runtime.within(None)
    }

    /// Sets what the group may have of one device's memory. What others use of the reserve leaves before this returns, as does what the group itself uses beyond the
    /// limit. Where the device works on host memory in place, nothing is accounted, and a share has no effect. Opens the device.
    ///
    /// # Errors
    /// [`Error::ReserveRefused`] when the device cannot give the reserve; [`Error::BudgetInUse`] when something keeps more than the limit in place (a peer's pin, an
    /// [`crate::engine::Acquired`], a hint). The share is then what it was before, and some may have left. What is in flight is waited for. As
    /// [`Runtime::facts`], and as a launch for what went wrong on the way home.
    pub fn set_share(&self, device: DeviceId, share: Share) -> Result<(), Error> {
        self.runtime.set_share(device, &self.member, share)
    }

    /// What the group may have of one device's memory. Opens the device.
    ///
    /// # Errors
    /// As [`Runtime::facts`].
    pub fn share(&self, device: DeviceId) -> Result<Share, Error> {
        Ok(self.runtime.inner().open(device)?.budget.share(self.member.id))
    }

    /// What the group's vectors use of one device's memory now, in bytes. Opens the device.
    ///
    /// # Errors
    /// As [`Runtime::facts`].
    pub fn used_bytes(&self, device: DeviceId) -> Result<u64, Error> {
        Ok(self.runtime.inner().open(device)?.budget.group_used_bytes(self.member.id))
    }
}

impl Deref for Group {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        &self.runtime
    }
}

/// Tells groups apart; ids are never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub(crate) struct GroupId(u64);

impl GroupId {
    /// The group of vectors that have none.
    pub(crate) const DEFAULT: Self = Self(0);

    #[cfg(test)]
    pub(crate) const fn of(number: u64) -> Self {
        Self(number)
    }

    pub(crate) fn is_default(self) -> bool {
        self == Self::DEFAULT
    }
}

/// What makes something belong to a group, and the group last.
pub(crate) struct Member {
    pub(crate) id: GroupId,
    pub(crate) name: Arc<str>,
    runtime: Weak<Inner>,
}

impl Member {
    fn new(runtime: &Arc<Inner>, name: Arc<str>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // Ids only have to differ.
        let id = GroupId(NEXT.fetch_add(1, Relaxed));
        Arc::new(Self { id, name, runtime: Arc::downgrade(runtime) })
    }

    #[cfg(test)]
    pub(crate) fn of(id: GroupId, name: &str) -> Arc<Self> {
        Arc::new(Self { id, name: name.into(), runtime: Weak::new() })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.upgrade() else { return };
        runtime.forget_group(self.id);
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("name", &self.name).finish_non_exhaustive()
    }
}
