//! Touches of what a dropped vector had.

use std::{fs::File, io::Write as _, os::fd::OwnedFd, slice};

use hmmap_core::{Runtime, SharedVec, embedded::EmbeddedMemory, host::HostFaults};

use crate::{kernels::Count, renewal::touch, rig::runtime};

const N: usize = 40_000;

/// The address of a vector that is gone, touched until it ended with a signal (here: with `EFAULT`, since a system call touches it).
fn stray(mem: &Runtime) -> usize {
    let mut gone = SharedVec::<u32>::new(mem, N).unwrap();
    gone[3] = 1;
    let address = gone.as_ptr().addr();
    let first = gone.as_ptr().cast::<u8>();
    drop(gone);
    // SAFETY: a lie, as far as this process goes: nobody looks at the bytes but the kernel, which says when there are none. The mapping lasts as
    // long as the runtime.
    let bytes = unsafe { slice::from_raw_parts(first, 4) };
    let fd: OwnedFd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let refused = File::from(fd).write_all(bytes).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::FAULT.raw_os_error()));
    address
}

/// Whoever gets the place next knows nothing of it.
#[test]
fn the_next_vector_there_does_not_inherit_the_signal() {
    for rung in [HostFaults::Auto, HostFaults::NoSharing] {
        let mem = runtime(rung, EmbeddedMemory::Own, 1);
        for by_kernel in [false, true] {
            let address = stray(&mem);
            let mut next = SharedVec::<u32>::new(&mem, N).unwrap();
            assert_eq!(next.as_ptr().addr(), address, "another place: nothing is tested");
            if by_kernel {
                let kernel = Count { y: next.write(), seed: 5, pause_ms: 0 };
                mem.launch(N, kernel).unwrap();
                touch(&next).unwrap();
                assert_eq!(next[0], 5);
            } else {
                touch(&next).unwrap();
                assert!(next.iter().all(|element| *element == 0), "{rung:?}");
                next[0] = 1;
            }
        }
    }
}
