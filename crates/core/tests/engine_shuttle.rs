//! Orders of threads over the engine's locks, tried by shuttle: launches that are each other's victims, and working sets of which two do
//! not fit at once. Built with `--cfg shuttle` alone; `cargo xtask test` does so.
#![cfg(shuttle)]
#![allow(unsafe_code, reason = "defines a kernel")]

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use hmmap_core::{
    Error, Kernel, Options, Read, Runtime, SharedVec, Source, Update,
    embedded::Backing,
    kernel::{Arguments, Twin},
    simulated::{SimulatedControl, SimulatedOptions, SimulatedProvider},
};
use shuttle::thread;

const BLOCK: usize = (2 << 20) / size_of::<u32>();
const BLOCK_BYTES: u64 = 2 << 20;
const ORDERS: usize = 300;

struct Add<'a> {
    x: Read<'a, u32>,
    y: Update<'a, u32>,
}

static ADD: Source = Source {
    name: "add",
    spirv: &[],
    ptx: "",
    workgroup: [256, 1, 1],
    twin: Some(|twin: &Twin<'_>| {
        let (x, y) = (twin.read::<u32>(0), twin.write::<u32>(1));
        y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
    }),
};

// SAFETY: the twin, the only code, goes through safe slices, writes only the Update argument, and reads no parameters.
unsafe impl Kernel for Add<'_> {
    fn source() -> &'static Source {
        &ADD
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.x).update(&self.y).grid();
    }
}

/// A runtime over a simulated device with room for so many blocks; a new seed for each order.
fn runtime(blocks: u64, backing: Backing) -> (Runtime, SimulatedControl) {
    static SEED: AtomicU64 = AtomicU64::new(0);
    let seed = SEED.fetch_add(1, Relaxed);
    let provider =
        SimulatedProvider::new(SimulatedOptions { seed, backing, ..SimulatedOptions::default() });
    let control = provider.control();
    let limit = Some(blocks * BLOCK_BYTES);
    let options = Options { device_memory_limit_bytes: limit, ..Options::default() };
    (Runtime::new(vec![Arc::new(provider)], options).unwrap(), control)
}

fn filled(mem: &Runtime, blocks: usize, value: u32) -> SharedVec<u32> {
    let mut vec = SharedVec::new(mem, blocks * BLOCK).unwrap();
    // One element a block is enough to tell blocks apart, and keeps an order cheap.
    for block in 0..blocks {
        vec.host_mut(block * BLOCK..=block * BLOCK).unwrap()[0] = value + block as u32;
    }
    vec
}

/// Adds `x` to `y` so many times and checks one element of each block.
fn add(mem: &Runtime, x: &SharedVec<u32>, y: &mut SharedVec<u32>, times: u32) -> Result<(), Error> {
    for _ in 0..times {
        mem.launch(y.len(), Add { x: x.read(), y: y.update() })?;
    }
    for at in (0..y.len()).step_by(BLOCK) {
        let (x, y) = (x.host(at..=at)?[0], y.host(at..=at)?[0]);
        assert_eq!(y, times * x, "element {at}");
    }
    Ok(())
}

fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    shuttle::check_random(scenario, ORDERS);
}

#[test]
fn launches_that_are_each_others_victims_both_end() {
    for backing in [Backing::Blocks, Backing::Whole] {
        explore(move || {
            let (mem, control) = runtime(2, backing);
            let threads: Vec<_> = (0..2)
                .map(|k| {
                    let mem = mem.clone();
                    thread::spawn(move || {
                        let x = filled(&mem, 1, 3 + k);
                        add(&mem, &x, &mut filled(&mem, 1, 0), 2).unwrap();
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(control.violations(), []);
        });
    }
}

#[test]
fn two_working_sets_that_do_not_fit_at_once_take_turns() {
    explore(|| {
        // Each launch needs four blocks of six: no half of one may keep the other waiting for good.
        let (mem, control) = runtime(6, Backing::Blocks);
        let threads: Vec<_> = (0..3)
            .map(|k| {
                let mem = mem.clone();
                thread::spawn(move || {
                    let x = filled(&mem, 2, 1 + k);
                    let mut y = SharedVec::new(&mem, 2 * BLOCK).unwrap();
                    add(&mem, &x, &mut y, 1).unwrap();
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(control.violations(), []);
    });
}

#[test]
fn readers_share_a_vector_while_it_is_evicted() {
    explore(|| {
        let (mem, control) = runtime(3, Backing::Blocks);
        let x = Arc::new(filled(&mem, 1, 5));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (mem, x) = (mem.clone(), Arc::clone(&x));
                thread::spawn(move || {
                    let mut y = SharedVec::new(&mem, BLOCK).unwrap();
                    add(&mem, &x, &mut y, 1).unwrap();
                    assert_eq!(x.host(0..1).unwrap(), [5]);
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(control.violations(), []);
    });
}
