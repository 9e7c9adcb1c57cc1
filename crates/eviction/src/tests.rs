//! The policies on traces, and the rule for nonsense.

use crate::{
    Block, Candidate, Launch, Lru, Policy, Reuse,
    ratios::{self, Contender},
    simulator::{Knows, TooLarge, Trace, run},
    traces::{Goal, phase_change, random_blocks},
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
fn every_goal_is_reached_and_all_of_it_is_printed() {
    let rows = ratios::rows().unwrap();
    println!("{}", ratios::table(&rows));
    for row in &rows {
        let (alone, queued) = (row.ratio(Contender::Reuse), row.ratio(Contender::Queued));
        let at = format!("{} at {}: {alone} {queued}", row.workload.name, row.factor);
        assert!(Contender::ALL.iter().all(|one| row.ratio(*one) >= 1.0), "below the bound: {at}");
        if row.factor <= 1.0 {
            assert_eq!((alone, queued), (1.0, 1.0), "{at}");
            continue;
        }
        let most = match row.workload.goal {
            Goal::Ratio(most) => most,
            Goal::LastUse => row.ratio(Contender::Lru),
        };
        assert!(alone <= most && queued <= most, "{at}, not {most}");
    }
    let means = [Contender::Reuse, Contender::Queued].map(|one| ratios::mean(&rows, one));
    assert!(means[0] <= 1.15 && means[1] <= 1.12, "{means:?}");
    for program in ["triad", "k-means"] {
        let of = |row: &&ratios::Row| row.workload.name == program;
        for row in rows.iter().filter(of) {
            let known = row.ratio(Contender::Queued) <= row.ratio(Contender::Reuse);
            assert!(known, "to know the queue must not cost: {program} at {}", row.factor);
        }
    }
}

#[test]
fn where_nothing_repeats_it_is_no_worse_than_last_use_on_seeds_that_nothing_was_set_by() {
    let programs =
        [("random blocks", random_blocks as fn(u32, u64) -> Trace), ("phase change", phase_change)];
    for (name, program) in programs {
        for percent in [105, 110, 125, 200, 300] {
            let (mut ours, mut last_use) = (0, 0);
            for seed in 100..116 {
                let trace = program(96 * percent / 100, seed);
                let cost =
                    |policy: &mut dyn Policy| run(&trace, 96, 0, Knows::Dirty, policy).unwrap();
                ours += cost(&mut Reuse::default()).blocks();
                last_use += cost(&mut Lru).blocks();
            }
            let at = format!("{name} with {percent} % of the capacity");
            println!("{at}: {:.3} of last use", ours as f64 / last_use as f64);
            assert!(ours <= last_use, "{at}: {ours} blocks, last use {last_use}");
        }
    }
}
