//! Vectors that go back and forth between the host and a device are kept on the host for a while, where the device reaches them too.
//!
//! ```text
//! the host takes most of it, a launch takes it back, the host ... within 500 us each ---> 150 ms: launches work on it in place, nothing is copied
//! ```
//!
//! When it is so, and for how long, is decided by [`hmmap_eviction::thrash`]. Two things are different here from the driver whose numbers those are.
//! Nobody is made to wait: a touch waits for the kernel that is running, and a launch for the host's borrow, so each turn has done its work by the time it ends
//! (docs/decisions/0020-no-turn-is-drawn-out.md). And it is done with vectors of which a launch would have to copy at least half of what it uses: the rest
//! of a large one would pay for one page. What the caller has said about a vector goes before it, a prefetch begins anew, and
//! a device without a window to host memory goes on as ever.

use std::sync::atomic::Ordering::Relaxed;

use smallvec::SmallVec;

use super::{
    locked::Locked,
    plan::Plan,
    working_set::{Use, WorkingSet},
};
use crate::{events::What, runtime::Inner, stats::Cause, vec::BufferState};

/// The host, as [`hmmap_eviction::thrash`] numbers nodes; devices follow.
const HOST: u32 = 0;

impl Inner {
    fn now_us(&self) -> u64 {
        self.recorder.now_ns() / 1000
    }

    /// Some of a vector is copied home because the host asked for it.
    pub(super) fn comes_home(&self, state: &mut BufferState, cause: Cause) {
        if matches!(cause, Cause::Fault | Cause::Guard) {
            let _ = state.thrash.asked(self.now_us(), HOST);
        }
    }
}

impl WorkingSet<'_, '_> {
    /// What is copied from the host for this.
    pub(super) fn goes_there(&self, locked: &mut Locked<'_>, plans: &[(Use, Plan)]) {
        if self.open.node.is_host() {
            return;
        }
        for (one, plan) in plans {
            let state = &mut locked.states[one.number];
            if self.names_its_node() {
                state.thrash.moved_on_request();
                continue;
            }
            let from_home = plan.steps.iter().filter(|step| step.from.is_host());
            let pages: u64 = from_home.map(|step| step.pages.count()).sum();
            if pages > 0 && pages * 2 >= one.request.span.count() {
                let node = self.open.id.index() as u32 + 1;
                let _ = state.thrash.asked(self.inner.now_us(), node);
            }
        }
    }

    /// The vectors that stay on the host, by their places.
    pub(super) fn kept_home(&self, locked: &Locked<'_>) -> SmallVec<[usize; 6]> {
        if self.open.node.is_host() || self.names_its_node() {
            return SmallVec::new();
        }
        let states = locked.states.iter().enumerate();
        let unsaid = states.filter(|(_, state)| state.hints.is_empty());
        let stay = unsaid.filter(|(_, state)| state.thrash.is_pinned(|| self.inner.now_us()));
        stay.map(|(number, _)| number).collect()
    }

    pub(super) fn tell_kept_home(&self, state: &BufferState) {
        self.inner.counters.kept_home.fetch_add(1, Relaxed);
        let (vector, device) = (state.number, self.open.id);
        self.inner.recorder.note(|| What::KeptHome { vector, device });
    }
}
