//! The context: owned handle, results, loss.
//!
//! A thread has one context current at a time, and the program's may be another one. So each method of the device enters the
//! context and leaves it: [`Context::enter`]. Every call goes through [`Current::done`], which turns a code into an error and notices a context that is broken.
//! Once broken, a device stays lost: no call reaches the driver any more but those that give back.
#![allow(unsafe_code, reason = "owns the context")]

use std::{
    marker::PhantomData,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use hmmap_core::backend::DeviceError;

use crate::{
    code::{self, NOT_READY},
    driver::{Api, Raw},
};

/// Who destroys a handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// This library.
    Library,
    /// The program.
    Program,
}

/// A context of one device.
#[derive(Debug)]
pub(crate) struct Context {
    api: Api,
    raw: Raw,
    device: i32,
    owner: Owner,
    lost: AtomicBool,
    lost_by: OnceLock<&'static str>,
}

/// The context while it is current on this thread; left when dropped.
#[derive(Debug)]
pub(crate) struct Current<'a> {
    context: &'a Context,
    /// What is current belongs to the thread.
    thread: PhantomData<*const ()>,
}

impl Context {
    /// The primary context of a device.
    pub(crate) fn primary(api: Api, device: i32) -> Result<Self, DeviceError> {
        let mut raw = 0;
        // SAFETY: the driver was started, the pointer is to a local.
        let code = unsafe { (api.cuDevicePrimaryCtxRetain)(&raw mut raw, device) };
        if code != 0 {
            return Err(code::meaning("cuDevicePrimaryCtxRetain", code, 0));
        }
        Ok(Self::around(api, raw, device, Owner::Library))
    }

    /// A context of this device. Where the program owns it, it stays until everything that uses it is gone.
    pub(crate) fn around(api: Api, raw: Raw, device: i32, owner: Owner) -> Self {
        let (lost, lost_by) = (AtomicBool::new(false), OnceLock::new());
        Self { api, raw, device, owner, lost, lost_by }
    }

    /// The device's ordinal.
    pub(crate) fn device(&self) -> i32 {
        self.device
    }

    /// The functions of the driver. A call of one needs the context to be current: [`Context::enter`].
    pub(crate) fn api(&self) -> &Api {
        &self.api
    }

    /// True for one that lives as long as this value.
    pub(crate) fn is_of_library(&self) -> bool {
        self.owner == Owner::Library
    }

    /// Makes the context current until the value is dropped.
    ///
    /// # Errors
    /// [`DeviceError::Lost`], also when the context was destroyed.
    pub(crate) fn enter(&self) -> Result<Current<'_>, DeviceError> {
        if self.is_lost() {
            return Err(DeviceError::Lost);
        }
        self.enter_anyway()
    }

    /// The same for giving back, which a lost device does too.
    pub(crate) fn enter_anyway(&self) -> Result<Current<'_>, DeviceError> {
        // SAFETY: a context by its handle; one that the program has destroyed is answered with an error.
        let code = unsafe { (self.api.cuCtxPushCurrent_v2)(self.raw) };
        self.judge("cuCtxPushCurrent", code, 0)?;
        Ok(Current { context: self, thread: PhantomData })
    }

    /// True once the device is lost.
    pub(crate) fn is_lost(&self) -> bool {
        // Acquire pairs with the Release below: who sees the loss sees what was known when it was noticed.
        self.lost.load(Ordering::Acquire)
    }

    /// What found it lost.
    pub(crate) fn lost_by(&self) -> Option<&'static str> {
        self.lost_by.get().copied()
    }

    /// From now on the device is lost.
    pub(crate) fn lose(&self, by: &'static str) {
        let _ = self.lost_by.set(by);
        self.lost.store(true, Ordering::Release);
    }

    fn judge(&self, call: &'static str, code: u32, asked_bytes: u64) -> Result<(), DeviceError> {
        if code == 0 {
            return Ok(());
        }
        let error = code::meaning(call, code, asked_bytes);
        if error == DeviceError::Lost {
            self.lose(call);
        }
        Err(error)
    }
}

impl Current<'_> {
    /// The functions. The context is current, and stays so through the call.
    pub(crate) fn api(&self) -> &Api {
        &self.context.api
    }

    /// What a call's code means.
    pub(crate) fn done(&self, call: &'static str, code: u32) -> Result<(), DeviceError> {
        self.context.judge(call, code, 0)
    }

    /// The same for a call that asked for memory.
    pub(crate) fn done_for(
        &self,
        call: &'static str,
        asked_bytes: u64,
        code: u32,
    ) -> Result<(), DeviceError> {
        self.context.judge(call, code, asked_bytes)
    }

    /// The same for a question whose answer may be: not yet.
    pub(crate) fn answered(&self, call: &'static str, code: u32) -> Result<bool, DeviceError> {
        if code == NOT_READY {
            return Ok(false);
        }
        self.done(call, code).map(|()| true)
    }

    /// Gives something back. There is nobody to hear of an error, but a device that is lost is noticed.
    pub(crate) fn given(&self, call: &'static str, code: u32) {
        if let Err(error) = self.done(call, code)
            && error != DeviceError::Lost
        {
            tracing::error!(call, %error, "the CUDA driver did not take something back");
        }
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        let mut raw = 0;
        // SAFETY: the context was pushed on this thread, and nothing that this library calls meanwhile leaves another on top.
        let code = unsafe { (self.context.api.cuCtxPopCurrent_v2)(&raw mut raw) };
        let _ = self.context.judge("cuCtxPopCurrent", code, 0);
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.owner == Owner::Library {
            // SAFETY: retained once, released once.
            let code = unsafe { (self.api.cuDevicePrimaryCtxRelease_v2)(self.device) };
            let _ = self.judge("cuDevicePrimaryCtxRelease", code, 0);
        }
    }
}
