//! Launches that fit in no way, on a device that reaches host memory.

use hmmap_core::{
    Error, Eviction, Hint, NodeId, WithoutRoom, embedded::Backing, units::BLOCK_BYTES,
};

use super::{BLOCK, Step, World, kernels, runtime_or};
use kernels::{Add, value};

fn world(without_room: WithoutRoom, blocks: u64, of: usize) -> World {
    World::new(runtime_or(without_room, blocks, Backing::Blocks, Eviction::Predicted), of)
}

#[test]
fn what_is_larger_than_the_device_works_on_the_largest_where_it_is_and_on_the_rest_there() {
    let mut world = world(WithoutRoom::default(), 4, 6);
    // Some of it is only on the device, and comes home for this.
    world.step(Step::Fill { y: 1, at: 2, value: 99 });
    let mem = world.mem.clone();
    let before = mem.stats();
    let (x, y) = world.two(0, 1);
    let kernel = Add { x: x.read().range(..2 * BLOCK), y: y.update() };
    mem.launch(6 * BLOCK, kernel).unwrap().wait().unwrap();
    for at in 0..2 {
        world.model[1][at] += world.model[0][at];
    }
    let stats = mem.stats() - before;
    assert_eq!(stats.windowed, 1, "{stats}");
    assert_eq!(stats.total().to_device_bytes, 2 * BLOCK_BYTES, "only the smaller one moved");
    let device = mem.node(mem.default_device().unwrap()).unwrap();
    let on_device = |vec: usize| -> u64 {
        let all = world.vecs[vec].residency(..).unwrap();
        let there = all.iter().filter(|part| part.nodes.contains(&device));
        there.map(|part| part.pages.end - part.pages.start).sum()
    };
    assert_eq!([on_device(0), on_device(1)], [64, 0]);
    // The program sees what the kernel wrote in place, by plain indexing too.
    assert_eq!(value(&world.vecs[1][0]), Some(world.model[1][0]));
    world.check();
    // What fits afterwards moves as ever.
    let before = mem.stats();
    world.step(Step::Add { x: 0, y: 1, at: 0 });
    assert_eq!((mem.stats() - before).windowed, 0);
    world.check();
}

#[test]
fn what_is_used_in_place_gives_up_what_it_has_on_the_device() {
    let World { mem, mut vecs, .. } = world(WithoutRoom::Refuse, 4, 6);
    let [x, y, _] = vecs.get_disjoint_mut([0, 1, 2]).unwrap();
    let two = 2 * BLOCK;
    let fill = kernels::Fill { y: x.write().range(..two), value: 7 };
    mem.launch(two, fill).unwrap().wait().unwrap();
    x.hint(.., Hint::PreferredLocation(NodeId::HOST)).unwrap();
    // Three blocks of four, two of which the other vector has there from before and needs no more.
    let len = 3 * BLOCK;
    let kernel = Add { x: x.read().range(..len), y: y.update().range(..len) };
    mem.launch(len, kernel).unwrap().wait().unwrap();
    assert_eq!((mem.stats().hints.in_place, mem.stats().windowed), (1, 0));
    let found = [0, BLOCK, two].map(|at| value(&y.host(at..=at).unwrap()[0]));
    assert_eq!(found, [1007, 1008, 1004].map(Some));
}

#[test]
fn when_both_are_too_large_both_stay() {
    let mut world = world(WithoutRoom::default(), 2, 3);
    let mem = world.mem.clone();
    let (x, y) = world.two(0, 1);
    mem.launch(3 * BLOCK, Add { x: x.read(), y: y.update() }).unwrap();
    for at in 0..3 {
        world.model[1][at] += world.model[0][at];
    }
    assert_eq!((mem.stats().windowed, mem.stats().total().bytes()), (2, 0));
    world.check();
}

#[test]
fn where_others_hold_the_room_only_those_who_allow_it_go_through_the_window() {
    for (without_room, goes) in [
        (WithoutRoom::WindowIfTooLarge, false),
        (WithoutRoom::Window, true),
        (WithoutRoom::Refuse, false),
    ] {
        let world = world(without_room, 4, 4);
        let mem = world.mem.clone();
        let device = mem.default_device().unwrap();
        let World { mut vecs, .. } = world;
        let [x, y, z] = vecs.get_disjoint_mut([0, 1, 2]).unwrap();
        let held = mem.acquire(device, [x.read().into()]).unwrap();
        let kernel = Add { x: y.read().range(..BLOCK), y: z.update().range(..BLOCK) };
        match mem.launch(BLOCK, kernel).map(drop) {
            Ok(()) => assert!(goes && mem.stats().windowed == 2, "{without_room:?}"),
            Err(Error::OutOfDeviceMemory { .. }) => assert!(!goes, "{without_room:?}"),
            Err(other) => panic!("{other}"),
        }
        drop(held);
        let expected = if goes { 2000 + 1000 } else { 2000 };
        assert_eq!(value(&z.host(..1).unwrap()[0]), Some(expected));
    }
}
