//! Shipped kernels that say how they can be split, on data three times the device's budget: the very bytes of a launch that fits, on the embedded device and on each Vulkan driver.

use std::sync::Arc;

use hmmap::kernels::{
    Fill, Gather, Histogram, KmeansAssign, Matmul, NbodyAccelerate, NbodyMove, Saxpy, ScatterAdd,
    StreamAdd, StreamCopy, StreamScale, StreamTriad, Xpby,
};
use hmmap_core::{
    Grid, Kernel, MemoryModel, Options, Runtime, SharedVec,
    backend::Provider,
    embedded::{Backing, EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    units::BLOCK_BYTES,
};

/// Blocks of the smaller device.
const BUDGET: u64 = 6;
/// A vector of this many bytes is as large as it.
const BUDGET_BYTES: usize = (BUDGET * BLOCK_BYTES) as usize;

/// The devices, by name.
fn devices() -> Vec<(String, Arc<dyn Provider>)> {
    let (memory, backing) = (EmbeddedMemory::Own, Backing::Blocks);
    let embedded = EmbeddedOptions { memory, backing, ..EmbeddedOptions::default() };
    let mut devices: Vec<(String, Arc<dyn Provider>)> =
        vec![("embedded".to_owned(), Arc::new(EmbeddedProvider::new(embedded)))];
    #[cfg(feature = "vulkan")]
    match hmmap_vulkan::discover(&hmmap_vulkan::Options::default()) {
        Ok(found) if found.providers.is_empty() => {
            println!("HMMAP-SKIP-CASE: Vulkan: no usable device: {:?}", found.left_out);
        }
        Ok(found) => devices.extend(found.providers.into_iter().map(|vulkan| {
            let provider: Arc<dyn Provider> = vulkan.clone();
            (vulkan.summary().driver.clone(), provider)
        })),
        Err(error) => println!("HMMAP-SKIP-CASE: Vulkan: {error}"),
    }
    devices
}

fn runtime(provider: Arc<dyn Provider>, limit_blocks: u64) -> Runtime {
    let options = Options {
        memory_model: MemoryModel::Migrate,
        device_memory_limit_bytes: Some(limit_blocks * BLOCK_BYTES),
        ..Options::default()
    };
    Runtime::new(vec![provider], options).unwrap()
}

/// A vector of small numbers that differ, and no two vectors alike.
fn numbers(mem: &Runtime, len: usize, seed: usize) -> SharedVec<f32> {
    SharedVec::from_fn(mem, len, |i| ((i * 7919 + seed * 613) % 1013) as f32 * 0.013 - 6.0).unwrap()
}

fn launch<K: Kernel>(mem: &Runtime, grid: impl Into<Grid>, kernel: K) {
    mem.launch(grid, kernel).unwrap().wait().unwrap();
}

/// The bits of a vector.
fn bits(vec: &SharedVec<f32>) -> Vec<u32> {
    vec.host(..).unwrap().iter().map(|number| number.to_bits()).collect()
}

/// Runs a program on devices that have room for all of it and again with less, and compares what it hands back.
fn the_same_in_tiles(program: impl Fn(&Runtime) -> Vec<u32>) {
    for (name, provider) in devices() {
        let [roomy, tight] = [1024, BUDGET].map(|blocks| {
            let mem = runtime(provider.clone(), blocks);
            let bits = program(&mem);
            let device = mem.default_device().unwrap();
            assert!(mem.device_memory(device).unwrap().used_bytes <= blocks * BLOCK_BYTES);
            (bits, mem.stats().launches)
        });
        let (many, few) = (tight.1, roomy.1);
        println!("{name}: {many} launches in tiles, {few} without");
        assert!(many > 2 * few, "{name}: {many} launches in tiles, {few} without");
        assert!(roomy.0.iter().any(|bits| *bits != 0), "{name}: the program computes something");
        assert!(roomy.0 == tight.0, "{name}: tiles change the result");
    }
}

#[test]
fn lines_of_numbers() {
    // Each vector is as large as the budget; an end that is no page's.
    let n = BUDGET_BYTES / 4 + 1029;
    the_same_in_tiles(|mem| {
        let [mut a, mut b, mut c] = [1, 2, 3].map(|seed| numbers(mem, n, seed));
        let one = 1;
        let (r, w) = (c.read().split(one), b.write().split(one));
        launch(mem, n, StreamScale { c: r, b: w, scalar: 0.5 });
        let (from, to) = (b.read().split(one), c.write().split(one));
        launch(mem, n, StreamCopy { a: from, c: to });
        let (x, y) = (a.read().split(one), b.update().split(one));
        launch(mem, n, Saxpy { x, y, a: 2.5 });
        let (x, y) = (b.read().split(one), a.update().split(one));
        launch(mem, n, Xpby { x, y, b: -0.5 });
        let (left, right) = (a.read().split(one), b.read().split(one));
        launch(mem, n, StreamAdd { a: left, b: right, c: c.write().split(one) });
        let (b, c) = (b.read().split(one), c.read().split(one));
        launch(mem, n, StreamTriad { b, c, a: a.write().split(one), scalar: 3.0 });
        bits(&a)
    });
}

#[test]
fn a_product_by_rows() {
    let (k, nx) = (24, 16);
    let rows = 3 * BUDGET_BYTES / 4 / (k + nx) + 5;
    the_same_in_tiles(|mem| {
        let (a, b) = (numbers(mem, rows * k, 1), numbers(mem, k * nx, 2));
        let mut c = SharedVec::new(mem, rows * nx).unwrap();
        let (a, c_rows) = (a.read().split(k), c.write().split(nx));
        launch(mem, (nx, rows), Matmul { a, b: b.read(), c: c_rows, k: k as u64 });
        bits(&c)
    });
}

#[test]
fn points_and_their_centroids() {
    let dims = 4;
    let points = 3 * BUDGET_BYTES / 4 / (dims + 1) + 7;
    the_same_in_tiles(|mem| {
        let (all, centroids) = (numbers(mem, points * dims, 1), numbers(mem, 3 * dims, 2));
        let mut labels = SharedVec::<u32>::new(mem, points).unwrap();
        let (points_of, labels_of) = (all.read().split(dims), labels.write().split(1));
        let centroids = centroids.read();
        let dims = dims as u32;
        let kernel = KmeansAssign { points: points_of, centroids, labels: labels_of, dims };
        launch(mem, points, kernel);
        labels.host(..).unwrap().to_vec()
    });
}

#[test]
fn bodies_that_few_others_pull() {
    let count = 3 * BUDGET_BYTES / 4 / 10;
    the_same_in_tiles(|mem| {
        let (mut bodies, sources) = (numbers(mem, count * 4, 1), numbers(mem, 5 * 4, 2));
        let [mut acceleration, mut velocity] = [3, 4].map(|seed| numbers(mem, count * 3, seed));
        for _ in 0..2 {
            let (bodies_of, sources) = (bodies.read().split(4), sources.read());
            let acceleration_of = acceleration.update().split(3);
            let softening = 0.1;
            let kernel = NbodyAccelerate {
                bodies: bodies_of,
                sources,
                acceleration: acceleration_of,
                softening,
            };
            launch(mem, count, kernel);
            let (acceleration, velocity) =
                (acceleration.read().split(3), velocity.update().split(3));
            let kernel =
                NbodyMove { acceleration, velocity, bodies: bodies.update().split(4), dt: 0.01 };
            launch(mem, count, kernel);
        }
        bits(&bodies)
    });
}

#[test]
fn a_table_that_all_tiles_look_things_up_in() {
    let n = BUDGET_BYTES / 4 + 77;
    the_same_in_tiles(|mem| {
        let number = |i: usize| (i as u32).wrapping_mul(2_654_435_761);
        let table = SharedVec::from_fn(mem, 1009, number).unwrap();
        let index = SharedVec::from_fn(mem, n, |i| number(i) % 1013).unwrap();
        let [mut found, mut sums] = [n, 1009].map(|len| SharedVec::<u32>::new(mem, len).unwrap());
        launch(mem, n, Fill { out: found.write().split(1), value: 7_u32 });
        let (by, out) = (index.read().split(1), found.write().split(1));
        launch(mem, n, Gather { src: table.read(), index: by, out });
        let (by, value) = (index.read().split(1), found.read().split(1));
        launch(mem, n, ScatterAdd { index: by, value, dst: sums.update() });
        launch(mem, n, Histogram { data: index.read().split(1), bins: sums.update() });
        let (sums, found) = (sums.host(..).unwrap(), found.host(..).unwrap());
        sums.iter().chain(found).copied().collect()
    });
}
