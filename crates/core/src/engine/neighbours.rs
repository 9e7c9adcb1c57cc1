//! Two drivers of one card: pages that one has put into the card's memory are used there by the other, and nothing moves.
//!
//! **Problem.** Vulkan and CUDA are two devices here, with a node each, and one memory in the hardware. What a kernel of one has written, a kernel of the other
//! is to read where it is.
//!
//! **Neighbours** are devices whose drivers name the same physical device by its identifier and are of different programming interfaces. (One driver's device that
//! is opened twice is two devices on purpose: the program asked for two memories.) When both are open, memory is given out and taken in both ways once, with known
//! bytes ([`Inner::meet_neighbours`]); what that came to is the pair's [`Route`], and without a direct one they are two devices like any others.
//!
//! **Where work runs.** A launch uses a vector in the neighbour's memory if all the pages that it uses are there, they are not all in its own memory as well, and
//! nobody has said that it prefers its own. The request then names the neighbour's node, and everything else follows from that: nothing is missing there, so nothing
//! is copied; what the work promises, it promises of that node; and the fences of two devices exclude each other as ever, on the host, since the drivers share
//! no semaphore. What is not there comes into the device's own memory, as always.
//!
//! The address is that of an import, kept and let go of as those of [`super::across`] are. It needs memory that is backed whole: vectors below a block, and shareable
//! ones, which get such memory where a device has neighbours.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;

use super::{
    locked::Locked,
    route::{Detour, DeviceCopies, Route},
    working_set::WorkingSet,
};
use crate::{
    access::Access,
    backend::{
        Across, AcrossWork, Copy, Device, DeviceError, DeviceSummary, Direction, Exported,
        MemoryId, TransferWork,
    },
    directory::PageSpan,
    fence::{FencePoint, FenceState},
    host::HostSpan,
    node::NodeId,
    p2p::{HandleKinds, P2p},
    runtime::{Inner, OpenDevice},
    units::{BLOCK_BYTES, PAGE_BYTES},
    vec::BufferState,
};

/// How long a driver has for the few pages of a trial.
const PATIENCE: Duration = Duration::from_secs(10);

/// True for two drivers of one card.
pub(crate) fn are_neighbours(one: &DeviceSummary, other: &DeviceSummary) -> bool {
    one.uuid.is_some() && one.uuid == other.uuid && one.api != other.api
}

impl Inner {
    /// Tries the ways between a device that was just opened and those of its neighbours that are open. No lock is held.
    pub(crate) fn meet_neighbours(&self, open: &OpenDevice) {
        if self.options.device_copies == DeviceCopies::ThroughHost {
            return;
        }
        for other in self.neighbours_of(open) {
            for (from, to) in [(open, other), (other, open)] {
                let mut route = Route::choose(from.device.facts(), to.device.facts(), P2p::live);
                if route.is_direct()
                    && let Err(because) = self.try_between(from, to)
                {
                    route = Route::ThroughHost { because };
                }
                tracing::info!(from = %from.id, to = %to.id, %route, "two drivers of one card");
                self.routes.write().insert((from.id, to.id), route);
            }
        }
    }

    /// Open neighbours with memory of their own.
    fn neighbours_of(&self, open: &OpenDevice) -> impl Iterator<Item = &OpenDevice> {
        let slot = self.slots.get(open.id.index());
        let known = slot.map_or(&[][..], |slot| &slot.neighbours);
        let opened = known.iter().filter_map(|id| self.opened(*id));
        let has_own = !open.node.is_host();
        opened.filter(move |other| has_own && !other.node.is_host())
    }

    /// Whether the device has any, open or not.
    pub(super) fn has_neighbours(&self, open: &OpenDevice) -> bool {
        self.slots.get(open.id.index()).is_some_and(|slot| !slot.neighbours.is_empty())
    }

    fn try_between(&self, from: &OpenDevice, to: &OpenDevice) -> Result<(), Detour> {
        let said = |error: crate::host::HostError| Detour::Trial(error.to_string());
        let pages = self.arena.allocate(2 * PAGE_BYTES).map_err(said)?;
        let trial = Trial { inner: self, from, to, pages };
        let tried = trial.run().map_err(|error| Detour::Trial(error.to_string()));
        from.device.host_released(pages);
        to.device.host_released(pages);
        self.arena.free(pages, Some(pages));
        match tried {
            Ok(true) => Ok(()),
            Ok(false) => Err(Detour::OtherBytes),
            Err(detour) => Err(detour),
        }
    }
}

/// Bytes go from the host into the memory of one, out of it by the other, and back the other way.
struct Trial<'t> {
    inner: &'t Inner,
    from: &'t OpenDevice,
    to: &'t OpenDevice,
    pages: HostSpan,
}

/// Memory of a device, given back when dropped.
struct Scratch<'t> {
    device: &'t Arc<dyn Device>,
    memory: MemoryId,
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.device.release(self.memory);
    }
}

impl Trial<'_> {
    fn run(&self) -> Result<bool, DeviceError> {
        let (from, to) = (&self.from.device, &self.to.device);
        let theirs = from.reserve_whole(BLOCK_BYTES)?;
        let theirs = Scratch { device: from, memory: theirs.memory };
        from.back(theirs.memory, &[std::ops::Range { start: 0, end: BLOCK_BYTES }])?;
        let own = to.reserve(PAGE_BYTES)?;
        let own = Scratch { device: to, memory: own.memory };
        to.back(own.memory, &[std::ops::Range { start: 0, end: PAGE_BYTES }])?;
        let exported: Exported = from.export(theirs.memory, HandleKinds::OPAQUE_FD)?;
        // Dropped before what it shows.
        let seen = Scratch { device: to, memory: to.import(&exported)?.memory };
        let (at, len_bytes) = (BLOCK_BYTES - PAGE_BYTES, PAGE_BYTES);
        let (up, down) = (Direction::HostToDevice, Direction::DeviceToHost);

        self.fill(3);
        self.copy(from, up, 0, theirs.memory, at)?;
        let read =
            Across { from: seen.memory, from_bytes: at, to: own.memory, to_bytes: 0, len_bytes };
        self.across(read)?;
        self.copy(to, down, 1, own.memory, 0)?;
        if !self.holds(3) {
            return Ok(false);
        }
        self.fill(5);
        self.copy(to, up, 0, own.memory, 0)?;
        let written = Across {
            from: own.memory,
            from_bytes: 0,
            to: seen.memory,
            to_bytes: PAGE_BYTES,
            len_bytes,
        };
        self.across(written)?;
        self.copy(from, down, 1, theirs.memory, PAGE_BYTES)?;
        Ok(self.holds(5))
    }

    fn copy(
        &self,
        device: &Arc<dyn Device>,
        direction: Direction,
        page: u64,
        memory: MemoryId,
        offset_bytes: u64,
    ) -> Result<(), DeviceError> {
        let host = self.pages.part(page * PAGE_BYTES, PAGE_BYTES);
        let copies = &[Copy { direction, host, memory, offset_bytes }];
        ended(device, device.submit_transfer(&TransferWork { waits: &[], copies, zeros: &[] })?)
    }

    fn across(&self, copy: Across) -> Result<(), DeviceError> {
        let device = &self.to.device;
        ended(device, device.submit_between(&AcrossWork { waits: &[], copies: &[copy] })?)
    }

    /// The first page holds bytes by this number, and the second none of them.
    fn fill(&self, seed: u8) {
        let view = self.inner.arena.view();
        view.copy_in(self.pages.part(0, PAGE_BYTES), &pattern(seed));
        view.copy_in(self.pages.part(PAGE_BYTES, PAGE_BYTES), &pattern(!seed));
    }

    /// Whether the second page holds them.
    fn holds(&self, seed: u8) -> bool {
        let mut found = vec![0; PAGE_BYTES as usize];
        self.inner.arena.view().copy_out(self.pages.part(PAGE_BYTES, PAGE_BYTES), &mut found);
        found == pattern(seed)
    }
}

fn ended(device: &Arc<dyn Device>, point: FencePoint) -> Result<(), DeviceError> {
    match device.wait(point, PATIENCE) {
        FenceState::Ok => Ok(()),
        FenceState::Lost => Err(DeviceError::Lost),
        _ => Err(DeviceError::Unsupported { what: "copies of a few pages within ten seconds" }),
    }
}

fn pattern(seed: u8) -> Vec<u8> {
    (0..PAGE_BYTES).map(|at| (at % 251) as u8 ^ (at >> 8) as u8 ^ seed).collect()
}

impl WorkingSet<'_, '_> {
    /// The neighbour's node in whose memory the device uses a vector, if there is one. The vector's memory there is known to the device then.
    pub(super) fn node_of_neighbour(
        &self,
        locked: &mut Locked<'_>,
        number: usize,
    ) -> Option<NodeId> {
        let (inner, open) = (self.inner, self.open);
        let buffer = locked.buffers[number];
        let arrays = self.arrays.iter().filter(|array| !array.bytes.is_empty());
        let arrays = arrays.filter(|array| Arc::ptr_eq(array.buffer, buffer));
        let parts: SmallVec<[(PageSpan, Access); 6]> =
            arrays.map(|array| (PageSpan::touching(&array.bytes), array.access)).collect();
        let state = &mut locked.states[number];
        if state.grants.is_some() || prefers(state, open.node, &parts) {
            return None;
        }
        let is_own = all_on(state, open.node, &parts);
        let found = inner.neighbours_of(open).find(|other| {
            !is_own && all_on(state, other.node, &parts) && inner.route(other, open).is_direct()
        })?;
        inner.reach_neighbour(found, open, state).then_some(found.node)
    }
}

/// Whether all that is used is current on a node.
fn all_on(state: &BufferState, node: NodeId, parts: &[(PageSpan, Access)]) -> bool {
    let mut all = true;
    for (span, _) in parts {
        state.directory.look(*span, |_, mask, run| {
            all &= run.log.promised().valid_on(node).and(mask) == mask;
        });
    }
    all
}

/// Whether somebody has said of some of it that it belongs on this node.
fn prefers(state: &BufferState, node: NodeId, parts: &[(PageSpan, Access)]) -> bool {
    let said = |span| state.hints.runs(span).any(|(_, hints)| hints.preferred == Some(node));
    !state.hints.is_empty() && parts.iter().any(|(span, _)| said(*span))
}
