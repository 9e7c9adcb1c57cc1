//! What is reserved, and what is under it.
//!
//! ```text
//! blocks    addresses of the reservation's own, one handle per block, mapped and unmapped one by one
//! whole     addresses of its own, one handle
//! part      pages of a chunk, which is as large as a block and backed while any of its parts is
//! imported  another device's memory
//! ```
//! Mapping is not ordered with streams: the driver does it at once. The engine backs before it submits and unbacks after the last fence.

mod handle;
mod imported;
mod parts;
mod pool;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hmmap_core::{
    backend::{DeviceError, Exported, Imported, MemoryId, Reservation},
    p2p::HandleKinds,
    units::{BLOCK_BYTES, blocks_for},
};
use parking_lot::{Mutex, RwLock};

pub(crate) use handle::{Addresses, Physical, Sharing, properties};
pub(crate) use imported::{CUDA_DRIVER, Identity, ImportedMemory};
pub(crate) use parts::{Part, Parts};
pub(crate) use pool::Pool;

use crate::{context::Context, driver::Address, options::Backing};

/// The longest reservation: what the driver's addresses have room for on every device of the last ten years, by half.
pub(crate) const LIMIT_BYTES: u64 = 1 << 46;

const OUTSIDE: DeviceError = DeviceError::Misuse { what: "a range outside of its reservation" };
const TWICE: DeviceError = DeviceError::Misuse { what: "memory is backed twice" };

/// The memory of one open device.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    backing: Backing,
    next: AtomicU64,
    table: RwLock<HashMap<MemoryId, Arc<Reserved>>>,
    parts: Parts,
    pool: Arc<Pool>,
    identity: Identity,
}

/// One reservation.
#[derive(Debug)]
pub(crate) struct Reserved {
    len_bytes: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Blocks(Blocks),
    Whole(Whole),
    Part(Part),
    Imported(ImportedMemory),
}

/// A reservation whose blocks have memory one by one.
#[derive(Debug)]
struct Blocks {
    addresses: Addresses,
    under: Mutex<Vec<Option<Physical>>>,
    pool: Arc<Pool>,
}

/// A reservation with one piece of memory, and the allocation's number while it has any.
#[derive(Debug)]
struct Whole {
    addresses: Addresses,
    under: Mutex<Option<(Physical, u64)>>,
    pool: Arc<Pool>,
}

impl DeviceMemory {
    pub(crate) fn new(
        context: &Arc<Context>,
        backing: Backing,
        limit_bytes: u64,
        identity: Identity,
    ) -> Self {
        let pool = Arc::new(Pool::new(context, limit_bytes));
        Self {
            backing,
            next: AtomicU64::new(1),
            table: RwLock::default(),
            parts: Parts::new(&pool),
            pool,
            identity,
        }
    }

    /// Memory that is under reservations now, in bytes.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.pool.used_bytes()
    }

    /// Giving memory out was proved: from now on whole reservations get such memory.
    pub(crate) fn set_sharing_proved(&self) {
        self.pool.share();
    }

    /// See [`hmmap_core::backend::Device::reserve`].
    pub(crate) fn reserve(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        self.reserve_as(len_bytes, self.backing)
    }

    /// The same with this backing, whatever the options say.
    pub(crate) fn reserve_as(
        &self,
        len_bytes: u64,
        backing: Backing,
    ) -> Result<Reservation, DeviceError> {
        if len_bytes == 0 {
            return Err(DeviceError::Misuse { what: "a reservation of no bytes" });
        }
        let context = self.pool.context();
        let kind = if len_bytes < BLOCK_BYTES {
            Kind::Part(self.parts.reserve(len_bytes)?)
        } else {
            let current = context.enter()?;
            let rounded = len_bytes
                .checked_next_multiple_of(BLOCK_BYTES)
                .filter(|rounded| *rounded <= LIMIT_BYTES)
                .ok_or(DeviceError::OutOfAddresses {
                    asked_bytes: len_bytes,
                    limit_bytes: LIMIT_BYTES,
                })?;
            let addresses = Addresses::reserve(context, &current, rounded, LIMIT_BYTES)?;
            let pool = Arc::clone(&self.pool);
            match backing {
                Backing::Blocks => {
                    let under = (0..blocks_for(len_bytes)).map(|_| None).collect();
                    Kind::Blocks(Blocks { addresses, under: Mutex::new(under), pool })
                }
                Backing::Whole => Kind::Whole(Whole { addresses, under: Mutex::new(None), pool }),
            }
        };
        let backs_whole = !matches!(kind, Kind::Blocks(_));
        let (memory, address) = self.add(len_bytes, kind);
        Ok(Reservation { memory, address, backs_whole })
    }

    fn add(&self, len_bytes: u64, kind: Kind) -> (MemoryId, Address) {
        let memory = MemoryId(self.next.fetch_add(1, Ordering::Relaxed));
        let reserved = Reserved { len_bytes, kind };
        let address = reserved.start();
        self.table.write().insert(memory, Arc::new(reserved));
        (memory, address)
    }

    fn get(&self, memory: MemoryId) -> Result<Arc<Reserved>, DeviceError> {
        let found = self.table.read().get(&memory).cloned();
        found.ok_or(DeviceError::Misuse { what: "memory that is not reserved" })
    }

    /// See [`hmmap_core::backend::Device::back`].
    pub(crate) fn back(&self, memory: MemoryId, ranges: &[Range<u64>]) -> Result<(), DeviceError> {
        let reserved = self.get(memory)?;
        match &reserved.kind {
            Kind::Blocks(blocks) => blocks.back(reserved.len_bytes, ranges),
            _ if !reserved.is_whole(ranges) => {
                Err(DeviceError::Misuse { what: "a part of a reservation that is backed whole" })
            }
            Kind::Whole(whole) => whole.back(reserved.len_bytes),
            Kind::Part(part) => part.back(),
            Kind::Imported(_) => Err(TWICE),
        }
    }

    /// See [`hmmap_core::backend::Device::unback`].
    pub(crate) fn unback(
        &self,
        memory: MemoryId,
        ranges: &[Range<u64>],
    ) -> Result<(), DeviceError> {
        let reserved = self.get(memory)?;
        match &reserved.kind {
            Kind::Blocks(blocks) => blocks.unback(reserved.len_bytes, ranges),
            Kind::Whole(whole) => whole.unback(),
            Kind::Part(part) => part.unback(),
            Kind::Imported(_) => Err(OUTSIDE),
        }
    }

    /// See [`hmmap_core::backend::Device::release`].
    pub(crate) fn release(&self, memory: MemoryId) -> Result<(), DeviceError> {
        let gone = self.table.write().remove(&memory);
        gone.map(drop).ok_or(DeviceError::Misuse { what: "memory that is not reserved" })
    }

    /// The device address of bytes of a reservation.
    pub(crate) fn place(
        &self,
        memory: MemoryId,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<Address, DeviceError> {
        let reserved = self.get(memory)?;
        let end = offset_bytes.checked_add(len_bytes).ok_or(OUTSIDE)?;
        if end > reserved.len_bytes {
            return Err(OUTSIDE);
        }
        Ok(reserved.start() + offset_bytes)
    }

    /// See [`hmmap_core::backend::Device::export`].
    pub(crate) fn export(
        &self,
        memory: MemoryId,
        kinds: HandleKinds,
    ) -> Result<Exported, DeviceError> {
        let reserved = self.get(memory)?;
        let context = self.pool.context();
        let current = context.enter()?;
        let len_bytes = reserved.len_bytes;
        match &reserved.kind {
            Kind::Whole(Whole { addresses, under, .. }) => {
                let under = under.lock();
                let (physical, number) = under.as_ref().ok_or(OUTSIDE)?;
                let place = (0, len_bytes, *number);
                self.identity.export(&current, (addresses, physical), kinds, place)
            }
            Kind::Part(part) => part.with_memory(|addresses, physical, number, start| {
                let place = (start, len_bytes, number);
                self.identity.export(&current, (addresses, physical), kinds, place)
            }),
            Kind::Blocks(_) | Kind::Imported(_) => Err(DeviceError::Unsupported {
                what: "giving out memory that is bound block by block, or that is another's",
            }),
        }
    }

    /// See [`hmmap_core::backend::Device::import`].
    pub(crate) fn import(&self, exported: &Exported) -> Result<Imported, DeviceError> {
        let imported = self.identity.import(self.pool.context(), exported)?;
        let len_bytes = exported.len_bytes;
        let (memory, address) = self.add(len_bytes, Kind::Imported(imported));
        Ok(Imported { memory, address })
    }
}

impl Reserved {
    fn is_whole(&self, ranges: &[Range<u64>]) -> bool {
        matches!(ranges, [one] if *one == (0..self.len_bytes))
    }

    fn start(&self) -> Address {
        match &self.kind {
            Kind::Blocks(blocks) => blocks.addresses.start(),
            Kind::Whole(whole) => whole.addresses.start(),
            Kind::Part(part) => part.start(),
            Kind::Imported(imported) => imported.start(),
        }
    }
}

/// The blocks of a range that is whole blocks; the last may end with the reservation.
fn blocks_of(range: &Range<u64>, len_bytes: u64) -> Result<Range<usize>, DeviceError> {
    let whole = range.start.is_multiple_of(BLOCK_BYTES)
        && (range.end.is_multiple_of(BLOCK_BYTES) || range.end == len_bytes);
    if range.start >= range.end || range.end > len_bytes || !whole {
        return Err(OUTSIDE);
    }
    Ok((range.start / BLOCK_BYTES) as usize..blocks_for(range.end) as usize)
}

impl Blocks {
    fn back(&self, len_bytes: u64, ranges: &[Range<u64>]) -> Result<(), DeviceError> {
        let spans: Vec<Range<usize>> =
            ranges.iter().map(|range| blocks_of(range, len_bytes)).collect::<Result<_, _>>()?;
        let current = self.pool.context().enter()?;
        let mut under = self.under.lock();
        let free = |span: &Range<usize>| under.get(span.clone());
        if spans.iter().any(|span| free(span).is_none_or(|some| some.iter().any(Option::is_some))) {
            return Err(TWICE);
        }
        let count = spans.iter().map(ExactSizeIterator::len).sum();
        let mut taken = self.pool.take_blocks(&current, count)?;
        let mut mapped = Vec::new();
        let result = spans.iter().try_for_each(|span| {
            for block in span.clone() {
                let Some(physical) = taken.pop() else { return Err(TWICE) };
                let at = block as u64 * BLOCK_BYTES;
                if let Err(error) = self.addresses.map(&current, at, &physical) {
                    taken.push(physical);
                    return Err(error);
                }
                mapped.push((block, physical));
            }
            let (at, len) = (span.start as u64 * BLOCK_BYTES, span.len() as u64 * BLOCK_BYTES);
            self.addresses.allow(&current, at, len)
        });
        if let Err(error) = result {
            for (block, physical) in mapped {
                let at = block as u64 * BLOCK_BYTES;
                match self.addresses.unmap(&current, at, BLOCK_BYTES) {
                    Ok(()) => taken.push(physical),
                    // It stays where it is until the reservation goes: counted, and never used.
                    Err(_) => under[block] = Some(physical),
                }
            }
            self.pool.give_blocks(taken);
            return Err(error);
        }
        for (block, physical) in mapped {
            under[block] = Some(physical);
        }
        Ok(())
    }

    fn unback(&self, len_bytes: u64, ranges: &[Range<u64>]) -> Result<(), DeviceError> {
        let current = self.pool.context().enter_anyway()?;
        let mut under = self.under.lock();
        let mut given = Vec::new();
        let mut result = Ok(());
        for range in ranges {
            for block in blocks_of(range, len_bytes)? {
                let Some(physical) = under[block].take() else {
                    result = Err(DeviceError::Misuse { what: "memory is unbacked twice" });
                    continue;
                };
                match self.addresses.unmap(&current, block as u64 * BLOCK_BYTES, BLOCK_BYTES) {
                    Ok(()) => given.push(physical),
                    Err(error) => {
                        under[block] = Some(physical);
                        result = Err(error);
                    }
                }
            }
        }
        drop(under);
        self.pool.give_blocks(given);
        result
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        let under = std::mem::take(self.under.get_mut());
        let mut given = Vec::new();
        let Ok(current) = self.pool.context().enter_anyway() else { return };
        for (block, physical) in under.into_iter().enumerate() {
            let Some(physical) = physical else { continue };
            let unmapped = self.addresses.unmap(&current, block as u64 * BLOCK_BYTES, BLOCK_BYTES);
            match unmapped {
                Ok(()) => given.push(physical),
                // Not for the pool: it is still mapped. The driver frees it with its last mapping.
                Err(_) => self.pool.give_whole(physical),
            }
        }
        self.pool.give_blocks(given);
    }
}

impl Whole {
    fn back(&self, len_bytes: u64) -> Result<(), DeviceError> {
        let current = self.pool.context().enter()?;
        let mut under = self.under.lock();
        if under.is_some() {
            return Err(TWICE);
        }
        let rounded = len_bytes.next_multiple_of(BLOCK_BYTES);
        let physical = self.pool.take_whole(&current, rounded)?;
        match map_whole(&self.addresses, &current, &physical) {
            Ok(()) => {
                *under = Some((physical, imported::next_allocation()));
                Ok(())
            }
            Err(error) => {
                self.pool.give_whole(physical);
                Err(error)
            }
        }
    }

    fn unback(&self) -> Result<(), DeviceError> {
        let current = self.pool.context().enter_anyway()?;
        let mut under = self.under.lock();
        let (physical, number) = under.take().ok_or(OUTSIDE)?;
        match self.addresses.unmap(&current, 0, physical.len_bytes()) {
            Ok(()) => {
                self.pool.give_whole(physical);
                Ok(())
            }
            Err(error) => {
                *under = Some((physical, number));
                Err(error)
            }
        }
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        let Some((physical, _)) = self.under.get_mut().take() else { return };
        if let Ok(current) = self.pool.context().enter_anyway() {
            // An error leaves it mapped; the driver frees it with the context.
            let _ = self.addresses.unmap(&current, 0, physical.len_bytes());
        }
        self.pool.give_whole(physical);
    }
}

/// Maps one piece of memory from the first address on, with access. All or nothing.
fn map_whole(
    addresses: &Addresses,
    current: &crate::context::Current<'_>,
    physical: &Physical,
) -> Result<(), DeviceError> {
    addresses.map(current, 0, physical)?;
    addresses.allow(current, 0, physical.len_bytes()).inspect_err(|_| {
        let _ = addresses.unmap(current, 0, physical.len_bytes());
    })
}
