//! Vectors that host and device take from each other in turns.

use std::{
    thread,
    time::{Duration, Instant},
};

use hmmap_core::{
    Cause, Hint, Runtime, SharedVec, Stats, embedded::EmbeddedMemory, host::HostFaults,
};

use crate::{
    kernels::Add,
    rig::{lacks_shared_pages, runtime},
};

const PAGE: usize = 65_536 / 4;

/// Host and device add to the same elements by turns; what one turn of each moved.
struct Turns {
    mem: Runtime,
    ones: SharedVec<u32>,
    y: SharedVec<u32>,
    sum: u32,
}

impl Turns {
    fn new(pages: usize) -> Self {
        let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
        let ones = SharedVec::from_slice(&mem, &vec![1; pages * PAGE]).unwrap();
        let y = SharedVec::new(&mem, pages * PAGE).unwrap();
        Self { mem, ones, y, sum: 0 }
    }

    fn take(&mut self) -> Stats {
        let before = self.mem.stats();
        self.y[5] += 1;
        let add = Add { x: self.ones.read(), y: self.y.update() };
        self.mem.launch(self.ones.len(), add).unwrap();
        self.sum += 2;
        assert_eq!(self.y[5], self.sum);
        self.mem.stats() - before
    }
}

#[test]
fn a_small_vector_stays_home_for_a_while_and_nothing_is_copied() {
    let mut turns = Turns::new(1);
    if lacks_shared_pages(&turns.mem) {
        return;
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    // On a loaded machine a turn may take longer than what counts as one after the other.
    loop {
        let moved = turns.take();
        if moved.kept_home == 1 {
            assert_eq!(moved[Cause::Launch].to_device_bytes, 0, "{moved}");
            if moved.total().bytes() == 0 {
                break;
            }
        }
        assert!(Instant::now() < deadline, "never kept: {}", turns.mem.stats());
    }
    thread::sleep(Duration::from_millis(160));
    let moved = turns.take();
    assert_eq!((moved.kept_home, moved[Cause::Launch].to_device_bytes), (0, 65_536), "{moved}");
}

#[test]
fn a_large_vector_of_which_one_page_goes_back_and_forth_moves_that_page() {
    let mut turns = Turns::new(20);
    if lacks_shared_pages(&turns.mem) {
        return;
    }
    turns.take();
    for _ in 0..100 {
        let moved = turns.take();
        assert_eq!((moved.kept_home, moved[Cause::Launch].to_device_bytes), (0, 65_536), "{moved}");
    }
}

#[test]
fn what_the_caller_has_said_goes_first() {
    let mut turns = Turns::new(1);
    if lacks_shared_pages(&turns.mem) {
        return;
    }
    let device = turns.mem.node(turns.mem.default_device().unwrap()).unwrap();
    turns.y.hint(.., Hint::PreferredLocation(device)).unwrap();
    turns.take();
    for _ in 0..100 {
        let moved = turns.take();
        assert_eq!((moved.kept_home, moved[Cause::Launch].to_device_bytes), (0, 65_536), "{moved}");
    }
}
