//! Sending ranges ahead, and giving them up.

use hmmap_core::{
    Cause, Error, NodeId, Runtime, SharedVec, embedded::EmbeddedMemory, hints::Common,
    host::HostFaults,
};

use crate::{
    PAGE,
    kernels::{Add, Break, Count},
    on_device,
    rig::{RUNGS, device, runtime},
};

fn gpu(index: usize) -> NodeId {
    NodeId::of_device(device(index))
}

fn sent(mem: &Runtime) -> (u64, u64) {
    let moved = mem.stats()[Cause::Prefetch];
    (moved.to_host_bytes / 65_536, moved.to_device_bytes / 65_536)
}

#[test]
fn what_is_sent_home_is_there_when_it_is_needed_and_stays_where_it_was() {
    for rung in RUNGS {
        let mem = runtime(rung, EmbeddedMemory::Own, 1);
        let y = on_device(&mem, 70, 1);
        let fence = y.prefetch(10 * PAGE..20 * PAGE, NodeId::HOST).unwrap();
        fence.wait().unwrap();
        assert!(fence.has_ended() && fence.point().is_some());
        assert_eq!(sent(&mem), (10, 0));
        let before = mem.stats();
        assert_eq!(y.host(10 * PAGE..20 * PAGE).unwrap()[5], 6 + 10 * PAGE as u32);
        assert_eq!((mem.stats() - before).total().bytes(), 0);
        let run = &y.residency(10 * PAGE..20 * PAGE).unwrap()[0];
        assert_eq!(run.nodes.as_slice(), [NodeId::HOST, gpu(0)]);
        // What is there already is not sent again.
        assert_eq!(y.prefetch(12 * PAGE..13 * PAGE, NodeId::HOST).unwrap().point(), None);
        assert!(y.iter().zip(1u32..).all(|(y, i)| *y == i), "{rung:?}");
    }
}

#[test]
fn it_follows_the_kernel_that_writes_and_nobody_waits_for_it() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 2);
    let mut y = SharedVec::<u32>::new(&mem, 8 * PAGE).unwrap();
    let n = y.len();
    let slow = mem.launch(n, Count { y: y.write(), seed: 5, pause_ms: 300 }).unwrap();
    let fence = y.prefetch(.., NodeId::HOST).unwrap();
    assert!(!slow.has_ended() && !fence.has_ended(), "asynchronous");
    assert_eq!(y[PAGE], 5 + PAGE as u32);
    fence.wait().unwrap();
    assert_eq!(sent(&mem), (8, 0));
}

#[test]
fn pages_of_several_devices_come_home_together() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 2);
    let mut y = SharedVec::<u32>::new(&mem, 8 * PAGE).unwrap();
    for index in 0..2 {
        let part = y.write().range(index * 4 * PAGE..(index + 1) * 4 * PAGE);
        mem.launch_on(device(index), 4 * PAGE, Count { y: part, seed: 1, pause_ms: 50 }).unwrap();
    }
    let fence = y.prefetch(.., NodeId::HOST).unwrap();
    fence.wait().unwrap();
    let before = mem.stats();
    assert_eq!((y.host(..).unwrap()[0], y[4 * PAGE]), (1, 1));
    assert_eq!((mem.stats() - before).total().bytes(), 0, "both were waited for");
}

#[test]
fn several_vectors_go_in_one_submission() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let vecs: Vec<_> =
        (0..3).map(|i| SharedVec::from_slice(&mem, &vec![i as u32; 4 * PAGE]).unwrap()).collect();
    let arguments = vecs.iter().map(|vec| vec.read().range(PAGE..3 * PAGE).into());
    let fence = mem.prefetch(device(0), arguments).unwrap();
    fence.wait().unwrap();
    let moved = mem.stats()[Cause::Prefetch];
    assert_eq!((moved.to_device_bytes / 65_536, moved.regions), (6, 3));
    for vec in &vecs {
        assert_eq!(
            vec.residency(PAGE..3 * PAGE).unwrap()[0].nodes.as_slice(),
            [NodeId::HOST, gpu(0)]
        );
        assert_eq!(vec.hints(PAGE..3 * PAGE).unwrap().last_prefetch, Common::All(Some(gpu(0))));
        assert_eq!(vec.hints(..).unwrap().last_prefetch, Common::Mixed);
    }
    // And home again, in one call.
    let fence = mem.prefetch(NodeId::HOST, vecs.iter().map(|vec| vec.read().into())).unwrap();
    assert_eq!(fence.point(), None, "all is there");
    assert_eq!(vecs[0].hints(..).unwrap().last_prefetch, Common::All(Some(NodeId::HOST)));
}

#[test]
fn what_cannot_be_sent_is_refused() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let other = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let mut y = on_device(&mem, 4, 1);
    let len = y.len();
    let x = SharedVec::<u32>::new(&other, PAGE).unwrap();
    assert!(matches!(y.prefetch(..len + 1, NodeId::HOST), Err(Error::OutOfRange { .. })));
    assert!(matches!(y.prefetch(.., device(3)), Err(Error::NoSuchDevice { asked: 3, count: 1 })));
    let foreign = mem.prefetch(NodeId::HOST, [y.read().into(), x.read().into()]);
    assert!(matches!(foreign, Err(Error::ForeignVector { argument: 1, .. })));
    // Nothing, of nothing, and of what was never written.
    assert_eq!(y.prefetch(PAGE..PAGE, NodeId::HOST).unwrap().point(), None);
    let fresh = SharedVec::<u32>::new(&mem, PAGE).unwrap();
    assert_eq!(fresh.prefetch(.., NodeId::HOST).unwrap().point(), None);
    assert!(fresh.residency(..).unwrap()[0].nodes.is_empty(), "and it costs nothing still");
    // A kernel that failed is told of here as anywhere.
    mem.launch(len, Break { y: y.update() }).unwrap();
    let mut tries = (0..10).filter_map(|_| match y.prefetch(.., NodeId::HOST) {
        Ok(fence) => fence.wait().err(),
        Err(error) => Some(error),
    });
    let failed = tries.next().unwrap();
    assert!(matches!(failed, Error::WorkFailed { .. } | Error::DataLost { .. }), "{failed}");
}

#[test]
fn what_is_discarded_in_several_parts_is_zeros_in_each() {
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let mut y = on_device(&mem, 70, 1);
    let len = y.len();
    let outside = y.discard_all([0..PAGE, 0..len + 1]);
    assert_eq!(outside, Err(Error::OutOfRange { start: 0, end: len + 1, len }));
    let before = mem.stats();
    y.discard_all([0..PAGE, 40 * PAGE..len, 5 * PAGE..5 * PAGE]).unwrap();
    assert_eq!((mem.stats() - before).total().bytes(), 0);
    let zeros = SharedVec::<u32>::new(&mem, len).unwrap();
    let mut sum = SharedVec::<u32>::new(&mem, len).unwrap();
    mem.launch(len, Add { x: y.read(), y: sum.update() }).unwrap();
    let wanted = |i: usize| if (PAGE..40 * PAGE).contains(&i) { 1 + i as u32 } else { 0 };
    assert!(sum.iter().enumerate().all(|(i, sum)| *sum == wanted(i)));
    assert!(y.iter().enumerate().all(|(i, y)| *y == wanted(i)));
    drop(zeros);
}
