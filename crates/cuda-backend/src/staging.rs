//! Copies by hand, where host memory cannot be registered: through a ring that the driver made, in the order of a stream.
//!
//! ```text
//! host to device:  function of the host: arena -> ring  |  copy: ring -> device
//! device to host:  copy: device -> ring  |  function of the host: ring -> arena
//! ```
//! The driver calls the functions in the order of the stream, so a ring needs no more order than that, and nobody waits for a copy but the
//! stream. One ring belongs to one stream. Such a copy takes two times over the memory bus, one after the other: it is the way out, not the way.
#![allow(unsafe_code, reason = "copies bytes between the arena and the ring")]

use std::{ffi::c_void, sync::Arc};

use hmmap_core::{
    backend::{DeviceError, Direction},
    host::{HostSpan, ServiceView},
};

use crate::{
    context::{Context, Current},
    driver::{Address, Raw},
};

/// Host memory that the driver made, given back when dropped.
#[derive(Debug)]
pub(crate) struct Ring {
    start: *mut u8,
    len_bytes: u64,
    context: Arc<Context>,
}

// SAFETY: the memory is touched by works of one stream alone, one after the other.
unsafe impl Send for Ring {}
// SAFETY: as for Send; nothing changes the value.
unsafe impl Sync for Ring {}

/// A copy that the driver asks the host for.
struct Job {
    from: *const u8,
    to: *mut u8,
    len_bytes: usize,
    /// Stays mapped until then.
    _host: Arc<ServiceView>,
}

/// Called by the driver, once.
unsafe extern "C" fn run(job: *mut c_void) {
    // SAFETY: the pointer came from `Box::into_raw` in `hand`, and the driver calls once.
    let job = unsafe { Box::from_raw(job.cast::<Job>()) };
    // SAFETY: (1) both sides are mapped: the arena by the view that the job holds, the ring until its stream has ended; (2) they do not overlap; (3) the engine keeps
    // everybody away from the arena's side until the fence has ended, and works of the one stream take turns at the ring.
    unsafe { job.to.copy_from_nonoverlapping(job.from, job.len_bytes) };
}

impl Ring {
    /// A ring of so many bytes.
    pub(crate) fn new(context: &Arc<Context>, len_bytes: u64) -> Result<Self, DeviceError> {
        let current = context.enter()?;
        let mut start = std::ptr::null_mut();
        // SAFETY: the context is current, the pointer is to a local; without flags it is memory that the host caches.
        let code = unsafe { (current.api().cuMemHostAlloc)(&raw mut start, len_bytes as usize, 0) };
        current.done_for("cuMemHostAlloc", len_bytes, code)?;
        Ok(Self { start: start.cast(), len_bytes, context: Arc::clone(context) })
    }

    /// Submits one copy, in as many pieces as it takes.
    pub(crate) fn copy(
        &self,
        current: &Current<'_>,
        stream: Raw,
        host: &Arc<ServiceView>,
        (direction, span): (Direction, HostSpan),
        device: Address,
    ) -> Result<(), DeviceError> {
        let mut done = 0;
        while done < span.len_bytes {
            let len_bytes = self.len_bytes.min(span.len_bytes - done);
            let arena = host.pointer(span.part(done, len_bytes));
            let (at, len) = (device + done, len_bytes as usize);
            let job = |from, to| Job { from, to, len_bytes: len, _host: Arc::clone(host) };
            match direction {
                Direction::HostToDevice => {
                    hand(current, stream, job(arena, self.start))?;
                    // SAFETY: the context is current; the ring is the driver's and stays until the stream has ended; the device's side is backed.
                    let code = unsafe {
                        (current.api().cuMemcpyHtoDAsync_v2)(at, self.start.cast(), len, stream)
                    };
                    current.done("cuMemcpyHtoDAsync", code)?;
                }
                Direction::DeviceToHost => {
                    // SAFETY: as above.
                    let code = unsafe {
                        (current.api().cuMemcpyDtoHAsync_v2)(self.start.cast(), at, len, stream)
                    };
                    current.done("cuMemcpyDtoHAsync", code)?;
                    hand(current, stream, job(self.start, arena))?;
                }
            }
            done += len_bytes;
        }
        Ok(())
    }
}

/// Submits a copy by the host.
fn hand(current: &Current<'_>, stream: Raw, job: Job) -> Result<(), DeviceError> {
    let job = Box::into_raw(Box::new(job)).cast::<c_void>();
    // SAFETY: the context is current; the function calls nothing of the driver, and its argument is good until it is called.
    let code = unsafe { (current.api().cuLaunchHostFunc)(stream, run, job) };
    current.done("cuLaunchHostFunc", code).inspect_err(|_| {
        // SAFETY: made above; a call that failed never calls.
        drop(unsafe { Box::from_raw(job.cast::<Job>()) });
    })
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.context.is_lost() {
            // Whether a work of a lost device still touches it, nobody can say: so it stays.
            return;
        }
        if let Ok(current) = self.context.enter_anyway() {
            // SAFETY: made here, freed once; its stream has ended.
            let code = unsafe { (current.api().cuMemFreeHost)(self.start.cast()) };
            current.given("cuMemFreeHost", code);
        }
    }
}
