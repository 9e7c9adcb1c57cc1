//! Pages that go from one device's memory to another's in one copy.
//!
//! The device that needs them takes the other's memory in, once for each vector, and copies out of it on its own queue. To the directory that is
//! a copy like any other, `Copy {from, to}`, whose fence is the copying device's: who writes or frees the copy that it reads waits for that fence, on the
//! host, as for any work of another device.
//!
//! **Why no revocation.** The import is an address of the other's memory in our own hands, used by copies alone that the directory knows of. Nothing
//! outside of it reaches the memory through the import, so what a peer has to be asked, the directory knows: the five verbs are there, with
//! nobody to tell. Mark and finish are the buffer's lock; the fences are the log's; the unmap is the release of the import, after the last fence of either. It comes before
//! the release of the reservation that it shows ([`Inner::let_go_of_imports`]), and before memory is taken from under it
//! ([`Inner::let_go_of_imports_from`]): what is put there next may be other memory, which the import would not show.

use smallvec::SmallVec;

use super::plan::Step;
use crate::{
    backend::{Imported, MemoryId},
    node::DeviceId,
    p2p::HandleKinds,
    peer::given_out_as,
    runtime::{Inner, OpenDevice},
    vec::BufferState,
};

/// What one device has taken in of a vector's memory on another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TakenIn {
    from: DeviceId,
    by: DeviceId,
    /// Nothing: it was tried, and the drivers said no.
    imported: Option<Imported>,
}

impl Inner {
    /// Makes the memory that a step reads known to the device that needs the pages. `None` where they have to go through the host.
    pub(super) fn take_in(
        &self,
        to: &OpenDevice,
        state: &mut BufferState,
        step: Step,
    ) -> Option<MemoryId> {
        let from = self.opened(step.from.device()?)?;
        if !self.route(from, to).is_direct() {
            return None;
        }
        self.import(from, to, state).map(|imported| imported.memory)
    }

    /// Makes a vector's memory on a neighbour known to a device. False where that cannot be had.
    pub(super) fn reach_neighbour(
        &self,
        from: &OpenDevice,
        to: &OpenDevice,
        state: &mut BufferState,
    ) -> bool {
        self.import(from, to, state).is_some()
    }

    /// A vector's memory on one device as another knows it; taken in the first time.
    fn import(
        &self,
        from: &OpenDevice,
        to: &OpenDevice,
        state: &mut BufferState,
    ) -> Option<Imported> {
        if let Some(known) = state.taken_in(from.id, to.id) {
            return known.imported;
        }
        let reservation = state.memory(from.id)?;
        let kinds = given_out_as(from.device.facts(), Some(&reservation));
        if kinds == HandleKinds::NONE {
            return None;
        }
        let exported = from.device.export(reservation.memory, kinds);
        let imported = exported.and_then(|exported| to.device.import(&exported)).ok();
        state.taken_in.push(TakenIn { from: from.id, by: to.id, imported });
        imported
    }

    /// Releases what devices have taken in of a vector's memory. All work on it has ended.
    pub(super) fn let_go_of_imports(&self, state: &mut BufferState) {
        for TakenIn { by, imported, .. } in std::mem::take(&mut state.taken_in) {
            if let (Some(open), Some(imported)) = (self.opened(by), imported) {
                open.device.release(imported.memory);
            }
        }
    }

    /// Releases what other devices have taken in of a vector's memory on one, which is about to lose it. All work on it has ended.
    pub(super) fn let_go_of_imports_from(&self, device: DeviceId, state: &mut BufferState) {
        state.taken_in.retain(|taken| {
            let stays = taken.from != device || taken.imported.is_none();
            if !stays && let (Some(open), Some(imported)) = (self.opened(taken.by), taken.imported)
            {
                open.device.release(imported.memory);
            }
            stays
        });
    }
}

impl BufferState {
    /// The address of the vector's first byte in a neighbour's memory, as a device reaches it.
    pub(crate) fn address_abroad(&self, from: DeviceId, by: DeviceId) -> Option<u64> {
        self.taken_in(from, by)?.imported.map(|imported| imported.address)
    }

    fn taken_in(&self, from: DeviceId, by: DeviceId) -> Option<TakenIn> {
        self.taken_in.iter().find(|taken| taken.from == from && taken.by == by).copied()
    }
}

/// Imports of one vector; most have none.
pub(crate) type TakenInList = SmallVec<[TakenIn; 0]>;
