//! Vectors of which a launch reads little, wherever it is: brought to the device, or left on the host and reached for.
//!
//! Where it is in such a vector that a launch reads, nobody can say before, so it is brought whole or not at all. How much it reads is what its kernel says
//! ([`Arguments::read_scattered`](crate::kernel::Arguments::read_scattered)), or one element for each item where the caller has called it
//! [`Hint::Random`](crate::Hint::Random). The two are weighed in time, by the device's [`Rates`]:
//!
//! ```text
//! what is missing costs no more than reading it there   -> it is brought
//! else it is read there, and pays rent: what that costs. When the rent since the last look would have paid for bringing it
//!     there is room, or what is idle makes room        -> it is brought
//!     what makes room would have to come back, which costs more than the rent -> it stays, and pays anew
//! ```
//!
//! So one that is read a few times is never brought, one that is read again and again is brought after it has cost twice what bringing costs, and on
//! a full device those that are there stay while they are used: nothing is brought to be sent away before it has paid. How long the program will go on
//! nobody knows; twice what somebody would need who knew is the least that can be promised then.
//!
//! What the caller has said of a vector's place goes before it ([`super::placement`]), and what is written is brought as ever.

use smallvec::SmallVec;

use super::{locked::Locked, working_set::WorkingSet};
use crate::{
    access::Access,
    backend::Rates,
    directory::PageSpan,
    events::What,
    hints::Order,
    node::{DeviceId, NodeId},
    runtime::{Inner, OpenDevice},
    units::{BLOCK_BYTES, PAGE_BYTES},
    vec::BufferState,
};

/// What is known of a launch that reads little of a vector.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// The most elements.
    elements: u64,
    /// Of which so many bytes are read.
    bytes: u64,
    /// What of them is not on the device.
    missing_bytes: u64,
    /// What of them is not on the host.
    away_bytes: u64,
    /// Room on the device for the taking.
    free_bytes: u64,
}

/// What it has cost to leave a vector on the host, since it was last thought over.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Rent {
    paid_ns: u64,
    /// When that began, in launches of the runtime.
    since: u64,
}

/// By device; most vectors have none.
#[derive(Debug, Default)]
pub(crate) struct Rents(SmallVec<[(DeviceId, Rent); 1]>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Device,
    Host,
}

impl Rents {
    fn of(&mut self, device: DeviceId) -> &mut Rent {
        let at = self.0.iter().position(|(known, _)| *known == device).unwrap_or_else(|| {
            self.0.push((device, Rent::default()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }
}

impl Rent {
    /// Where a launch reads a vector. `idle_bytes` says how much of the device nobody has used since some launch.
    fn decide(
        &mut self,
        rates: &Rates,
        reading: Reading,
        now: u64,
        idle_bytes: impl FnOnce(u64) -> u64,
    ) -> Place {
        let Reading { elements, bytes, missing_bytes, away_bytes, free_bytes } = reading;
        let there_ns = rates.remote.time_ns(elements, bytes) + rates.to_host_ns(away_bytes);
        let bring_ns = rates.to_device_ns(missing_bytes);
        if there_ns >= bring_ns {
            *self = Self::default();
            return Place::Device;
        }
        if self.paid_ns == 0 {
            self.since = now;
        }
        self.paid_ns = self.paid_ns.saturating_add(there_ns);
        if self.paid_ns < bring_ns {
            return Place::Host;
        }
        let Self { since, .. } = std::mem::take(self);
        let mut lack_bytes = missing_bytes.saturating_sub(free_bytes);
        if lack_bytes > 0 {
            // Whole blocks leave.
            lack_bytes = lack_bytes.next_multiple_of(BLOCK_BYTES).saturating_sub(idle_bytes(since));
        }
        // Each time that it is used, as much of others goes and comes back; a quarter more, so that small differences move nothing.
        let comes_back_ns = rates.to_device_ns(lack_bytes);
        if there_ns >= comes_back_ns + comes_back_ns / 4 { Place::Device } else { Place::Host }
    }
}

impl WorkingSet<'_, '_> {
    /// The vectors that are read on the host's pages because little of them is, by their places.
    pub(super) fn left_home(&self, locked: &mut Locked<'_>) -> SmallVec<[usize; 2]> {
        let mut left = SmallVec::new();
        let says = |number: usize| {
            let array = &self.arrays[number];
            !array.bytes.is_empty() && array.access == Access::Read
        };
        // Of most vectors nothing was said.
        let may = (0..self.arrays.len()).any(|number| {
            says(number)
                && (self.arrays[number].scattered_per_item.is_some()
                    || locked.states.iter().any(|state| !state.hints.is_empty()))
        });
        let open = self.open;
        if !may || open.node.is_host() || self.names_its_node() || !self.has_window() {
            return left;
        }
        let rates = open.device.facts().rates.unwrap_or(Rates::ASSUMED);
        let now = self.inner.now_in_launches();
        for number in 0..locked.buffers.len() {
            let Some(reading) = self.reading(locked, number) else { continue };
            let idle_bytes = |since| self.inner.idle_bytes(open, since);
            let rent = locked.states[number].rents.of(open.id);
            if rent.decide(&rates, reading, now, idle_bytes) == Place::Host {
                left.push(number);
            }
        }
        left
    }

    pub(super) fn tell_left_home(&self, state: &BufferState) {
        self.inner.counters.left_home.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (vector, device) = (state.number, self.open.id);
        self.inner.recorder.note(|| What::LeftHome { vector, device });
    }

    /// How a vector is read; `None` where it is not read alone, or not known to be read little, or something was said of its place.
    fn reading(&self, locked: &Locked<'_>, number: usize) -> Option<Reading> {
        let (buffer, state) = (locked.buffers[number], &locked.states[number]);
        let mut reading = Reading {
            elements: 0,
            bytes: 0,
            missing_bytes: 0,
            away_bytes: 0,
            free_bytes: self.open.free_bytes_for(buffer.group_id()),
        };
        for array in self.arrays.iter().filter(|array| locked.number_of(array) == Some(number)) {
            if array.bytes.is_empty() {
                continue;
            }
            let span = PageSpan::touching(&array.bytes);
            let (is_random, is_placed) = said(state, span);
            let said = if is_random { Some(array.items).filter(|items| *items > 0) } else { None };
            let elements = array.scattered().or(said);
            if array.access != Access::Read || is_placed {
                return None;
            }
            reading.elements = reading.elements.saturating_add(elements?);
            reading.bytes += array.bytes.end - array.bytes.start;
            let (missing, away) = missing_and_away(state, span, self.open.node);
            reading.missing_bytes += missing;
            reading.away_bytes += away;
        }
        Some(reading)
    }
}

/// Whether all of these pages were called random, and whether anything was said of the place of one.
fn said(state: &BufferState, span: PageSpan) -> (bool, bool) {
    let (mut is_random, mut is_placed) = (!state.hints.is_empty(), false);
    if is_random {
        for (_, hints) in state.hints.runs(span) {
            is_random &= hints.order == Order::Random;
            is_placed |= hints.preferred.is_some() || hints.read_mostly || hints.pinned;
            is_placed |= hints.accessed_by.iter().next().is_some();
        }
    }
    (is_random, is_placed)
}

/// Bytes of these pages that would have to be copied to a device, and those that would have to be copied home.
fn missing_and_away(state: &BufferState, span: PageSpan, on: NodeId) -> (u64, u64) {
    let (mut missing, mut away) = (0, 0);
    state.directory.look(span, |blocks, mask, run| {
        let promised = run.log.promised();
        let held = mask.without(promised.empty());
        let count = u64::from(blocks.end - blocks.start);
        missing += count * u64::from(held.without(promised.valid_on(on)).count());
        away += count * u64::from(held.without(promised.valid_on(NodeId::HOST)).count());
    });
    (missing.min(span.count()) * PAGE_BYTES, away.min(span.count()) * PAGE_BYTES)
}

impl Inner {
    fn now_in_launches(&self) -> u64 {
        self.counters.launches.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Memory of a device under vectors that no launch has used since this one, and that may leave. Those that are locked are in use.
    fn idle_bytes(&self, open: &OpenDevice, since: u64) -> u64 {
        let Ok(slot) = self.slot(open.id) else { return 0 };
        let residents: Vec<_> =
            slot.residents.lock().iter().filter_map(std::sync::Weak::upgrade).collect();
        let idle = residents.iter().map(|buffer| {
            let Some(state) = buffer.state.try_lock() else { return 0 };
            let is_idle = state.last_use <= since && state.held == 0;
            if is_idle && state.pinned_by_hints().next().is_none() {
                self.backed_bytes(open.node, buffer, &state)
            } else {
                0
            }
        });
        idle.sum()
    }
}

impl OpenDevice {
    /// What a group may take without anything leaving.
    fn free_bytes_for(&self, group: crate::group::GroupId) -> u64 {
        let share_bytes = self.budget.share(group).limit_bytes;
        let left_bytes = share_bytes.saturating_sub(self.budget.group_used_bytes(group));
        self.budget.free_bytes().min(left_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Of 8 MiB, with room for them. Bringing them takes 346 us, reading 64 elements there one.
    fn reading(elements: u64) -> Reading {
        let bytes = 8 * MIB;
        Reading { elements, bytes, missing_bytes: bytes, away_bytes: 0, free_bytes: bytes }
    }

    /// What becomes of so many launches on the way, nothing being idle.
    fn places(reading: Reading, launches: u64) -> Vec<Place> {
        let mut rent = Rent::default();
        let all = 0..launches;
        all.map(|now| rent.decide(&Rates::ASSUMED, reading, now, |_| 0)).collect()
    }

    #[test]
    fn what_pays_in_one_launch_is_brought_at_once_and_what_is_there_stays() {
        assert_eq!(places(reading(64 * 347), 1), [Place::Device]);
        assert_eq!(places(reading(64 * 346), 1), [Place::Host]);
        assert_eq!(places(Reading { missing_bytes: 0, ..reading(1) }, 1), [Place::Device]);
        // Each access brings 128 bytes, so all of it is 65,536 of them, however many elements are read.
        let all = Reading { missing_bytes: 64 * MIB, ..reading(u64::MAX) };
        assert_eq!(places(all, 2), [Place::Host, Place::Host]);
    }

    #[test]
    fn rent_is_paid_until_it_would_have_paid_for_bringing_it() {
        let places = places(reading(64 * 100), 4);
        assert_eq!(places, [Place::Host, Place::Host, Place::Host, Place::Device]);
    }

    #[test]
    fn what_would_have_to_go_and_come_back_is_weighed_against_the_rent() {
        // A block comes back in 95 us, and a quarter more is wanted. A byte that has no room makes one leave.
        let short = |elements, short_bytes| {
            let reading = Reading { free_bytes: 8 * MIB - short_bytes, ..reading(elements) };
            places(reading, 3)[2]
        };
        assert_eq!(short(64 * 118, 1), Place::Host);
        assert_eq!(short(64 * 119, 1), Place::Device);
        assert_eq!(short(64 * 119, 2 * MIB), Place::Device);
        assert_eq!(short(64 * 119, 2 * MIB + 1), Place::Host);
        // Having been refused, it pays anew.
        let none = Reading { free_bytes: 0, ..reading(64 * 100) };
        let mut looked = 0;
        let mut rent = Rent::default();
        for now in 0..12 {
            let count = |_| {
                looked += 1;
                0
            };
            assert_eq!(rent.decide(&Rates::ASSUMED, none, now, count), Place::Host);
        }
        assert_eq!(looked, 3);
    }

    #[test]
    fn what_is_idle_makes_room_and_is_asked_for_from_when_the_rent_began() {
        let none = Reading { free_bytes: 0, ..reading(64 * 100) };
        let mut rent = Rent::default();
        for now in 70..73 {
            assert_eq!(rent.decide(&Rates::ASSUMED, none, now, |_| 0), Place::Host);
        }
        let idle = |since| {
            assert_eq!(since, 70);
            8 * MIB
        };
        assert_eq!(rent.decide(&Rates::ASSUMED, none, 73, idle), Place::Device);
        assert_eq!(rent, Rent::default());
    }

    #[test]
    fn what_is_not_at_home_has_to_be_copied_there_first() {
        let away = Reading { away_bytes: 8 * MIB, ..reading(64) };
        assert_eq!(places(away, 1), [Place::Device]);
    }
}
