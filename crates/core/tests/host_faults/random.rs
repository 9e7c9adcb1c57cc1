//! Random touches, launches, guards, discards and prefetches, against a flat array.

use std::{cell::Cell, sync::Arc};

use hmmap_core::{
    MemoryModel, Options, Runtime, SharedVec,
    backend::Provider,
    embedded::Backing,
    simulated::{Progress, SimulatedOptions, SimulatedProvider},
};
use proptest::{prelude::*, test_runner::TestRunner};

use crate::{
    cases::cases,
    kernels::{Add, Count},
    rig::{device, each_rung},
};

const PAGE: usize = 65_536 / 4;
const LENS: [usize; 3] = [5, 40 * PAGE, 130 * PAGE + 9];

#[derive(Clone, Debug)]
enum Step {
    Read { vec: usize, at: usize, len: usize },
    Write { vec: usize, at: usize, len: usize, value: u32 },
    Guard { vec: usize, at: usize, len: usize, value: u32 },
    Overwrite { vec: usize, at: usize, len: usize, value: u32 },
    Discard { vec: usize, at: usize, len: usize },
    Add { from: usize, to: usize, on: usize, at: usize, len: usize },
    Count { vec: usize, on: usize, at: usize, len: usize, value: u32 },
    Prefetch { vec: usize, on: usize, at: usize, len: usize },
    Anew { vec: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..3usize, 0..LENS[2], prop_oneof![1..50usize, 1..PAGE * 40]);
    prop_oneof![
        4 => place().prop_map(|(vec, at, len)| Step::Read { vec, at, len }),
        4 => (place(), any::<u32>()).prop_map(|((vec, at, len), value)| Step::Write { vec, at, len, value }),
        1 => (place(), any::<u32>()).prop_map(|((vec, at, len), value)| Step::Guard { vec, at, len, value }),
        1 => (place(), any::<u32>()).prop_map(|((vec, at, len), value)| Step::Overwrite { vec, at, len, value }),
        1 => place().prop_map(|(vec, at, len)| Step::Discard { vec, at, len }),
        3 => (place(), 1..3usize, 0..2usize)
            .prop_map(|((from, at, len), by, on)| Step::Add { from, to: (from + by) % 3, on, at, len }),
        2 => (place(), 0..2usize, any::<u32>())
            .prop_map(|((vec, at, len), on, value)| Step::Count { vec, on, at, len, value }),
        1 => (place(), 0..2usize).prop_map(|((vec, at, len), on)| Step::Prefetch { vec, on, at, len }),
        1 => (0..3usize).prop_map(|vec| Step::Anew { vec }),
    ]
}

fn play(mem: &Runtime, steps: &[Step]) {
    let fresh = |n: usize| (SharedVec::<u32>::new(mem, n).unwrap(), vec![0u32; n]);
    let mut all: Vec<_> = LENS.iter().map(|n| fresh(*n)).collect();
    let place = |n: usize, at: usize, len: usize| {
        let at = at % n;
        at..(at + len).min(n)
    };
    for step in steps {
        match *step {
            Step::Read { vec, at, len } => {
                let (vec, model) = &all[vec];
                let range = place(model.len(), at, len);
                assert_eq!(vec[range.clone()], model[range]);
            }
            Step::Write { vec, at, len, value } => {
                let (vec, model) = &mut all[vec];
                let range = place(model.len(), at, len);
                for i in range {
                    vec[i] = vec[i].wrapping_mul(3).wrapping_add(value);
                    model[i] = model[i].wrapping_mul(3).wrapping_add(value);
                }
            }
            Step::Guard { vec, at, len, value } => {
                let (vec, model) = &mut all[vec];
                let range = place(model.len(), at, len);
                vec.host_mut(range.clone()).unwrap().fill(value);
                model[range].fill(value);
            }
            Step::Overwrite { vec, at, len, value } => {
                let (vec, model) = &mut all[vec];
                let range = place(model.len(), at, len);
                vec.overwrite(range.clone()).unwrap().fill(value);
                model[range].fill(value);
            }
            Step::Discard { vec, at, len } => {
                let (vec, model) = &mut all[vec];
                let range = place(model.len(), at, len);
                vec.discard(range.clone()).unwrap();
                model[range].fill(0);
            }
            Step::Add { from, to, on, at, len } => {
                let shorter = all[from].1.len().min(all[to].1.len());
                let range = place(shorter, at, len);
                let source = all[from].1[range.clone()].to_vec();
                let [(x, _), (y, model)] = all.get_disjoint_mut([from, to]).unwrap();
                let kernel =
                    Add { x: x.read().range(range.clone()), y: y.update().range(range.clone()) };
                mem.launch_on(device(on), range.len(), kernel).unwrap();
                model[range].iter_mut().zip(source).for_each(|(y, x)| *y = y.wrapping_add(x));
            }
            Step::Count { vec, on, at, len, value } => {
                let (vec, model) = &mut all[vec];
                let range = place(model.len(), at, len);
                let kernel =
                    Count { y: vec.write().range(range.clone()), seed: value, pause_ms: 0 };
                mem.launch_on(device(on), range.len(), kernel).unwrap();
                for (i, element) in model[range].iter_mut().enumerate() {
                    *element = value.wrapping_add(i as u32);
                }
            }
            Step::Prefetch { vec, on, at, len } => {
                let (vec, model) = &all[vec];
                vec.prefetch(place(model.len(), at, len), device(on)).unwrap();
            }
            Step::Anew { vec } => all[vec] = fresh(LENS[vec]),
        }
    }
    for (vec, model) in &all {
        assert_eq!(vec[..], model[..]);
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn any_order_of_things_equals_a_flat_array(steps in prop::collection::vec(step(), 1..30)) {
        each_rung(|mem| play(mem, &steps));
    }
}

/// Two devices that have room for three quarters of the vectors.
fn under_pressure() -> Runtime {
    let device = |seed| -> Arc<dyn Provider> {
        Arc::new(SimulatedProvider::new(SimulatedOptions {
            seed,
            progress: Progress::WhenAsked,
            backing: Backing::Blocks,
            ..SimulatedOptions::default()
        }))
    };
    let options = Options {
        memory_model: MemoryModel::Migrate,
        device_memory_limit_bytes: Some(12 << 20),
        ..Options::default()
    };
    let mem = Runtime::new(vec![device(1), device(2)], options).unwrap();
    assert!(mem.host_faults().is_some(), "userfaultfd was refused");
    mem
}

/// The same while blocks are evicted for each other.
#[test]
fn any_order_of_things_equals_a_flat_array_under_pressure() {
    let evicted_blocks = Cell::new(0);
    // Everything is on both devices to begin with, as far as it fits.
    let begin = || (0..6).map(|k| Step::Prefetch { vec: k % 3, on: k / 3, at: 0, len: 40 * PAGE });
    let played = TestRunner::new(cases(60)).run(&prop::collection::vec(step(), 10..60), |steps| {
        let mem = under_pressure();
        play(&mem, &begin().chain(steps).collect::<Vec<_>>());
        evicted_blocks.set(evicted_blocks.get() + mem.stats().evicted_blocks);
        Ok(())
    });
    played.unwrap();
    assert!(evicted_blocks.get() > 0, "there was no pressure");
}
