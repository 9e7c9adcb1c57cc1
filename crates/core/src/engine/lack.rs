//! What has to leave a device before something fits, and who may be asked to. Pure.
//!
//! A group that would be beyond its own limit has to give itself. What the device lacks beyond that comes from whoever is above his reserve:
//! a group that asks may give its own down to nothing, another only what leaves it its reserve whole.

use std::collections::BTreeMap;

use crate::group::GroupId;

/// What has to leave, by group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Lack {
    /// What the device lacks.
    total_bytes: u64,
    parts: BTreeMap<GroupId, Part>,
}

/// One group's part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Part {
    /// What it would be beyond its own limit.
    pub(super) lack_bytes: u64,
    /// What it would be above its reserve: so much of what it gives helps others.
    pub(super) spare_bytes: u64,
    /// It is one of those for whom room is made.
    pub(super) is_own: bool,
}

impl Lack {
    pub(super) fn new(total_bytes: u64, parts: BTreeMap<GroupId, Part>) -> Self {
        Self { total_bytes, parts }
    }

    /// The device's driver has less than our account says: at least so much has to leave.
    pub(super) fn at_least(mut self, bytes: u64) -> Self {
        if self.total_bytes < bytes {
            self.total_bytes = bytes;
            // Whatever a group that asks gives is of use now.
            let own = self.parts.values_mut().filter(|part| part.is_own);
            own.for_each(|part| part.spare_bytes = part.spare_bytes.max(bytes));
        }
        self
    }

    pub(super) fn is_met(&self) -> bool {
        self.total_bytes == 0 && self.beyond_its_limit().is_none()
    }

    /// A group that has to give itself.
    pub(super) fn beyond_its_limit(&self) -> Option<GroupId> {
        self.parts.iter().find(|(_, part)| part.lack_bytes > 0).map(|(id, _)| *id)
    }

    /// Bytes that are still to be found, wherever.
    pub(super) fn bytes(&self) -> u64 {
        let in_groups = self.parts.values().map(|part| part.lack_bytes).sum();
        self.total_bytes.max(in_groups)
    }

    /// Whether so many bytes of a group should leave, all of them or none.
    pub(super) fn wants(&self, group: GroupId, bytes: u64) -> bool {
        let part = self.part(group);
        let least_bytes = if part.is_own { 1 } else { bytes.max(1) };
        part.lack_bytes > 0 || self.total_bytes > 0 && part.spare_bytes >= least_bytes
    }

    /// So many bytes of a group leave.
    pub(super) fn take(&mut self, group: GroupId, bytes: u64) {
        let Some(part) = self.parts.get_mut(&group) else { return };
        let useful_bytes = bytes.min(part.spare_bytes);
        part.lack_bytes = part.lack_bytes.saturating_sub(bytes);
        part.spare_bytes -= useful_bytes;
        self.total_bytes = self.total_bytes.saturating_sub(useful_bytes);
    }

    fn part(&self, group: GroupId) -> Part {
        self.parts.get(&group).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: GroupId = GroupId::of(1);
    const B: GroupId = GroupId::of(2);

    fn part(lack_bytes: u64, spare_bytes: u64, is_own: bool) -> Part {
        Part { lack_bytes, spare_bytes, is_own }
    }

    #[test]
    fn another_group_keeps_its_reserve_whole_and_ones_own_gives_what_it_has() {
        let parts = [(A, part(0, 3, true)), (B, part(0, 9, false))];
        let mut lack = Lack::new(10, parts.into());
        assert!(lack.wants(A, 4), "3 of the 4 are of use");
        assert!(lack.wants(B, 8));
        lack.take(B, 8);
        assert!(!lack.wants(B, 8), "one byte above its reserve");
        assert!(lack.wants(B, 1) && !lack.is_met());
        lack.take(A, 4);
        assert!(lack.is_met(), "{lack:?}");
    }

    #[test]
    fn a_group_at_its_limit_gives_itself_and_that_counts_for_the_device() {
        let parts = [(A, part(5, 5, true)), (B, part(0, 0, false))];
        let mut lack = Lack::new(0, parts.into());
        assert!(lack.wants(A, 4) && !lack.wants(B, 4));
        lack.take(A, 4);
        assert_eq!((lack.bytes(), lack.beyond_its_limit()), (1, Some(A)));
        let mut lack = Lack::new(3, parts.into());
        lack.take(A, 4);
        assert_eq!((lack.total_bytes, lack.bytes()), (0, 1));
        lack.take(A, 4);
        assert!(lack.is_met());
    }

    #[test]
    fn where_the_driver_has_no_more_ones_own_counts_whole() {
        let mut lack = Lack::new(0, [(A, part(0, 0, true))].into()).at_least(6);
        assert!(lack.wants(A, 4));
        lack.take(A, 4);
        assert_eq!(lack.bytes(), 2);
        lack.take(A, 4);
        assert!(lack.is_met());
    }
}
