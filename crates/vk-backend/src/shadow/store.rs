//! The double's memory: reservations, the arena as the device sees it, and the ring.
#![allow(unsafe_code, reason = "reads and writes the arena")]

use std::{collections::HashMap, ops::Range, sync::Arc};

use hmmap_core::{
    backend::{DeviceError, MemoryId},
    host::{HostSpan, ServiceView},
    units::BLOCK_BYTES,
};

use super::{
    caches::Memory,
    line::{ByteMask, LINE_BYTES, Line},
};

/// The arena as a buffer.
pub(super) const ARENA: u32 = 0;
/// The staging ring.
pub(super) const RING: u32 = 1;
/// Numbers of reservations begin here.
pub(super) const FIRST: u32 = 2;

/// What memory that nobody wrote holds: what memory contents "are unspecified" means here.
const GARBAGE: u8 = 0xa5;
/// Addresses of reservations and windows; no part of a process is there.
const FIRST_ADDRESS: u64 = 0x5a00_0000_0000;

/// A reservation.
#[derive(Debug)]
struct Region {
    address: u64,
    len_bytes: u64,
    /// Per block.
    backed: Vec<bool>,
}

/// Every byte that the device can reach.
#[derive(Debug)]
pub(super) struct Store {
    host: Arc<ServiceView>,
    device: HashMap<(u32, u64), Box<[u8; LINE_BYTES]>>,
    /// Lines of the arena and the ring that device work has fetched or written. Written bytes reach the CPU only when they are released.
    shared: HashMap<(u32, u64), Line>,
    /// The ring as the CPU sees it, and as memory holds it.
    ring_of_cpu: Vec<u8>,
    ring_memory: Vec<u8>,
    regions: HashMap<u32, Region>,
    windows: HashMap<u64, (u64, HostSpan)>,
    next_buffer: u32,
    next_address: u64,
}

impl Store {
    pub(super) fn new(host: Arc<ServiceView>, ring_bytes: usize) -> Self {
        Self {
            host,
            device: HashMap::new(),
            shared: HashMap::new(),
            ring_of_cpu: vec![GARBAGE; ring_bytes],
            ring_memory: vec![GARBAGE; ring_bytes],
            regions: HashMap::new(),
            windows: HashMap::new(),
            next_buffer: FIRST,
            next_address: FIRST_ADDRESS,
        }
    }

    fn address(&mut self, len_bytes: u64) -> u64 {
        let address = self.next_address;
        // A block apart, so that an overrun meets nothing.
        self.next_address += len_bytes.next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES;
        address
    }

    pub(super) fn reserve(&mut self, len_bytes: u64) -> (u32, u64) {
        let (buffer, address) = (self.next_buffer, self.address(len_bytes));
        self.next_buffer += 1;
        let backed = vec![false; len_bytes.div_ceil(BLOCK_BYTES) as usize];
        self.regions.insert(buffer, Region { address, len_bytes, backed });
        (buffer, address)
    }

    pub(super) fn release(&mut self, buffer: u32) -> Result<(), DeviceError> {
        self.device.retain(|(of, _), _| *of != buffer);
        self.regions.remove(&buffer).map(drop).ok_or(UNKNOWN)
    }

    /// Bytes of a reservation that are backed.
    pub(super) fn backed_bytes(&self, buffer: u32) -> u64 {
        let Some(region) = self.regions.get(&buffer) else { return 0 };
        let blocks = region.backed.iter().zip(0..).filter(|(backed, _)| **backed);
        blocks.map(|(_, block)| BLOCK_BYTES.min(region.len_bytes - block * BLOCK_BYTES)).sum()
    }

    /// Changes whether blocks are backed; their bytes become garbage.
    pub(super) fn set_backed(
        &mut self,
        buffer: u32,
        range: &Range<u64>,
        backed: bool,
    ) -> Result<(), DeviceError> {
        let region = self.regions.get_mut(&buffer).ok_or(UNKNOWN)?;
        let blocks = (range.start / BLOCK_BYTES) as usize..range.end.div_ceil(BLOCK_BYTES) as usize;
        for block in region.backed.get_mut(blocks).ok_or(OUTSIDE)? {
            if *block == backed {
                return Err(DeviceError::Misuse {
                    what: "a block that is backed, or not, already",
                });
            }
            *block = backed;
        }
        let (first, end) = (range.start / LINE_BYTES as u64, range.end.div_ceil(LINE_BYTES as u64));
        self.device.retain(|(of, line), _| *of != buffer || !(first..end).contains(line));
        Ok(())
    }

    pub(super) fn open_window(&mut self, span: HostSpan) -> (u64, u64) {
        let address = self.address(span.len_bytes);
        // Addresses are never dealt out twice, so they number windows, too.
        self.windows.insert(address, (address, span));
        (address, address)
    }

    pub(super) fn close_window(&mut self, window: u64) -> Result<(), DeviceError> {
        let closed = self.windows.remove(&window);
        closed.map(drop).ok_or(DeviceError::Misuse { what: "a window that is not open" })
    }

    pub(super) fn has_windows(&self) -> bool {
        !self.windows.is_empty()
    }

    pub(super) fn buffer_of(memory: MemoryId) -> u32 {
        u32::try_from(memory.0).unwrap_or(u32::MAX)
    }

    /// A range of a reservation that is backed, or why it is none.
    pub(super) fn check(
        &self,
        buffer: u32,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<(), DeviceError> {
        let region = self.regions.get(&buffer).ok_or(UNKNOWN)?;
        let end = offset_bytes.checked_add(len_bytes).filter(|end| *end <= region.len_bytes);
        let blocks = (offset_bytes / BLOCK_BYTES) as usize
            ..end.ok_or(OUTSIDE)?.div_ceil(BLOCK_BYTES) as usize;
        if region.backed.get(blocks).is_some_and(|blocks| blocks.iter().all(|backed| *backed)) {
            return Ok(());
        }
        Err(DeviceError::Misuse { what: "memory that is not backed" })
    }

    /// The buffer and the offset of a device address.
    pub(super) fn locate(&self, address: u64, len_bytes: u64) -> Result<(u32, u64), DeviceError> {
        let within = |start: u64, len: u64| {
            address >= start && address - start <= len && len_bytes <= len - (address - start)
        };
        for (buffer, region) in &self.regions {
            if within(region.address, region.len_bytes) {
                let offset = address - region.address;
                self.check(*buffer, offset, len_bytes)?;
                return Ok((*buffer, offset));
            }
        }
        let mut windows = self.windows.values();
        let found = windows.find(|(start, span)| within(*start, span.len_bytes));
        found
            .map(|(start, span)| (ARENA, span.offset_bytes + (address - start)))
            .ok_or(DeviceError::Misuse { what: "an address that nothing is at" })
    }

    /// What the CPU wrote before a submission is there for the device: in the arena at once, in the ring once it is flushed.
    pub(super) fn host_writes_arrive(&mut self) {
        self.shared.retain(|_, line| line.forget_clean());
    }

    /// A barrier towards the CPU: what the device wrote reaches the arena, and the ring's memory.
    pub(super) fn release_to_host(&mut self) {
        let Self { shared, host, ring_memory, .. } = self;
        for ((buffer, number), line) in shared.iter_mut() {
            if line.dirty.is_empty() {
                continue;
            }
            let at = number * LINE_BYTES as u64;
            if *buffer == RING {
                if let Some(bytes) = ring_memory.get_mut(at as usize..at as usize + LINE_BYTES) {
                    line.pass_on(bytes);
                }
                continue;
            }
            let span = HostSpan { offset_bytes: at, len_bytes: LINE_BYTES as u64 };
            let start = host.pointer(span);
            for run in line.dirty.runs() {
                let from = &line.bytes[run.clone()];
                // SAFETY: (1) the line lies in the arena, which is a whole number of lines, (2) the bytes were written by work that the
                // engine submitted on a span that nobody else uses until its fence has ended, which comes after this.
                unsafe {
                    std::ptr::copy_nonoverlapping(from.as_ptr(), start.add(run.start), run.len())
                };
            }
            line.dirty = ByteMask::NONE;
        }
    }

    /// Host bytes.
    pub(super) fn host_bytes(&self, span: HostSpan) -> Vec<u8> {
        let start = self.host.pointer(span);
        // SAFETY: (1) the span lies in the arena, (2) it is the work's that runs now, so nobody writes it; shared memory is always initialised.
        unsafe { std::slice::from_raw_parts(start, span.len_bytes as usize) }.to_vec()
    }

    /// Writes host bytes.
    pub(super) fn set_host_bytes(&self, span: HostSpan, bytes: &[u8]) {
        let len = bytes.len().min(span.len_bytes as usize);
        // SAFETY: as in `host_bytes`, and nobody reads it either.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.host.pointer(span), len) };
    }

    /// The ring as the CPU sees it.
    pub(super) fn ring_of_cpu(&mut self) -> &mut Vec<u8> {
        &mut self.ring_of_cpu
    }

    /// The CPU's writes to a part of the ring reach memory.
    pub(super) fn flush_ring(&mut self, range: Range<usize>) {
        if let (Some(to), Some(from)) =
            (self.ring_memory.get_mut(range.clone()), self.ring_of_cpu.get(range))
        {
            to.copy_from_slice(from);
        }
    }

    /// The CPU sees what memory holds of a part of the ring.
    pub(super) fn invalidate_ring(&mut self, range: Range<usize>) {
        if let (Some(to), Some(from)) =
            (self.ring_of_cpu.get_mut(range.clone()), self.ring_memory.get(range))
        {
            to.copy_from_slice(from);
        }
    }
}

impl Memory for Store {
    fn fetch(&mut self, key: (u32, u64)) -> &[u8; LINE_BYTES] {
        let (buffer, number) = key;
        if buffer >= FIRST {
            return self.device.entry(key).or_insert_with(|| Box::new([GARBAGE; LINE_BYTES]));
        }
        let at = number * LINE_BYTES as u64;
        let known = self.shared.get(&key).is_some_and(|line| line.known.has_all(0, LINE_BYTES));
        if !known {
            let mut below = [GARBAGE; LINE_BYTES];
            if buffer == RING {
                let bytes = self.ring_memory.get(at as usize..at as usize + LINE_BYTES);
                below.copy_from_slice(bytes.unwrap_or(&[GARBAGE; LINE_BYTES]));
            } else {
                // Work touches whole pages of the arena, so the whole line is this work's.
                let span = HostSpan { offset_bytes: at, len_bytes: LINE_BYTES as u64 };
                below.copy_from_slice(&self.host_bytes(span));
            }
            self.shared.entry(key).or_insert_with(Line::empty).fill(&below);
        }
        &self.shared.entry(key).or_insert_with(Line::empty).bytes
    }

    fn take(&mut self, key: (u32, u64), line: &mut Line) {
        if key.0 < FIRST {
            self.shared.entry(key).or_insert_with(Line::empty).take(line);
            return;
        }
        let below = self.device.entry(key).or_insert_with(|| Box::new([GARBAGE; LINE_BYTES]));
        line.pass_on(below.as_mut_slice());
    }
}

const UNKNOWN: DeviceError = DeviceError::Misuse { what: "memory that is not reserved" };
const OUTSIDE: DeviceError = DeviceError::Misuse { what: "a range outside of its reservation" };
