//! The library's own account of a device's memory. Drivers overcommit and report system-wide numbers.
//!
//! What is in use, and what groups have reserved and do not use, stay within the limit together:
//!
//! ```text
//! sum over groups of max(used, reserve)  =  used + idle reserves  <=  limit          used of a group <= its limit
//! ```
//!
//! Vectors without a group are in the default one, which reserves nothing and has no limit of its own.

use std::{collections::BTreeMap, sync::Arc};

use smallvec::SmallVec;

use super::lack::{Lack, Part};
use crate::{
    group::{GroupId, Member, Share},
    sync::Mutex,
};

/// Bytes in use against a limit.
#[derive(Debug)]
pub(crate) struct Budget {
    account: Mutex<Account>,
}

#[derive(Debug, Default)]
struct Account {
    limit_bytes: u64,
    /// Of all groups together.
    used_bytes: u64,
    /// What groups have reserved and do not use.
    idle_bytes: u64,
    /// How many times something was given back.
    gifts: u64,
    /// Groups with a share here, or with something in use; the default one is not among them.
    groups: BTreeMap<GroupId, GroupAccount>,
    /// Of those with a share.
    names: BTreeMap<GroupId, Arc<str>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct GroupAccount {
    share: Share,
    used_bytes: u64,
}

impl GroupAccount {
    fn idle_bytes(&self) -> u64 {
        self.share.reserve_bytes.saturating_sub(self.used_bytes)
    }
}

/// Bytes by group, each group once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ByGroup(SmallVec<[(GroupId, u64); 2]>);

impl ByGroup {
    #[cfg(test)]
    pub(super) fn one(group: GroupId, bytes: u64) -> Self {
        Self(SmallVec::from_iter([(group, bytes)]))
    }

    pub(super) fn add(&mut self, group: GroupId, bytes: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == group) {
            Some((_, sum)) => *sum = sum.saturating_add(bytes),
            None => self.0.push((group, bytes)),
        }
    }

    pub(super) fn of(&self, group: GroupId) -> u64 {
        self.iter().find(|(known, _)| *known == group).map_or(0, |(_, bytes)| bytes)
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.iter().map(|(_, bytes)| bytes).fold(0, u64::saturating_add)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (GroupId, u64)> + '_ {
        self.0.iter().copied()
    }
}

/// What keeps bytes from ever having room, however much leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TooSmall {
    /// The device, for what others have reserved there.
    Device,
    Group(GroupId),
}

impl Account {
    fn free_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes.saturating_add(self.idle_bytes))
    }

    fn group(&self, id: GroupId) -> GroupAccount {
        self.groups.get(&id).copied().unwrap_or_default()
    }

    /// What is reserved and not used, once a group uses so much.
    fn idle_with(&self, id: GroupId, used_bytes: u64) -> u64 {
        let group = self.group(id);
        self.idle_bytes - group.idle_bytes() + GroupAccount { used_bytes, ..group }.idle_bytes()
    }

    fn use_in_group(&mut self, id: GroupId, change: impl FnOnce(u64) -> u64) {
        if id.is_default() {
            return;
        }
        let before = self.group(id);
        let used_bytes = change(before.used_bytes);
        self.idle_bytes = self.idle_with(id, used_bytes);
        self.groups.entry(id).or_default().used_bytes = used_bytes;
    }
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

    /// What groups have reserved and do not use.
    pub(crate) fn idle_reserve_bytes(&self) -> u64 {
        self.account.lock().idle_bytes
    }

    /// All that groups have reserved.
    pub(super) fn reserved_bytes(&self) -> u64 {
        self.account.lock().groups.values().map(|group| group.share.reserve_bytes).sum()
    }

    /// Sets the limit, below what is in use too: then nothing more is given out. Returns the one before.
    pub(super) fn set_limit(&self, limit_bytes: u64) -> u64 {
        std::mem::replace(&mut self.account.lock().limit_bytes, limit_bytes)
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.account.lock().free_bytes()
    }

    /// How many times something was given back. Who found no room, and sees this grow, tries again before it despairs.
    pub(crate) fn gifts(&self) -> u64 {
        self.account.lock().gifts
    }

    pub(crate) fn share(&self, group: GroupId) -> Share {
        self.account.lock().group(group).share
    }

    /// What is reserved for groups that ask for nothing.
    pub(super) fn reserved_beside(&self, asked: &ByGroup) -> u64 {
        let account = self.account.lock();
        let others = account.groups.iter().filter(|(id, _)| asked.of(**id) == 0);
        others.map(|(_, group)| group.share.reserve_bytes).sum()
    }

    /// The name of a group that has a share here.
    pub(super) fn group_name(&self, group: GroupId) -> String {
        self.account.lock().names.get(&group).map(ToString::to_string).unwrap_or_default()
    }

    pub(crate) fn group_used_bytes(&self, group: GroupId) -> u64 {
        self.account.lock().group(group).used_bytes
    }

    /// Sets a group's share, below what it uses too, and beyond what is free. Returns the one before.
    pub(super) fn set_share(&self, group: &Member, share: Share) -> Share {
        let mut account = self.account.lock();
        account.names.insert(group.id, group.name.clone());
        let group = group.id;
        let GroupAccount { share: before, used_bytes } = account.group(group);
        account.idle_bytes -= account.group(group).idle_bytes();
        let after = GroupAccount { share, used_bytes };
        account.idle_bytes += after.idle_bytes();
        account.groups.insert(group, after);
        before
    }

    /// The group is no more; nothing of it is in use.
    pub(crate) fn forget_group(&self, group: GroupId) {
        let mut account = self.account.lock();
        account.names.remove(&group);
        if let Some(group) = account.groups.remove(&group) {
            account.idle_bytes -= group.idle_bytes();
            account.gifts += 1;
        }
    }

    /// Takes all of it or nothing.
    #[must_use]
    pub(crate) fn try_take(&self, asked: &ByGroup) -> bool {
        let mut account = self.account.lock();
        let mut idle_bytes = account.idle_bytes;
        for (id, bytes) in asked.iter().filter(|(id, _)| !id.is_default()) {
            let group = account.group(id);
            match group.used_bytes.checked_add(bytes) {
                Some(used_bytes) if used_bytes <= group.share.limit_bytes => {
                    let after = GroupAccount { used_bytes, ..group };
                    idle_bytes -= group.idle_bytes() - after.idle_bytes();
                }
                _ => return false,
            }
        }
        let sum = account.used_bytes.checked_add(asked.total_bytes());
        let claimed = sum.and_then(|sum| sum.checked_add(idle_bytes));
        if claimed.is_none_or(|claimed| claimed > account.limit_bytes) {
            return false;
        }
        account.used_bytes = sum.unwrap_or(account.used_bytes);
        asked.iter().for_each(|(id, bytes)| account.use_in_group(id, |used| used + bytes));
        true
    }

    pub(crate) fn give(&self, group: GroupId, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let mut account = self.account.lock();
        debug_assert!(account.used_bytes >= bytes, "more device memory given back than taken");
        account.used_bytes = account.used_bytes.saturating_sub(bytes);
        account.use_in_group(group, |used| {
            debug_assert!(used >= bytes, "more of a group's memory given back than taken");
            used.saturating_sub(bytes)
        });
        account.gifts += 1;
    }

    /// What has to leave before this can be taken, and of whom it may.
    pub(super) fn lack(&self, asked: &ByGroup) -> Lack {
        let account = self.account.lock();
        let mut claimed_bytes = 0_u64;
        let part = |share: Share, used_bytes: u64, asked_bytes: u64, is_own| {
            let wanted_bytes = used_bytes.saturating_add(asked_bytes);
            let part = Part {
                lack_bytes: wanted_bytes.saturating_sub(share.limit_bytes),
                spare_bytes: wanted_bytes.saturating_sub(share.reserve_bytes),
                is_own,
            };
            (wanted_bytes.max(share.reserve_bytes), part)
        };
        let mut parts = BTreeMap::new();
        let in_groups: u64 = account.groups.values().map(|group| group.used_bytes).sum();
        let mut ids: SmallVec<[GroupId; 4]> = account.groups.keys().copied().collect();
        ids.extend(asked.iter().map(|(id, _)| id).filter(|id| !account.groups.contains_key(id)));
        if !ids.contains(&GroupId::DEFAULT) {
            ids.push(GroupId::DEFAULT);
        }
        for id in ids {
            let GroupAccount { share, used_bytes } = if id.is_default() {
                GroupAccount { used_bytes: account.used_bytes - in_groups, ..Default::default() }
            } else {
                account.group(id)
            };
            let asked_bytes = asked.of(id);
            let (claimed, part) = part(share, used_bytes, asked_bytes, asked_bytes > 0);
            claimed_bytes = claimed_bytes.saturating_add(claimed);
            parts.insert(id, part);
        }
        Lack::new(claimed_bytes.saturating_sub(account.limit_bytes), parts)
    }

    /// Whether so much would have room if all that may leave had left.
    pub(super) fn is_too_small_for(&self, asked: &ByGroup) -> Option<TooSmall> {
        let account = self.account.lock();
        let too_large =
            |(id, bytes): &(GroupId, u64)| *bytes > account.group(*id).share.limit_bytes;
        if let Some((id, _)) = asked.iter().find(too_large) {
            return Some(TooSmall::Group(id));
        }
        let others = account
            .groups
            .iter()
            .map(|(id, group)| group.share.reserve_bytes.saturating_sub(asked.of(*id)));
        let claimed_bytes = others.fold(asked.total_bytes(), u64::saturating_add);
        (claimed_bytes > account.limit_bytes).then_some(TooSmall::Device)
    }

    /// The most that could be had beside `asked`, were all else to leave that may, shared in whatever way by these groups.
    pub(super) fn room_beside(
        &self,
        asked: &ByGroup,
        groups: impl Iterator<Item = GroupId> + Clone,
    ) -> Option<u64> {
        let account = self.account.lock();
        let reserves = account.groups.iter().map(|(id, group)| {
            let reserve_bytes = group.share.reserve_bytes.saturating_sub(asked.of(*id));
            if groups.clone().any(|one| one == *id) { 0 } else { reserve_bytes }
        });
        let claimed_bytes = reserves.fold(asked.total_bytes(), u64::saturating_add);
        let on_device = account.limit_bytes.checked_sub(claimed_bytes)?;
        let mut most_bytes = on_device;
        for id in groups {
            let limit_bytes = account.group(id).share.limit_bytes;
            most_bytes = most_bytes.min(limit_bytes.checked_sub(asked.of(id))?);
        }
        Some(most_bytes)
    }
}

#[cfg(test)]
mod tests;
