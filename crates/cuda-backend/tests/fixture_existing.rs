//! A program with a context and a stream of its own, on the test double of the driver: the library uses its context, and it uses the library's vectors in its
//! stream.
#![allow(unsafe_code, reason = "plays the program that brings a context")]

use std::{ffi::c_void, ptr, sync::Arc};

use cudarc::driver::sys;
use hmmap::kernels::Saxpy;
use hmmap_core::{
    Error, MemoryModel, Options as RuntimeOptions, Runtime, SharedVec,
    backend::{DeviceError, Provider},
};
use hmmap_cuda::{CudaProvider, ExistingContext, Options};
use hmmap_cuda_fixture::Fixture;

fn ok(result: sys::CUresult) {
    assert_eq!(result as u32, 0, "{result:?}");
}

/// What a program has that uses CUDA by itself. No context is current afterwards.
fn context_and_stream() -> (sys::CUcontext, sys::CUstream) {
    let (mut context, mut stream) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: pointers to locals.
    unsafe {
        ok(sys::cuInit(0));
        ok(sys::cuCtxCreate_v2(&raw mut context, 0, 0));
        ok(sys::cuStreamCreate(&raw mut stream, 1));
        ok(sys::cuCtxPopCurrent_v2(ptr::null_mut()));
    }
    (context, stream)
}

#[test]
fn the_programs_context_and_stream_are_used() {
    let fixture = Fixture::load().unwrap();
    let (context, stream) = context_and_stream();
    // SAFETY: the context lives until the end of the test.
    let provider =
        unsafe { CudaProvider::from_existing(ExistingContext(context.cast()), Options::default()) };
    let provider = Arc::new(provider.unwrap());
    let options =
        RuntimeOptions { memory_model: MemoryModel::Migrate, ..RuntimeOptions::default() };
    let mem = Runtime::new(vec![Arc::clone(&provider) as Arc<dyn Provider>], options).unwrap();
    let id = mem.devices().next().unwrap().0;
    let n = 600_000;
    let x = SharedVec::from_fn(&mem, n, |i| i as f32).unwrap();
    let mut y = SharedVec::from_fn(&mem, n, |_| 1.0_f32).unwrap();
    let mut copy = SharedVec::<f32>::new(&mem, n).unwrap();
    // The device is open from the first use on.
    mem.launch(n, Saxpy { x: x.read(), y: y.update(), a: 2.0 }).unwrap();
    let device = provider.device().unwrap();
    // SAFETY: a stream of the context, which is destroyed after the device.
    let timeline = unsafe { device.adopt_stream(stream.cast::<c_void>()) }.unwrap();
    let acquired = mem.acquire(id, [y.read().into(), copy.write().into()]).unwrap();
    device.wait_in(timeline, acquired.waits()).unwrap();
    let addresses: Vec<u64> = acquired.arrays().iter().map(|array| array.address).collect();
    // SAFETY: the program's own work on what it acquired, in its stream.
    unsafe {
        ok(sys::cuCtxPushCurrent_v2(context));
        ok(sys::cuMemcpyDtoDAsync_v2(addresses[1], addresses[0], n * 4, stream));
        ok(sys::cuCtxPopCurrent_v2(ptr::null_mut()));
    }
    let signal = device.signal(timeline).unwrap();
    acquired.release(signal).unwrap();
    assert!(copy.host(..).unwrap().iter().enumerate().all(|(i, got)| *got == 2.0 * i as f32 + 1.0));
    assert_eq!(fixture.violations(), [""; 0]);

    // The context is destroyed under the library: what the host has survives, what only the device has is lost and said to be.
    mem.launch(n, Saxpy { x: x.read(), y: y.update(), a: 1.0 }).unwrap().wait().unwrap();
    // SAFETY: a promise broken on purpose, to the double.
    ok(unsafe { sys::cuCtxDestroy_v2(context) });
    let lost = mem.launch(n, Saxpy { x: x.read(), y: y.update(), a: 1.0 });
    let lost = lost.map(drop).unwrap_err();
    assert!(matches!(lost, Error::Device { source: DeviceError::Lost, .. }), "{lost:?}");
    assert!(x.host(..).unwrap().iter().enumerate().all(|(i, got)| *got == i as f32));
    let gone = y.host(..).map(drop).unwrap_err();
    println!("{gone}");
    assert!(copy.host(..).unwrap().iter().enumerate().all(|(i, got)| *got == 2.0 * i as f32 + 1.0));
}
