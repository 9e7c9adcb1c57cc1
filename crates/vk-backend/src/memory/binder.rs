//! Binds memory to blocks of sparse buffers, in batches and in order. Nobody on the host waits for it: whatever is submitted afterwards does.
#![allow(unsafe_code, reason = "submits sparse binds")]

use std::{sync::Arc, time::Duration};

use ash::vk;
use hmmap_core::backend::DeviceError;
use parking_lot::Mutex;

use crate::{
    gpu::{Gpu, QueueHandle},
    timeline::Timeline,
};

/// Binds per call: validation layers take time that grows with the square of it.
const BATCH: usize = 64;

/// The queue that binds.
#[derive(Debug)]
pub(crate) struct Binder {
    gpu: Arc<Gpu>,
    queue: Arc<QueueHandle>,
    timeline: Timeline,
    /// The last value handed to the driver. Held while a batch is submitted, so that values go in order.
    last: Mutex<u64>,
}

impl Binder {
    pub(crate) fn new(gpu: &Arc<Gpu>, queue: &Arc<QueueHandle>) -> Result<Self, DeviceError> {
        let timeline = Timeline::new(gpu)?;
        Ok(Self { gpu: Arc::clone(gpu), queue: Arc::clone(queue), timeline, last: Mutex::new(0) })
    }

    /// Binds, after all that was asked for before, and returns the value that ends with it. When it fails, any of the binds may be done or not.
    ///
    /// # Safety
    /// (1) The buffer is a sparse buffer that lives until [`Binder::wait`] has returned for the value, and every bind lies in it, aligned as it demands.
    /// (2) Memory that is bound is not external, of an allowed type, and is freed only when a bind that takes it away has ended, or the buffer is gone.
    /// (3) No work uses the ranges now, and what uses them later waits for [`Binder::pending`].
    pub(crate) unsafe fn bind(
        &self,
        buffer: vk::Buffer,
        binds: &[vk::SparseMemoryBind],
        asked_bytes: u64,
    ) -> Result<u64, DeviceError> {
        let mut value = 0;
        for batch in binds.chunks(BATCH) {
            // SAFETY: by the contract of this function.
            value = unsafe { self.submit(buffer, batch, asked_bytes)? };
        }
        Ok(value)
    }

    /// The semaphore and the value that all binds so far will have ended with; nothing where they have.
    pub(crate) fn pending(&self) -> Option<(vk::Semaphore, u64)> {
        let last = *self.last.lock();
        (self.timeline.completed(last) < last).then(|| (self.timeline.semaphore(), last))
    }

    /// Waits until a value has ended; the loss of the device ends all.
    pub(crate) fn wait(&self, value: u64) {
        while !self.timeline.wait(value, Duration::from_secs(10)).has_ended() {
            tracing::warn!(value, "still waiting for a sparse bind");
        }
    }

    /// Waits for all binds so far.
    pub(crate) fn wait_for_all(&self) {
        let last = *self.last.lock();
        self.wait(last);
    }

    /// # Safety
    /// As for [`Binder::bind`].
    unsafe fn submit(
        &self,
        buffer: vk::Buffer,
        binds: &[vk::SparseMemoryBind],
        asked_bytes: u64,
    ) -> Result<u64, DeviceError> {
        self.gpu.alive()?;
        let mut last = self.last.lock();
        let value = *last + 1;
        let (signals, values) = ([self.timeline.semaphore()], [value]);
        let buffers = [vk::SparseBufferMemoryBindInfo::default().buffer(buffer).binds(binds)];
        // Binds are in no order by themselves, and memory goes from one place to another.
        let befores = [*last];
        let mut timelines = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&befores)
            .signal_semaphore_values(&values);
        let info = vk::BindSparseInfo::default()
            .wait_semaphores(&signals)
            .buffer_binds(&buffers)
            .signal_semaphores(&signals)
            .push_next(&mut timelines);
        self.timeline.set_submitted(value);
        let _queue = self.queue.lock.lock();
        // SAFETY: (1) the queue is used under its lock alone and can bind, (2) everything `info` points to outlives the call, (3) the
        // binds are sound by the contract, (4) the value is above every one signalled before.
        let bound =
            unsafe { self.gpu.raw().queue_bind_sparse(self.queue.raw, &[info], vk::Fence::null()) };
        self.gpu.done_for("vkQueueBindSparse", asked_bytes, bound)?;
        *last = value;
        Ok(value)
    }
}

impl Drop for Binder {
    fn drop(&mut self) {
        self.wait_for_all();
    }
}
