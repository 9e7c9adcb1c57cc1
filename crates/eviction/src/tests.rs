//! The policies on traces, and the rule for nonsense.

use crate::{
    Block, Candidate, Launch, Lru, Policy, Reuse, UvmLike,
    simulator::{Knows, TooLarge, Trace, run},
    traces,
};

/// Names blocks that are no candidates, some twice, or none.
struct Adversary(fastrand::Rng);

impl Policy for Adversary {
    fn launched(&mut self, _now: u64, _launch: &Launch) {}

    fn victims(&mut self, candidates: &[Candidate], _wanted: usize, victims: &mut Vec<Block>) {
        for _ in 0..self.0.usize(..12) {
            victims.push(self.0.u32(..40));
            victims.extend(candidates.first().map(|one| one.block));
        }
        victims.push(u32::MAX);
    }
}

fn random(seed: u64) -> Trace {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut some = |most: usize| (0..rng.usize(..=most)).map(|_| rng.u32(..20)).collect::<Vec<_>>();
    let launches =
        (0..80).map(|tile| Launch { kernel: 0, tile: tile % 7, reads: some(3), writes: some(2) });
    Trace { launches: launches.collect(), buffers: vec![0; 20] }
}

/// The least that any policy pays: each block read before it is written comes in once, each written one goes out once.
fn compulsory(trace: &Trace) -> u64 {
    let (mut seen, mut written) =
        (vec![false; trace.buffers.len()], vec![false; trace.buffers.len()]);
    let mut blocks = 0;
    for launch in &trace.launches {
        for block in &launch.reads {
            blocks += u64::from(!std::mem::replace(&mut seen[*block as usize], true));
        }
        for block in &launch.writes {
            seen[*block as usize] = true;
            blocks += u64::from(!std::mem::replace(&mut written[*block as usize], true));
        }
    }
    blocks
}

#[test]
fn nonsense_is_ignored_and_counted_and_the_launches_run() {
    for seed in 0..300 {
        let mut adversary = Adversary(fastrand::Rng::with_seed(seed));
        let cost = run(&random(seed), 6, 0, Knows::Dirty, &mut adversary).unwrap();
        assert!(cost.ignored > 0 && cost.evicted > 0);
        assert!(cost.blocks() >= compulsory(&random(seed)));
    }
}

#[test]
fn what_fits_costs_what_must_be_and_evicts_nothing() {
    for seed in 0..100 {
        for policy in [&mut Lru as &mut dyn Policy, &mut Reuse::default()] {
            let trace = random(seed);
            let cost = run(&trace, 20, 4, Knows::Dirty, policy).unwrap();
            assert_eq!((cost.blocks(), cost.evicted), (compulsory(&trace), 0));
        }
    }
}

#[test]
fn no_answer_of_ours_makes_no_sense() {
    for (seed, ahead) in (0..300).zip([0, 1, 4].into_iter().cycle()) {
        let cost = run(&random(seed), 5, ahead, Knows::Dirty, &mut Reuse::default()).unwrap();
        assert_eq!(cost.ignored, 0);
    }
}

#[test]
fn a_launch_that_cannot_fit_is_named() {
    let launch = Launch { reads: vec![0, 1, 2], ..Launch::default() };
    let trace = Trace { buffers: vec![0; 3], launches: vec![launch] };
    let answer = run(&trace, 2, 0, Knows::Dirty, &mut Lru);
    assert_eq!(answer, Err(TooLarge { launch: 0, needed_blocks: 3 }));
}

#[test]
fn ours_is_never_worse_than_last_use_on_cycles_and_prints_what_it_costs() {
    const CAPACITY: usize = 96;
    println!("workload  factor   uvm   lru  ours  ours+4  (blocks copied)");
    for factor in [0.5, 1.0, 1.05, 1.25, 2.0, 3.0] {
        let blocks = (CAPACITY as f64 * factor) as u32;
        let all = [
            ("triad", traces::triad(blocks, 10)),
            ("k-means", traces::k_means(blocks, 10)),
            ("stencil", traces::stencil(blocks, 10)),
            ("training", traces::training(blocks, 10)),
        ];
        for (name, trace) in all {
            let cost = |ahead, knows, policy: &mut dyn Policy| {
                run(&trace, CAPACITY, ahead, knows, policy).unwrap().blocks()
            };
            let uvm = cost(0, Knows::Nothing, &mut UvmLike);
            let lru = cost(0, Knows::Dirty, &mut Lru);
            let ours = cost(0, Knows::Dirty, &mut Reuse::default());
            let ahead = cost(4, Knows::Dirty, &mut Reuse::default());
            println!("{name:9} {factor:6} {uvm:6} {lru:6} {ours:6} {ahead:6}");
            assert!(ours <= lru && ahead <= lru, "{name} at {factor}");
            assert!(ours >= compulsory(&trace));
        }
    }
}
