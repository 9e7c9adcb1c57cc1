//! What stays and what goes when a device is full.

use std::sync::Arc;

use hmmap_core::{
    Error, Eviction, Hint, NodeId, Options, Runtime, SharedVec,
    embedded::{Backing, EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
};

use crate::{PAGE, kernels::Count, on_device, rig::device};

const BLOCK: usize = 32;

/// A device of so many blocks.
fn device_of(blocks: u64, backing: Backing) -> Runtime {
    let embedded =
        EmbeddedOptions { memory: EmbeddedMemory::Own, backing, ..EmbeddedOptions::default() };
    let options = Options {
        device_memory_limit_bytes: Some(blocks << 21),
        eviction: Eviction::LeastRecentlyUsed,
        ..Options::default()
    };
    Runtime::new(vec![Arc::new(EmbeddedProvider::new(embedded))], options).unwrap()
}

fn is_there(y: &SharedVec<u32>, block: usize) -> bool {
    let range = block * BLOCK * PAGE..(block + 1) * BLOCK * PAGE;
    let runs = y.residency(range).unwrap();
    runs.iter().all(|run| run.nodes.contains(&NodeId::of_device(device(0))))
}

#[test]
fn what_is_pinned_stays_where_the_least_recently_used_would_go() {
    let mem = device_of(4, Backing::Blocks);
    let old = on_device(&mem, 2 * BLOCK, 1);
    old.hint(..BLOCK * PAGE, Hint::Pin).unwrap();
    let newer = on_device(&mem, 2 * BLOCK, 2);
    let newest = on_device(&mem, BLOCK, 3);
    assert!(is_there(&old, 0) && !is_there(&old, 1), "{:?}", old.residency(..).unwrap());
    let last = on_device(&mem, BLOCK, 4);
    assert!(is_there(&old, 0) && is_there(&newest, 0) && is_there(&last, 0));
    assert!(!is_there(&newer, 0) || !is_there(&newer, 1));
    // The memory stays when the host writes, too: the next launch needs none.
    let mut old = old;
    old[0] = 9;
    assert!(!is_there(&old, 0));
    let part = old.update().range(..BLOCK * PAGE);
    let evicted = mem.stats().evicted_blocks;
    mem.launch(1, crate::kernels::Break { y: part }).unwrap().wait().unwrap_err();
    assert_eq!(mem.stats().evicted_blocks, evicted);
    // Taken back, it goes like any other.
    old.overwrite(..).unwrap().fill(1);
    old.hint(.., Hint::Unpin).unwrap();
    let big = on_device(&mem, 4 * BLOCK, 5);
    assert!((0..4).all(|block| is_there(&big, block)));
    assert_eq!((newer[7], newest[7], last[7]), (9, 10, 11));
}

#[test]
fn when_everything_is_pinned_the_error_says_so() {
    for backing in [Backing::Blocks, Backing::Whole] {
        let mem = device_of(4, backing);
        let pinned: Vec<_> = (0..2).map(|seed| on_device(&mem, 2 * BLOCK, seed)).collect();
        for vec in &pinned {
            vec.hint(.., Hint::Pin).unwrap();
        }
        let mut y = SharedVec::<u32>::new(&mem, BLOCK * PAGE).unwrap();
        let n = y.len();
        let mut launch = || mem.launch(n, Count { y: y.write(), seed: 7, pause_ms: 0 });
        let refused = launch().map(drop);
        assert_eq!(
            refused,
            Err(Error::OutOfDeviceMemory {
                device: device(0),
                asked_bytes: 2 << 20,
                free_bytes: 0,
                limit_bytes: 8 << 20,
                pinned_bytes: 8 << 20,
                reserved_bytes: 0,
            }),
            "{backing:?}"
        );
        pinned[1].hint(PAGE..2 * PAGE, Hint::Unpin).unwrap();
        assert!(launch().is_err(), "a block that is pinned in part stays");
        pinned[1].hint(.., Hint::Unpin).unwrap();
        launch().unwrap();
        assert_eq!((y[3], pinned[0][3], pinned[1][3]), (10, 3, 4), "{backing:?}");
    }
}

#[test]
fn a_pinned_vector_that_is_dropped_gives_its_memory_back() {
    let mem = device_of(2, Backing::Blocks);
    let y = on_device(&mem, 2 * BLOCK, 1);
    y.hint(.., Hint::Pin).unwrap();
    drop(y);
    let z = on_device(&mem, 2 * BLOCK, 2);
    assert_eq!(z[5], 7);
}

/// Who leaves of three vectors of a block each, used in this order and clean, when room for one is needed; something is said of one.
fn leaves(number: usize, hint: Hint, from: usize) -> Vec<usize> {
    let mem = device_of(3, Backing::Blocks);
    let vecs: Vec<_> = (0..3).map(|seed| on_device(&mem, BLOCK, seed)).collect();
    for vec in &vecs {
        vec.host(..).unwrap();
    }
    vecs[number].hint(from.., hint).unwrap();
    let _last = on_device(&mem, BLOCK, 9);
    (0..3).filter(|number| !is_there(&vecs[*number], 0)).collect()
}

#[test]
fn what_hints_give_up_leaves_first_and_what_is_at_home_leaves_last() {
    let by_default = leaves(0, Hint::NormalOrder, 0);
    assert_eq!(by_default.len(), 1);
    let other = (by_default[0] + 1) % 3;
    for hint in [Hint::Sequential, Hint::ReadMostly, Hint::PreferredLocation(NodeId::HOST)] {
        assert_eq!(leaves(other, hint, PAGE), by_default, "{hint:?} of a part of the block");
        assert_eq!(leaves(other, hint, 0), [other], "{hint:?}");
    }
    let at_home = Hint::PreferredLocation(NodeId::of_device(device(0)));
    assert_ne!(leaves(by_default[0], at_home, 0), by_default);
}
