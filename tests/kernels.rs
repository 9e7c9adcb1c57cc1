//! The shipped kernels through the whole path, on the embedded device; and what they bind against what their code declares.

#[path = "kernels/recorder.rs"]
mod recorder;

use std::{collections::BTreeSet, sync::Arc};

use hmmap::kernels::{self, *};
use hmmap_core::{
    Kernel, Options, Runtime, SharedVec,
    backend::Provider,
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    kernel::{Field, FieldKind, ParamLayout},
};
use recorder::{Recorder, Seen};

fn runtime(memory: EmbeddedMemory) -> Runtime {
    let options = EmbeddedOptions { memory, ..EmbeddedOptions::default() };
    let provider: Arc<dyn Provider> = Arc::new(EmbeddedProvider::new(options));
    Runtime::new(vec![provider], Options::default()).unwrap()
}

#[test]
fn sums_and_dots_are_near_and_the_same_everywhere() {
    for len in [0, 1, 4095, 100_000, 5_000_000] {
        let number = |i: usize| ((i * 7919) % 1000) as f32 * 0.01 - 4.0;
        let results = [EmbeddedMemory::Host, EmbeddedMemory::Own].map(|memory| {
            let mem = runtime(memory);
            let x = SharedVec::from_fn(&mem, len, number).unwrap();
            let y = SharedVec::from_fn(&mem, len + 3, |i| number(i + 1)).unwrap();
            (kernels::sum(&mem, &x).unwrap(), kernels::dot(&mem, &x, &y).unwrap())
        });
        assert_eq!(results[0].0.to_bits(), results[1].0.to_bits());
        assert_eq!(results[0].1.to_bits(), results[1].1.to_bits());
        let sum: f64 = (0..len).map(|i| f64::from(number(i))).sum();
        let dot: f64 = (0..len).map(|i| f64::from(number(i)) * f64::from(number(i + 1))).sum();
        assert!((f64::from(results[0].0) - sum).abs() <= 1e-5 * sum.abs(), "{len}: {results:?}");
        assert!((f64::from(results[0].1) - dot).abs() <= 1e-5 * dot.abs(), "{len}: {results:?}");
    }
}

#[test]
fn a_scan_of_any_length_is_the_prefix_sum() {
    let mem = runtime(EmbeddedMemory::Own);
    let number = |i: usize| (i as u32).wrapping_mul(2_654_435_761);
    for (len, out_len) in [
        (0, 3),
        (1, 1),
        (1024, 1024),
        (1025, 1025),
        (3000, 9000),
        (9000, 3000),
        (2_100_000, 2_100_001),
    ] {
        let x = SharedVec::from_fn(&mem, len, number).unwrap();
        let mut out = SharedVec::from_fn(&mem, out_len, |_| 77).unwrap();
        kernels::inclusive_scan(&mem, &x, &mut out).unwrap();
        let mut sum = 0u32;
        for (i, got) in out.host(..).unwrap().iter().enumerate() {
            sum = if i < len { sum.wrapping_add(number(i)) } else { 0 };
            assert_eq!(*got, sum, "out[{i}] of {len} into {out_len}");
        }
    }
}

#[test]
fn a_sort_of_any_length_is_the_standard_library_s() {
    let mem = runtime(EmbeddedMemory::Own);
    for len in [0, 1, 2, 1023, 1024, 1025, 70_001, 1_100_000] {
        for spread in [u32::MAX, 1000, 1] {
            let number = |i: usize| (i as u32).wrapping_mul(2_654_435_761) % spread;
            let mut keys = SharedVec::from_fn(&mem, len, number).unwrap();
            kernels::sort(&mem, &mut keys).unwrap();
            let mut want: Vec<u32> = (0..len).map(number).collect();
            want.sort_unstable();
            assert!(*keys.host(..).unwrap() == want, "{len} keys below {spread}");

            let mut keys = SharedVec::from_fn(&mem, len, number).unwrap();
            let mut values = SharedVec::from_fn(&mem, len + 3, |i| i as u32).unwrap();
            kernels::sort_pairs(&mem, &mut keys, &mut values).unwrap();
            let mut order: Vec<u32> = (0..len as u32).collect();
            order.sort_by_key(|i| number(*i as usize));
            order.extend(len as u32..len as u32 + 3);
            assert!(*keys.host(..).unwrap() == want, "{len} keys below {spread}, with values");
            assert!(*values.host(..).unwrap() == order, "the values of {len} keys below {spread}");
        }
    }
}

#[test]
fn what_kernels_bind_is_what_their_code_declares() {
    let recorder = Arc::new(Recorder::default());
    let provider: Arc<dyn Provider> = recorder.clone();
    let mem = Runtime::new(vec![provider], Options::default()).unwrap();
    launch_each(&mem);
    let seen = recorder.seen();
    let manifest: serde_json::Value =
        serde_json::from_str(include_str!("../shaders/manifest.json")).unwrap();
    let declared = manifest["kernels"].as_object().unwrap();
    let names: BTreeSet<&str> = seen.iter().map(|seen| seen.name).collect();
    assert_eq!(names, declared.keys().map(String::as_str).collect(), "every kernel has one struct");
    assert_eq!(seen.len(), declared.len());
    for Seen { name, workgroup, layout, accesses } in &seen {
        let kernel = &declared[*name];
        let args = kernel["args"].as_array().unwrap();
        assert_eq!(serde_json::json!(workgroup), kernel["workgroup"], "{name}");
        let difference = layout.first_difference(&ParamLayout::new(args.iter().map(field)));
        assert_eq!(difference, None, "{name}: bound against declared");
        let declared: Vec<&str> = args.iter().filter_map(|arg| arg["access"].as_str()).collect();
        let bound: Vec<String> = accesses.iter().map(|access| format!("{access:?}")).collect();
        assert_eq!(bound, declared, "{name}: accesses");
    }
}

fn field(arg: &serde_json::Value) -> Field {
    let kind = match arg["type"].as_str().unwrap() {
        "u64" => FieldKind::U64,
        "u32" => FieldKind::U32,
        "f32" => FieldKind::F32,
        pointer if pointer.starts_with('*') => FieldKind::Address,
        other => panic!("{other} is no type of a parameter"),
    };
    Field { offset_bytes: arg["offset"].as_u64().unwrap() as u32, kind }
}

/// Launches every shipped kernel once, over vectors of one element.
fn launch_each(mem: &Runtime) {
    let (f, u) = (SharedVec::<f32>::new(mem, 1).unwrap(), SharedVec::<u32>::new(mem, 1).unwrap());
    let [mut p, mut q, mut r, mut s] = [(); 4].map(|()| SharedVec::<u32>::new(mem, 1).unwrap());
    let mut g = SharedVec::<f32>::new(mem, 1).unwrap();
    line(mem, Fill { out: g.write(), value: 1.0 });
    line(mem, Touch { a: p.update(), b: q.update(), c: r.update(), d: s.update(), index: 0 });
    line(mem, Saxpy { x: f.read(), y: g.update(), a: 1.0 });
    line(mem, Xpby { x: f.read(), y: g.update(), b: 1.0 });
    line(mem, StreamCopy { a: f.read(), c: g.write() });
    line(mem, StreamScale { c: f.read(), b: g.write(), scalar: 1.0 });
    line(mem, StreamAdd { a: f.read(), b: f.read(), c: g.write() });
    line(mem, StreamTriad { b: f.read(), c: f.read(), a: g.write(), scalar: 1.0 });
    line(mem, PartialSums { x: f.read(), partials: g.write() });
    line(mem, PartialDots { x: f.read(), y: f.read(), partials: g.write() });
    line(mem, ScanBlocks { x: u.read(), out: p.write(), block_sums: q.write() });
    line(mem, ScanAdd { out: p.update(), block_sums: u.read() });
    line(mem, RadixCount { keys: u.read(), counts: p.write(), shift: 0 });
    line(mem, RadixScatter { keys: u.read(), ends: u.read(), out: p.update(), shift: 0 });
    let (keys_out, values_out) = (p.update(), q.update());
    let (keys, values, ends) = (u.read(), u.read(), u.read());
    line(mem, RadixScatterPairs { keys, values, ends, keys_out, values_out, shift: 0 });
    line(mem, Histogram { data: u.read(), bins: p.update() });
    line(mem, Gather { src: f.read(), index: u.read(), out: g.write() });
    line(mem, Gather { src: u.read(), index: u.read(), out: p.write() });
    line(mem, ScatterAdd { index: u.read(), value: u.read(), dst: p.update() });
    let (row_ptr, col_idx, values) = (u.read(), u.read(), f.read());
    line(mem, SpmvCsr { row_ptr, col_idx, values, x: f.read(), y: g.write() });
    let (points, centroids) = (f.read(), f.read());
    line(mem, KmeansAssign { points, centroids, labels: p.write(), dims: 1 });
    let mut counts = SharedVec::<f32>::new(mem, 1).unwrap();
    line(
        mem,
        KmeansPartials {
            points: f.read(),
            labels: u.read(),
            sums: g.write(),
            counts: counts.write(),
            per_slice: 1,
            clusters: 1,
            dims: 1,
        },
    );
    let (sums, counted, centroids) = (f.read(), f.read(), g.update());
    line(mem, KmeansUpdate { sums, counts: counted, centroids, clusters: 1, dims: 1 });
    let (bodies, sources, acceleration) = (f.read(), f.read(), g.update());
    line(mem, NbodyAccelerate { bodies, sources, acceleration, softening: 1.0 });
    let (velocity, bodies) = (g.update(), counts.update());
    line(mem, NbodyMove { acceleration: f.read(), velocity, bodies, dt: 1.0 });
    plane(mem, Stencil5 { src: f.read(), dst: g.write(), centre: 1.0, side: 1.0 });
    plane(mem, Blur3 { src: f.read(), dst: g.write() });
    plane(mem, Matmul { a: f.read(), b: f.read(), c: g.write(), k: 1 });
    plane(mem, Mandelbrot { out: p.write(), x0: 0.0, y0: 0.0, dx: 1.0, dy: 1.0, max_iter: 1 });
}

fn line(mem: &Runtime, kernel: impl Kernel) {
    mem.launch(1, kernel).unwrap();
}

fn plane(mem: &Runtime, kernel: impl Kernel) {
    mem.launch((1, 1), kernel).unwrap();
}
