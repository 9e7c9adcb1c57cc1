//! Which parts of the arena are imported: slabs of 64 MiB, imported when a transfer first touches them, the least recently
//! used let go when they grow past a limit.
//!
//! An import that leaves the table lives on while a submission under way keeps it. The arena's window may be 1 TiB, most of it never
//! touched; a slab costs what the driver pins for it, so only touched ones are imported.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
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

/// The imported slabs of one device.
#[derive(Debug)]
pub(crate) struct Slabs {
    gpu: Arc<Gpu>,
    host: Arc<ServiceView>,
    limit_bytes: u64,
    table: Mutex<LruCache<u64, Arc<Import>>>,
    pinned: Arc<AtomicU64>,
}

impl Slabs {
    pub(crate) fn new(gpu: &Arc<Gpu>, host: &Arc<ServiceView>, limit_bytes: u64) -> Self {
        let (gpu, host) = (Arc::clone(gpu), Arc::clone(host));
        let (table, pinned) = (Mutex::new(LruCache::unbounded()), Arc::default());
        Self { gpu, host, limit_bytes, table, pinned }
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

    /// The import of a slab, made now if there is none.
    pub(crate) fn get(&self, slab: u64) -> Result<Arc<Import>, DeviceError> {
        let mut table = self.table.lock();
        if let Some(known) = table.get(&slab) {
            return Ok(Arc::clone(known));
        }
        let start = slab * SLAB_BYTES;
        let len_bytes = SLAB_BYTES.min(self.host.len_bytes() - start);
        let span = HostSpan { offset_bytes: start, len_bytes };
        // Room is made first: what is pinned at once stays below the limit where nothing is in flight.
        let most = (self.limit_bytes / SLAB_BYTES).saturating_sub(1) as usize;
        while table.len() > most && table.pop_lru().is_some() {}
        let import = Import::new(&self.gpu, &self.host, span, Purpose::Copies, &self.pinned)?;
        let import = Arc::new(import);
        table.put(slab, Arc::clone(&import));
        Ok(import)
    }

    /// Lets go of every slab that a span touches.
    pub(crate) fn forget(&self, span: HostSpan) {
        let mut table = self.table.lock();
        for part in parts(span) {
            table.pop(&slab_of(part));
        }
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
}
