//! What must stand between two submissions: a pure function of what they wait for and what they touch.
//!
//! The engine declares, per submission, the fences it waits for. From that come
//!
//! - one **semaphore wait** per other timeline: the signal made everything before it available, and the wait makes it visible to
//!   everything after it;
//! - one **acquire** barrier for the waits on the submission's own timeline: queues begin work in order but finish it in any, and a barrier's
//!   first scope holds everything submitted to the queue before;
//! - one **release** barrier to the CPU when the submission wrote memory that the CPU reads: a fence alone orders, but does not
//!   make device writes available to the host.
//!
//! Within a submission nothing conflicts: copies and fills of a batch do not overlap, and a launch is one command. [`crate::check`] proves on
//! recorded streams that every conflicting pair which the waits order, directly or through others, is a dependency.

use hmmap_core::fence::FencePoint;
use smallvec::SmallVec;

use crate::{stream::Barrier, uses::Uses};

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

/// What must have happened before a submission begins.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Acquire {
    /// Timelines of other queues, each with the highest value waited for.
    pub semaphores: SmallVec<[(u8, u64); 4]>,
    /// After the queue's own earlier work.
    pub barrier: Option<Barrier>,
}

/// What a submission that does `uses` on `queue` needs before it, to come after `waits`.
pub fn acquire(queue: QueueShape, waits: &[FencePoint], uses: Uses) -> Acquire {
    let mut acquire = Acquire::default();
    for wait in waits {
        let timeline = wait.timeline.queue();
        if timeline == queue.timeline {
            acquire.barrier = Some(Barrier { from: queue.can, to: uses });
            continue;
        }
        match acquire.semaphores.iter_mut().find(|(known, _)| *known == timeline) {
            Some((_, value)) => *value = wait.value.max(*value),
            None => acquire.semaphores.push((timeline, wait.value)),
        }
    }
    acquire
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

    #[test]
    fn waits_on_other_timelines_become_one_semaphore_wait_each() {
        let waits = [point(1, 5), point(2, 1), point(1, 9), point(1, 7)];
        let acquire = acquire(QueueShape::compute(0), &waits, Uses::SHADER);
        assert_eq!(acquire.semaphores.as_slice(), [(1, 9), (2, 1)]);
        assert_eq!(acquire.barrier, None);
    }

    #[test]
    fn a_wait_on_the_own_timeline_becomes_a_barrier_over_all_earlier_work() {
        let acquire = acquire(QueueShape::compute(0), &[point(0, 3)], Uses::TRANSFER_WRITE);
        let from = Uses::SHADER.or(Uses::TRANSFER);
        assert_eq!(acquire.barrier, Some(Barrier { from, to: Uses::TRANSFER_WRITE }));
        assert!(acquire.semaphores.is_empty());
    }

    #[test]
    fn the_host_gets_a_barrier_only_for_writes_that_it_can_see() {
        let expected = Barrier { from: Uses::SHADER_WRITE, to: Uses::HOST_READ };
        assert_eq!(release(Uses::SHADER, HostSees::Yes), Some(expected));
        assert_eq!(release(Uses::SHADER, HostSees::No), None);
        assert_eq!(release(Uses::SHADER_READ, HostSees::Yes), None);
    }
}
