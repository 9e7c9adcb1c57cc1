//! Which parts of the arena are registered with the driver: slabs of 64 MiB, registered when a copy or a window first touches them, the least
//! recently used let go when they grow past a limit.
//!
//! Registering pins pages and makes copies direct. A copy may not span two registrations, so copies are cut where slabs meet. A slab that
//! leaves the table stays registered while work under way or a window keeps it; who then wants it anew waits for that work first, since the driver
//! registers no page twice. That is true of a process, not of a device: devices over one arena share registrations, which are counted.
#![allow(unsafe_code, reason = "registers host memory")]

use std::{
    collections::BTreeMap,
    ffi::c_void,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use hmmap_core::{
    backend::DeviceError,
    host::{HostSpan, ServiceView},
};
use lru::LruCache;
use parking_lot::Mutex;

use crate::{
    context::{Context, Current},
    driver::Address,
};

/// The unit of registration.
pub(crate) const SLAB_BYTES: u64 = 64 << 20;
/// `CU_MEMHOSTREGISTER_PORTABLE` and `_DEVICEMAP`.
const FLAGS: u32 = 1 | 2;

/// The registered slabs of one device.
#[derive(Debug)]
pub(crate) struct Slabs {
    context: Arc<Context>,
    host: Arc<ServiceView>,
    limit_bytes: u64,
    table: Mutex<Table>,
    pinned: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Table {
    known: LruCache<u64, Arc<Slab>>,
    /// Slabs that left and may still be registered.
    leaving: Vec<(u64, Weak<Slab>)>,
}

/// A slab that one device uses; when it is dropped by the last device, it is registered no more.
#[derive(Debug)]
pub(crate) struct Slab {
    registered: Registered,
    span: HostSpan,
    pinned: Arc<AtomicU64>,
    /// Stays mapped as long as it is registered.
    _host: Arc<ServiceView>,
}

/// A share in a registration.
#[derive(Debug)]
struct Registered {
    start: *mut c_void,
    context: Arc<Context>,
}

/// A registration of this process.
#[derive(Debug)]
struct Registration {
    shares: usize,
    /// The one that it was made in.
    context: Arc<Context>,
}

/// The registrations of this process, by address.
static REGISTRATIONS: Mutex<BTreeMap<usize, Registration>> = Mutex::new(BTreeMap::new());

// SAFETY: the pointer is only an address for the driver; what is behind it is guarded as the arena is.
unsafe impl Send for Registered {}
// SAFETY: as for Send; nothing changes it.
unsafe impl Sync for Registered {}

impl Registered {
    fn new(
        context: &Arc<Context>,
        current: &Current<'_>,
        start: *mut c_void,
        len_bytes: u64,
    ) -> Result<Self, DeviceError> {
        let share = || Self { start, context: Arc::clone(context) };
        let mut all = REGISTRATIONS.lock();
        if let Some(known) = all.get_mut(&start.addr()) {
            known.shares += 1;
            return Ok(share());
        }
        // SAFETY: the context is current; the span is mapped, and stays so for the life of the view that the slab holds.
        let code =
            unsafe { (current.api().cuMemHostRegister_v2)(start, len_bytes as usize, FLAGS) };
        current.done_for("cuMemHostRegister", len_bytes, code)?;
        // A context that the program made may go while other devices still use the memory; then each device is on its own, and
        // those that come later copy by hand.
        if context.is_of_library() {
            let registration = Registration { shares: 1, context: Arc::clone(context) };
            all.insert(start.addr(), registration);
        }
        Ok(share())
    }

    fn end(&self, context: &Context) {
        if let Ok(current) = context.enter_anyway() {
            // SAFETY: registered once, given back once; work on it has ended, since work keeps its slabs.
            let code = unsafe { (current.api().cuMemHostUnregister)(self.start) };
            current.given("cuMemHostUnregister", code);
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut all = REGISTRATIONS.lock();
        let Some(known) = all.get_mut(&self.start.addr()) else { return self.end(&self.context) };
        known.shares -= 1;
        if known.shares == 0
            && let Some(last) = all.remove(&self.start.addr())
        {
            // Under the lock: whoever registers the memory anew comes after this.
            self.end(&last.context);
            drop(all);
        }
    }
}

impl Slab {
    fn new(slabs: &Slabs, current: &Current<'_>, span: HostSpan) -> Result<Self, DeviceError> {
        let start = slabs.host.pointer(span).cast::<c_void>();
        let registered = Registered::new(&slabs.context, current, start, span.len_bytes)?;
        slabs.pinned.fetch_add(span.len_bytes, Ordering::Relaxed);
        let (pinned, host) = (Arc::clone(&slabs.pinned), Arc::clone(&slabs.host));
        Ok(Self { registered, span, pinned, _host: host })
    }

    /// The device address of a byte of the arena that lies in it.
    pub(crate) fn device_address(
        &self,
        current: &Current<'_>,
        offset_bytes: u64,
    ) -> Result<Address, DeviceError> {
        let mut address = 0;
        let start = self.registered.start;
        // SAFETY: the context is current, the memory is registered for all devices, the pointer is to a local.
        let code =
            unsafe { (current.api().cuMemHostGetDevicePointer_v2)(&raw mut address, start, 0) };
        current.done("cuMemHostGetDevicePointer", code)?;
        Ok(address + (offset_bytes - self.span.offset_bytes))
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        self.pinned.fetch_sub(self.span.len_bytes, Ordering::Relaxed);
    }
}

impl Slabs {
    pub(crate) fn new(context: &Arc<Context>, host: &Arc<ServiceView>, limit_bytes: u64) -> Self {
        let (context, host) = (Arc::clone(context), Arc::clone(host));
        let table = Mutex::new(Table { known: LruCache::unbounded(), leaving: Vec::new() });
        Self { context, host, limit_bytes, table, pinned: Arc::default() }
    }

    /// The arena.
    pub(crate) fn host(&self) -> &Arc<ServiceView> {
        &self.host
    }

    /// True when the slabs that these spans touch may be registered at once.
    pub(crate) fn can_hold(&self, spans: impl Iterator<Item = HostSpan>) -> bool {
        let mut slabs: Vec<u64> = spans.flat_map(parts).map(slab_of).collect();
        slabs.sort_unstable();
        slabs.dedup();
        slabs.len() as u64 <= (self.limit_bytes / SLAB_BYTES).max(1)
    }

    /// The slab that a span lies in, registered now if it is not. `rest` ends the work that may keep one of before.
    pub(crate) fn get(
        &self,
        current: &Current<'_>,
        span: HostSpan,
        rest: impl FnOnce(),
    ) -> Result<Arc<Slab>, DeviceError> {
        let number = slab_of(span);
        let mut table = self.table.lock();
        if let Some(known) = table.known.get(&number) {
            return Ok(Arc::clone(known));
        }
        let still = |(slab, left): &(u64, Weak<Slab>)| *slab == number && left.strong_count() > 0;
        if table.leaving.iter().any(still) {
            rest();
        }
        table.leaving.retain(|(_, left)| left.strong_count() > 0);
        let most = (self.limit_bytes / SLAB_BYTES).max(1) as usize;
        while table.known.len() >= most
            && let Some((number, slab)) = table.known.pop_lru()
        {
            table.leaving.push((number, Arc::downgrade(&slab)));
        }
        let start = number * SLAB_BYTES;
        let len_bytes = SLAB_BYTES.min(self.host.len_bytes() - start);
        let span = HostSpan { offset_bytes: start, len_bytes };
        let slab = Arc::new(Slab::new(self, current, span)?);
        table.known.put(number, Arc::clone(&slab));
        Ok(slab)
    }

    /// Lets go of every slab that a span touches.
    pub(crate) fn forget(&self, span: HostSpan, rest: impl FnOnce()) {
        let mut table = self.table.lock();
        for number in parts(span).map(slab_of) {
            if let Some(slab) = table.known.pop(&number) {
                table.leaving.push((number, Arc::downgrade(&slab)));
            }
        }
        let touched = |number: u64| {
            let (start, end) = (number * SLAB_BYTES, (number + 1) * SLAB_BYTES);
            start < span.end_bytes() && span.offset_bytes < end
        };
        let kept =
            table.leaving.iter().any(|(number, left)| touched(*number) && left.strong_count() > 0);
        table.leaving.retain(|(_, left)| left.strong_count() > 0);
        drop(table);
        // Neighbours' copies may keep it: pages that the system takes back must not stay registered.
        if kept {
            rest();
        }
    }

    /// Bytes registered now.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.pinned.load(Ordering::Relaxed)
    }
}

/// The slab that a span begins in.
fn slab_of(span: HostSpan) -> u64 {
    span.offset_bytes / SLAB_BYTES
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
        assert_eq!(parts(HostSpan { offset_bytes: 5, len_bytes: 0 }).count(), 0);
    }
}
