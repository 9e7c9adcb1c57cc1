//! Which parts of the arena are imported: slabs of 64 MiB, imported when a transfer first touches them, the least recently
//! used let go when they grow past a limit.
//!
//! A copy that goes on into the next slab makes the slabs one import, so that the driver is given one region and not one each: below some
//! hundred megabytes the processor's memcpy takes a slower way (measured on lavapipe: 0.84 of the rate at 1 GiB). Imports
//! only ever grow while they are there; two vectors that share a slab do not take it from each other.
//!
//! An import that leaves the table lives on while a submission under way keeps it. The arena's window may be 1 TiB, most of it never
//! touched; a slab costs what the driver pins for it, so only touched ones are imported.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hmmap_core::{
    backend::{Copy, DeviceError},
    host::{HostSpan, ServiceView},
};
use lru::LruCache;
use parking_lot::Mutex;

use crate::{
    gpu::Gpu,
    import::{Import, Purpose},
};

/// The unit of import.
pub(crate) const SLAB_BYTES: u64 = 64 << 20;
/// The most slabs of one import. A region has to stay below 2 GiB: lavapipe counts its bytes with a sign.
const MOST_SLABS: u64 = 31;

/// The imported slabs of one device.
#[derive(Debug)]
pub(crate) struct Slabs {
    gpu: Arc<Gpu>,
    host: Arc<ServiceView>,
    limit_bytes: u64,
    table: Mutex<Table>,
    pinned: Arc<AtomicU64>,
}

/// The imports, by their first slab. No two share a slab.
#[derive(Debug)]
struct Table {
    imports: LruCache<u64, Arc<Import>>,
    /// First slab to one past the last.
    ends: BTreeMap<u64, u64>,
}

impl Table {
    /// The slabs of the import that a slab is in.
    fn around(&self, slab: u64) -> Option<Range<u64>> {
        let (first, end) = self.ends.range(..=slab).next_back()?;
        (slab < *end).then_some(*first..*end)
    }

    fn put(&mut self, slabs: Range<u64>, import: Arc<Import>) {
        self.imports.put(slabs.start, import);
        self.ends.insert(slabs.start, slabs.end);
    }

    /// Lets go of the imports that share a slab with these.
    fn remove(&mut self, slabs: Range<u64>) {
        let begun = self.around(slabs.start).map_or(slabs.start, |before| before.start);
        let touched: Vec<u64> =
            self.ends.range(begun..slabs.end).map(|(first, _)| *first).collect();
        for first in touched {
            self.imports.pop(&first);
            self.ends.remove(&first);
        }
    }

    /// Lets go of the least recently used until this many slabs and those that are left are no more than `most`.
    fn make_room(&mut self, slabs: u64, most: u64) {
        let mut held: u64 = self.ends.iter().map(|(first, end)| end - first).sum();
        while held + slabs > most
            && let Some((first, _)) = self.imports.pop_lru()
        {
            held -= self.ends.remove(&first).map_or(0, |end| end - first);
        }
    }
}

impl Slabs {
    pub(crate) fn new(gpu: &Arc<Gpu>, host: &Arc<ServiceView>, limit_bytes: u64) -> Self {
        let (gpu, host) = (Arc::clone(gpu), Arc::clone(host));
        let table = Table { imports: LruCache::unbounded(), ends: BTreeMap::new() };
        Self { gpu, host, limit_bytes, table: Mutex::new(table), pinned: Arc::default() }
    }

    /// True when the slabs that these copies touch may be imported at once.
    pub(crate) fn can_hold(&self, copies: &[Copy]) -> bool {
        let touched: u64 = copies.iter().map(|copy| slab_count(copy.host)).sum();
        touched <= (self.limit_bytes / SLAB_BYTES).max(1)
            || self.distinct(copies) * SLAB_BYTES <= self.limit_bytes
    }

    fn distinct(&self, copies: &[Copy]) -> u64 {
        let mut slabs: Vec<u64> =
            copies.iter().flat_map(|copy| parts(copy.host).map(slab_of)).collect();
        slabs.sort_unstable();
        slabs.dedup();
        slabs.len() as u64
    }

    /// An import that a span begins in, made now if there is none, and the part of the span that lies in it.
    pub(crate) fn get(&self, span: HostSpan) -> Result<(Arc<Import>, HostSpan), DeviceError> {
        let mut table = self.table.lock();
        let first = slab_of(span);
        let end = first + slab_count(span);
        let wanted = choose(first..end, self.most_slabs(), |slab| table.around(slab));
        let import = match self.import(&mut table, wanted.clone()) {
            // What fails for many slabs may go well for one.
            Err(DeviceError::OutOfMemory { .. } | DeviceError::OutOfAddresses { .. })
                if wanted.end - wanted.start > 1 =>
            {
                self.import(&mut table, first..first + 1)?
            }
            import => import?,
        };
        let len_bytes = import.span().end_bytes().min(span.end_bytes()) - span.offset_bytes;
        Ok((import, span.part(0, len_bytes)))
    }

    fn import(&self, table: &mut Table, slabs: Range<u64>) -> Result<Arc<Import>, DeviceError> {
        if table.around(slabs.start).as_ref() == Some(&slabs)
            && let Some(known) = table.imports.get(&slabs.start)
        {
            return Ok(Arc::clone(known));
        }
        let start = slabs.start * SLAB_BYTES;
        let len_bytes = (slabs.end * SLAB_BYTES).min(self.host.len_bytes()) - start;
        let span = HostSpan { offset_bytes: start, len_bytes };
        // Room is made first: what is pinned at once stays below the limit where nothing is in flight.
        table.remove(slabs.clone());
        table.make_room(slabs.end - slabs.start, self.limit_bytes / SLAB_BYTES);
        let import = Import::new(&self.gpu, &self.host, span, Purpose::Copies, &self.pinned)?;
        let import = Arc::new(import);
        table.put(slabs, Arc::clone(&import));
        Ok(import)
    }

    /// The most slabs of one import: neither the driver's limits nor more than half of what may be pinned.
    fn most_slabs(&self) -> u64 {
        let limits = self.gpu.physical().limits;
        let bytes = limits.buffer_bytes.min(limits.allocation_bytes).min(self.limit_bytes / 2);
        (bytes / SLAB_BYTES).clamp(1, MOST_SLABS)
    }

    /// Lets go of every import that a span touches.
    pub(crate) fn forget(&self, span: HostSpan) {
        let first = slab_of(span);
        self.table.lock().remove(first..first + slab_count(span));
    }

    /// Bytes imported now, those of windows and of imports that wait for their last submission included.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.pinned.load(Ordering::Relaxed)
    }

    /// The count of imported bytes, for windows to join.
    pub(crate) fn pinned(&self) -> &Arc<AtomicU64> {
        &self.pinned
    }
}

/// The slabs to have as one import for a copy over `wanted`: together with those that share an import with its ends, as long as that
/// is no more than `most`; else what is there, or as far as there is nothing yet. Holds the first.
fn choose(wanted: Range<u64>, most: u64, around: impl Fn(u64) -> Option<Range<u64>>) -> Range<u64> {
    let first = wanted.start;
    let end = wanted.end.clamp(first + 1, first + most);
    let begun = around(first);
    if let Some(begun) = &begun
        && begun.end >= end
    {
        return begun.clone();
    }
    let start = begun.as_ref().map_or(first, |begun| begun.start);
    let union = start..around(end - 1).map_or(end, |ends| ends.end);
    if union.end - union.start <= most {
        return union;
    }
    let free = || first..(first + 1..end).find(|slab| around(*slab).is_some()).unwrap_or(end);
    begun.unwrap_or_else(free)
}

/// The slab that a span begins in.
pub(crate) fn slab_of(span: HostSpan) -> u64 {
    span.offset_bytes / SLAB_BYTES
}

fn slab_count(span: HostSpan) -> u64 {
    if span.len_bytes == 0 { 0 } else { (span.end_bytes() - 1) / SLAB_BYTES - slab_of(span) + 1 }
}

/// A span cut where slabs meet, in order.
pub(crate) fn parts(span: HostSpan) -> impl Iterator<Item = HostSpan> {
    let mut at = span.offset_bytes;
    std::iter::from_fn(move || {
        let left = span.end_bytes() - at;
        if left == 0 {
            return None;
        }
        let len_bytes = left.min(SLAB_BYTES - at % SLAB_BYTES);
        let part = HostSpan { offset_bytes: at, len_bytes };
        at += len_bytes;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_cut_where_slabs_meet() {
        let span = HostSpan { offset_bytes: SLAB_BYTES - 10, len_bytes: SLAB_BYTES + 30 };
        let cut: Vec<_> = parts(span).map(|part| (slab_of(part), part.len_bytes)).collect();
        assert_eq!(cut, [(0, 10), (1, SLAB_BYTES), (2, 20)]);
        assert_eq!(slab_count(span), 3);
        assert_eq!(parts(HostSpan { offset_bytes: 5, len_bytes: 0 }).count(), 0);
        let aligned = HostSpan { offset_bytes: SLAB_BYTES, len_bytes: SLAB_BYTES };
        assert_eq!((slab_count(aligned), parts(aligned).count()), (1, 1));
    }

    #[test]
    fn a_copy_over_several_slabs_makes_them_one_import_and_keeps_them_so() {
        let none = |_| None;
        assert_eq!(choose(3..4, 31, none), 3..4);
        assert_eq!(choose(3..20, 31, none), 3..20);
        assert_eq!(choose(3..100, 31, none), 3..34, "no more than the most");
        let one = |slab| (slab == 5).then_some(5..6);
        assert_eq!(choose(5..6, 31, one), 5..6);
        assert_eq!(choose(5..8, 31, one), 5..8, "it grows with a copy that goes on");
        assert_eq!(choose(2..8, 31, one), 2..8);
        let wide = |slab| (2..8).contains(&slab).then_some(2..8);
        assert_eq!(choose(5..8, 31, wide), 2..8, "a part of it is found in it");
        assert_eq!(choose(7..9, 31, wide), 2..9, "the neighbour joins it, and takes nothing away");
        assert_eq!(choose(0..3, 31, wide), 0..8);
    }

    #[test]
    fn what_would_be_too_long_stays_apart() {
        let wide = |slab| (4..8).contains(&slab).then_some(4..8);
        assert_eq!(choose(0..6, 6, wide), 0..4, "as far as there is nothing yet");
        assert_eq!(choose(6..11, 6, wide), 4..8, "then what is there");
        assert_eq!(choose(8..11, 6, wide), 8..11);
        assert_eq!(choose(4..8, 1, wide), 4..8);
        assert_eq!(choose(0..8, 1, |_| None), 0..1);
    }
}
