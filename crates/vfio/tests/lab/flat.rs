//! Vectors that come and go between the host and a window, and into each other's way, against arrays that stay where they are.

use hmmap_core::{DeviceId, NodeId, Runtime, SharedVec};
use proptest::{prelude::*, test_runner::TestRunner};

const PAGE: usize = 65_536 / 4;

#[derive(Clone, Debug)]
enum Step {
    Read { vec: usize, at: usize, len: usize },
    Write { vec: usize, at: usize, len: usize, value: u32 },
    Discard { vec: usize, at: usize, len: usize },
    Prefetch { vec: usize, at: usize, len: usize },
    Move { vec: usize },
    Anew { vec: usize },
}

/// Together they are longer than the window.
const LENS: [usize; 3] = [5, 140 * PAGE + 9, 200 * PAGE];

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..3usize, 0..LENS[2], prop_oneof![1..50usize, 1..PAGE * 90]);
    prop_oneof![
        3 => place().prop_map(|(vec, at, len)| Step::Read { vec, at, len }),
        3 => (place(), any::<u32>()).prop_map(|((vec, at, len), value)| Step::Write { vec, at, len, value }),
        1 => place().prop_map(|(vec, at, len)| Step::Discard { vec, at, len }),
        3 => place().prop_map(|(vec, at, len)| Step::Prefetch { vec, at, len }),
        3 => (0..3usize).prop_map(|vec| Step::Move { vec }),
        1 => (0..3usize).prop_map(|vec| Step::Anew { vec }),
    ]
}

fn one(steps: &[Step], (mem, device, node): (Runtime, DeviceId, NodeId)) {
    let fresh = |n: usize| (SharedVec::<u32>::new(&mem, n).unwrap(), vec![0_u32; n]);
    let mut all: Vec<_> = LENS.iter().map(|n| Some(fresh(*n))).collect();
    let place = |n: usize, at: usize, len: usize| at % n..(at % n + len).min(n);
    for step in steps {
        let (Step::Read { vec, .. }
        | Step::Write { vec, .. }
        | Step::Discard { vec, .. }
        | Step::Prefetch { vec, .. }
        | Step::Move { vec }
        | Step::Anew { vec }) = *step;
        let (mut x, mut flat) = all[vec].take().unwrap();
        let n = flat.len();
        match *step {
            Step::Read { at, len, .. } => {
                let range = place(n, at, len);
                assert!(x[range.clone()] == flat[range.clone()], "{range:?} of {vec}");
            }
            Step::Write { at, len, value, .. } => {
                let range = place(n, at, len);
                x.host_mut(range.clone()).unwrap().fill(value);
                flat[range].fill(value);
            }
            Step::Discard { at, len, .. } => {
                let range = place(n, at, len);
                x.discard(range.clone()).unwrap();
                flat[range].fill(0);
            }
            Step::Prefetch { at, len, .. } => {
                x.prefetch(place(n, at, len), device).unwrap().wait().unwrap();
            }
            Step::Move { .. } => {
                let lent = x.lend_on(device).unwrap();
                let runs = lent.residency(..).unwrap();
                assert!(runs.iter().all(|run| run.nodes[..] == [node]), "{runs:?}");
                x = lent.take_back().unwrap();
            }
            Step::Anew { .. } => {
                drop(x);
                (x, flat) = fresh(n);
            }
        }
        all[vec] = Some((x, flat));
    }
    for (x, flat) in all.into_iter().flatten() {
        assert!(x.to_vec().unwrap() == flat, "at the end");
    }
    drop(mem);
}

/// So many programs, each on a window of 16 MiB or more of its own; how many steps they had.
pub(crate) fn play(cases: u32, with: impl Fn() -> (Runtime, DeviceId, NodeId)) -> usize {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let steps = proptest::collection::vec(step(), 1..30);
    let played = std::cell::Cell::new(0);
    let run = |steps: Vec<Step>| {
        one(&steps, with());
        played.set(played.get() + steps.len());
        Ok(())
    };
    TestRunner::new(config).run(&steps, run).unwrap();
    played.get()
}
