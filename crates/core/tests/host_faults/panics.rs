//! A device's own code that panics on the way of a fault.

use std::sync::Arc;

use hmmap_core::{
    Options, Runtime, SharedVec,
    backend::faulty::{CallFaults, FaultyProvider},
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    host::HostFaults,
};

use crate::{kernels::Count, renewal::touch};

const N: usize = 100_000;
const PAGE: usize = 65_536 / 4;

/// A runtime with one device, whose next wait can be made to panic.
pub(crate) fn runtime_that_panics(host_faults: HostFaults) -> (Runtime, CallFaults) {
    let memory = EmbeddedMemory::Own;
    let device = EmbeddedProvider::new(EmbeddedOptions { memory, ..EmbeddedOptions::default() });
    let device = FaultyProvider::new(Arc::new(device));
    let faults = device.faults().clone();
    let options = Options { host_faults, ..Options::default() };
    let mem = Runtime::new(vec![Arc::new(device)], options).unwrap();
    assert!(mem.host_faults().is_some(), "userfaultfd was refused");
    (mem, faults)
}

/// A panic on the way of a fault, here a device's, ends the touch of its page with a signal, and that is taken back like any other.
#[test]
fn what_a_panic_took_is_good_after_a_guard_and_after_a_launch() {
    for rung in [HostFaults::Auto, HostFaults::NoSharing] {
        let (mem, faults) = runtime_that_panics(rung);
        let mut y = SharedVec::<u32>::new(&mem, N).unwrap();
        let broken = |y: &mut SharedVec<u32>, seed| {
            let kernel = Count { y: y.write(), seed, pause_ms: 0 };
            mem.launch(N, kernel).unwrap().wait().unwrap();
            faults.panic_in_next_wait();
            let refused = touch(&y[PAGE..PAGE + 10]).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::FAULT.raw_os_error()));
            touch(&y[3 * PAGE..3 * PAGE + 10]).unwrap();
        };
        broken(&mut y, 3);
        assert_eq!(y.host(PAGE..PAGE + 10).unwrap()[1], PAGE as u32 + 4, "{rung:?}");
        touch(&y[PAGE..PAGE + 10]).expect("a guard made it good");
        assert_eq!(y[PAGE + 1], PAGE as u32 + 4);
        broken(&mut y, 5);
        mem.launch(N, Count { y: y.write(), seed: 7, pause_ms: 0 }).unwrap();
        touch(&y[PAGE..PAGE + 10]).expect("a launch made it good");
        assert_eq!(y[PAGE + 1], PAGE as u32 + 8);
        y.overwrite(..).unwrap().fill(1);
        broken(&mut y, 9);
        // The next vector there has nothing to do with it.
        let address = y.as_ptr().addr();
        drop(y);
        let next = SharedVec::<u32>::new(&mem, N).unwrap();
        assert_eq!(next.as_ptr().addr(), address, "another place: nothing is tested");
        touch(&next).expect("the next vector is another's");
    }
}
