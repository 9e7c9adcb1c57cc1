//! Runtimes to run a program on.

use std::sync::Arc;

use hmmap_core::{
    DeviceId, MemoryModel, Options, Runtime,
    backend::Provider,
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    host::HostFaults,
};

pub(crate) const RUNGS: [HostFaults; 4] =
    [HostFaults::Auto, HostFaults::NoSharing, HostFaults::UserModeOnly, HostFaults::Off];

/// Runs a program on every rung, on devices with memory of their own and on the host's.
pub(crate) fn each_rung(program: impl Fn(&Runtime)) {
    for rung in RUNGS {
        for memory in [EmbeddedMemory::Own, EmbeddedMemory::Host] {
            let mem = runtime(rung, memory, 2);
            println!("{rung:?} ({:?}), {memory:?}", mem.host_faults());
            program(&mem);
        }
    }
}

/// Two embedded devices.
pub(crate) fn runtime(rung: HostFaults, memory: EmbeddedMemory, devices: usize) -> Runtime {
    let device = || -> Arc<dyn Provider> {
        Arc::new(EmbeddedProvider::new(EmbeddedOptions { memory, ..EmbeddedOptions::default() }))
    };
    let options =
        Options { host_faults: rung, memory_model: MemoryModel::Auto, ..Options::default() };
    let mem = Runtime::new((0..devices).map(|_| device()).collect(), options).unwrap();
    let faults = mem.host_faults();
    assert_eq!(faults.is_none(), rung == HostFaults::Off, "userfaultfd was refused: {faults:?}");
    if let Some(facts) = faults {
        assert!(rung != HostFaults::NoSharing || !facts.write_protect, "{facts:?}");
    }
    mem
}

pub(crate) fn device(index: usize) -> DeviceId {
    DeviceId::new(index).unwrap()
}
