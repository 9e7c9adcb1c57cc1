//! Host memory of dropped vectors: the next vector has it again, sees nothing of what was there, and the system gets the rest.
#![allow(unsafe_code, reason = "defines a kernel")]

#[path = "kernels/increment.rs"]
mod increment;

use std::sync::{Arc, Mutex};

use hmmap_core::{
    Options, Runtime, SharedVec,
    backend::Provider,
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
};
use increment::Increment;

const MIB: usize = 1 << 20;
/// The figures are those of the whole process, so these tests run one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn runtime(memory: EmbeddedMemory, max_kept_bytes: Option<u64>) -> Runtime {
    let options = EmbeddedOptions { memory, ..EmbeddedOptions::default() };
    let provider: Arc<dyn Provider> = Arc::new(EmbeddedProvider::new(options));
    Runtime::new(vec![provider], Options { max_kept_bytes, ..Options::default() }).unwrap()
}

fn written(mem: &Runtime, bytes: usize) -> SharedVec<u32> {
    let len = bytes / size_of::<u32>();
    SharedVec::from_fn(mem, len, |_| u32::MAX).unwrap()
}

/// Bytes of shared memory, which the arena is, that the process has at the moment.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssShmem:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn a_new_vector_is_zeros_where_another_one_was() {
    let _alone = ALONE.lock().unwrap();
    for memory in [EmbeddedMemory::Host, EmbeddedMemory::Own] {
        let mem = runtime(memory, None);
        for bytes in [4, 64 << 10, 100_000, 3 * MIB] {
            let len = bytes / size_of::<u32>();
            drop(written(&mem, bytes));
            let untouched = SharedVec::<u32>::new(&mem, len).unwrap();
            assert!(untouched.host(..).unwrap().iter().all(|x| *x == 0), "{bytes} on the host");
            drop(untouched);
            drop(written(&mem, bytes));
            let mut launched = SharedVec::<u32>::new(&mem, len).unwrap();
            mem.launch(len / 2 + 1, Increment(launched.update())).unwrap();
            let found = launched.host(..).unwrap();
            let right = found.iter().enumerate().all(|(i, x)| *x == u32::from(i <= len / 2));
            assert!(right, "{bytes} on a device, {memory:?}");
            drop(launched);
            drop(written(&mem, bytes));
            let mut grown = SharedVec::<u32>::new(&mem, len).unwrap();
            grown.host_mut(..1).unwrap()[0] = 1;
            grown.resize(len + 7, 5).unwrap();
            let sum: u64 = grown.host(..).unwrap().iter().map(|x| u64::from(*x)).sum();
            assert_eq!(sum, 36, "{bytes} grown");
        }
    }
}

#[test]
fn memory_of_dropped_vectors_is_used_again() {
    let _alone = ALONE.lock().unwrap();
    let mem = runtime(EmbeddedMemory::Host, None);
    let place = |vec: &SharedVec<u32>| vec.host(..).unwrap().as_ptr();
    let vec = written(&mem, 3 * MIB);
    let (first, with_it) = (place(&vec), resident_bytes());
    drop(vec);
    assert_eq!(resident_bytes(), with_it, "its memory is kept");
    // Another length does not take it.
    assert_ne!(place(&written(&mem, 5 * MIB)), first);
    assert_eq!(place(&written(&mem, 3 * MIB)), first);
}

#[test]
fn memory_goes_back_beyond_the_limit_and_when_asked() {
    let _alone = ALONE.lock().unwrap();
    let limit = 16 * MIB;
    let mem = runtime(EmbeddedMemory::Host, Some(limit as u64));
    let before = resident_bytes();
    let vecs: Vec<_> = (0..20).map(|_| written(&mem, 2 * MIB)).collect();
    assert!(resident_bytes() >= before + 40 * MIB);
    drop(vecs);
    let kept = resident_bytes() - before;
    assert!(kept <= limit + MIB, "{kept} bytes are kept of a limit of {limit}");
    drop(written(&mem, 8 * MIB));
    assert!(resident_bytes() - before <= kept, "too large to be kept");
    mem.trim();
    let kept = resident_bytes() - before;
    assert!(kept < MIB, "{kept} bytes stay");
    let mem = runtime(EmbeddedMemory::Host, Some(0));
    let before = resident_bytes();
    drop(written(&mem, 2 * MIB));
    assert!(resident_bytes() < before + MIB, "nothing is kept with a limit of zero");
}
