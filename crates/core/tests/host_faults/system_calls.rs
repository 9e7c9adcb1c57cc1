//! Memory that a device holds, handed to the kernel as it is: files that bypass the page cache, sockets, other processes. And to other
//! libraries, which take slices.
//!
//! Each call finds every page away, in the vector that it reads from and in the one that it writes to; what a kernel then makes
//! of the latter shows that the device heard of the write.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::unix::{fs::FileExt as _, fs::OpenOptionsExt as _, net::UnixStream},
    path::Path,
    process::{Command, id},
    thread,
};

use bytemuck::{bytes_of_mut, cast_slice, cast_slice_mut};
use hmmap_core::{
    Runtime, SharedVec,
    embedded::EmbeddedMemory,
    host::{HostFaults, Reach},
};
use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use crate::{
    kernels::{Add, Count},
    rig::{each_rung, runtime},
};

/// Ten pages and one entry: what bypasses the page cache goes by whole entries.
const N: usize = (10 * 65_536 + 4096) / 4;

fn counted(mem: &Runtime, seed: u32, pause_ms: u32) -> SharedVec<u32> {
    let mut y = SharedVec::new(mem, N).unwrap();
    mem.launch(N, Count { y: y.write(), seed, pause_ms }).unwrap();
    y
}

/// Two vectors that a device is writing; `call` brings the first one's bytes into the second. On every rung where system calls fault.
fn each_full_rung(call: impl Fn(&SharedVec<u32>, &mut SharedVec<u32>)) {
    for rung in [HostFaults::Auto, HostFaults::NoSharing] {
        let mem = runtime(rung, EmbeddedMemory::Own, 1);
        if mem.host_faults().is_some_and(|facts| facts.reach == Reach::UserMode) {
            println!("HMMAP-SKIP-CASE: {rung:?}: system calls do not fault without the right to");
            continue;
        }
        let (y, mut z) = (counted(&mem, 11, 5), counted(&mem, 0, 5));
        call(&y, &mut z);
        let mut sum = SharedVec::<u32>::new(&mem, N).unwrap();
        mem.launch(N, Add { x: z.read(), y: sum.update() }).unwrap();
        assert!(sum.iter().zip(11u32..).all(|(z, y)| *z == y), "{rung:?}: what the device got");
        assert_eq!(z[..], y[..], "{rung:?}");
    }
}

#[test]
fn files_that_bypass_the_page_cache_read_and_write_what_a_device_holds() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("direct-{}", id()));
    let mut options = File::options();
    options.read(true).write(true).create_new(true).custom_flags(libc::O_DIRECT);
    let file = match options.open(&path) {
        Ok(file) => file,
        Err(refused) => {
            println!("HMMAP-SKIP: no O_DIRECT where the build is: {refused}");
            let _ = std::fs::remove_file(&path);
            return;
        }
    };
    std::fs::remove_file(&path).unwrap();
    each_full_rung(|y, z| {
        file.write_all_at(cast_slice(y), 0).unwrap();
        file.read_exact_at(cast_slice_mut(z), 0).unwrap();
    });
}

#[test]
fn sockets_send_and_receive_what_a_device_holds() {
    each_full_rung(|y, z| {
        let (mut from, mut to) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || from.write_all(cast_slice(y)).unwrap());
            to.read_exact(cast_slice_mut(z)).unwrap();
        });
    });
}

/// One process's memory and another's: `process_vm_readv`, or the same for writing.
fn copy(pid: u32, ours: &mut [u8], theirs: u64, write: bool) -> std::io::Result<usize> {
    let ours = libc::iovec { iov_base: ours.as_mut_ptr().cast(), iov_len: ours.len() };
    let theirs = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(theirs as usize),
        iov_len: ours.iov_len,
    };
    let call = if write { libc::process_vm_writev } else { libc::process_vm_readv };
    // SAFETY: our bytes are borrowed for writing; theirs are another process's, or a vector's that the caller borrows, and the call fails on
    // what is not mapped.
    let copied = unsafe { call(pid as libc::pid_t, &raw const ours, 1, &raw const theirs, 1, 0) };
    if copied < 0 { Err(std::io::Error::last_os_error()) } else { Ok(copied as usize) }
}

#[test]
fn another_process_reads_and_writes_what_a_device_holds() {
    const THEIRS: &str = "HMMAP_TEST_THEIRS";
    if let Ok(theirs) = std::env::var(THEIRS) {
        let theirs: Vec<u64> = theirs.split(' ').map(|word| word.parse().unwrap()).collect();
        let [pid, from, to] = theirs[..] else { panic!("{theirs:?}") };
        let mut bytes = vec![0; N * 4];
        for (at, write) in [(from, false), (to, true)] {
            match copy(pid as u32, &mut bytes, at, write) {
                Ok(copied) => assert_eq!(copied, bytes.len()),
                Err(refused) if refused.kind() == std::io::ErrorKind::PermissionDenied => {
                    println!("HMMAP-SKIP: one process may not read another's memory: {refused}");
                    return;
                }
                Err(error) => panic!("{error}"),
            }
        }
        return;
    }
    each_full_rung(|y, z| {
        let name = "system_calls::another_process_reads_and_writes_what_a_device_holds";
        let theirs = format!("{} {} {}", id(), y.as_ptr().addr(), z.as_mut_ptr().addr());
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture"]).env(THEIRS, theirs);
        let output = child.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        if let Some(at) = said.find("HMMAP-SKIP") {
            println!("{}", said[at..].lines().next().unwrap_or_default());
            z.copy_from_slice(y);
        }
    });
}

/// A process copies within itself the way another one would.
#[test]
fn remote_reads_of_our_own_memory_fault_pages_home() {
    each_full_rung(|y, z| {
        let from = y.as_ptr().addr() as u64;
        assert_eq!(copy(id(), cast_slice_mut(z), from, false).unwrap(), N * 4);
    });
    let mem = runtime(HostFaults::UserModeOnly, EmbeddedMemory::Own, 1);
    let (y, mut one) = (counted(&mem, 11, 0), 0u32);
    let refused = copy(id(), bytes_of_mut(&mut one), y.as_ptr().addr() as u64, false).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EFAULT), "rather than something stale");
    assert_eq!(y[0], 11);
}

/// Arrays of another library over the elements, and its loops.
#[test]
fn arrays_of_other_libraries_are_views_of_a_vector() {
    each_rung(|mem| {
        let (rows, columns) = (N / 1024, 1024);
        let mut y = counted(mem, 1, 5);
        let view = ArrayView2::from_shape((rows, columns), &y).unwrap();
        let by_row = view.map(|y| u64::from(*y)).sum_axis(Axis(1));
        let first = columns as u64;
        assert_eq!(by_row[0], first * (first + 1) / 2);
        assert_eq!(by_row[rows - 1] - by_row[0], first * first * (rows as u64 - 1));
        let mut view = ArrayViewMut2::from_shape((rows, columns), &mut y).unwrap();
        view.column_mut(7).fill(0);
        let mut z = SharedVec::<u32>::new(mem, N).unwrap();
        mem.launch(N, Add { x: y.read(), y: z.update() }).unwrap();
        let view = ArrayView2::from_shape((rows, columns), &z).unwrap();
        assert!(view.column(7).iter().all(|z| *z == 0));
        assert_eq!(view[[rows - 1, 8]], N as u32 - 1024 + 9);
    });
}
