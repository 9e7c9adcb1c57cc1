//! The whole path on the embedded device: allocate, launch, read back; on the host's node and on a node of its own.
#![allow(unsafe_code, reason = "defines a kernel")]

use std::sync::Arc;

use hmmap_core::{
    Cause, Kernel, NodeId, Options, Read, Runtime, SharedVec, Source, Update, WithoutRoom,
    backend::Provider,
    embedded::{Backing, EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    kernel::{Arguments, Twin},
};

struct Saxpy<'a> {
    x: Read<'a, f32>,
    y: Update<'a, f32>,
    a: f32,
}

static SAXPY: Source = Source {
    name: "saxpy",
    spirv: &[],
    ptx: "",
    workgroup: [256, 1, 1],
    twin: Some(|twin: &Twin<'_>| {
        let (x, y, a) = (twin.read::<f32>(0), twin.write::<f32>(1), twin.f32(0));
        for (y, x) in y.iter_mut().zip(x).take(twin.n()) {
            *y += a * x;
        }
    }),
};

// SAFETY: the twin, the only code, goes through safe slices, writes only the Update argument, and reads parameters in the order of `bind`.
unsafe impl Kernel for Saxpy<'_> {
    fn source() -> &'static Source {
        &SAXPY
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.x).update(&self.y).grid().f32(self.a);
    }
}

fn runtime(memory: EmbeddedMemory, backing: Backing) -> Runtime {
    let options = EmbeddedOptions { memory, backing, ..EmbeddedOptions::default() };
    let provider: Arc<dyn Provider> = Arc::new(EmbeddedProvider::new(options));
    Runtime::new(vec![provider], Options::default()).unwrap()
}

fn saxpy(mem: &Runtime, n: usize) {
    let x = SharedVec::from_fn(mem, n, |i| i as f32).unwrap();
    let mut y = SharedVec::<f32>::new(mem, n).unwrap();
    for _ in 0..3 {
        mem.launch(n, Saxpy { a: 2.0, x: x.read(), y: y.update() }).unwrap();
    }
    let y = y.host(..).unwrap();
    assert!((0..n).all(|i| y[i] == 6.0 * i as f32), "{n}");
}

const SIZES: [usize; 6] = [0, 1, 1000, 16_384, 600_000, 3_000_001];

#[test]
fn on_the_hosts_node_nothing_moves() {
    let mem = runtime(EmbeddedMemory::Host, Backing::Blocks);
    SIZES.iter().for_each(|n| saxpy(&mem, *n));
    assert_eq!(mem.stats().total().bytes(), 0);
    assert_eq!(mem.node(mem.default_device().unwrap()).unwrap(), NodeId::HOST);
}

#[test]
fn on_a_node_of_its_own_each_page_moves_once() {
    for backing in [Backing::Blocks, Backing::Whole] {
        let mem = runtime(EmbeddedMemory::Own, backing);
        SIZES.iter().for_each(|n| saxpy(&mem, *n));
        let pages: u64 = SIZES.iter().map(|n| (*n as u64 * 4).div_ceil(65_536)).sum();
        let stats = mem.stats();
        assert_eq!(stats[Cause::Launch].to_device_bytes, pages * 65_536);
        assert_eq!(stats[Cause::Launch].zeroed_bytes, pages * 65_536);
        assert_eq!(stats[Cause::Guard].to_host_bytes, pages * 65_536);
        let memory = mem.device_memory(mem.default_device().unwrap()).unwrap();
        assert_eq!(memory.used_bytes, 0, "everything was given back");
    }
}

#[test]
fn a_vector_grows_like_a_vec() {
    let mem = runtime(EmbeddedMemory::Own, Backing::Blocks);
    let mut vec = SharedVec::<u32>::new(&mem, 0).unwrap();
    let mut model = Vec::new();
    for i in 0..40_000 {
        vec.push(i).unwrap();
        model.push(i);
    }
    vec.extend_from_slice(&model[..100]).unwrap();
    model.extend_from_within(..100);
    vec.truncate(30_000);
    model.truncate(30_000);
    vec.resize(70_000, 7).unwrap();
    model.resize(70_000, 7);
    assert_eq!(vec.to_vec().unwrap(), model);
    assert_eq!(vec.try_clone().unwrap().host(..).unwrap(), model);
}

#[test]
fn a_device_too_small_for_all_vectors_still_runs_every_launch() {
    for backing in [Backing::Blocks, Backing::Whole] {
        let options =
            EmbeddedOptions { memory: EmbeddedMemory::Own, backing, ..EmbeddedOptions::default() };
        let provider: Arc<dyn Provider> = Arc::new(EmbeddedProvider::new(options));
        let limit = Some(24 << 20);
        let options = Options {
            device_memory_limit_bytes: limit,
            without_room: WithoutRoom::Refuse,
            ..Options::default()
        };
        let mem = Runtime::new(vec![provider], options).unwrap();
        let n = 2 << 20;
        let mut vecs: Vec<_> =
            (0..6).map(|k| SharedVec::from_fn(&mem, n, |i| (i % 97 + k) as f32).unwrap()).collect();
        let one = SharedVec::from_fn(&mem, n, |_| 1.0).unwrap();
        for round in 1..4 {
            for y in &mut vecs {
                mem.launch(n, Saxpy { a: 1.0, x: one.read(), y: y.update() }).unwrap();
            }
            for (k, y) in vecs.iter().enumerate() {
                let y = y.host(..).unwrap();
                assert!((0..n).all(|i| y[i] == (i % 97 + k + round) as f32), "round {round}");
            }
        }
        assert!(mem.stats().evicted_blocks > 0);
        let too_much = SharedVec::<f32>::new(&mem, 8 << 20).unwrap();
        let error = mem
            .launch(n, Saxpy { a: 1.0, x: too_much.read(), y: vecs[0].update() })
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("{}", 24 << 20)), "{error}");
        assert_eq!(vecs[0].host(5..6).unwrap(), [8.0]);
    }
}

#[test]
fn acquired_vectors_stay_where_they_are_until_released() {
    let options = EmbeddedOptions { memory: EmbeddedMemory::Own, ..EmbeddedOptions::default() };
    let provider: Arc<dyn Provider> = Arc::new(EmbeddedProvider::new(options));
    let options = Options { device_memory_limit_bytes: Some(8 << 20), ..Options::default() };
    let mem = Runtime::new(vec![provider], options).unwrap();
    let device = mem.default_device().unwrap();
    let n = 1 << 20;
    let x = SharedVec::from_fn(&mem, n, |_| 1.0f32).unwrap();
    let mut y = SharedVec::<f32>::new(&mem, n).unwrap();
    let mut z = SharedVec::<f32>::new(&mem, n).unwrap();

    let held = mem.acquire(device, [y.update().into()]).unwrap();
    assert_eq!(held.arrays().len(), 1);
    assert!(held.arrays()[0].address != 0 && held.arrays()[0].len_bytes == 4 << 20);
    let error = mem.launch(n, Saxpy { a: 1.0, x: x.read(), y: z.update() }).unwrap_err();
    assert!(matches!(error, hmmap_core::Error::OutOfDeviceMemory { .. }), "{error}");
    drop(held);
    mem.launch(n, Saxpy { a: 1.0, x: x.read(), y: z.update() }).unwrap().wait().unwrap();
    assert_eq!(z.host(7..8).unwrap(), [1.0]);
}

#[test]
fn a_prefetched_range_is_there_when_the_launch_comes_and_stays_good_on_the_host() {
    let mem = runtime(EmbeddedMemory::Own, Backing::Blocks);
    let device = mem.default_device().unwrap();
    let n = 600_000;
    let x = SharedVec::from_fn(&mem, n, |i| i as f32).unwrap();
    let mut y = SharedVec::<f32>::new(&mem, n).unwrap();
    let slice = x.host(..).unwrap();

    x.prefetch(..n / 2, device).unwrap();
    let fence = x.prefetch(n / 2.., device).unwrap();
    fence.wait().unwrap();
    assert!(fence.point().is_some());
    let pages = (n as u64 * 4).div_ceil(65_536);
    let moved = mem.stats();
    assert_eq!(moved[Cause::Prefetch].to_device_bytes, pages * 65_536, "each page once");
    assert_eq!(slice[n - 1], (n - 1) as f32);
    assert_eq!(x.prefetch(.., device).unwrap().point(), None, "nothing left to move");

    mem.launch(n, Saxpy { a: 1.0, x: x.read(), y: y.update() }).unwrap();
    assert_eq!(y.host(9..10).unwrap(), [9.0]);
    assert_eq!(mem.stats()[Cause::Launch].to_device_bytes, 0);
    assert!(x.prefetch(..n + 1, device).is_err());
}

#[test]
fn a_vector_says_what_its_directory_takes() {
    let mem = runtime(EmbeddedMemory::Own, Backing::Blocks);
    let mut vec = SharedVec::<u8>::new(&mem, 64 << 20).unwrap();
    let uniform = vec.footprint_bytes();
    for block in (0..32).step_by(2) {
        vec.host_mut(block << 21..(block << 21) + 1).unwrap()[0] = 1;
    }
    let after = vec.footprint_bytes();
    assert!(after > uniform + 30 * 100, "{uniform} -> {after}: a run for each block");
}
