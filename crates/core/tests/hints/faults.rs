//! What a touch brings where something was said.

use hmmap_core::{
    Cause, Hint, NodeId, Runtime, SharedVec, embedded::EmbeddedMemory, hints::Granularity,
    host::HostFaults,
};

use crate::{
    PAGE, on_device,
    rig::{device, runtime},
};

fn one() -> Runtime {
    runtime(HostFaults::Auto, EmbeddedMemory::Own, 1)
}

/// Pages that touches have brought home.
fn home(mem: &Runtime) -> u64 {
    mem.stats()[Cause::Fault].to_host_bytes / 65_536
}

/// Touches a page and says how many came for it.
fn touch(mem: &Runtime, y: &SharedVec<u32>, page: usize) -> u64 {
    let before = home(mem);
    assert_eq!(y[page * PAGE + 3], 1 + (page * PAGE) as u32 + 3);
    home(mem) - before
}

#[test]
fn random_brings_what_is_touched_and_nothing_else() {
    let mem = one();
    let y = on_device(&mem, 128, 1);
    y.hint(32 * PAGE..96 * PAGE, Hint::Random).unwrap();
    for page in 32..96 {
        assert_eq!(touch(&mem, &y, page), 1, "page {page}, in order though it is");
    }
    // Beside it the library looks for itself; the block before brings its dense half, not a page of the range's.
    let brought: Vec<_> = (0..32).map(|page| touch(&mem, &y, page)).filter(|n| *n > 0).collect();
    assert!(brought.len() < 10, "{brought:?}");
}

#[test]
fn a_stream_does_not_run_into_a_random_range() {
    let mem = one();
    let y = on_device(&mem, 128, 1);
    y.hint(40 * PAGE..96 * PAGE, Hint::Random).unwrap();
    for page in 0..40 {
        touch(&mem, &y, page);
    }
    // What was sent for ahead of the stream is home, and is not of the range.
    let _ = y.host(..40 * PAGE).unwrap();
    let residency = y.residency(40 * PAGE..96 * PAGE).unwrap();
    assert!(residency.iter().all(|run| !run.nodes.contains(&NodeId::HOST)), "{residency:?}");
}

#[test]
fn sequential_begins_with_the_first_touch_and_goes_farther() {
    let mem = one();
    let scan = |hint: Option<Hint>| {
        let y = on_device(&mem, 512, 1);
        if let Some(hint) = hint {
            y.hint(.., hint).unwrap();
        }
        let first = touch(&mem, &y, 0);
        assert!(y.iter().zip(1u32..).all(|(y, wanted)| *y == wanted));
        first
    };
    let regions = |work: &dyn Fn() -> u64| {
        let before = mem.stats();
        let first = work();
        let moved = (mem.stats() - before)[Cause::Fault];
        assert_eq!(moved.to_host_bytes / 65_536, 512, "each page once");
        (first, moved.regions)
    };
    let (unsaid, some) = regions(&|| scan(None));
    let (said, fewer) = regions(&|| scan(Some(Hint::Sequential)));
    assert_eq!(unsaid, 1);
    assert!(said >= 8, "the first touch brought {said} pages");
    assert!(fewer < some, "{fewer} copies where there were {some} without the hint");
}

#[test]
fn sequential_ends_with_its_range() {
    let mem = one();
    let y = on_device(&mem, 128, 1);
    y.hint(..20 * PAGE, Hint::Sequential).unwrap();
    for page in 0..20 {
        touch(&mem, &y, page);
    }
    let _ = y.host(..20 * PAGE).unwrap();
    let residency = y.residency(20 * PAGE..).unwrap();
    assert!(residency.iter().all(|run| !run.nodes.contains(&NodeId::HOST)), "{residency:?}");
}

#[test]
fn granularity_is_the_least_that_a_touch_brings() {
    let mem = one();
    let mut y = on_device(&mem, 128, 1);
    y.hint(.., Hint::Granularity(Granularity::of_bytes(512 << 10).unwrap())).unwrap();
    y.hint(.., Hint::Random).unwrap();
    assert_eq!(touch(&mem, &y, 21), 8);
    assert_eq!(touch(&mem, &y, 23), 0, "pages 16 to 23 came");
    assert_eq!(touch(&mem, &y, 24), 8);
    // A write takes as many.
    y[100 * PAGE] = 7;
    assert_eq!(home(&mem), 24);
    let owned = y.residency(96 * PAGE..104 * PAGE).unwrap();
    assert!(owned.iter().all(|run| run.nodes.as_slice() == [NodeId::HOST]), "{owned:?}");
    // The end of the vector, and what was never written, is not brought.
    let mut z = SharedVec::<u32>::new(&mem, 5 * PAGE).unwrap();
    z.hint(.., Hint::Granularity(Granularity::BLOCK)).unwrap();
    z[PAGE] = 1;
    let written = z.residency(..).unwrap();
    assert_eq!(written.iter().filter(|run| !run.nodes.is_empty()).count(), 1, "{written:?}");
    assert_eq!(written[1].pages, 1..2);
}

#[test]
fn what_is_at_home_on_a_device_is_touched_page_by_page_and_what_is_at_home_here_comes_by_the_block()
{
    let mem = one();
    let y = on_device(&mem, 128, 1);
    let gpu = NodeId::of_device(device(0));
    y.hint(..64 * PAGE, Hint::PreferredLocation(gpu)).unwrap();
    y.hint(64 * PAGE.., Hint::PreferredLocation(NodeId::HOST)).unwrap();
    for page in 0..8 {
        assert_eq!(touch(&mem, &y, page), 1, "page {page}");
    }
    assert_eq!(touch(&mem, &y, 70), 32, "the block from page 64 on");
}
