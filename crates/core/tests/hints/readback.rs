//! Saying and reading back.

use hmmap_core::{
    DeviceId, Error, Hint, NodeId, SharedVec,
    embedded::EmbeddedMemory,
    hints::{Common, Granularity, HintEffect, Hints, NoEffect, Order},
    host::HostFaults,
};

use crate::{
    PAGE,
    rig::{device, runtime},
};

const PAGES: usize = 100;

fn gpu(index: usize) -> NodeId {
    NodeId::of_device(device(index))
}

#[test]
fn what_is_said_of_a_part_splits_the_range_and_the_common_value_is_read_back() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 2);
    let x = SharedVec::<u32>::new(&mem, PAGES * PAGE).unwrap();
    assert_eq!(x.hints(..).unwrap(), Hints::default().into(), "nothing was said");
    assert_eq!(x.hint(.., Hint::ReadMostly).unwrap(), HintEffect::Acts);
    x.hint(10 * PAGE..20 * PAGE, Hint::Sequential).unwrap();
    // One element is enough for its page.
    x.hint(15 * PAGE + 7..15 * PAGE + 8, Hint::PreferredLocation(gpu(1))).unwrap();
    let all = x.hints(..).unwrap();
    assert_eq!((all.read_mostly, all.order), (Common::All(true), Common::Mixed));
    assert_eq!((all.preferred, all.pinned.value()), (Common::Mixed, Some(false)));
    let one = x.hints(15 * PAGE..16 * PAGE).unwrap();
    assert_eq!(one.order, Common::All(Order::Sequential));
    assert_eq!(one.preferred, Common::All(Some(gpu(1))));
    let runs = x.hint_runs(5 * PAGE..50 * PAGE).unwrap();
    let pages: Vec<_> = runs.iter().map(|run| run.pages.clone()).collect();
    assert_eq!(pages, [5..10, 10..15, 15..16, 16..20, 20..50]);
    // Taken back, the ranges are one again.
    x.hint(.., Hint::NormalOrder).unwrap();
    x.hint(.., Hint::NoPreferredLocation).unwrap();
    assert_eq!(x.hint_runs(..).unwrap().len(), 1);
    x.hint(.., Hint::NotReadMostly).unwrap();
    assert_eq!(x.hints(..).unwrap(), Hints::default().into());
}

#[test]
fn of_what_contradicts_the_last_counts() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 2);
    let x = SharedVec::<u32>::new(&mem, PAGES * PAGE).unwrap();
    x.hint(.., Hint::Sequential).unwrap();
    x.hint(.., Hint::Random).unwrap();
    assert_eq!(x.hints(..).unwrap().order, Common::All(Order::Random));
    let size = |bytes| Granularity::of_bytes(bytes).unwrap();
    x.hint_all([
        (0..x.len(), Hint::PreferredLocation(gpu(0))),
        (0..x.len(), Hint::Granularity(size(1 << 20))),
        (0..x.len(), Hint::Pin),
        (0..x.len(), Hint::PreferredLocation(NodeId::HOST)),
        (0..x.len(), Hint::Granularity(size(128 << 10))),
        (0..x.len(), Hint::Unpin),
    ])
    .unwrap();
    let now = x.hints(..).unwrap();
    assert_eq!(now.preferred, Common::All(Some(NodeId::HOST)));
    assert_eq!(now.granularity, Common::All(size(128 << 10)));
    assert_eq!(now.pinned, Common::All(false));
    // Who works on a range is a set: these do not contradict each other.
    x.hint(.., Hint::AccessedBy(gpu(0))).unwrap();
    x.hint(..PAGE, Hint::AccessedBy(gpu(1))).unwrap();
    let by = |range: std::ops::Range<usize>| {
        x.hints(range).unwrap().accessed_by.iter().collect::<Vec<_>>()
    };
    assert_eq!((by(0..PAGE), by(0..x.len())), (vec![gpu(0), gpu(1)], vec![gpu(0)]));
    x.hint(.., Hint::NotAccessedBy(gpu(0))).unwrap();
    assert_eq!((by(0..PAGE), by(0..x.len())), (vec![gpu(1)], vec![]));
}

#[test]
fn what_cannot_be_is_refused_and_nothing_of_it_is_kept() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 2);
    let mut x = SharedVec::<u32>::new(&mem, PAGES * PAGE).unwrap();
    let len = x.len();
    let outside = Error::OutOfRange { start: 5, end: len + 1, len };
    assert_eq!(x.hint(5..len + 1, Hint::Pin), Err(outside.clone()));
    assert_eq!(x.hints(5..len + 1), Err(outside.clone()));
    assert_eq!(x.hint_runs(5..len + 1), Err(outside.clone()));
    let nowhere = NodeId::of_device(DeviceId::new(7).unwrap());
    let unknown = Error::NoSuchDevice { asked: 7, count: 2 };
    for hint in
        [Hint::PreferredLocation(nowhere), Hint::AccessedBy(nowhere), Hint::NotAccessedBy(nowhere)]
    {
        assert_eq!(x.hint(.., hint), Err(unknown.clone()));
    }
    // All of a batch, or nothing.
    let batch = [(0..PAGE, Hint::Random), (5..len + 1, Hint::Pin)];
    assert_eq!(x.hint_all(batch), Err(outside));
    assert_eq!(x.hints(..).unwrap(), Hints::default().into());
    // What was cut off is no part of the vector any more.
    x.truncate(PAGE);
    let gone = Error::OutOfRange { start: 0, end: 2 * PAGE, len: PAGE };
    assert_eq!(x.hint(..2 * PAGE, Hint::Pin), Err(gone));
    // A range without elements is no mistake.
    for empty in [0..0, PAGE..PAGE] {
        let nothing = HintEffect::KeptOnly(NoEffect::EmptyRange);
        assert_eq!(x.hint(empty.clone(), Hint::Pin), Ok(nothing));
        assert_eq!(x.hints(empty.clone()), Ok(Hints::default().into()));
        assert_eq!(x.hint_runs(empty), Ok(vec![]));
    }
    let none = SharedVec::<u32>::new(&mem, 0).unwrap();
    assert_eq!(none.hint(.., Hint::Pin), Ok(HintEffect::KeptOnly(NoEffect::EmptyRange)));
    assert_eq!(x.hints(..).unwrap(), Hints::default().into());
}

#[test]
fn sizes_are_powers_of_two_from_a_page_to_a_block() {
    let pages = |bytes| Granularity::of_bytes(bytes).map(Granularity::pages);
    assert_eq!(pages(64 << 10), Some(1));
    assert_eq!(pages(2 << 20), Some(32));
    for bytes in [0, 1, 4096, 96 << 10, 4 << 20, u64::MAX, 1 << 63] {
        assert_eq!(pages(bytes), None, "{bytes}");
    }
    assert_eq!(Granularity::BLOCK.bytes(), 2 << 20);
}

#[test]
fn a_hint_says_whether_it_changes_anything_here() {
    let own = runtime(HostFaults::Auto, EmbeddedMemory::Own, 2);
    let x = SharedVec::<u32>::new(&own, PAGE).unwrap();
    let kept = |why| Ok(HintEffect::KeptOnly(why));
    assert_eq!(x.hint(.., Hint::AccessedBy(gpu(1))), Ok(HintEffect::Acts));
    assert_eq!(x.hint(.., Hint::AccessedBy(NodeId::HOST)), kept(NoEffect::HostReachesNoDevice));
    assert_eq!(x.hint(.., Hint::Random), Ok(HintEffect::Acts));
    let unified = runtime(HostFaults::Auto, EmbeddedMemory::Host, 1);
    let y = SharedVec::<u32>::new(&unified, PAGE).unwrap();
    for hint in [Hint::AccessedBy(gpu(0)), Hint::PreferredLocation(gpu(0))] {
        assert_eq!(y.hint(.., hint), kept(NoEffect::NothingMoves), "{hint:?}");
    }
    // It can be read back all the same.
    assert_eq!(y.hints(..).unwrap().preferred, Common::All(Some(gpu(0))));
    let silent = runtime(HostFaults::Off, EmbeddedMemory::Own, 1);
    let z = SharedVec::<u32>::new(&silent, PAGE).unwrap();
    assert_eq!(z.hint(.., Hint::Random), kept(NoEffect::NoFaults));
}

#[test]
fn what_was_said_moves_with_the_elements() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let mut x = SharedVec::<u32>::new(&mem, 2 * PAGE).unwrap();
    x.hint(PAGE.., Hint::Random).unwrap();
    x.reserve(100 * PAGE).unwrap();
    assert!(x.capacity() >= 102 * PAGE);
    let order = |range: std::ops::Range<usize>| x.hints(range).unwrap().order;
    assert_eq!(order(0..PAGE), Common::All(Order::Normal));
    assert_eq!(order(PAGE..2 * PAGE), Common::All(Order::Random));
    let before = x.footprint_bytes();
    x.hint(.., Hint::NormalOrder).unwrap();
    assert!(x.footprint_bytes() < before, "what is taken back takes no memory");
    let other = SharedVec::<u32>::new(&mem, 2 * PAGE).unwrap();
    assert_eq!(other.hints(..).unwrap(), Hints::default().into());
}
