//! The kernel and other processes: system calls on vectors, children, lost data.

use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    os::fd::OwnedFd,
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitStatus},
};

use bytemuck::{cast_slice, cast_slice_mut};
use hmmap_core::{
    Runtime, SharedVec,
    embedded::EmbeddedMemory,
    host::{HostFaults, Reach},
};

use crate::{
    kernels::{Break, Count},
    rig::{runtime, signal_of_a_lost_page},
};

const N: usize = 300_000;

fn scratch() -> File {
    let fd: OwnedFd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    File::from(fd)
}

fn counted(mem: &Runtime, seed: u32) -> SharedVec<u32> {
    let mut y = SharedVec::new(mem, N).unwrap();
    mem.launch(N, Count { y: y.write(), seed, pause_ms: 5 }).unwrap();
    y
}

/// `read` and `write` go straight into and out of pages that a device holds.
#[test]
fn system_calls_fault_pages_home() {
    for rung in [HostFaults::Auto, HostFaults::NoSharing, HostFaults::Off] {
        let mem = runtime(rung, EmbeddedMemory::Own, 1);
        if mem.host_faults().is_some_and(|facts| facts.reach == Reach::UserMode) {
            println!("not measured here: only the program's own touches fault");
            continue;
        }
        let mut file = scratch();
        let y = counted(&mem, 11);
        file.write_all(cast_slice(&y)).unwrap();
        file.rewind().unwrap();
        let mut z = counted(&mem, 0);
        file.read_exact(cast_slice_mut(&mut z)).unwrap();
        assert_eq!(z[..], y[..], "{rung:?}");
        assert_eq!(z[N - 1], 11 + N as u32 - 1);
    }
}

/// With user-mode faults alone, a system call says so instead of writing something stale; a slice of `host` is good for it.
#[test]
fn without_rights_a_system_call_on_memory_that_is_away_fails() {
    let mem = runtime(HostFaults::UserModeOnly, EmbeddedMemory::Own, 1);
    let mut file = scratch();
    let y = counted(&mem, 11);
    let refused = file.write_all(cast_slice(&y)).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::FAULT.raw_os_error()));
    file.write_all(cast_slice(y.host(..).unwrap())).unwrap();
    assert_eq!(y[N - 1], 11 + N as u32 - 1);
}

/// Runs a test of this file again, alone, as a child that is expected to die.
pub(crate) fn in_child(test: &str) -> Option<ExitStatus> {
    if std::env::var_os("HMMAP_TEST_CHILD").is_some() {
        return None;
    }
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new(program);
    child.args(["--exact", test, "--nocapture"]).env("HMMAP_TEST_CHILD", "1");
    Some(child.output().unwrap().status)
}

#[test]
fn a_touch_of_what_is_lost_ends_with_a_signal() {
    let name = "peers_of_the_process::a_touch_of_what_is_lost_ends_with_a_signal";
    if let Some(status) = in_child(name) {
        assert_eq!(status.signal(), Some(signal_of_a_lost_page().0), "{status:?}");
        return;
    }
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let mut y = counted(&mem, 1);
    let _ = mem.launch(N, Break { y: y.update() }).unwrap().wait();
    println!("{}", y[N / 2]);
}

/// The same where the host had read the page before, so that it was mapped for reading alone.
#[test]
fn a_touch_of_what_was_shared_and_lost_ends_with_a_signal() {
    let name = "peers_of_the_process::a_touch_of_what_was_shared_and_lost_ends_with_a_signal";
    if let Some(status) = in_child(name) {
        assert_eq!(status.signal(), Some(signal_of_a_lost_page().0), "{status:?}");
        return;
    }
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let mut y = counted(&mem, 1);
    assert_eq!(y[N / 2], 1 + N as u32 / 2);
    mem.launch(N, Count { y: y.write(), seed: 2, pause_ms: 0 }).unwrap();
    let _ = mem.launch(N, Break { y: y.update() }).unwrap().wait();
    println!("{}", y[N / 2]);
}

/// Lost pages that are overwritten can be touched again.
#[test]
fn what_was_lost_can_be_overwritten() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let mut y = counted(&mem, 1);
    let _ = mem.launch(N, Break { y: y.update() }).unwrap().wait();
    assert!(y.host(..).is_err());
    mem.launch(N, Count { y: y.write(), seed: 8, pause_ms: 0 }).unwrap();
    assert_eq!(y[N / 2], 8 + N as u32 / 2);
}

/// A child has no view, rather than one that shows stale bytes.
#[test]
fn a_forked_child_does_not_see_the_vector() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let y = counted(&mem, 1);
    assert_eq!(y[0], 1);
    // SAFETY: the child touches one address and leaves; it takes no lock and allocates nothing.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let seen = std::hint::black_box(&y)[0];
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(if seen == 1 { 1 } else { 2 }) };
    }
    let mut status = 0;
    // SAFETY: waits for the child that was just made.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    let status = ExitStatus::from_raw(status);
    assert_eq!(status.signal(), Some(11), "SIGSEGV: {status:?}");
    assert_eq!(y[1], 2, "the parent goes on");
}
