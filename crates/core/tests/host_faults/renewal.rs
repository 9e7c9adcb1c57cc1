//! Ranges that are overwritten or given up: what a signal would end is good again.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::OwnedFd,
};

use bytemuck::cast_slice;
use hmmap_core::{Error, Runtime, SharedVec, embedded::EmbeddedMemory, host::HostFaults};

use crate::{
    kernels::{Break, Count},
    rig::{each_rung, runtime},
};

const N: usize = 100_000;

/// A touch as a system call makes it, which says `EFAULT` where a load would end with a signal.
pub(crate) fn touch(elements: &[u32]) -> io::Result<()> {
    let fd: OwnedFd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC)?;
    File::from(fd).write_all(cast_slice(elements))
}

/// A vector whose data went with a kernel, and whose pages were touched since.
fn poisoned(mem: &Runtime) -> SharedVec<u32> {
    let mut y = SharedVec::new(mem, N).unwrap();
    mem.launch(N, Count { y: y.write(), seed: 1, pause_ms: 0 }).unwrap();
    mem.launch(N, Break { y: y.update() }).unwrap().wait().unwrap_err();
    for page in y.chunks(65_536 / 4) {
        let refused = touch(page).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::FAULT.raw_os_error()));
    }
    assert!(matches!(y.host_mut(..), Err(Error::DataLost { .. })));
    y
}

#[test]
fn what_ended_with_a_signal_is_good_after_an_overwrite_and_after_a_discard() {
    for rung in [HostFaults::Auto, HostFaults::NoSharing] {
        let mem = runtime(rung, EmbeddedMemory::Own, 1);
        let mut y = poisoned(&mem);
        y.overwrite(..).unwrap().fill(7);
        assert!(y.iter().all(|y| *y == 7), "{rung:?}");
        let mut y = poisoned(&mem);
        y.discard(..).unwrap();
        assert!(y.iter().all(|y| *y == 0), "{rung:?}");
        y[5] = 1;
        // A page that is covered in part needs what is lost.
        let mut y = poisoned(&mem);
        assert!(matches!(y.overwrite(1..), Err(Error::DataLost { .. })));
        assert!(matches!(y.discard(..N - 1), Err(Error::DataLost { .. })));
        y.discard(..65_536 / 4).unwrap();
        assert_eq!(y[5], 0);
        touch(&y[65_536 / 4..]).unwrap_err();
    }
}

/// Elements of three bytes lie across the ends of pages.
#[test]
fn a_discard_ends_where_its_elements_end() {
    each_rung(|mem| {
        let n = 5 * 65_536 / 3 + 2;
        let at = |page: usize| page * 65_536 / 3;
        let fresh = |i: usize| [i as u8 | 1, 2, 3];
        for (start, end) in
            [(0, n), (at(1), at(3)), (at(1) + 1, at(3) + 1), (7, 9), (at(4), n), (at(2), at(2) + 1)]
        {
            let mut vec = SharedVec::<[u8; 3]>::from_fn(mem, n, fresh).unwrap();
            vec.discard(start..end).unwrap();
            for (i, element) in vec.iter().enumerate() {
                let wanted = if (start..end).contains(&i) { [0; 3] } else { fresh(i) };
                assert_eq!(*element, wanted, "{i} of {start}..{end}");
            }
            vec.overwrite(start..end).unwrap().fill([9; 3]);
            for (i, element) in vec.iter().enumerate() {
                let wanted = if (start..end).contains(&i) { [9; 3] } else { fresh(i) };
                assert_eq!(*element, wanted, "{i} of {start}..{end}");
            }
        }
    });
}
