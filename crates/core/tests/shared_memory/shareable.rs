//! A shareable vector is a vector like any other, and its file says what was promised.

use std::os::fd::{AsFd, OwnedFd};

use hmmap_core::{
    Error, SharedVec,
    host::{HostError, HostPages, ShareFault, Sharing},
};
use rustix::{fs::FallocateFlags, io::Errno};

use crate::{
    kernels::{Add, Count},
    rig::{device, each_rung},
    stranger::Stranger,
};

/// Three blocks and a bit, in words.
const N: usize = 3 * (2 << 20) / 4 + 1000;
const PAGE: usize = 65_536 / 4;

fn refused(error: Error) -> ShareFault {
    match error {
        Error::Host(HostError::NotShared(fault)) => fault,
        other => panic!("{other}"),
    }
}

#[test]
fn what_kernels_and_the_host_write_is_in_the_file() {
    each_rung(|mem| {
        let ordinary = SharedVec::from_fn(mem, N, |i| i as u32).unwrap();
        let mut y = SharedVec::<u32>::shareable(mem, N).unwrap();
        let memory = y.share_memory(Sharing::Read).unwrap();
        assert_eq!(memory.len_bytes, 4 * (2 << 20), "whole blocks");
        let other = Stranger::map(memory.fd, memory.len_bytes, false).unwrap();
        for round in 1..4u32 {
            mem.launch_on(device(0), N, Count { y: y.write(), seed: round, pause_ms: 0 }).unwrap();
            mem.launch_on(device(1), N, Add { x: ordinary.read(), y: y.update() }).unwrap();
            assert_eq!(y[PAGE + 3], round + 2 * (PAGE as u32 + 3), "by a fault");
            assert_eq!(y.host(..).unwrap()[N - 1], round + 2 * (N as u32 - 1));
            y[7] = round;
            assert_eq!((other.load(7), other.load(N - 1)), (round, round + 2 * (N as u32 - 1)));
        }
        assert_eq!(ordinary[N - 1], N as u32 - 1, "its neighbours are as they were");
    });
}

#[test]
fn a_read_grant_is_enforced_and_leaves_us_able_to_write() {
    each_rung(|mem| {
        let mut y = SharedVec::<u32>::shareable(mem, N).unwrap();
        y[0] = 1;
        let memory = y.share_memory(Sharing::Read).unwrap();
        let (fd, len_bytes) = (memory.fd, memory.len_bytes);
        let writes = Stranger::map(fd, len_bytes, true).err();
        assert_eq!(writes, Some(Errno::PERM));
        assert_eq!(Stranger::reopen_for_writing(fd, len_bytes).err(), Some(Errno::PERM));
        assert_eq!(rustix::io::pwrite(fd, &[1], 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(fd, 0), Err(Errno::PERM));
        // The trap that keeps the library from punching here, too.
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert_eq!(rustix::fs::fallocate(fd, punch, 0, 65_536), Err(Errno::PERM));
        let other = Stranger::map(fd, len_bytes, false).unwrap();
        mem.launch(N, Count { y: y.write(), seed: 40, pause_ms: 0 }).unwrap();
        assert_eq!(y[2], 42);
        y[N - 1] = 9;
        assert_eq!((other.load(2), other.load(N - 1)), (42, 9));
    });
}

/// The kernel would refuse to punch, so zeros have to be written.
#[test]
fn discarded_pages_of_a_sealed_file_read_as_zeros() {
    each_rung(|mem| {
        let mut y = SharedVec::<u32>::shareable(mem, N).unwrap();
        y.host_mut(..).unwrap().fill(5);
        let memory = y.share_memory(Sharing::Read).unwrap();
        let other = Stranger::map(memory.fd, memory.len_bytes, false).unwrap();
        y.discard(PAGE..3 * PAGE).unwrap();
        assert_eq!((y[PAGE - 1], y[PAGE], y[2 * PAGE], y[3 * PAGE]), (5, 0, 0, 5));
        assert_eq!(y.host(..).unwrap()[2 * PAGE + 1], 0);
        assert_eq!(other.load(PAGE), 0, "once it was read, it is zero for all");
    });
}

#[test]
fn a_share_is_final_and_the_arenas_file_is_not_for_sharing() {
    each_rung(|mem| {
        let fault = refused(
            SharedVec::<u32>::new(mem, N).unwrap().share_memory(Sharing::Read).unwrap_err(),
        );
        assert_eq!(fault, ShareFault::NotShareable);
        for (first, then) in [(Sharing::Read, Sharing::Write), (Sharing::Write, Sharing::Read)] {
            let y = SharedVec::<u32>::shareable(mem, 1).unwrap();
            let unlent = refused(y.share_memory(Sharing::Write).unwrap_err());
            assert_eq!(unlent, ShareFault::NotLent, "its owner has slices");
            let y = y.lend().unwrap();
            y.share_memory(first).unwrap();
            let fault = refused(y.share_memory(then).unwrap_err());
            assert_eq!(fault, ShareFault::SharedBefore { before: first });
            assert_eq!(y.share_memory(first).unwrap().sharing, first);
        }
    });
}

/// Whoever still has the file of a dropped vector sees nothing of later ones, and they nothing of it.
#[test]
fn a_dropped_file_is_nobody_elses() {
    each_rung(|mem| {
        let mut y = SharedVec::<u32>::shareable(mem, N).unwrap();
        mem.launch(N, Count { y: y.write(), seed: 1, pause_ms: 0 }).unwrap();
        y[0] = 77;
        let place = y.as_ptr().addr();
        let y = y.lend().unwrap();
        let memory = y.share_memory(Sharing::Write).unwrap();
        let len_bytes = memory.len_bytes;
        let kept: OwnedFd = memory.fd.try_clone_to_owned().unwrap();
        let old = Stranger::map(kept.as_fd(), len_bytes, true).unwrap();
        drop(y);
        mem.trim();
        for make in [SharedVec::<u32>::new, SharedVec::<u32>::shareable] {
            let mut next = make(mem, N).unwrap();
            // On huge pages files have places of their own.
            if mem.host_pages() == HostPages::Ordinary || next.share_memory(Sharing::Read).is_ok() {
                assert_eq!(next.as_ptr().addr(), place, "the place is dealt out again");
            }
            old.store(5, 123);
            assert_eq!((next[0], next[5]), (0, 0));
            next[6] = 55;
            mem.launch(N, Count { y: next.write(), seed: 2, pause_ms: 0 }).unwrap();
            assert_eq!(next[8], 10);
            assert_ne!((old.load(6), old.load(8)), (55, 10));
            drop(next);
            mem.trim();
        }
        assert_eq!(old.load(0), 77, "and it keeps what was there");
    });
}

#[test]
fn growing_moves_to_a_new_file() {
    each_rung(|mem| {
        let mut y = SharedVec::<u32>::shareable(mem, 10).unwrap();
        y[9] = 3;
        let old = y.share_memory(Sharing::Read).unwrap();
        let other = Stranger::map(old.fd, old.len_bytes, false).unwrap();
        y.resize(N, 4).unwrap();
        y[8] = 99;
        assert_eq!((y[9], y[N - 1], other.load(8), other.load(9)), (3, 4, 0, 3));
        assert!(y.share_memory(Sharing::Read).unwrap().len_bytes > N as u64 * 4);
    });
}
