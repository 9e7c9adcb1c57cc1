//! A context that the program made already, and the program's own streams.
//!
//! The program lends its context ([`CudaProvider::from_existing`]) and destroys it after everything of hmmap that uses it is gone.
//!
//! **Own streams.** `Runtime::acquire` gives addresses and fences to wait for; the program submits to a stream of its own and tells `release` when that ends. The
//! pieces for that are here:
//!
//! ```text
//! once:    CudaDevice::adopt_stream(stream)      its number as a timeline
//! before:  CudaDevice::wait_in(timeline, fences) what follows in the stream goes on after them
//! after:   CudaDevice::signal(timeline)          the fence that ends with everything in the stream so far: what `release` takes
//! ```
#![allow(unsafe_code, reason = "takes handles that the program made")]

use hmmap_core::{
    backend::DeviceError,
    fence::{FencePoint, TimelineId},
};

use crate::{
    context::Owner,
    device::CudaDevice,
    discover::{CudaProvider, LeftOutReason, load, usable},
    options::Options,
    physical::Physical,
    timeline::{Keeps, Timeline},
};

/// A context of the program's: the `CUcontext`, as the driver's pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExistingContext(pub *mut std::ffi::c_void);

impl CudaProvider {
    /// A provider over a context that the program made.
    ///
    /// # Errors
    /// The driver lacks a function, or the context's device cannot be used.
    ///
    /// # Safety
    /// The context is live, and stays so until this provider and every device opened from it are gone.
    pub unsafe fn from_existing(
        context: ExistingContext,
        options: Options,
    ) -> Result<Self, LeftOutReason> {
        let api = load().map_err(LeftOutReason::Driver)?;
        let raw = context.0.expose_provenance() as u64;
        let entered = crate::context::Context::around(api, raw, 0, Owner::Program);
        let current = entered.enter()?;
        let mut device = 0;
        // SAFETY: the context is current, the pointer is to a local.
        let code = unsafe { (current.api().cuCtxGetDevice)(&raw mut device) };
        current.done("cuCtxGetDevice", code)?;
        let physical = usable(Physical::of_device(&api, device)).map_err(|(_, reason)| reason)?;
        drop(current);
        Ok(Self::new(api, physical, Some(raw), options))
    }
}

impl CudaDevice {
    /// Makes a stream of the program's one of this device's timelines, for as long as the device lives.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] when the program has lent 28 already.
    ///
    /// # Safety
    /// A live stream of the device's own context, which the program destroys after this device.
    pub unsafe fn adopt_stream(
        &self,
        stream: *mut std::ffi::c_void,
    ) -> Result<TimelineId, DeviceError> {
        let raw = stream.expose_provenance() as u64;
        let timeline = Timeline::around(self.context(), raw, Owner::Program);
        let number = self.adopt(timeline)?;
        Ok(TimelineId::new(self.number(), number))
    }

    /// Lets what follows in an adopted stream go on after fences of this device.
    ///
    /// # Errors
    /// [`DeviceError::Misuse`] for a fence or a timeline that is not of this device.
    pub fn wait_in(&self, timeline: TimelineId, fences: &[FencePoint]) -> Result<(), DeviceError> {
        let adopted = self.own_timeline(timeline)?;
        let current = self.context().enter()?;
        let events = self.events(timeline.queue(), fences)?;
        adopted.wait_for(&current, &events)
    }

    /// A fence that ends with everything in an adopted stream so far: what `release` takes.
    ///
    /// # Errors
    /// [`DeviceError::Misuse`] for a timeline that is not of this device; what the driver answers.
    pub fn signal(&self, timeline: TimelineId) -> Result<FencePoint, DeviceError> {
        let adopted = self.own_timeline(timeline)?;
        let current = self.context().enter()?;
        let value = adopted.submit(&current, &[], Keeps::new(), |_| Ok(()))?;
        Ok(self.point(timeline.queue(), value))
    }

    fn own_timeline(&self, timeline: TimelineId) -> Result<&Timeline, DeviceError> {
        let known = timeline.device() == self.number();
        let found = self.timeline(timeline.queue()).filter(|_| known);
        found.ok_or(DeviceError::Misuse { what: "a timeline unknown here" })
    }
}
