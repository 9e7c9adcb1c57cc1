//! The test's hand on a simulated device.

use std::sync::Arc;

use super::{
    device::Shared,
    link::LinkCounters,
    record::{Violation, WorkRecord},
};
use crate::{backend::faulty::CallFaults, fence::FencePoint};

/// When works are executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Progress {
    /// A poll executes one work or none, as the seed decides; a wait executes works until its fence has ended.
    #[default]
    WhenAsked,
    /// Only [`SimulatedControl::step`] and its like execute works. A wait waits for another thread to do so.
    ByStep,
}

/// What a test sees of a simulated device, and does to it. Clones are handles to the same device.
#[derive(Clone, Debug)]
pub struct SimulatedControl {
    pub(super) shared: Arc<Shared>,
}

impl SimulatedControl {
    /// Which calls fail. A call that fails with [`crate::backend::DeviceError::Lost`] loses the device.
    pub fn faults(&self) -> &CallFaults {
        &self.shared.faults
    }

    /// Makes the `n`-th work from now on fail; 1 is the next, 0 takes it back. The work leaves its
    /// memory alone, or garbage in what it was to write, as the seed decides.
    pub fn fail_nth_work(&self, n: u64) {
        self.shared.with_schedule((), |schedule, _, _| schedule.fail_nth_work(n));
    }

    /// Loses the device: what has not ended ends lost, calls fail from now on.
    pub fn lose(&self) {
        self.shared.lose();
    }

    /// Says when works are executed, from now on.
    pub fn set_progress(&self, progress: Progress) {
        self.shared.set_progress(progress);
    }

    /// Executes one work whose waits have ended, as the seed chooses. `None` when there is none.
    pub fn step(&self) -> Option<FencePoint> {
        self.shared
            .with_schedule(None, |schedule, memory, violations| schedule.step(memory, violations))
    }

    /// Executes this work next. False, and nothing happens, when its waits have not ended or it was executed.
    pub fn step_to(&self, point: FencePoint) -> bool {
        self.shared.with_schedule(false, |schedule, memory, violations| {
            let ready = schedule.ready().contains(&point);
            if ready {
                schedule.execute(point, memory, violations);
            }
            ready
        })
    }

    /// Executes works until there is none left, and says how many it were.
    pub fn run_all(&self) -> usize {
        std::iter::from_fn(|| self.step()).count()
    }

    /// The works that have not ended.
    pub fn pending(&self) -> Vec<FencePoint> {
        self.shared.with_schedule(Vec::new(), |schedule, _, _| schedule.pending())
    }

    /// Every work since the device was opened, in order of queue and value.
    pub fn records(&self) -> Vec<WorkRecord> {
        self.shared.records()
    }

    /// Every breach of the device contract so far. A test ends with a look at it.
    pub fn violations(&self) -> Vec<Violation> {
        self.shared.violations()
    }

    /// What went over the link since the device was opened.
    pub fn counters(&self) -> LinkCounters {
        self.shared.counters()
    }

    /// The host's time on the virtual clock, in nanoseconds since the device was opened.
    pub fn clock_ns(&self) -> u64 {
        self.shared.clock_ns()
    }

    /// How much device memory is backed, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.shared.with_schedule(0, |_, memory, _| memory.used_bytes())
    }
}
