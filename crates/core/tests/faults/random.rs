//! Random operations and random faults.

use std::{ops::Range, thread};

use hmmap_core::{
    DeviceId, Fence, Hint, NodeId,
    backend::DeviceError,
    embedded::Backing,
    hints::Granularity,
    simulated::{Queues, SimulatedMemory},
};
use proptest::prelude::*;

use crate::{
    cases::cases,
    oracle::{Part, World},
    rig::{Device, Rig},
};

const LENS: [usize; 4] = [3, 9, 40, 131];
const DEVICES: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Read(Place),
    HostWrite(Place, u32),
    HostOverwrite(Place, u32),
    Discard(Place),
    Fill(usize, Place, u32),
    Copy(usize, usize, Place),
    Add(usize, usize, Place),
    Prefetch(usize, Place),
    PrefetchHome(Place),
    Hint(Place, Hint),
    WaitForLast,
    BeginAnew(usize),
    Work(usize, usize),
    Fault(usize, Fault),
}

#[derive(Clone, Debug)]
enum Fault {
    Work(u64),
    Call(u64, DeviceError),
    Lose,
}

/// A vector's number and two numbers that become a range of it.
#[derive(Clone, Copy, Debug)]
struct Place(usize, u16, u16);

impl Place {
    fn part(self) -> Part {
        let Self(vec, first, count) = self;
        let len = LENS[vec];
        let first = usize::from(first) % len;
        let at = first..(first + 1 + usize::from(count)).min(len);
        Part { vec, at }
    }

    /// The part, cut so that `x` has as many elements, and where they begin there.
    fn part_like(self, x: usize) -> (usize, Part) {
        let mut part = self.part();
        part.at.end = part.at.end.min(part.at.start + LENS[x]);
        let first = usize::from(self.2) % (LENS[x] - part.at.len() + 1);
        (first, part)
    }
}

fn place() -> impl Strategy<Value = Place> {
    let first = prop_oneof![Just(0u16), 0..140u16, (0..34u16).prop_map(|page| page * 4)];
    let count = prop_oneof![0..12u16, Just(3u16), Just(200u16)];
    (0..LENS.len(), first, count).prop_map(|(vec, first, count)| Place(vec, first, count))
}

/// All but pins, which have a device refuse what fits otherwise.
fn hint() -> impl Strategy<Value = Hint> {
    let node = || {
        (0..=DEVICES).prop_map(|index| match index.checked_sub(1).and_then(DeviceId::new) {
            Some(device) => NodeId::of_device(device),
            None => NodeId::HOST,
        })
    };
    let size = |power: u32| Granularity::of_bytes((64 << 10) << power).unwrap();
    prop_oneof![
        2 => Just(Hint::ReadMostly),
        1 => Just(Hint::NotReadMostly),
        3 => Just(Hint::PreferredLocation(NodeId::HOST)),
        2 => node().prop_map(Hint::PreferredLocation),
        2 => Just(Hint::NoPreferredLocation),
        3 => node().prop_map(Hint::AccessedBy),
        1 => node().prop_map(Hint::NotAccessedBy),
        1 => Just(Hint::Sequential),
        1 => Just(Hint::Random),
        1 => Just(Hint::NormalOrder),
        3 => (0..6u32).prop_map(move |power| Hint::Granularity(size(power))),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    let error = prop_oneof![
        4 => Just(DeviceError::Injected),
        2 => Just(DeviceError::OutOfMemory { asked_bytes: 1 }),
        1 => Just(DeviceError::Lost),
    ];
    prop_oneof![
        6 => (1..5u64).prop_map(Fault::Work),
        6 => (1..8u64, error).prop_map(|(n, error)| Fault::Call(n, error)),
        1 => Just(Fault::Lose),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let on = 0..DEVICES;
    let vec = 0..LENS.len();
    prop_oneof![
        6 => place().prop_map(Step::Read),
        5 => (place(), any::<u32>()).prop_map(|(at, value)| Step::HostWrite(at, value)),
        2 => (place(), any::<u32>()).prop_map(|(at, value)| Step::HostOverwrite(at, value)),
        1 => place().prop_map(Step::Discard),
        6 => (on.clone(), place(), any::<u32>()).prop_map(|(on, at, v)| Step::Fill(on, at, v)),
        5 => (on.clone(), vec.clone(), place()).prop_map(|(on, x, at)| Step::Copy(on, x, at)),
        8 => (on.clone(), vec.clone(), place()).prop_map(|(on, x, at)| Step::Add(on, x, at)),
        3 => (on.clone(), place()).prop_map(|(on, at)| Step::Prefetch(on, at)),
        1 => place().prop_map(Step::PrefetchHome),
        7 => (place(), hint()).prop_map(|(at, hint)| Step::Hint(at, hint)),
        2 => Just(Step::WaitForLast),
        1 => vec.prop_map(Step::BeginAnew),
        3 => (on.clone(), 1..4usize).prop_map(|(on, times)| Step::Work(on, times)),
        3 => (on, fault()).prop_map(|(on, fault)| Step::Fault(on, fault)),
    ]
}

fn device() -> impl Strategy<Value = Device> {
    let memory = prop_oneof![3 => Just(SimulatedMemory::Own), 1 => Just(SimulatedMemory::Host)];
    let backing = prop_oneof![2 => Just(Backing::Blocks), 1 => Just(Backing::Whole)];
    let queues = prop_oneof![Just(Queues::One), Just(Queues::Two)];
    (memory, backing, queues).prop_map(|(memory, backing, queues)| Device {
        memory,
        backing,
        queues,
    })
}

/// No limit, or one that the vectors do not all fit in at once.
fn limit() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![Just(None), Just(Some(4 << 20))]
}

fn play(world: &mut World, steps: &[Step], faults: bool) {
    let mut last: Option<Fence> = None;
    for step in steps {
        let kept = match step.clone() {
            Step::Read(at) => {
                world.read(&at.part());
                None
            }
            Step::HostWrite(at, value) => {
                world.host_write(&at.part(), value);
                None
            }
            Step::HostOverwrite(at, value) => {
                world.host_overwrite(&at.part(), value);
                None
            }
            Step::Discard(at) => {
                world.discard(&at.part());
                None
            }
            Step::Fill(on, at, value) => world.fill(on, &at.part(), value),
            Step::Copy(on, x, at) => {
                let (first, part) = at.part_like(x);
                world.copy(on, x, first, &part)
            }
            Step::Add(on, x, at) => {
                let (first, part) = at.part_like(x);
                world.add(on, x, first, &part)
            }
            Step::Prefetch(on, at) => world.prefetch(on, &at.part()),
            Step::PrefetchHome(at) => world.prefetch_home(&at.part()),
            Step::Hint(at, hint) => {
                world.hint(&at.part(), hint);
                None
            }
            Step::WaitForLast => {
                last.take().iter().for_each(|fence| world.wait(fence));
                None
            }
            Step::BeginAnew(vec) => {
                world.begin_anew(vec);
                None
            }
            Step::Work(on, times) => {
                (0..times).for_each(|_| {
                    world.rig.controls[on].step();
                });
                None
            }
            Step::Fault(on, fault) if faults => {
                world.faultless = false;
                strike(world, on, fault);
                None
            }
            Step::Fault(..) => None,
        };
        last = kept.or(last);
    }
}

fn strike(world: &World, on: usize, fault: Fault) {
    let control = &world.rig.controls[on];
    match fault {
        Fault::Work(n) => control.fail_nth_work(n),
        Fault::Call(n, error) => control.faults().fail_nth_call(n, error),
        Fault::Lose => control.lose(),
    }
}

/// Plays to the end: with no more faults every vector can be read, or says what it lost.
fn play_out(world: &mut World, steps: &[Step], faults: bool) {
    play(world, steps, faults);
    world.rig.end_faults();
    world.read_all();
    // What was lost can be had again.
    for vec in 0..LENS.len() {
        world.begin_anew(vec);
        world.read(&Part { vec, at: all(vec) });
    }
}

fn all(vec: usize) -> Range<usize> {
    0..LENS[vec]
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn without_faults_everything_happens_in_order(
        seed in any::<u64>(),
        devices in [device(), device(), device()],
        limit in limit(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let rig = Rig::new(seed, &devices, limit);
        let mut world = World::new(&rig, &LENS);
        play_out(&mut world, &steps, false);
        drop(world);
        rig.finish();
    }

    #[test]
    fn what_failed_has_not_happened_and_everything_else_has(
        seed in any::<u64>(),
        devices in [device(), device(), device()],
        limit in limit(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let rig = Rig::new(seed, &devices, limit);
        let mut world = World::new(&rig, &LENS);
        play_out(&mut world, &steps, true);
        drop(world);
        rig.finish();
    }

    #[test]
    fn several_threads_do_not_see_each_other(
        seed in any::<u64>(),
        devices in [device(), device(), device()],
        limit in limit(),
        threads in prop::collection::vec(prop::collection::vec(step(), 1..25), 3),
        faults in prop::bool::ANY,
    ) {
        let rig = Rig::new(seed, &devices, limit);
        thread::scope(|scope| {
            for steps in &threads {
                let rig = &rig;
                scope.spawn(move || {
                    let mut world = World::new(rig, &LENS);
                    // Another thread's faults strike this one too.
                    world.faultless = !faults;
                    play_out(&mut world, steps, faults);
                });
            }
        });
        rig.finish();
    }
}
