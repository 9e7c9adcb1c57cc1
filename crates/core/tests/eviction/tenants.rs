//! Tenants that do anything: reserves and limits hold, and the data are right.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use hmmap_core::{
    Error, Eviction, Fence, Group, Runtime, Share, SharedVec, embedded::Backing, units::BLOCK_BYTES,
};
use proptest::{prelude::*, test_runner::TestRunner};

use super::{
    BLOCK,
    cases::cases,
    groups::{device, fill, filled, grouped, holds, of_blocks, used_blocks},
    kernels, runtime,
};
use kernels::{Add, Element, Fill, value};

/// What tenants do.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// One block of one group's vector is overwritten.
    Fill { group: usize, at: usize },
    /// One group's is added to another's.
    Add { from: usize, to: usize, at: usize },
    /// A group's share changes.
    Share { group: usize, reserve: u64, limit: u64 },
    /// The device's budget changes.
    Limit { blocks: u64 },
    /// A vector is dropped, and made anew.
    Anew { group: usize },
}

const TENANTS: usize = 3;
const EACH: usize = 3;

fn any_step() -> impl Strategy<Value = Step> {
    let group = 0..TENANTS;
    prop_oneof![
        4 => (group.clone(), 0..EACH).prop_map(|(group, at)| Step::Fill { group, at }),
        4 => (group.clone(), 1..TENANTS, 0..EACH)
            .prop_map(|(from, by, at)| Step::Add { from, to: (from + by) % TENANTS, at }),
        2 => (1..TENANTS, 0..4_u64, 0..5_u64)
            .prop_map(|(group, reserve, limit)| Step::Share { group, reserve, limit }),
        1 => (1..7_u64).prop_map(|blocks| Step::Limit { blocks }),
        1 => group.prop_map(|group| Step::Anew { group }),
    ]
}

/// Three tenants, the first of which has no group, with what their vectors should hold.
struct Tenants {
    mem: Runtime,
    groups: Vec<Group>,
    vecs: Vec<SharedVec<Element>>,
    model: [[u32; EACH]; TENANTS],
    in_flight: Vec<Fence>,
}

impl Tenants {
    fn new(mem: Runtime) -> Self {
        let groups: Vec<_> = (1..TENANTS).map(|at| Group::new(&mem, format!("{at}"))).collect();
        let (model, in_flight) = ([[0; EACH]; TENANTS], Vec::new());
        let mut tenants = Self { mem, groups, vecs: Vec::new(), model, in_flight };
        tenants.vecs = (0..TENANTS).map(|group| tenants.vec(group)).collect();
        tenants
    }

    fn vec(&self, group: usize) -> SharedVec<Element> {
        let mem = if group == 0 { &self.mem } else { &*self.groups[group - 1] };
        SharedVec::new(mem, EACH * BLOCK).unwrap()
    }

    fn used_blocks(&self) -> [u64; TENANTS] {
        let all = self.mem.device_memory(device(&self.mem)).unwrap().used_bytes / BLOCK_BYTES;
        let [a, b] = [0, 1].map(|at| used_blocks(&self.groups[at]));
        [all - a - b, a, b]
    }

    fn shares(&self) -> [Share; TENANTS] {
        let share = |at: usize| self.groups[at].share(device(&self.mem)).unwrap();
        [Share::default(), share(0), share(1)]
    }

    /// What every reading of the account must say.
    fn check_account(&self) {
        let limit = self.mem.device_memory(device(&self.mem)).unwrap().limit_bytes / BLOCK_BYTES;
        let (used, shares) = (self.used_blocks(), self.shares());
        let mut claimed = 0;
        for (used, share) in used.iter().zip(shares) {
            assert!(used * BLOCK_BYTES <= share.limit_bytes, "{used} of {share:?}");
            claimed += (*used).max(share.reserve_bytes / BLOCK_BYTES);
        }
        assert!(claimed <= limit, "{used:?} and {shares:?} of {limit}");
    }

    /// Nobody whose vectors a launch did not use has less than before and than his reserve.
    fn check_reserves(&self, before: [u64; TENANTS], launched: &[usize]) {
        let others = (0..TENANTS).filter(|tenant| !launched.contains(tenant));
        for tenant in others {
            let reserve = self.shares()[tenant].reserve_bytes / BLOCK_BYTES;
            let (had, has) = (before[tenant], self.used_blocks()[tenant]);
            assert!(has >= had.min(reserve), "{tenant} had {had}, has {has}, reserved {reserve}");
        }
    }

    fn step(&mut self, step: Step) {
        let (mem, before) = (self.mem.clone(), self.used_blocks());
        let tile = |at: usize| at * BLOCK..(at + 1) * BLOCK;
        let done = match step {
            Step::Fill { group, at } => {
                let number = self.model.iter().flatten().sum::<u32>() % 9973 + 1;
                let y = self.vecs[group].write().range(tile(at));
                let done = mem.launch(BLOCK, Fill { y, value: number });
                if done.is_ok() {
                    self.model[group][at] = number;
                }
                self.check_reserves(before, &[group]);
                done.map(Some)
            }
            Step::Add { from, to, at } => {
                let [x, y] = self.vecs.get_disjoint_mut([from, to]).unwrap();
                let (x, y) = (x.read().range(tile(at)), y.update().range(tile(at)));
                let done = mem.launch(BLOCK, Add { x, y });
                if done.is_ok() {
                    self.model[to][at] = self.model[to][at].wrapping_add(self.model[from][at]);
                }
                self.check_reserves(before, &[from, to]);
                done.map(Some)
            }
            Step::Share { group, reserve, limit } => {
                let share = of_blocks((reserve, limit));
                let set = self.groups[group - 1].set_share(device(&mem), share);
                let is_set = self.shares()[group] == share;
                assert!(is_set || set.is_err());
                set.map(|()| None)
            }
            Step::Limit { blocks } => {
                mem.set_device_memory_limit(device(&mem), blocks * BLOCK_BYTES).map(|()| None)
            }
            Step::Anew { group } => {
                // What is in flight, and be it a kernel that only reads it, would keep its memory a little longer: that would go in a later step, and look as
                // if it had been taken by that one.
                self.in_flight.drain(..).for_each(|fence| fence.wait().unwrap());
                self.vecs[group].host(..).unwrap();
                self.vecs[group] = self.vec(group);
                self.model[group] = [0; EACH];
                Ok(None)
            }
        };
        match done {
            // Some go on with the last one in flight.
            Ok(Some(fence)) if mem.stats().launches % 3 > 0 => fence.wait().unwrap(),
            Ok(fence) => self.in_flight.extend(fence),
            Err(
                Error::OutOfDeviceMemory { .. }
                | Error::OutOfShare { .. }
                | Error::ReserveRefused { .. }
                | Error::BudgetInUse { .. },
            ) => {}
            Err(other) => panic!("{other}"),
        }
        self.check_account();
    }

    fn check_data(&self) {
        for (vec, model) in self.vecs.iter().zip(&self.model) {
            let vec = vec.host(..).unwrap();
            for (block, expected) in model.iter().enumerate() {
                let found = vec[block * BLOCK..][..BLOCK].iter().map(value);
                assert!({ found }.all(|found| found == Some(*expected)), "block {block}");
            }
        }
    }
}

#[test]
fn whatever_tenants_do_reserves_and_limits_hold_and_the_data_are_right() {
    let input = (prop::collection::vec(any_step(), 10..80), 2..8_u64, any::<u64>(), 0..4_u8);
    let mut runner = TestRunner::new(cases(48));
    let held = runner.run(&input, |(steps, blocks, seed, policy)| {
        let eviction = match policy {
            0 => Eviction::Predicted,
            1 => Eviction::LeastRecentlyUsed,
            2 => Eviction::FirstCome,
            _ => Eviction::custom(move || super::Adversary(fastrand::Rng::with_seed(seed))),
        };
        let mut tenants = Tenants::new(runtime(blocks, Backing::Blocks, eviction));
        steps.iter().for_each(|step| tenants.step(*step));
        tenants.check_data();
        Ok(())
    });
    held.unwrap();
}

#[test]
fn tenants_on_threads_of_their_own_keep_to_their_shares() {
    let (mem, [small, large]) = grouped(8, [(2, 3), (3, 8)]);
    let tenant = |group: &Group, blocks: usize, value: u32| {
        let mut x = filled(group, blocks, value)?;
        for round in 0..40 {
            fill(&mut x, value + round)?;
            if round % 8 == 0 {
                holds(&x, value + round);
            }
        }
        Ok::<_, Error>(x)
    };
    let done = thread::scope(|scope| {
        let threads = [(&small, 5, 1000), (&large, 4, 2000), (&large, 6, 3000)];
        let threads = threads.map(|(group, blocks, value)| {
            scope.spawn(move || tenant(group, blocks, value).map(drop))
        });
        for _ in 0..200 {
            let used = mem.device_memory(device(&mem)).unwrap();
            assert!(used.used_bytes + used.idle_reserve_bytes <= used.limit_bytes, "{used:?}");
            assert!(used_blocks(&small) <= 3);
            thread::yield_now();
        }
        threads.map(|thread| catch_unwind(AssertUnwindSafe(|| thread.join().unwrap())).unwrap())
    });
    done.into_iter().for_each(|done| done.unwrap());
}
