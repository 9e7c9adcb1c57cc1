//! What a device that is software has for memory, and how an address becomes a place in it.
//!
//! A **region** is one reservation: a private mapping and a mark per block that says whether the block is
//! backed. Memory is accounted when it is backed, against a limit, as a driver would. A **place** is a range of bytes that
//! was found to be there: it holds the mapping that it lies in, so it can never dangle.
//!
//! ```text
//! (memory, offset, len) or (address, len)  --locate-->  Place { memory, offset, len }  or  MemoryFault
//! ```
//!
//! Two kinds of address. The embedded device uses the process's own (a kernel's Rust twin could not tell the
//! difference). The simulated device invents addresses, which no part of a process can have and which are never used twice, so that
//! nothing works by accident.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use parking_lot::RwLock;

use super::{
    mapping::Mapping,
    place::{Place, overlap},
};
use crate::{
    backend::{DeviceError, MemoryId, Reservation, Window, WindowId},
    host::{HostSpan, ServiceView},
    units::{BLOCK_BYTES, blocks_for},
};

/// The longest reservation: what a process can address.
const ADDRESS_LIMIT_BYTES: u64 = 1 << 46;
/// Invented addresses begin here, in the gap that no process can map.
const FIRST_INVENTED: u64 = 0x9000_0000_0000;

/// How memory is put under a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Backing {
    /// Under the whole reservation at once, like a plain buffer.
    #[default]
    Whole,
    /// Under single blocks, like sparse binding.
    Blocks,
}

/// Where device addresses come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Addresses {
    /// An address is a pointer of this process.
    OfProcess,
    /// An address means nothing outside of the device.
    Invented,
}

/// Why a range of addresses is no place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) enum MemoryFault {
    /// Not, or not whole, in a reservation or a window.
    Outside,
    /// In a reservation, but not backed, or not whole.
    Unbacked,
    /// A range that a launch writes overlaps another of its ranges.
    Aliased,
}

impl MemoryFault {
    /// A sentence about it.
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::Outside => "work names memory that is not reserved or not mapped",
            Self::Unbacked => "work touches memory that is not backed",
            Self::Aliased => "an array that a launch writes overlaps another array of the launch",
        }
    }
}

impl From<MemoryFault> for DeviceError {
    fn from(fault: MemoryFault) -> Self {
        Self::Misuse { what: fault.what() }
    }
}

/// The memory of one device.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    view: Arc<ServiceView>,
    addresses: Addresses,
    backing: Backing,
    limit_bytes: u64,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    /// By the device address of the first byte, which is also the handle's number.
    regions: BTreeMap<u64, Region>,
    /// By the handle's number, which is the device address where addresses are invented.
    windows: BTreeMap<u64, HostSpan>,
    used_bytes: u64,
    next_invented: u64,
}

#[derive(Debug)]
struct Region {
    memory: MemoryId,
    mapping: Arc<Mapping>,
    len_bytes: u64,
    /// Per block.
    backed: Vec<bool>,
}

impl DeviceMemory {
    pub(crate) fn new(
        view: Arc<ServiceView>,
        addresses: Addresses,
        backing: Backing,
        limit_bytes: u64,
    ) -> Self {
        let state = State {
            regions: BTreeMap::new(),
            windows: BTreeMap::new(),
            used_bytes: 0,
            next_invented: FIRST_INVENTED,
        };
        Self { view, addresses, backing, limit_bytes, state: RwLock::new(state) }
    }

    /// How much is backed, in bytes.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.state.read().used_bytes
    }

    /// See [`crate::backend::Device::reserve`].
    pub(crate) fn reserve(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        if len_bytes == 0 {
            return Err(DeviceError::Misuse { what: "a reservation of no bytes" });
        }
        if len_bytes > ADDRESS_LIMIT_BYTES {
            return Err(DeviceError::OutOfAddresses {
                asked_bytes: len_bytes,
                limit_bytes: ADDRESS_LIMIT_BYTES,
            });
        }
        let mapping = Mapping::new(len_bytes)
            .map_err(|error| DeviceError::Driver { call: "mmap", code: error.raw_os_error() })?;
        let mut state = self.state.write();
        let address = match self.addresses {
            Addresses::OfProcess => mapping.address(),
            Addresses::Invented => state.invent(len_bytes),
        };
        let backed = vec![false; blocks_for(len_bytes) as usize];
        let (memory, mapping) = (MemoryId(address), Arc::new(mapping));
        state.regions.insert(address, Region { memory, mapping, len_bytes, backed });
        let backs_whole = self.backing == Backing::Whole;
        Ok(Reservation { memory, address, backs_whole })
    }

    /// See [`crate::backend::Device::back`]. Answers the places that were backed.
    pub(crate) fn back(
        &self,
        memory: MemoryId,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Place>, DeviceError> {
        let mut state = self.state.write();
        let State { regions, used_bytes, .. } = &mut *state;
        let region = regions.get_mut(&memory.0).ok_or(MemoryFault::Outside)?;
        let whole = region.len_bytes;
        if self.backing == Backing::Whole && ranges.iter().any(|range| *range != (0..whole)) {
            return Err(DeviceError::Misuse { what: "a part of a plain buffer cannot be backed" });
        }
        let mut asked_bytes = 0;
        for (nth, range) in ranges.iter().enumerate() {
            if region.blocks(range)?.iter().any(|backed| *backed)
                || ranges[..nth].iter().any(|other| overlap(other, range))
            {
                return Err(DeviceError::Misuse { what: "memory is backed twice" });
            }
            asked_bytes += range.end - range.start;
        }
        if asked_bytes > self.limit_bytes.saturating_sub(*used_bytes) {
            return Err(DeviceError::OutOfMemory { asked_bytes });
        }
        *used_bytes += asked_bytes;
        ranges
            .iter()
            .map(|range| {
                region.blocks(range)?.fill(true);
                Ok(region.place(range.start, range.end - range.start))
            })
            .collect()
    }

    /// See [`crate::backend::Device::unback`].
    ///
    /// # Errors
    /// The caller named memory that is not there, or not backed; what comes before it in `ranges` is unbacked.
    pub(crate) fn unback(
        &self,
        memory: MemoryId,
        ranges: &[Range<u64>],
    ) -> Result<(), MemoryFault> {
        let mut state = self.state.write();
        let State { regions, used_bytes, .. } = &mut *state;
        let region = regions.get_mut(&memory.0).ok_or(MemoryFault::Outside)?;
        for range in ranges {
            let blocks = region.blocks(range)?;
            if !blocks.iter().all(|backed| *backed) {
                return Err(MemoryFault::Unbacked);
            }
            blocks.fill(false);
            *used_bytes -= range.end - range.start;
            if let Err(error) = region.mapping.discard(range.clone()) {
                tracing::warn!(?range, %error, "could not give memory back to the system");
            }
        }
        Ok(())
    }

    /// See [`crate::backend::Device::release`].
    ///
    /// # Errors
    /// There is no such memory.
    pub(crate) fn release(&self, memory: MemoryId) -> Result<(), MemoryFault> {
        let mut state = self.state.write();
        let region = state.regions.remove(&memory.0).ok_or(MemoryFault::Outside)?;
        state.used_bytes -= region.backed_bytes();
        Ok(())
    }

    /// See [`crate::backend::Device::open_window`].
    pub(crate) fn open_window(&self, span: HostSpan) -> Result<Window, DeviceError> {
        self.host_place(span.offset_bytes, span.len_bytes)?;
        let mut state = self.state.write();
        let number = state.invent(span.len_bytes);
        state.windows.insert(number, span);
        let address = self.window_address(number, span);
        Ok(Window { window: WindowId(number), address })
    }

    fn window_address(&self, number: u64, span: HostSpan) -> u64 {
        match self.addresses {
            Addresses::OfProcess => self.view_address() + span.offset_bytes,
            Addresses::Invented => number,
        }
    }

    /// See [`crate::backend::Device::close_window`].
    ///
    /// # Errors
    /// There is no such window.
    pub(crate) fn close_window(&self, window: WindowId) -> Result<(), MemoryFault> {
        self.state.write().windows.remove(&window.0).map(drop).ok_or(MemoryFault::Outside)
    }

    /// The device addresses of a window.
    pub(crate) fn window_addresses(&self, window: WindowId) -> Option<Range<u64>> {
        let state = self.state.read();
        let span = state.windows.get(&window.0)?;
        let start = self.window_address(window.0, *span);
        Some(start..start + span.len_bytes)
    }

    /// Host bytes, by offset in the arena.
    pub(crate) fn host_place(&self, at_bytes: u64, len_bytes: u64) -> Result<Place, MemoryFault> {
        within(at_bytes, len_bytes, self.view.len_bytes())?;
        Ok(Place::on_host(Arc::clone(&self.view), at_bytes, len_bytes))
    }

    /// Backed device bytes, by offset in a reservation.
    pub(crate) fn device_place(
        &self,
        memory: MemoryId,
        at_bytes: u64,
        len_bytes: u64,
    ) -> Result<Place, MemoryFault> {
        let state = self.state.read();
        state.regions.get(&memory.0).ok_or(MemoryFault::Outside)?.locate(at_bytes, len_bytes)
    }

    /// Bytes by their device address: backed memory of the device, or a window.
    pub(crate) fn locate(&self, address: u64, len_bytes: u64) -> Result<Place, MemoryFault> {
        let state = self.state.read();
        if let Some((start, region)) = state.regions.range(..=address).next_back()
            && address - start < region.len_bytes
        {
            return region.locate(address - start, len_bytes);
        }
        match self.addresses {
            Addresses::OfProcess => {
                let at_bytes =
                    address.checked_sub(self.view_address()).ok_or(MemoryFault::Outside)?;
                self.host_place(at_bytes, len_bytes)
            }
            Addresses::Invented => {
                let below = state.windows.range(..=address).next_back();
                let (start, span) = below.ok_or(MemoryFault::Outside)?;
                within(address - start, len_bytes, span.len_bytes)?;
                self.host_place(span.offset_bytes + (address - start), len_bytes)
            }
        }
    }

    fn view_address(&self) -> u64 {
        self.view.pointer(HostSpan { offset_bytes: 0, len_bytes: 0 }).expose_provenance() as u64
    }
}

impl State {
    /// Addresses that were never dealt out, with a block of nothing behind them.
    fn invent(&mut self, len_bytes: u64) -> u64 {
        let address = self.next_invented;
        self.next_invented += (blocks_for(len_bytes) + 1) * BLOCK_BYTES;
        address
    }
}

impl Region {
    /// The marks of a range that is whole blocks (the last may end with the reservation).
    fn blocks(&mut self, range: &Range<u64>) -> Result<&mut [bool], MemoryFault> {
        let whole = range.start.is_multiple_of(BLOCK_BYTES)
            && (range.end.is_multiple_of(BLOCK_BYTES) || range.end == self.len_bytes);
        if range.start >= range.end || range.end > self.len_bytes || !whole {
            return Err(MemoryFault::Outside);
        }
        let (lo, hi) = (range.start / BLOCK_BYTES, blocks_for(range.end));
        Ok(&mut self.backed[lo as usize..hi as usize])
    }

    fn locate(&self, at_bytes: u64, len_bytes: u64) -> Result<Place, MemoryFault> {
        within(at_bytes, len_bytes, self.len_bytes)?;
        let (lo, hi) = (at_bytes / BLOCK_BYTES, blocks_for(at_bytes + len_bytes));
        if !self.backed[lo as usize..hi as usize].iter().all(|backed| *backed) {
            return Err(MemoryFault::Unbacked);
        }
        Ok(self.place(at_bytes, len_bytes))
    }

    fn place(&self, at_bytes: u64, len_bytes: u64) -> Place {
        let mapping = Arc::clone(&self.mapping);
        Place::on_device(self.memory, mapping, at_bytes, len_bytes)
    }

    fn backed_bytes(&self) -> u64 {
        let starts = (0u64..).step_by(BLOCK_BYTES as usize);
        let backed = starts.zip(&self.backed).filter(|(_, backed)| **backed);
        backed.map(|(start, _)| BLOCK_BYTES.min(self.len_bytes - start)).sum()
    }
}

fn within(at_bytes: u64, len_bytes: u64, limit_bytes: u64) -> Result<(), MemoryFault> {
    match at_bytes.checked_add(len_bytes) {
        Some(end) if end <= limit_bytes => Ok(()),
        _ => Err(MemoryFault::Outside),
    }
}
