//! Launches that do not fit, and say how they can be split.

use hmmap_core::{
    Cause, Error, Eviction, Grid, Kernel, Read, SharedVec, Source, Update,
    embedded::Backing,
    kernel::{ArgumentFault, Arguments, Twin},
    units::BLOCK_BYTES,
};

use super::{BLOCK, World, kernels, runtime};
use kernels::{Add, Copy, Element, element};

/// Adds the first element of `x` to each of `y`; fails where `y` is [`FAILS`].
struct AddFirst<'a> {
    x: Read<'a, Element>,
    y: Update<'a, Element>,
    /// 1 for a plane.
    plane: u32,
}

const FAILS: u32 = 4_000_000_000;

static ADD_FIRST: Source = Source {
    name: "add_first",
    spirv: &[],
    ptx: "",
    workgroup: [16, 1, 1],
    twin: Some(|twin: &Twin<'_>| {
        let (x, y) = (twin.read::<Element>(0), twin.write::<Element>(1));
        let [n, ny] = twin.grid();
        let items = if twin.u32(0) == 1 { n * ny } else { n };
        for y in y.iter_mut().take(items as usize) {
            assert!(y[0] != FAILS, "a kernel's own failure");
            y.iter_mut().for_each(|lane| *lane += x[0][0]);
        }
    }),
};

// SAFETY: the twin, the only code, goes through safe slices and writes only its Update argument.
unsafe impl Kernel for AddFirst<'_> {
    fn source() -> &'static Source {
        &ADD_FIRST
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.x).update(&self.y).grid().u32(self.plane);
    }
}

/// A vector of so many elements, each with its number.
fn numbered(mem: &hmmap_core::Runtime, len: usize) -> SharedVec<Element> {
    SharedVec::from_fn(mem, len, |i| element(i as u32)).unwrap()
}

#[test]
fn a_launch_three_times_the_device_runs_in_tiles_and_moves_what_it_must() {
    for blocks in [3, 4, 8] {
        let mem = runtime(blocks, Backing::Blocks, Eviction::Predicted);
        let tiles = 3 * blocks as usize / 2;
        let mut world = World::new(mem.clone(), tiles);
        let (x, y) = world.two(0, 1);
        let len = x.len();
        let fence = mem.launch(len, Add { x: x.read().split(1), y: y.update().split(1) }).unwrap();
        fence.wait().unwrap();
        for at in 0..tiles {
            world.model[1][at] += world.model[0][at];
        }
        world.check();
        let stats = mem.stats();
        assert!(stats.launches >= tiles as u64 / 2, "{stats}");
        // Both come once, one goes home once.
        let moved = stats.total();
        let data = tiles as u64 * BLOCK_BYTES;
        assert_eq!([moved.to_device_bytes, moved.to_host_bytes], [2 * data, data], "{stats}");
        assert!(stats[Cause::Eviction].to_host_bytes > 0);
    }
}

#[test]
fn what_is_not_split_stays_for_all_tiles_and_the_last_takes_the_rest() {
    let mem = runtime(6, Backing::Blocks, Eviction::Predicted);
    let x = SharedVec::from_fn(&mem, 3, |_| element(1_000_000)).unwrap();
    let len = 9 * BLOCK + BLOCK / 2 + 3;
    let mut y = numbered(&mem, len);
    let kernel = AddFirst { x: x.read(), y: y.update().split(1), plane: 0 };
    // Seven of the elements have no item.
    mem.launch(len - 7, kernel).unwrap();
    for (i, y) in y.host(..).unwrap().iter().enumerate() {
        let added = if i < len - 7 { 1_000_000 } else { 0 };
        assert_eq!(kernels::value(y), Some(i as u32 + added), "{i}");
    }
    let copied = mem.stats()[Cause::Launch].to_device_bytes;
    let pages = |elements: usize| (elements * size_of::<Element>()).div_ceil(65_536) as u64;
    assert_eq!(copied / 65_536, pages(3) + pages(len), "what is not split came once");
}

#[test]
fn the_fence_of_a_split_launch_fails_when_any_tile_did() {
    let mem = runtime(4, Backing::Blocks, Eviction::Predicted);
    let x = numbered(&mem, 1);
    let mut y = SharedVec::from_fn(&mem, 9 * BLOCK, |i| element(20 + (i / BLOCK) as u32)).unwrap();
    y.host_mut(BLOCK + 1..BLOCK + 2).unwrap()[0] = element(FAILS);
    let launched =
        mem.launch(9 * BLOCK, AddFirst { x: x.read(), y: y.update().split(1), plane: 0 });
    // It is told with the fence, or, where the failure was found while room was made, by the launch.
    let error = launched.and_then(|fence| fence.wait()).unwrap_err();
    assert!(matches!(error, Error::WorkFailed { .. }), "{error}");
}

#[test]
fn a_row_of_a_plane_is_an_item_too() {
    let mem = runtime(5, Backing::Blocks, Eviction::Predicted);
    let x = SharedVec::from_fn(&mem, 1, |_| element(7)).unwrap();
    let (columns, rows) = (48, 32);
    let mut y = numbered(&mem, columns * rows);
    let kernel = AddFirst { x: x.read(), y: y.update().split(columns), plane: 1 };
    mem.launch((columns, rows), kernel).unwrap();
    let y = y.host(..).unwrap();
    assert!((0..y.len()).all(|i| kernels::value(&y[i]) == Some(i as u32 + 7)));
}

#[test]
fn what_cannot_be_split_is_refused_as_before() {
    let mem = runtime(4, Backing::Blocks, Eviction::Predicted);
    let mut world = World::new(mem.clone(), 4);
    let refused = |answer: Result<hmmap_core::Fence, Error>| match answer {
        Err(Error::OutOfDeviceMemory { limit_bytes, .. }) => limit_bytes == 4 * BLOCK_BYTES,
        other => panic!("{other:?}"),
    };
    let (x, y) = world.two(0, 1);
    let len = x.len();
    assert!(refused(mem.launch(len, Add { x: x.read(), y: y.update() })), "nothing is split");
    let grid = Grid::Groups { n: len as u64, groups: 4 };
    let kernel = Add { x: x.read().split(1), y: y.update().split(1) };
    assert!(refused(mem.launch(grid, kernel)), "workgroups take slices");
    let kernel = Add { x: x.read(), y: y.update().split(1) };
    assert!(refused(mem.launch(len, kernel)), "what is not split fills the device");
    let kernel = Copy { x: x.read().split(1), y: y.write() };
    let error = mem.launch(len, kernel).unwrap_err();
    let is_whole = matches!(error, Error::Arguments { source: ArgumentFault::WholeWrite, .. });
    assert!(is_whole, "{error}");
    // A tile of one item would need two blocks, and there is room for one.
    let mem = runtime(1, Backing::Blocks, Eviction::Predicted);
    let mut world = World::new(mem.clone(), 2);
    let (x, y) = world.two(0, 1);
    let answer = mem.launch(len, Add { x: x.read().split(1), y: y.update().split(1) });
    assert!(matches!(answer, Err(Error::OutOfDeviceMemory { .. })), "{answer:?}");
    world.check();
}
