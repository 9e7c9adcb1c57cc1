//! Failing one call of a device on purpose.
//!
//! A test that asks "what if this call fails?" of every call runs its scenario once per call: the n-th call that can fail answers an
//! error of the test's choice and reaches nobody, all others go through. [`FaultyProvider`] does that to any
//! provider, real drivers included; the simulated device has the same switch built in.
//!
//! ```
//! # use std::sync::Arc;
//! # use hmmap_core::backend::{DeviceError, faulty::FaultyProvider};
//! # use hmmap_core::embedded::EmbeddedProvider;
//! # fn scenario(_: &FaultyProvider) {}
//! for n in 1.. {
//!     let provider = FaultyProvider::new(Arc::new(EmbeddedProvider::default()));
//!     provider.faults().fail_nth_call(n, DeviceError::Injected);
//!     scenario(&provider);
//!     if provider.faults().fired() == 0 {
//!         break; // the scenario makes fewer than n calls
//!     }
//! }
//! ```
//!
//! Calls that can fail are [`Provider::open`] and the methods of [`Device`] that return a `Result`. They are counted together, in
//! the order in which they are made. An error is an answer and nothing more: after [`DeviceError::Lost`] from here the device works on, while the
//! simulated device can be lost in earnest.

#[cfg(test)]
mod tests;

use std::{ops::Range, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{
    AcrossWork, Device, DeviceError, DeviceFacts, DeviceSummary, Exported, Imported, LaunchWork,
    MemoryId, OpenContext, Provider, Reservation, TransferWork, Window, WindowId,
};
use crate::{
    fence::{FencePoint, FenceState},
    host::HostSpan,
    kernel::{KernelId, ParamLayout, Source},
    p2p::HandleKinds,
};

/// Which call fails, and how many there were. Clones are handles to the same.
#[derive(Clone, Debug, Default)]
pub struct CallFaults {
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    calls: u64,
    fired: u64,
    fail: Option<(u64, DeviceError)>,
    panics: bool,
}

impl CallFaults {
    /// Makes the `n`-th call from now on fail; 1 is the next. It replaces what was asked for before; 0 takes it back.
    pub fn fail_nth_call(&self, n: u64, error: DeviceError) {
        let mut plan = self.plan.lock();
        plan.fail = (n > 0).then(|| (plan.calls + n, error));
    }

    /// Makes the next wait for a fence panic, as a device's own code may.
    pub fn panic_in_next_wait(&self) {
        self.plan.lock().panics = true;
    }

    /// How many calls that can fail were made.
    pub fn calls(&self) -> u64 {
        self.plan.lock().calls
    }

    /// How many of them were made to fail.
    pub fn fired(&self) -> u64 {
        self.plan.lock().fired
    }

    /// Counts a call.
    ///
    /// # Errors
    /// The one that the test asked for here.
    pub(crate) fn count(&self) -> Result<(), DeviceError> {
        let mut plan = self.plan.lock();
        plan.calls += 1;
        let calls = plan.calls;
        match plan.fail.take_if(|(at, _)| *at == calls) {
            None => Ok(()),
            Some((_, error)) => {
                plan.fired += 1;
                Err(error)
            }
        }
    }
}

/// A provider whose calls, and whose device's calls, can be made to fail.
#[derive(Clone, Debug)]
pub struct FaultyProvider {
    inner: Arc<dyn Provider>,
    faults: CallFaults,
}

impl FaultyProvider {
    /// The same device, with a switch.
    pub fn new(inner: Arc<dyn Provider>) -> Self {
        Self { inner, faults: CallFaults::default() }
    }

    /// The switch.
    pub fn faults(&self) -> &CallFaults {
        &self.faults
    }
}

impl Provider for FaultyProvider {
    fn summary(&self) -> &DeviceSummary {
        self.inner.summary()
    }

    fn open(&self, context: OpenContext) -> Result<Arc<dyn Device>, DeviceError> {
        self.faults.count()?;
        let inner = self.inner.open(context)?;
        Ok(Arc::new(FaultyDevice { inner, faults: self.faults.clone() }))
    }
}

#[derive(Debug)]
struct FaultyDevice {
    inner: Arc<dyn Device>,
    faults: CallFaults,
}

impl Device for FaultyDevice {
    fn facts(&self) -> &DeviceFacts {
        self.inner.facts()
    }

    fn lost_by(&self) -> Option<&'static str> {
        self.inner.lost_by()
    }

    fn reserve(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        self.faults.count()?;
        self.inner.reserve(len_bytes)
    }

    fn reserve_whole(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        self.faults.count()?;
        self.inner.reserve_whole(len_bytes)
    }

    fn back(&self, memory: MemoryId, ranges: &[Range<u64>]) -> Result<(), DeviceError> {
        self.faults.count()?;
        self.inner.back(memory, ranges)
    }

    fn unback(&self, memory: MemoryId, ranges: &[Range<u64>]) {
        self.inner.unback(memory, ranges);
    }

    fn release(&self, memory: MemoryId) {
        self.inner.release(memory);
    }

    fn open_window(&self, span: HostSpan) -> Result<Window, DeviceError> {
        self.faults.count()?;
        self.inner.open_window(span)
    }

    fn close_window(&self, window: WindowId) {
        self.inner.close_window(window);
    }

    fn host_released(&self, span: HostSpan) {
        self.inner.host_released(span);
    }

    fn prepare(
        &self,
        source: &'static Source,
        layout: &ParamLayout,
    ) -> Result<KernelId, DeviceError> {
        self.faults.count()?;
        self.inner.prepare(source, layout)
    }

    fn submit_transfer(&self, work: &TransferWork<'_>) -> Result<FencePoint, DeviceError> {
        self.faults.count()?;
        self.inner.submit_transfer(work)
    }

    fn submit_launch(&self, work: &LaunchWork<'_>) -> Result<FencePoint, DeviceError> {
        self.faults.count()?;
        self.inner.submit_launch(work)
    }

    fn export(&self, memory: MemoryId, kinds: HandleKinds) -> Result<Exported, DeviceError> {
        self.faults.count()?;
        self.inner.export(memory, kinds)
    }

    fn import(&self, exported: &Exported) -> Result<Imported, DeviceError> {
        self.faults.count()?;
        self.inner.import(exported)
    }

    fn submit_between(&self, work: &AcrossWork<'_>) -> Result<FencePoint, DeviceError> {
        self.faults.count()?;
        self.inner.submit_between(work)
    }

    fn poll(&self, point: FencePoint) -> FenceState {
        self.inner.poll(point)
    }

    fn wait(&self, point: FencePoint, timeout: Duration) -> FenceState {
        let panics = std::mem::take(&mut self.faults.plan.lock().panics);
        assert!(!panics, "a test asked for it");
        self.inner.wait(point, timeout)
    }
}
