//! Work that the host has seen end: nobody waits for it any more, and its writes still have to be visible to what comes.
//!
//! The engine forgets a fence once a poll or a wait has shown it Ok, so the next submission does not name it. On the driver's side
//! the end of work makes its writes available, and only a wait or a barrier makes them visible. So each submission also waits for
//! the highest value that is known to have ended on each timeline, unless an earlier submission of the same queue did: on the own
//! timeline that is one barrier after each look of the host, on others a semaphore that is signalled already.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::worker::Waits;
use hmmap_core::{
    fence::{FencePoint, TimelineId},
    node::DeviceId,
};

/// The library's own timelines of a device.
pub(crate) const TIMELINES: usize = 4;

/// Per submitting timeline and per ended timeline, the value up to which everything is visible to what is submitted. Under-stating it
/// costs a barrier, and it is raised only once a submission that waits has been accepted, so relaxed accesses are enough.
#[derive(Debug, Default)]
pub(crate) struct Seen([[AtomicU64; TIMELINES]; TIMELINES]);

impl Seen {
    /// `waits`, and what has `ended` (timeline, value) that submissions on `timeline` do not follow yet.
    pub(crate) fn waits(
        &self,
        device: DeviceId,
        timeline: u8,
        waits: &[FencePoint],
        ended: impl IntoIterator<Item = (u8, u64)>,
    ) -> Waits {
        let mut all = Waits::from_slice(waits);
        for (number, value) in ended {
            if value > self.covered(timeline, number).load(Relaxed) {
                all.push(FencePoint { timeline: TimelineId::new(device, number), value });
            }
        }
        all
    }

    /// Says that a submission on `timeline` that waits for these was accepted.
    pub(crate) fn accepted(&self, timeline: u8, waits: &[FencePoint]) {
        for wait in waits.iter().filter(|wait| usize::from(wait.timeline.queue()) < TIMELINES) {
            self.covered(timeline, wait.timeline.queue()).fetch_max(wait.value, Relaxed);
        }
    }

    fn covered(&self, by: u8, of: u8) -> &AtomicU64 {
        &self.0[usize::from(by) % TIMELINES][usize::from(of) % TIMELINES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_followed_once_on_each_queue() {
        let (seen, device) = (Seen::default(), DeviceId::new(0).unwrap());
        let point = |queue, value| FencePoint { timeline: TimelineId::new(device, queue), value };
        let first = seen.waits(device, 0, &[], [(0, 5), (1, 0)]);
        assert_eq!(first.as_slice(), [point(0, 5)]);
        let refused = seen.waits(device, 0, &[], [(0, 5)]);
        assert_eq!(refused.as_slice(), [point(0, 5)], "not accepted, so not covered");
        seen.accepted(0, &first);
        assert!(seen.waits(device, 0, &[], [(0, 5)]).is_empty());
        assert_eq!(seen.waits(device, 1, &[], [(0, 5)]).as_slice(), [point(0, 5)]);
        assert_eq!(seen.waits(device, 0, &[], [(0, 6)]).as_slice(), [point(0, 6)]);
    }
}
