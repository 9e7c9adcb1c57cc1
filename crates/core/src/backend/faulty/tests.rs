use std::sync::Arc;

use super::FaultyProvider;
use crate::{
    access::Access,
    backend::{
        DeviceError, OpenContext, Provider,
        bench::{Bench, DOUBLE, words},
    },
    embedded::EmbeddedProvider,
    fence::FenceState,
    host::Arena,
    node::DeviceId,
    units::PAGE_BYTES,
};

/// Every kind of call that can fail, once.
fn scenario(provider: &dyn Provider) -> Result<(), DeviceError> {
    let arena = Arena::new().unwrap();
    let context = OpenContext { device: DeviceId::new(0).unwrap(), host: arena.view().clone() };
    let bench = Bench { device: provider.open(context)?, arena };
    let memory = bench.device.reserve(PAGE_BYTES)?;
    let page = 0..PAGE_BYTES;
    bench.device.back(memory.memory, std::slice::from_ref(&page))?;
    let span = bench.arena.allocate(PAGE_BYTES).unwrap();
    let window = bench.device.open_window(span)?;
    let zeroed = bench.zero(memory.memory, page, &[])?;
    let x = [words(memory.address, 4, Access::Update)];
    let run = bench.launch(&DOUBLE, &x, &[zeroed])?;
    assert_eq!(bench.end(run), FenceState::Ok);
    bench.device.close_window(window.window);
    bench.device.release(memory.memory);
    Ok(())
}

#[test]
fn each_call_that_can_fail_fails_once_and_the_error_arrives() {
    let mut calls = 0;
    for n in 1.. {
        let provider = FaultyProvider::new(Arc::new(EmbeddedProvider::default()));
        provider.faults().fail_nth_call(n, DeviceError::Injected);
        let result = scenario(&provider);
        if provider.faults().fired() == 0 {
            assert_eq!(result, Ok(()));
            break;
        }
        assert_eq!(result, Err(DeviceError::Injected));
        assert_eq!(provider.faults().calls(), n);
        calls = n;
    }
    // open, reserve, back, open_window, submit_transfer, prepare, submit_launch
    assert_eq!(calls, 7);
}

#[test]
fn what_was_asked_for_can_be_taken_back() {
    let provider = FaultyProvider::new(Arc::new(EmbeddedProvider::default()));
    provider.faults().fail_nth_call(1, DeviceError::Lost);
    provider.faults().fail_nth_call(0, DeviceError::Lost);
    assert_eq!(scenario(&provider), Ok(()));
}
