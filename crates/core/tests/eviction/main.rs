//! A device with less memory than the data: what the engine moves is what the policy asked for, block by block, and whatever a policy answers, the data
//! are right.
#![allow(unsafe_code, reason = "defines kernels")]

#[path = "../cases/mod.rs"]
mod cases;
mod gather;
mod groups;
#[path = "../faults/kernels.rs"]
mod kernels;
mod split;
mod tenants;
mod windows;

use std::sync::{Arc, Mutex};

use hmmap_core::{
    Cause, Error, Eviction, Options, Runtime, SharedVec, WithoutRoom,
    backend::Provider,
    embedded::{Backing, EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    eviction::{
        Block, Candidate, Launch, Lru, Policy, Reuse, UvmLike,
        simulator::{Knows, Trace, run},
    },
    units::BLOCK_BYTES,
};
use kernels::{Add, Copy, Element, Fill, element, value};
use proptest::{prelude::*, test_runner::TestRunner};

/// Elements in a block.
const BLOCK: usize = BLOCK_BYTES as usize / size_of::<Element>();
const VECS: usize = 3;

fn runtime(blocks: u64, backing: Backing, eviction: Eviction) -> Runtime {
    runtime_or(WithoutRoom::Refuse, blocks, backing, eviction)
}

fn runtime_or(
    without_room: WithoutRoom,
    blocks: u64,
    backing: Backing,
    eviction: Eviction,
) -> Runtime {
    let options =
        EmbeddedOptions { memory: EmbeddedMemory::Own, backing, ..EmbeddedOptions::default() };
    let provider: Arc<dyn Provider> = Arc::new(EmbeddedProvider::new(options));
    let limit = Some(blocks * BLOCK_BYTES);
    let options =
        Options { device_memory_limit_bytes: limit, eviction, without_room, ..Options::default() };
    Runtime::new(vec![provider], options).unwrap()
}

/// A launch on one block each of one or two vectors.
#[derive(Clone, Copy, Debug)]
enum Step {
    Fill { y: usize, at: usize, value: u32 },
    Copy { x: usize, y: usize, at: usize },
    Add { x: usize, y: usize, at: usize },
}

/// Vectors of so many blocks, with what they should hold: one value for each block.
struct World {
    mem: Runtime,
    vecs: Vec<SharedVec<Element>>,
    model: Vec<Vec<u32>>,
}

impl World {
    fn new(mem: Runtime, blocks: usize) -> Self {
        let at = |vec: usize, block: usize| (1000 * vec + block) as u32;
        let vecs = (0..VECS).map(|vec| {
            SharedVec::from_fn(&mem, blocks * BLOCK, |i| element(at(vec, i / BLOCK))).unwrap()
        });
        let model = |vec| (0..blocks).map(|block| at(vec, block)).collect();
        Self { vecs: vecs.collect(), model: (0..VECS).map(model).collect(), mem }
    }

    fn two(&mut self, x: usize, y: usize) -> (&SharedVec<Element>, &mut SharedVec<Element>) {
        let [x, y] = self.vecs.get_disjoint_mut([x, y]).unwrap();
        (x, y)
    }

    /// Launches, and waits, so that nothing is in flight when the next one looks for victims.
    fn step(&mut self, step: Step) {
        let mem = self.mem.clone();
        let tile = |at: usize| at * BLOCK..(at + 1) * BLOCK;
        let fence = match step {
            Step::Fill { y, at, value } => {
                self.model[y][at] = value;
                mem.launch(BLOCK, Fill { y: self.vecs[y].write().range(tile(at)), value })
            }
            Step::Copy { x, y, at } => {
                self.model[y][at] = self.model[x][at];
                let (x, y) = self.two(x, y);
                mem.launch(
                    BLOCK,
                    Copy { x: x.read().range(tile(at)), y: y.write().range(tile(at)) },
                )
            }
            Step::Add { x, y, at } => {
                self.model[y][at] = self.model[y][at].wrapping_add(self.model[x][at]);
                let (x, y) = self.two(x, y);
                mem.launch(
                    BLOCK,
                    Add { x: x.read().range(tile(at)), y: y.update().range(tile(at)) },
                )
            }
        };
        fence.unwrap().wait().unwrap();
    }

    fn check(&self) {
        for (vec, model) in self.vecs.iter().zip(&self.model) {
            let vec = vec.host(..).unwrap();
            for (block, expected) in model.iter().enumerate() {
                let found = vec[block * BLOCK..][..BLOCK].iter().map(value);
                assert!({ found }.all(|found| found == Some(*expected)), "block {block}");
            }
        }
    }
}

/// The steps as the simulator knows them: blocks are numbered by vector, in the order in which the vectors are used first.
fn trace(steps: &[Step], blocks: usize) -> Trace {
    let mut order: Vec<usize> = Vec::new();
    let mut launches = Vec::new();
    for step in steps {
        let (kernel, x, y, at) = match *step {
            Step::Fill { y, at, .. } => (0, None, y, at),
            Step::Copy { x, y, at } => (1, Some(x), y, at),
            Step::Add { x, y, at } => (2, Some(x), y, at),
        };
        let mut block = |vec: usize| -> Block {
            let known = order.iter().position(|one| *one == vec);
            let place = known.unwrap_or_else(|| {
                order.push(vec);
                order.len() - 1
            });
            (place * blocks + at) as Block
        };
        let mut reads: Vec<_> = x.into_iter().map(&mut block).collect();
        let y = block(y);
        if kernel == 2 {
            reads.push(y);
        }
        let tile = reads.iter().fold(y, |tile, block| tile * 101 + block + 1);
        launches.push(Launch { kernel, tile, reads, writes: vec![y] });
    }
    Trace { buffers: (0..VECS * blocks).map(|block| (block / blocks) as u32).collect(), launches }
}

fn shipped() -> [(Eviction, Box<dyn Policy>); 3] {
    [
        (Eviction::Predicted, Box::new(Reuse::default())),
        (Eviction::LeastRecentlyUsed, Box::new(Lru)),
        (Eviction::FirstCome, Box::new(UvmLike)),
    ]
}

fn moves_what_the_simulator_says(steps: &[Step], blocks: usize, capacity: usize) {
    for (eviction, mut policy) in shipped() {
        let mem = runtime(capacity as u64, Backing::Blocks, eviction.clone());
        let mut world = World::new(mem.clone(), blocks);
        steps.iter().for_each(|step| world.step(*step));
        let predicted =
            run(&trace(steps, blocks), capacity, 0, Knows::Dirty, policy.as_mut()).unwrap();
        let stats = mem.stats();
        assert_eq!(stats.evicted_blocks, predicted.evicted, "{eviction:?}");
        assert_eq!(stats.ignored_victims, 0);
        // What is still on the device at the end goes home here, and is part of the simulator's account.
        world.check();
        let total = mem.stats().total();
        let moved = [total.to_device_bytes, total.to_host_bytes].map(|bytes| bytes / BLOCK_BYTES);
        assert_eq!(moved, [predicted.copied_in, predicted.copied_out], "{eviction:?}");
    }
}

#[test]
fn a_loop_over_more_than_fits_moves_what_the_simulator_says() {
    const BLOCKS: usize = 12;
    let round = (0..BLOCKS).map(|at| Step::Add { x: 0, y: 1, at });
    let steps: Vec<_> = (0..6).flat_map(|_| round.clone()).collect();
    for capacity in [6, 12, 19, 23, 24] {
        moves_what_the_simulator_says(&steps, BLOCKS, capacity);
    }
}

fn any_step(blocks: usize) -> impl Strategy<Value = Step> {
    let two = (0..VECS, 1..VECS).prop_map(|(x, by)| (x, (x + by) % VECS));
    prop_oneof![
        (0..VECS, 0..blocks, any::<u32>()).prop_map(|(y, at, value)| Step::Fill { y, at, value }),
        (two.clone(), 0..blocks).prop_map(|((x, y), at)| Step::Copy { x, y, at }),
        (two, 0..blocks).prop_map(|((x, y), at)| Step::Add { x, y, at }),
    ]
}

#[test]
fn any_sequence_of_launches_moves_what_the_simulator_says() {
    const BLOCKS: usize = 4;
    let input = (prop::collection::vec(any_step(BLOCKS), 1..60), 2..VECS * BLOCKS);
    let mut runner = TestRunner::new(cases::cases(24));
    let held = runner.run(&input, |(steps, capacity)| {
        moves_what_the_simulator_says(&steps, BLOCKS, capacity);
        Ok(())
    });
    held.unwrap();
}

/// Names what is no candidate, the same twice, or nobody at all.
struct Adversary(fastrand::Rng);

impl Policy for Adversary {
    fn launched(&mut self, _now: u64, _launch: &Launch) {}

    fn victims(&mut self, candidates: &[Candidate], _wanted: usize, victims: &mut Vec<Block>) {
        for _ in 0..self.0.usize(..6) {
            victims.push(self.0.u32(..40));
            victims.extend(self.0.choice(candidates).map(|one| one.block));
        }
        victims.extend(self.0.bool().then_some(Block::MAX));
    }
}

#[test]
fn whatever_a_policy_answers_the_data_are_right_and_nonsense_is_counted() {
    const BLOCKS: usize = 4;
    let input = (prop::collection::vec(any_step(BLOCKS), 20..60), any::<u64>(), any::<bool>());
    let mut runner = TestRunner::new(cases::cases(24));
    let ignored = std::cell::Cell::new(0);
    let held = runner.run(&input, |(steps, seed, by_blocks)| {
        let (backing, blocks) =
            if by_blocks { (Backing::Blocks, 3) } else { (Backing::Whole, 2 * BLOCKS as u64) };
        let eviction = Eviction::custom(move || Adversary(fastrand::Rng::with_seed(seed)));
        let mem = runtime(blocks, backing, eviction);
        let mut world = World::new(mem.clone(), BLOCKS);
        steps.iter().for_each(|step| world.step(*step));
        world.check();
        ignored.set(ignored.get() + mem.stats().ignored_victims);
        Ok(())
    });
    held.unwrap();
    assert!(ignored.get() > 0, "the adversary was harmless");
}

/// Writes down what it is told and asked.
#[derive(Clone, Default)]
struct Scribe(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    launches: Vec<(u64, Launch)>,
    asked: Vec<Vec<Candidate>>,
}

impl Policy for Scribe {
    fn launched(&mut self, now: u64, launch: &Launch) {
        self.0.lock().unwrap().launches.push((now, launch.clone()));
    }

    fn victims(&mut self, candidates: &[Candidate], _: usize, _: &mut Vec<Block>) {
        self.0.lock().unwrap().asked.push(candidates.to_vec());
    }
}

#[test]
fn a_policy_hears_of_every_launch_before_it_is_asked_and_not_before_that() {
    let scribe = Scribe::default();
    let mine = scribe.clone();
    let mem = runtime(4, Backing::Blocks, Eviction::custom(move || mine.clone()));
    let mut world = World::new(mem, 3);
    for at in 0..2 {
        world.step(Step::Add { x: 0, y: 1, at });
    }
    assert!(scribe.0.lock().unwrap().launches.is_empty(), "everything fits");
    world.step(Step::Add { x: 0, y: 1, at: 2 });
    let told = scribe.0.lock().unwrap();
    let expected = [0, 1, 2].map(|at| (u64::from(at), vec![at, 3 + at], vec![3 + at]));
    let heard: Vec<_> = told
        .launches
        .iter()
        .map(|(now, launch)| (*now, launch.reads.clone(), launch.writes.clone()))
        .collect();
    assert_eq!(heard, expected);
    // Once: what was sent home for this launch leaves in the second round without asking again.
    let [asked] = told.asked.as_slice() else { panic!("asked {} times", told.asked.len()) };
    let blocks: Vec<_> = asked.iter().map(|one| (one.block, one.last_use, one.arrived)).collect();
    assert_eq!(blocks, [(0, 0, 0), (1, 1, 1), (3, 0, 0), (4, 1, 1)]);
}

#[test]
fn what_was_discarded_goes_first_and_for_nothing() {
    let mem = runtime(4, Backing::Blocks, Eviction::LeastRecentlyUsed);
    let mut world = World::new(mem.clone(), 4);
    for at in 0..4 {
        world.step(Step::Fill { y: 0, at, value: 7 });
    }
    // The last one used of all.
    world.vecs[0].discard(3 * BLOCK..).unwrap();
    world.model[0][3] = 0;
    let before = mem.stats();
    world.step(Step::Fill { y: 1, at: 0, value: 8 });
    let stats = mem.stats() - before;
    assert_eq!((stats.evicted_blocks, stats.total().bytes()), (1, 0), "{stats}");
    world.check();
    // The others are still there: nothing is copied for them.
    let before = mem.stats();
    world.step(Step::Add { x: 1, y: 0, at: 0 });
    assert_eq!((mem.stats() - before)[Cause::Eviction].bytes(), 0);
}

#[test]
fn a_policy_that_panics_takes_its_launch_with_it_and_the_next_ones_go_on() {
    struct Panics;
    impl Policy for Panics {
        fn launched(&mut self, _: u64, _: &Launch) {}
        fn victims(&mut self, _: &[Candidate], _: usize, _: &mut Vec<Block>) {
            panic!("the program's own")
        }
    }
    let mem = runtime(2, Backing::Blocks, Eviction::custom(|| Panics));
    let mut world = World::new(mem, 3);
    world.step(Step::Add { x: 0, y: 1, at: 0 });
    let third = std::panic::AssertUnwindSafe(|| world.step(Step::Add { x: 0, y: 1, at: 1 }));
    std::panic::catch_unwind(third).unwrap_err();
    // The model ran ahead of the launch that was not.
    world.model[1][1] = 1001;
    world.step(Step::Add { x: 0, y: 1, at: 2 });
    world.check();
}

#[test]
fn a_working_set_that_cannot_fit_is_refused_in_numbers_and_takes_nobody_out() {
    for (eviction, _) in shipped() {
        let mem = runtime(2, Backing::Blocks, eviction);
        let mut world = World::new(mem.clone(), 3);
        world.step(Step::Fill { y: 2, at: 0, value: 5 });
        let before = mem.stats();
        let (x, y) = world.two(0, 1);
        let refused = mem.launch(3 * BLOCK, Add { x: x.read(), y: y.update() }).map(drop);
        let Err(Error::OutOfDeviceMemory { asked_bytes, limit_bytes, .. }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!([asked_bytes, limit_bytes], [6, 2].map(|blocks| blocks * BLOCK_BYTES));
        assert_eq!((mem.stats() - before).evicted_blocks, 0);
        world.check();
    }
}

#[test]
fn a_budget_shrunk_below_use_evicts_and_says_what_holds_it_when_it_cannot() {
    for backing in [Backing::Blocks, Backing::Whole] {
        let mem = runtime(8, backing, Eviction::Predicted);
        let device = mem.default_device().unwrap();
        let mut world = World::new(mem.clone(), 2);
        for at in 0..2 {
            world.step(Step::Add { x: 0, y: 1, at });
        }
        let memory = || mem.device_memory(device).unwrap();
        assert_eq!(memory().used_bytes, 4 * BLOCK_BYTES);
        let held = mem.acquire(device, [world.vecs[0].read().into()]).unwrap();
        let error = mem.set_device_memory_limit(device, BLOCK_BYTES).unwrap_err();
        assert!(
            matches!(error, Error::BudgetInUse { asked_bytes: BLOCK_BYTES, used_bytes, .. } if used_bytes == 2 * BLOCK_BYTES),
            "{error}"
        );
        assert_eq!(memory().limit_bytes, 8 * BLOCK_BYTES, "what was refused changes nothing");
        drop(held);
        mem.set_device_memory_limit(device, BLOCK_BYTES).unwrap();
        assert!(memory().used_bytes <= BLOCK_BYTES);
        assert_eq!(memory().limit_bytes, BLOCK_BYTES);
        world.check();
        // Nothing at all, below a block: every launch is refused, in numbers, until there is room again.
        mem.set_device_memory_limit(device, 0).unwrap();
        assert_eq!(memory().used_bytes, 0);
        let fill = Fill { y: world.vecs[2].write().range(..1), value: 3 };
        let refused = mem.launch(1, fill).unwrap_err();
        assert!(matches!(refused, Error::OutOfDeviceMemory { limit_bytes: 0, .. }), "{refused}");
        mem.set_device_memory_limit(device, 6 * BLOCK_BYTES).unwrap();
        world.step(Step::Add { x: 0, y: 2, at: 1 });
        world.check();
    }
}

#[test]
fn a_budget_may_change_while_others_launch() {
    let mem = runtime(8, Backing::Blocks, Eviction::Predicted);
    let device = mem.default_device().unwrap();
    let world = Mutex::new(World::new(mem.clone(), 4));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..60 {
                let step = Step::Add { x: round % 3, y: (round + 1) % 3, at: round % 4 };
                world.lock().unwrap().step(step);
            }
        });
        for round in 0..60 {
            let limit = 2 + round % 5;
            mem.set_device_memory_limit(device, limit * BLOCK_BYTES).unwrap();
            let memory = mem.device_memory(device).unwrap();
            assert!(memory.used_bytes <= memory.limit_bytes, "{memory:?}");
        }
    });
    world.into_inner().unwrap().check();
}
