//! What must stand between two submissions: a pure function of what they wait for and what they touch.
//!
//! The engine declares, per submission, the fences it waits for; and it relies on all work that the host has seen end, for which it names no fence
//! any more. From both come
//!
//! - one **semaphore wait** per other timeline: the signal made everything before it available, and the wait makes it visible to
//!   everything after it, on this submission and all later ones of the queue;
//! - one **acquire** barrier for what comes before on the submission's own timeline: queues begin work in order but finish it in any, and a
//!   barrier's first scope holds everything submitted to the queue before;
//! - one **release** barrier to the CPU when the submission wrote memory that the CPU reads: a fence alone orders, but does not
//!   make device writes available to the host.
//!
//! For work that has ended there is nothing to wait for, but its writes are visible to nobody until something says so. [`Visible`] remembers
//! per queue what was made visible already, so that each ended piece of work costs one wait or one barrier and not one per later submission.
//!
//! Within a submission nothing conflicts: copies and fills of a batch do not overlap, and a launch is one command. `check` proves on
//! recorded streams that every conflicting pair which is ordered, directly or through others, is a dependency.

use hmmap_core::fence::FencePoint;
use smallvec::SmallVec;

use crate::{stream::Barrier, uses::Uses};

/// A timeline's number and a value on it.
pub type Point = (u8, u64);

/// A queue as dependencies see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueShape {
    /// The number of the timeline that its submissions signal.
    pub timeline: u8,
    /// What commands on it can do.
    pub can: Uses,
}

impl QueueShape {
    /// A queue that runs kernels and copies.
    pub const fn compute(timeline: u8) -> Self {
        Self { timeline, can: Uses::SHADER.or(Uses::TRANSFER) }
    }

    /// A queue that copies.
    pub const fn transfer(timeline: u8) -> Self {
        Self { timeline, can: Uses::TRANSFER }
    }
}

/// What a submission comes after.
#[derive(Clone, Copy, Debug)]
pub struct After<'a> {
    /// The queue it goes to.
    pub queue: QueueShape,
    /// The value that it will signal.
    pub value: u64,
    /// The fences that the engine names.
    pub waits: &'a [FencePoint],
    /// Per timeline, the highest value that the host has seen end.
    pub ended: &'a [Point],
}

/// What was made visible on a queue by the submissions before.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Visible {
    /// Of the queue's own timeline: to kernels, to copies.
    own: [u64; 2],
    others: SmallVec<[Point; 4]>,
}

impl Visible {
    fn of_own(&self, uses: Uses) -> u64 {
        let classes = [Uses::SHADER, Uses::TRANSFER].into_iter().zip(self.own);
        let touched = classes.filter(|(class, _)| !class.and(uses).is_empty());
        touched.map(|(_, value)| value).min().unwrap_or(u64::MAX)
    }

    fn of_other(&self, timeline: u8) -> u64 {
        let known = self.others.iter().find(|(known, _)| *known == timeline);
        known.map_or(0, |(_, value)| *value)
    }

    /// Takes in what a submission made visible.
    fn note(&mut self, value: u64, acquire: &Acquire) {
        if let Some(barrier) = acquire.barrier {
            for (class, known) in [Uses::SHADER, Uses::TRANSFER].into_iter().zip(&mut self.own) {
                if barrier.to.contains(class) {
                    *known = value - 1;
                }
            }
        }
        for (timeline, value) in &acquire.semaphores {
            match self.others.iter_mut().find(|(known, _)| known == timeline) {
                Some((_, known)) => *known = (*known).max(*value),
                None => self.others.push((*timeline, *value)),
            }
        }
    }
}

/// What must stand before a submission.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Acquire {
    /// Timelines of other queues, each with the highest value waited for.
    pub semaphores: SmallVec<[Point; 4]>,
    /// After the queue's own earlier work.
    pub barrier: Option<Barrier>,
}

/// What a submission that does `uses` needs before it, given what is visible already; `visible` takes in what it makes visible.
pub fn acquire(after: &After<'_>, visible: &mut Visible, uses: Uses) -> Acquire {
    let own = after.queue.timeline;
    let mut acquire = Acquire::default();
    let mut behind_own = false;
    let waits = after.waits.iter().map(|wait| (wait.timeline.queue(), wait.value));
    for (timeline, value) in waits {
        if timeline == own {
            behind_own = true;
        } else {
            add(&mut acquire.semaphores, timeline, value);
        }
    }
    for (timeline, value) in after.ended.iter().copied() {
        if timeline == own {
            behind_own |= value > visible.of_own(uses);
        } else if value > visible.of_other(timeline) {
            add(&mut acquire.semaphores, timeline, value);
        }
    }
    if behind_own {
        acquire.barrier = Some(Barrier { from: after.queue.can, to: uses.stages() });
    }
    visible.note(after.value, &acquire);
    acquire
}

fn add(semaphores: &mut SmallVec<[Point; 4]>, timeline: u8, value: u64) {
    match semaphores.iter_mut().find(|(known, _)| *known == timeline) {
        Some((_, known)) => *known = value.max(*known),
        None => semaphores.push((timeline, value)),
    }
}

/// Whether the CPU can see what a submission writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostSees {
    /// It writes memory that the CPU reads.
    Yes,
    /// It writes device memory only.
    No,
}

/// What a submission that does `uses` needs after it, so that the CPU sees its writes once the fence has ended.
pub fn release(uses: Uses, host: HostSees) -> Option<Barrier> {
    let writes = uses.writes();
    let needed = host == HostSees::Yes && !writes.is_empty();
    needed.then_some(Barrier { from: writes, to: Uses::HOST_READ })
}

#[cfg(test)]
mod tests {
    use hmmap_core::{fence::TimelineId, node::DeviceId};

    use super::*;

    fn point(queue: u8, value: u64) -> FencePoint {
        FencePoint { timeline: TimelineId::new(DeviceId::new(0).unwrap(), queue), value }
    }

    const COMPUTE: QueueShape = QueueShape::compute(0);

    fn after<'a>(value: u64, waits: &'a [FencePoint], ended: &'a [Point]) -> After<'a> {
        After { queue: COMPUTE, value, waits, ended }
    }

    #[test]
    fn waits_on_other_timelines_become_one_semaphore_wait_each() {
        let waits = [point(1, 5), point(2, 1), point(1, 9), point(1, 7)];
        let acquire = acquire(&after(1, &waits, &[]), &mut Visible::default(), Uses::SHADER);
        assert_eq!(acquire.semaphores.as_slice(), [(1, 9), (2, 1)]);
        assert_eq!(acquire.barrier, None);
    }

    #[test]
    fn a_wait_on_the_own_timeline_becomes_a_barrier_over_all_earlier_work() {
        let mut visible = Visible::default();
        let uses = Uses::TRANSFER_WRITE;
        let acquire = acquire(&after(4, &[point(0, 3)], &[]), &mut visible, uses);
        let from = Uses::SHADER.or(Uses::TRANSFER);
        assert_eq!(acquire.barrier, Some(Barrier { from, to: Uses::TRANSFER }));
        assert!(acquire.semaphores.is_empty());
    }

    #[test]
    fn work_that_has_ended_is_made_visible_once() {
        let mut visible = Visible::default();
        let ended = [(0, 2), (1, 7)];
        let first = acquire(&after(4, &[], &ended), &mut visible, Uses::SHADER_READ);
        assert_eq!(first.semaphores.as_slice(), [(1, 7)]);
        assert!(first.barrier.is_some());
        let again = acquire(&after(5, &[], &ended), &mut visible, Uses::SHADER);
        assert_eq!(again, Acquire::default());
        // The barrier covered everything before value 4, but for kernels alone.
        let three = acquire(&after(6, &[], &[(0, 3)]), &mut visible, Uses::SHADER);
        assert_eq!(three, Acquire::default());
        let copies = acquire(&after(7, &[], &[(0, 3), (1, 8)]), &mut visible, Uses::TRANSFER);
        assert!(copies.barrier.is_some());
        assert_eq!(copies.semaphores.as_slice(), [(1, 8)]);
    }

    #[test]
    fn the_host_gets_a_barrier_only_for_writes_that_it_can_see() {
        let expected = Barrier { from: Uses::SHADER_WRITE, to: Uses::HOST_READ };
        assert_eq!(release(Uses::SHADER, HostSees::Yes), Some(expected));
        assert_eq!(release(Uses::SHADER, HostSees::No), None);
        assert_eq!(release(Uses::SHADER_READ, HostSees::Yes), None);
    }
}
