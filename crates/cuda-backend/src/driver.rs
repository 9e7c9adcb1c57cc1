//! The driver's library and the functions of it that are used, by name.
//!
//! Types of functions are the driver API's, with two differences. A result is a number: a newer driver may answer a code that no
//! binding lists, and an enum of Rust may not hold it. A handle is a number too: the driver's pointer, which only the driver follows.
#![allow(unsafe_code, reason = "loads the driver's library and looks up functions by name")]

use std::ffi::{c_char, c_int, c_uint, c_void};

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

/// A handle of the driver's: of a context, stream, event, module, function, or memory.
pub(crate) type Raw = u64;
/// An address of the device.
pub(crate) type Address = u64;
/// A function that the driver calls in the order of a stream.
pub(crate) type HostFunction = unsafe extern "C" fn(*mut c_void);

/// `cuMemcpyBatchAsync`: where to, where from, how much, how many; attributes, the first copy of each, how many; which failed; the stream.
pub(crate) type CopyBatch = unsafe extern "C" fn(
    *mut Address,
    *mut Address,
    *mut usize,
    usize,
    *mut sys::CUmemcpyAttributes,
    *mut usize,
    usize,
    *mut usize,
    Raw,
) -> u32;

macro_rules! functions {
    (
        required { $($name:ident($($arg:ty),*);)* }
        optional { $($extra:ident($($extra_arg:ty),*);)* }
    ) => {
        /// The functions that are used. All of the first part are there; each of the second may be missing from an older driver.
        #[derive(Clone, Copy, Debug)]
        #[allow(non_snake_case, reason = "the driver's names")]
        pub(crate) struct Api {
            $(pub(crate) $name: unsafe extern "C" fn($($arg),*) -> u32,)*
            $(pub(crate) $extra: Option<unsafe extern "C" fn($($extra_arg),*) -> u32>,)*
        }

        impl Api {
            /// Looks all of them up.
            ///
            /// # Errors
            /// The first that is missing.
            pub(crate) fn look_up(driver: Driver) -> Result<Self, CallError> {
                Ok(Self {
                    // SAFETY: each type is that of the function of the name, as cuda.h declares it, but for the two differences above, which change nothing
                    // about how values are passed on 64-bit systems: an enum of C is an int, and a pointer goes where a number of its size does.
                    $($name: unsafe { driver.function(stringify!($name))? },)*
                    // SAFETY: as above.
                    $($extra: unsafe { driver.function(stringify!($extra)) }.ok(),)*
                })
            }
        }
    };
}

functions! {
    required {
        cuDriverGetVersion(*mut c_int);
        cuDeviceGet(*mut c_int, c_int);
        cuDeviceGetName(*mut c_char, c_int, c_int);
        cuDeviceGetUuid_v2(*mut [u8; 16], c_int);
        cuDeviceTotalMem_v2(*mut usize, c_int);
        cuDeviceGetPCIBusId(*mut c_char, c_int, c_int);
        cuDeviceGetAttribute(*mut c_int, c_int, c_int);
        cuDevicePrimaryCtxRetain(*mut Raw, c_int);
        cuDevicePrimaryCtxRelease_v2(c_int);
        cuCtxPushCurrent_v2(Raw);
        cuCtxPopCurrent_v2(*mut Raw);
        cuCtxGetDevice(*mut c_int);
        cuMemGetAllocationGranularity(*mut usize, *const sys::CUmemAllocationProp, c_uint);
        cuMemAddressReserve(*mut Address, usize, usize, Address, u64);
        cuMemAddressFree(Address, usize);
        cuMemCreate(*mut Raw, usize, *const sys::CUmemAllocationProp, u64);
        cuMemRelease(Raw);
        cuMemMap(Address, usize, usize, Raw, u64);
        cuMemUnmap(Address, usize);
        cuMemSetAccess(Address, usize, *const sys::CUmemAccessDesc, usize);
        cuMemExportToShareableHandle(*mut c_void, Raw, c_uint, u64);
        cuMemImportFromShareableHandle(*mut Raw, *mut c_void, c_uint);
        cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
        cuMemFreeHost(*mut c_void);
        cuMemHostRegister_v2(*mut c_void, usize, c_uint);
        cuMemHostUnregister(*mut c_void);
        cuMemHostGetDevicePointer_v2(*mut Address, *mut c_void, c_uint);
        cuStreamCreate(*mut Raw, c_uint);
        cuStreamDestroy_v2(Raw);
        cuStreamSynchronize(Raw);
        cuStreamWaitEvent(Raw, Raw, c_uint);
        cuLaunchHostFunc(Raw, HostFunction, *mut c_void);
        cuEventCreate(*mut Raw, c_uint);
        cuEventDestroy_v2(Raw);
        cuEventRecord(Raw, Raw);
        cuEventQuery(Raw);
        cuMemcpyHtoDAsync_v2(Address, *const c_void, usize, Raw);
        cuMemcpyDtoHAsync_v2(*mut c_void, Address, usize, Raw);
        cuMemcpyDtoDAsync_v2(Address, Address, usize, Raw);
        cuMemsetD8Async(Address, u8, usize, Raw);
        cuModuleLoadDataEx(*mut Raw, *const c_void, c_uint, *mut c_int, *mut *mut c_void);
        cuModuleUnload(Raw);
        cuModuleGetFunction(*mut Raw, Raw, *const c_char);
        cuFuncGetAttribute(*mut c_int, c_int, Raw);
        cuLaunchKernel(
            Raw, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Raw, *mut *mut c_void,
            *mut *mut c_void
        );
        cuImportExternalMemory(*mut Raw, *const sys::CUDA_EXTERNAL_MEMORY_HANDLE_DESC);
        cuExternalMemoryGetMappedBuffer(
            *mut Address, Raw, *const sys::CUDA_EXTERNAL_MEMORY_BUFFER_DESC
        );
        cuDestroyExternalMemory(Raw);
        cuMemFree_v2(Address);
    }
    optional {
        cuMemGetHandleForAddressRange(*mut c_void, Address, usize, c_uint, u64);
        cuMemcpyBatchAsync(
            *mut Address, *mut Address, *mut usize, usize, *mut sys::CUmemcpyAttributes, *mut usize,
            usize, *mut usize, Raw
        );
    }
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
