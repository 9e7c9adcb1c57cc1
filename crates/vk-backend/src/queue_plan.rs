//! Which queue families to use. Pure.

use crate::uses::Uses;

/// A queue family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Family {
    /// The driver's number.
    pub(crate) index: u32,
    /// What its commands can do.
    pub(crate) can: Uses,
    /// True when it draws, too: the display may share it.
    pub(crate) draws: bool,
    /// True when it can bind sparse memory.
    pub(crate) binds: bool,
}

/// The families to take a queue from, by the driver's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct QueuePlan {
    /// Runs kernels.
    pub(crate) compute: u32,
    /// Copies beside the kernels, where a family does nothing else.
    pub(crate) transfer: Option<u32>,
    /// Binds sparse memory, where any does.
    pub(crate) bind: Option<u32>,
}

impl QueuePlan {
    /// Chooses; `None` when no family runs kernels.
    pub(crate) fn choose(families: &[Family]) -> Option<Self> {
        let computes = |family: &&Family| family.can.contains(Uses::SHADER);
        let quiet = families.iter().filter(computes).find(|family| !family.draws);
        let compute = quiet.or_else(|| families.iter().find(computes))?;
        let copies_only = |family: &&Family| family.can == Uses::TRANSFER && !family.draws;
        let transfer = families.iter().find(copies_only);
        let candidates = transfer.into_iter().chain([compute]).chain(families);
        let bind = candidates.into_iter().find(|family| family.binds);
        Some(Self {
            compute: compute.index,
            transfer: transfer.map(|family| family.index),
            bind: bind.map(|family| family.index),
        })
    }

    /// The distinct families, in ascending order.
    pub(crate) fn families(&self) -> Vec<u32> {
        let mut all: Vec<u32> =
            [Some(self.compute), self.transfer, self.bind].into_iter().flatten().collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Uses = Uses::SHADER.or(Uses::TRANSFER);

    fn family(index: u32, can: Uses, draws: bool, binds: bool) -> Family {
        Family { index, can, draws, binds }
    }

    #[test]
    fn one_family_does_everything() {
        let plan = QueuePlan::choose(&[family(0, ALL, true, true)]);
        assert_eq!(plan, Some(QueuePlan { compute: 0, transfer: None, bind: Some(0) }));
        assert_eq!(plan.map(|plan| plan.families()), Some(vec![0]));
    }

    #[test]
    fn a_family_that_only_copies_copies_and_binds() {
        let families = [
            family(0, ALL, true, true),
            family(1, Uses::TRANSFER, false, true),
            family(2, ALL, false, false),
        ];
        let plan = QueuePlan::choose(&families).unwrap();
        assert_eq!(plan, QueuePlan { compute: 2, transfer: Some(1), bind: Some(1) });
        assert_eq!(plan.families(), [1, 2]);
    }

    #[test]
    fn without_compute_there_is_no_plan() {
        assert_eq!(QueuePlan::choose(&[family(0, Uses::TRANSFER, false, true)]), None);
    }
}
