//! Orders of memory accesses over the hand-over of the fault loop, tried by loom. Built with `--cfg loom` alone; `cargo xtask test` does so.
//!
//! The file under test is the shipped one, included here where `crate::sync::kernel` is loom's. Around it stands a small fault loop: faults
//! come in through a door, some of them can be answered only after another one was, and the work of the leader is written
//! down without a lock, so that loom complains when two lead. Whoever is never answered is a deadlock, which loom reports.
#![cfg(loom)]
#![allow(unsafe_code, reason = "writes down who leads without a lock")]

#[path = "../src/host/crew.rs"]
mod crew;
#[path = "loom/sync.rs"]
mod sync;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crew::{Crew, Next};
use loom::{
    cell::UnsafeCell,
    sync::{Arc, Condvar, Mutex},
    thread,
};

/// A fault, and the one that has to be answered before it can be.
#[derive(Clone, Copy)]
struct Fault {
    number: usize,
    after: Option<usize>,
}

/// What the kernel knows.
#[derive(Default)]
struct Door {
    faults: VecDeque<Fault>,
    answered: [bool; 3],
    closed: bool,
}

struct World {
    crew: Crew,
    door: Mutex<Door>,
    changed: Condvar,
    /// How many faults were taken: the leader's alone.
    led: UnsafeCell<u32>,
    /// How long whoever is idle stays so.
    idle: Duration,
}

impl World {
    fn new(idle: Duration) -> Arc<Self> {
        Arc::new(Self {
            crew: Crew::new(),
            door: Mutex::new(Door::default()),
            changed: Condvar::new(),
            led: UnsafeCell::new(0),
            idle,
        })
    }

    fn hire(world: &Arc<Self>) {
        world.crew.join();
        let world = Arc::clone(world);
        thread::spawn(move || Self::work(&world));
    }

    fn work(world: &Arc<Self>) {
        while world.crew.take_lead(Instant::now() + world.idle) {
            Self::lead(world);
        }
        world.crew.leave();
    }

    /// As the shipped loop: faults one after the other, until one has to wait or the door is closed.
    fn lead(world: &Arc<Self>) {
        loop {
            let mut door = world.door.lock().unwrap();
            let fault = loop {
                match door.faults.pop_front() {
                    Some(fault) => break fault,
                    None if door.closed => return,
                    None => door = world.changed.wait(door).unwrap(),
                }
            };
            drop(door);
            // SAFETY: this thread leads; that no other does is what loom checks.
            world.led.with_mut(|led| unsafe { *led += 1 });
            let mut door = world.door.lock().unwrap();
            let Some(after) = fault.after.filter(|after| !door.answered[*after]) else {
                world.answer(&mut door, fault);
                continue;
            };
            drop(door);
            if world.crew.hand_over() == Next::Hire {
                Self::hire(world);
            }
            let mut door = world.door.lock().unwrap();
            while !door.answered[after] {
                door = world.changed.wait(door).unwrap();
            }
            return world.answer(&mut door, fault);
        }
    }

    fn answer(&self, door: &mut Door, fault: Fault) {
        door.answered[fault.number] = true;
        self.changed.notify_all();
    }

    /// What whoever faults does: it comes in and sleeps until it was answered.
    fn fault(&self, number: usize, after: Option<usize>) {
        self.door.lock().unwrap().faults.push_back(Fault { number, after });
        self.changed.notify_all();
    }

    fn wait(&self, number: usize) {
        let mut door = self.door.lock().unwrap();
        while !door.answered[number] {
            door = self.changed.wait(door).unwrap();
        }
    }

    /// As the end of a runtime.
    fn end(&self, faults: u32) {
        self.crew.stop();
        self.door.lock().unwrap().closed = true;
        self.changed.notify_all();
        self.crew.wait_for_end();
        // SAFETY: nobody leads any more; that this is so is what loom checks.
        assert_eq!(self.led.with(|led| unsafe { *led }), faults);
    }
}

/// As long as nothing happens.
const LONG: Duration = Duration::from_secs(1 << 30);

fn explore(world: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    // All orders with so many switches of threads that did not have to be.
    model.preemption_bound = Some(if std::env::var_os("HMMAP_DEEP").is_some() { 2 } else { 1 });
    model.check(world);
}

/// The first fault can be answered only after the second: somebody else has to lead meanwhile.
#[test]
fn a_fault_that_waits_for_another_one_is_answered() {
    for idle in [LONG, Duration::ZERO] {
        explore(move || {
            let world = World::new(idle);
            World::hire(&world);
            world.fault(0, Some(1));
            world.fault(1, None);
            world.wait(0);
            world.end(2);
        });
    }
}

/// The lead goes to and fro: whoever waited is idle when the other one has to wait, or is just about to end.
#[test]
fn the_lead_goes_back_to_whoever_is_idle() {
    for idle in [LONG, Duration::ZERO] {
        explore(move || {
            let world = World::new(idle);
            World::hire(&world);
            world.fault(0, Some(1));
            world.fault(1, None);
            world.wait(1);
            world.fault(1, Some(2));
            world.fault(2, None);
            world.wait(2);
            world.wait(0);
            world.end(4);
        });
    }
}

/// The end comes while one waits and another one is hired for it.
#[test]
fn the_end_finds_everybody() {
    explore(|| {
        let world = World::new(LONG);
        World::hire(&world);
        world.fault(0, Some(1));
        world.fault(1, None);
        world.wait(1);
        world.crew.stop();
        world.wait(0);
        world.end(2);
    });
}
