//! Runtimes to run a program on.

use std::sync::Arc;

use hmmap_core::{
    DeviceId, Options, Runtime,
    backend::Provider,
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    host::{HostFaults, HostPages, HugePool},
};

pub(crate) const RUNGS: [HostFaults; 4] =
    [HostFaults::Auto, HostFaults::NoSharing, HostFaults::UserModeOnly, HostFaults::Off];

/// Runs a program on every rung, on devices with memory of their own and on the host's, on ordinary pages and on huge ones.
pub(crate) fn each_rung(program: impl Fn(&Runtime)) {
    for pages in [HostPages::Ordinary, HostPages::Huge] {
        if pages == HostPages::Huge
            && let Some(reason) = lacks_huge_pages()
        {
            println!("HMMAP-SKIP-CASE: {reason}");
            break;
        }
        for rung in RUNGS {
            for memory in [EmbeddedMemory::Own, EmbeddedMemory::Host] {
                let mem = runtime_on(pages, rung, memory, 2);
                println!("{rung:?} ({:?}), {memory:?}, {pages:?}", mem.host_faults());
                program(&mem);
            }
        }
    }
}

/// Why there are not enough huge pages for a test, if so.
pub(crate) fn lacks_huge_pages() -> Option<String> {
    let pool = HugePool::look();
    let lacks = pool.free + pool.overcommit < FOR_A_TEST;
    lacks.then(|| format!("huge pages: {pool}; {}", pool.remedy(FOR_A_TEST)))
}

/// So many blocks are enough for the vectors of any test here.
const FOR_A_TEST: u64 = 64;

/// Two embedded devices.
pub(crate) fn runtime(rung: HostFaults, memory: EmbeddedMemory, devices: usize) -> Runtime {
    runtime_on(HostPages::Ordinary, rung, memory, devices)
}

pub(crate) fn runtime_on(
    host_pages: HostPages,
    host_faults: HostFaults,
    memory: EmbeddedMemory,
    devices: usize,
) -> Runtime {
    let device = || -> Arc<dyn Provider> {
        Arc::new(EmbeddedProvider::new(EmbeddedOptions { memory, ..EmbeddedOptions::default() }))
    };
    let options = Options { host_faults, host_pages, ..Options::default() };
    let mem = Runtime::new((0..devices).map(|_| device()).collect(), options).unwrap();
    let faults = mem.host_faults();
    let refused = faults.is_none();
    assert_eq!(refused, host_faults == HostFaults::Off, "userfaultfd was refused: {faults:?}");
    if let Some(facts) = faults {
        assert!(host_faults != HostFaults::NoSharing || !facts.write_protect, "{facts:?}");
    }
    mem
}

/// The signal that ends who touches a lost page, with its name: Linux before 6.6 has no poison, and such a page is one that may not be touched.
#[allow(dead_code, reason = "this file is shared")]
pub(crate) fn signal_of_a_lost_page() -> (i32, &'static str) {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let poison = mem.host_faults().is_some_and(|facts| facts.poison);
    if poison { (7, "SIGBUS") } else { (11, "SIGSEGV") }
}

/// True, and a line that says so, where host and devices never share a page, so that what moves is counted otherwise.
#[allow(dead_code, reason = "this file is shared")]
pub(crate) fn lacks_shared_pages(mem: &Runtime) -> bool {
    let lacks = mem.host_faults().is_some_and(|facts| !facts.write_protect);
    if lacks {
        println!("HMMAP-SKIP: no CONTINUE_MODE_WP: host and devices share no page here");
    }
    lacks
}

pub(crate) fn device(index: usize) -> DeviceId {
    DeviceId::new(index).unwrap()
}
