//! An embedded device that notes what it is asked to launch.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use hmmap_core::{
    Access,
    backend::{
        Device, DeviceError, DeviceFacts, DeviceSummary, LaunchWork, MemoryId, OpenContext,
        Provider, Reservation, TransferWork, Window, WindowId,
    },
    embedded::EmbeddedProvider,
    fence::{FencePoint, FenceState},
    host::HostSpan,
    kernel::{KernelId, ParamLayout, Source},
};

/// One launch.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) name: &'static str,
    pub(crate) workgroup: [u32; 3],
    pub(crate) layout: ParamLayout,
    pub(crate) accesses: Vec<Access>,
}

#[derive(Debug, Default)]
pub(crate) struct Recorder {
    embedded: EmbeddedProvider,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Recorder {
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Provider for Recorder {
    fn summary(&self) -> &DeviceSummary {
        self.embedded.summary()
    }

    fn open(&self, context: OpenContext) -> Result<Arc<dyn Device>, DeviceError> {
        Ok(Arc::new(RecordingDevice {
            embedded: self.embedded.open(context)?,
            seen: self.seen.clone(),
        }))
    }
}

#[derive(Debug)]
struct RecordingDevice {
    embedded: Arc<dyn Device>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Device for RecordingDevice {
    fn submit_launch(&self, work: &LaunchWork<'_>) -> Result<FencePoint, DeviceError> {
        self.seen.lock().unwrap().push(Seen {
            name: work.source.name,
            workgroup: work.source.workgroup,
            layout: work.layout.clone(),
            accesses: work.arrays.iter().map(|array| array.access).collect(),
        });
        self.embedded.submit_launch(work)
    }

    fn facts(&self) -> &DeviceFacts {
        self.embedded.facts()
    }

    fn reserve(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        self.embedded.reserve(len_bytes)
    }

    fn back(&self, memory: MemoryId, ranges: &[Range<u64>]) -> Result<(), DeviceError> {
        self.embedded.back(memory, ranges)
    }

    fn unback(&self, memory: MemoryId, ranges: &[Range<u64>]) {
        self.embedded.unback(memory, ranges);
    }

    fn release(&self, memory: MemoryId) {
        self.embedded.release(memory);
    }

    fn open_window(&self, span: HostSpan) -> Result<Window, DeviceError> {
        self.embedded.open_window(span)
    }

    fn close_window(&self, window: WindowId) {
        self.embedded.close_window(window);
    }

    fn host_released(&self, span: HostSpan) {
        self.embedded.host_released(span);
    }

    fn prepare(
        &self,
        source: &'static Source,
        layout: &ParamLayout,
    ) -> Result<KernelId, DeviceError> {
        self.embedded.prepare(source, layout)
    }

    fn submit_transfer(&self, work: &TransferWork<'_>) -> Result<FencePoint, DeviceError> {
        self.embedded.submit_transfer(work)
    }

    fn poll(&self, point: FencePoint) -> FenceState {
        self.embedded.poll(point)
    }

    fn wait(&self, point: FencePoint, timeout: Duration) -> FenceState {
        self.embedded.wait(point, timeout)
    }
}
