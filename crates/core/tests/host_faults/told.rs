//! A failure is told once: to who waits for the fence, or else to who comes to the vector next.

use hmmap_core::{Error, SharedVec, embedded::EmbeddedMemory};

use crate::{
    kernels::{Break, Count},
    rig::{RUNGS, runtime},
};

const N: usize = 40_000;

/// Whoever was told by the fence is not told again by any of the vectors, however many failures there were, and nothing is kept for it.
#[test]
fn who_waited_for_the_fence_is_not_told_again() {
    for rung in RUNGS {
        let mem = runtime(rung, EmbeddedMemory::Own, 1);
        let mut y = SharedVec::from_fn(&mem, N, |i| i as u32).unwrap();
        let mut other = SharedVec::<u32>::new(&mem, N).unwrap();
        let mut footprint_bytes = None;
        for seed in 0..300 {
            let failed = mem.launch(N, Break { y: y.update() }).unwrap();
            mem.launch(N, Count { y: other.write(), seed, pause_ms: 0 }).unwrap();
            let told = failed.wait();
            assert!(matches!(told, Err(Error::WorkFailed { bytes: None, .. })), "{told:?}");
            // The host has what was there before, and nobody has anything to say.
            assert_eq!(y.host(..).unwrap()[N - 1], N as u32 - 1, "{rung:?}, {seed}");
            assert_eq!(other.host(..).unwrap()[1], seed + 1);
            let now_bytes = y.footprint_bytes() + other.footprint_bytes();
            assert_eq!(*footprint_bytes.get_or_insert(now_bytes), now_bytes, "after {seed}");
        }
        // Nobody waits: the vector tells, once.
        mem.launch(N, Break { y: y.update() }).unwrap();
        let told = y.host(..).map(<[u32]>::len);
        assert!(matches!(told, Err(Error::WorkFailed { bytes: Some(_), .. })), "{told:?}");
        assert_eq!(y.host(..).unwrap()[N - 1], N as u32 - 1);
    }
}
