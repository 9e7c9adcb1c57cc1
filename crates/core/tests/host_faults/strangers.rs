//! What others do to our mappings: the kernel drops entries, somebody discards, unmaps or moves them.

use std::{cell::Cell, io::BufRead as _, ptr};

use hmmap_core::{
    Cause, Runtime, SharedVec,
    embedded::EmbeddedMemory,
    host::{HostFaults, Reach},
};

use crate::{
    kernels::{Add, Count},
    peers_of_the_process::in_child,
    renewal::touch,
    rig::runtime,
};

const PAGE: usize = 65_536 / 4;
/// A whole block, wherever it begins.
const N: usize = 70 * PAGE;

fn counted(mem: &Runtime, seed: u32) -> SharedVec<u32> {
    let mut y = SharedVec::new(mem, N).unwrap();
    mem.launch(N, Count { y: y.write(), seed, pause_ms: 0 }).unwrap();
    y
}

fn advise(pages: &[u32], advice: i32) -> std::io::Result<()> {
    // SAFETY: the advices that are given drop entries of a shared file mapping, or change what they are made of; the bytes are in the file.
    let result =
        unsafe { libc::madvise(pages.as_ptr().cast_mut().cast(), size_of_val(pages), advice) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Touches of what the host has, and of what both have, after all entries were dropped: for reading, for writing, after a launch.
fn goes_on(mem: &Runtime, drop_entries: impl Fn(&[u32])) {
    let mut y = counted(mem, 1);
    y[..8 * PAGE].iter_mut().for_each(|y| *y += 1);
    let seen: Vec<u32> = y[..].to_vec();
    let before = mem.stats();
    for round in 0..3 {
        drop_entries(&y);
        assert_eq!(y[..], seen[..], "read, {round}");
    }
    let moved = (mem.stats() - before)[Cause::Fault];
    assert_eq!(moved.bytes(), 0, "what the host has is not brought again: {moved:?}");
    drop_entries(&y);
    for page in 0..N / PAGE {
        y[page * PAGE + 5] += 10;
    }
    drop_entries(&y);
    let mut sum = SharedVec::<u32>::new(mem, N).unwrap();
    mem.launch(N, Add { x: y.read(), y: sum.update() }).unwrap();
    drop_entries(&y);
    drop_entries(&sum);
    let bumped = |i: usize| seen[i] + if i % PAGE == 5 { 10 } else { 0 };
    assert!((0..N).all(|i| y[i] == bumped(i)), "a write to what both had is not lost");
    assert!((0..N).all(|i| sum[i] == bumped(i)), "and the device heard of it");
    // An entry of a page that both have must not come back writable.
    drop_entries(&sum);
    let _ = sum[3];
    sum[3] = 1234;
    let mut again = SharedVec::<u32>::new(mem, N).unwrap();
    mem.launch(N, Add { x: sum.read(), y: again.update() }).unwrap();
    assert_eq!(again[3], 1234);
}

#[test]
fn entries_that_somebody_discards_come_back() {
    for rung in [HostFaults::Auto, HostFaults::NoSharing, HostFaults::UserModeOnly] {
        let mem = runtime(rung, EmbeddedMemory::Own, 1);
        goes_on(&mem, |pages| advise(pages, libc::MADV_DONTNEED).unwrap());
    }
}

/// The kernel puts huge pages together behind our back (`khugepaged`), which drops the entries of every mapping of them.
#[test]
fn entries_that_the_kernel_drops_for_huge_pages_come_back() {
    const MADV_COLLAPSE: i32 = 25;
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let (collapsed, refused) = (Cell::new(0), Cell::new(None));
    goes_on(&mem, |pages| {
        let other = other_mapping(pages);
        // SAFETY: the other mapping of the same pages, which the library keeps as long as the vector's.
        let other = unsafe { std::slice::from_raw_parts(other, pages.len()) };
        let block = other.as_ptr().align_offset(2 << 20);
        let block = &other[block..block + 32 * PAGE];
        let done = advise(block, libc::MADV_HUGEPAGE).and_then(|()| advise(block, MADV_COLLAPSE));
        match done {
            Ok(()) => collapsed.set(collapsed.get() + 1),
            Err(error) => refused.set(Some(error)),
        }
    });
    println!("put together {} times", collapsed.get());
    if collapsed.get() == 0 {
        println!(
            "HMMAP-SKIP: no huge pages for shared memory (shmem_enabled): {:?}",
            refused.take()
        );
    }
}

/// Where else the memory of `pages` is mapped: the library's own view of it.
fn other_mapping(pages: &[u32]) -> *const u32 {
    let at = pages.as_ptr().addr();
    let maps = std::io::BufReader::new(std::fs::File::open("/proc/self/maps").unwrap());
    let arenas: Vec<_> = maps
        .lines()
        .map_while(Result::ok)
        .filter(|line| line.contains("hmmap arena"))
        .map(|line| {
            let words: Vec<_> = line.split([' ', '-']).collect();
            let number = |word: &str| usize::from_str_radix(word, 16).unwrap();
            (number(words[0])..number(words[1]), number(words[4]), words[6].to_owned())
        })
        .collect();
    let (ours, start, inode) = arenas.iter().find(|(range, ..)| range.contains(&at)).unwrap();
    let offset = at - ours.start + start;
    let (other, start, _) = arenas
        .iter()
        .find(|(range, start, file)| {
            let inside = (*start..*start + range.len()).contains(&offset);
            file == inode && inside && !range.contains(&at)
        })
        .unwrap();
    ptr::with_exposed_provenance(other.start + offset - start)
}

/// Somebody unmaps a page in the middle of a vector: that page is gone, the rest of the vector and all others go on, and the
/// place is not dealt out again.
#[test]
fn who_unmaps_a_page_of_ours_breaks_that_page_alone() {
    breaks_alone("strangers::who_unmaps_a_page_of_ours_breaks_that_page_alone", |page| {
        // SAFETY: what is done here is the very thing that nobody may do; the page is not touched before the end.
        assert_eq!(unsafe { libc::munmap(page.as_ptr().cast_mut().cast(), size_of_val(page)) }, 0);
    });
}

#[test]
fn who_moves_a_page_of_ours_breaks_that_page_alone() {
    breaks_alone("strangers::who_moves_a_page_of_ours_breaks_that_page_alone", |page| {
        let (start, len) = (page.as_ptr().cast_mut().cast(), size_of_val(page));
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, where the system likes; then the thing that nobody may do, onto it.
        let moved = unsafe {
            let to = libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0);
            libc::mremap(start, len, len, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, to)
        };
        assert_ne!(moved, libc::MAP_FAILED);
    });
}

/// In a child, whose memory is not everybody's. The page is touched by a system call, which says `EFAULT` where a load would end with SIGSEGV.
fn breaks_alone(name: &str, damage: impl Fn(&[u32])) {
    if let Some(status) = in_child(name) {
        assert!(status.success(), "{status:?}");
        return;
    }
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let mut y = counted(&mem, 1);
    damage(&y[20 * PAGE..21 * PAGE]);
    let right = |y: &SharedVec<u32>, seed: u32| {
        (0..N).filter(|i| i / PAGE != 20).all(|i| y[i] == i as u32 + seed)
    };
    let fine = |mem: &Runtime| {
        let other = counted(mem, 7);
        right(&other, 7) && other[20 * PAGE] == 20 * PAGE as u32 + 7
    };
    let survived = right(&y, 1) && fine(&mem);
    // A launch is refused, or works on the device's memory all the same; nobody hangs.
    if mem.launch(N, Count { y: y.write(), seed: 3, pause_ms: 0 }).is_ok() {
        assert!(right(&y, 3));
    }
    let guard = y.host(20 * PAGE..21 * PAGE).map(<[u32]>::to_vec);
    println!("a guard of the page: {:?}", guard.map(|page| page[0]));
    let refused = touch(&y[20 * PAGE..20 * PAGE + 1]).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EFAULT));
    let place = y.as_ptr();
    drop(y);
    // All alive at once, so that whatever place is free is dealt out.
    let others: Vec<_> = (0..8).map(|seed| counted(&mem, seed)).collect();
    let in_order = |(seed, y): (u32, &SharedVec<u32>)| y.iter().zip(seed..).all(|(y, i)| *y == i);
    assert!(survived && others.iter().all(|y| y.as_ptr() != place), "the place is dealt out");
    assert!((0..).zip(&others).all(in_order));
}

/// With user-mode faults alone, the kernel cannot bring entries ahead of a touch; with all rights it can.
#[test]
fn pages_can_be_populated_where_system_calls_fault() {
    for rung in [HostFaults::Auto, HostFaults::UserModeOnly] {
        let mem = runtime(rung, EmbeddedMemory::Own, 1);
        let reach = mem.host_faults().unwrap().reach;
        let y = counted(&mem, 1);
        let populated = advise(&y, libc::MADV_POPULATE_READ);
        assert_eq!(populated.is_ok(), reach == Reach::Full, "{reach:?}: {populated:?}");
        let before = mem.stats();
        assert!(y.iter().zip(1u32..).all(|(y, wanted)| *y == wanted));
        let moved = (mem.stats() - before)[Cause::Fault].bytes() > 0;
        assert_eq!(moved, reach == Reach::UserMode);
    }
}
