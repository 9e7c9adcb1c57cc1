//! The driver's library and the three of its functions that tell whether it is of use.
#![allow(unsafe_code, reason = "loads the driver's library and calls functions of it by name")]

use std::ffi::c_int;

use cudarc::driver::sys;

/// The loaded library. It stays loaded until the process ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Driver(());

/// What a driver function did not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CallError {
    /// The library has no such function.
    Missing { call: &'static str },
    /// The function answered this code, which is not zero.
    Code { call: &'static str, code: u32 },
}

impl Driver {
    /// Loads the library, `None` when there is none.
    pub(crate) fn load() -> Option<Self> {
        // SAFETY: loading runs the library's own start-up code. It is the one that the system has for these names, which this
        // process trusts as it trusts every library on its path.
        unsafe { sys::is_culib_present() }.then_some(Self(()))
    }

    /// Starts the driver.
    pub(crate) fn init(self) -> Result<(), CallError> {
        let call = "cuInit";
        // SAFETY: the driver documents `CUresult cuInit(unsigned int)`, and an enum of C is an int.
        let function = unsafe { self.function::<unsafe extern "C" fn(u32) -> u32>(call)? };
        // SAFETY: flags must be 0, and are.
        answer(call, unsafe { function(0) })
    }

    /// The version, a thousand times the major number plus ten times the minor.
    pub(crate) fn version(self) -> Result<c_int, CallError> {
        self.number("cuDriverGetVersion")
    }

    /// How many devices there are. The driver was started.
    pub(crate) fn device_count(self) -> Result<c_int, CallError> {
        self.number("cuDeviceGetCount")
    }

    fn number(self, call: &'static str) -> Result<c_int, CallError> {
        let mut number = 0;
        // SAFETY: both functions for which this is called are documented as `CUresult f(int *)`.
        let function = unsafe { self.function::<unsafe extern "C" fn(*mut c_int) -> u32>(call)? };
        // SAFETY: the pointer is to a local that lives through the call.
        answer(call, unsafe { function(&raw mut number) })?;
        Ok(number)
    }

    /// A function by name.
    ///
    /// # Safety
    /// `F` is the type of the function of that name.
    unsafe fn function<F: Copy>(self, call: &'static str) -> Result<F, CallError> {
        // SAFETY: the library was found when `self` was made, and is not unloaded; the type is the caller's promise.
        let found = unsafe { sys::culib().get::<F>(call.as_bytes()) };
        found.map(|symbol| *symbol).map_err(|_| CallError::Missing { call })
    }
}

fn answer(call: &'static str, code: u32) -> Result<(), CallError> {
    match code {
        0 => Ok(()),
        code => Err(CallError::Code { call, code }),
    }
}
