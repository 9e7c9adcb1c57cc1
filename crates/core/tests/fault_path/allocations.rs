//! An allocator that counts what the threads of the fault loop take.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use hmmap_core::{
    Cause, Hint, Runtime, SharedVec,
    embedded::EmbeddedMemory,
    events::{Event, What},
    hints::Granularity,
    host::HostFaults,
};

use crate::{
    alone,
    kernels::{Add, Count},
    rig::runtime,
};

const PAGE: usize = 65_536 / 4;
const PAGES: usize = 512;
const N: usize = PAGES * PAGE;

/// Allocations by threads of the fault loop.
static TAKEN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether the thread is one of those; `None` as long as nobody has looked.
    static ANSWERS: Cell<Option<bool>> = const { Cell::new(None) };
}

fn answers_faults() -> bool {
    ANSWERS.get().unwrap_or_else(|| {
        let mut name = [0u8; 16];
        // SAFETY: the call writes at most 16 bytes.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        // A new thread allocates before it has its name.
        let answers = name.starts_with(b"hmmap faults");
        if answers {
            ANSWERS.set(Some(true));
        }
        answers
    })
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if answers_faults() {
            TAKEN.fetch_add(1, Relaxed);
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the fault loop allocates during a scene.
fn taken(scene: impl FnOnce()) -> u64 {
    let before = TAKEN.load(Relaxed);
    scene();
    TAKEN.load(Relaxed) - before
}

/// A vector that a device has, and the host too from page `shared` on.
fn shared_from(mem: &Runtime, shared: usize) -> SharedVec<u32> {
    let mut y = SharedVec::<u32>::new(mem, N).unwrap();
    mem.launch(N, Count { y: y.write(), seed: 0, pause_ms: 0 }).unwrap().wait().unwrap();
    let _ = y.host(shared * PAGE..).unwrap();
    y
}

/// Each second page, so that no stream is seen.
fn touched(pages: std::ops::Range<usize>) -> impl Iterator<Item = usize> {
    pages.step_by(2).map(|page| page * PAGE)
}

/// What is left are the directory's growth, when a run of blocks splits for the first time, and the start of a thread, when a fault waits and
/// nobody is idle. So blocks are touched before, and what starts threads is allowed a few. On a busy machine a thread that was made
/// earlier may start in the middle of a scene; not in each of a few.
#[test]
fn the_ordinary_fault_allocates_nothing() {
    allocates_nothing(&[], Recorded::No);
}

/// Nor does one that is recorded.
#[test]
fn a_fault_that_is_recorded_allocates_nothing() {
    allocates_nothing(&[], Recorded::Yes);
}

/// Nor does one that goes by what was said of many parts.
#[test]
fn a_fault_where_something_was_said_allocates_nothing() {
    let size = Granularity::of_bytes(128 << 10).unwrap();
    let mut said = vec![(0..N, Hint::Random)];
    for part in (0..N).step_by(8 * PAGE) {
        said.push((part..part + 4 * PAGE, Hint::Granularity(size)));
    }
    allocates_nothing(&said, Recorded::No);
}

#[derive(Clone, Copy, PartialEq)]
enum Recorded {
    No,
    Yes,
}

fn allocates_nothing(said: &[(Range<usize>, Hint)], recorded: Recorded) {
    // What a thread takes to start, a few times; a fault that takes anything takes more in all.
    const THREADS: u64 = PAGES as u64 / 8;
    let _alone = alone();
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let mut recording = (recorded == Recorded::Yes).then(|| mem.record().unwrap());
    let made = || {
        let y = shared_from(&mem, PAGES / 2);
        y.hint_all(said.iter().cloned()).unwrap();
        y
    };
    let mut y = made();
    let mut least = scenes(&mut y);
    for _ in 0..4 {
        if least[..2] == [0, 0] && least[2] < THREADS {
            break;
        }
        y = made();
        let now = scenes(&mut y);
        least = std::array::from_fn(|scene| least[scene].min(now[scene]));
    }
    println!("{least:?} to show, for first writes, to bring {} pages", PAGES / 4);
    assert_eq!(least[..2], [0, 0], "to show, and for first writes");
    assert!(least[2] < THREADS, "{} to bring {} pages", least[2], PAGES / 4);
    if let Some(recording) = &mut recording {
        let mut events = Vec::new();
        recording.read(&mut events);
        let by_faults =
            |event: &&Event| matches!(event.what, What::Copied { cause: Cause::Fault, .. });
        assert!(events.iter().any(|event| by_faults(&event)), "{} events", events.len());
    }
    let mut z = SharedVec::<u32>::new(&mem, N).unwrap();
    mem.launch(N, Add { x: y.read(), y: z.update() }).unwrap();
    assert_eq!(z[PAGES / 2 * PAGE], (PAGES / 2 * PAGE) as u32 + 1);
}

/// What is taken to show pages that the host has, for first writes to them, and to bring others.
fn scenes(y: &mut SharedVec<u32>) -> [u64; 3] {
    for block in (0..PAGES).step_by(32) {
        // Written and not read: a read would show all that the host has of the block.
        y[(block + 31) * PAGE] = 1;
    }
    let show = taken(|| touched(PAGES / 2..PAGES).for_each(|i| assert_eq!(y[i], i as u32)));
    let own = taken(|| touched(PAGES / 2..PAGES).for_each(|i| y[i] += 1));
    let bring = taken(|| touched(0..PAGES / 2).for_each(|i| assert_eq!(y[i], i as u32)));
    [show, own, bring]
}
