//! Explores the coherence rules exhaustively.
//!
//! **Problem.** The rules are small and the orders in which things can happen are many: accesses by the host and two devices, work that
//! ends well, fails or is lost with its device, looks at fences that come early or late. Here all of them happen.
//!
//! **What is explored** is the shipped code: `needs`, `Log` and `check` of `hmmap_core::coherence` and the engine's `FenceSet`, behind
//! the trait [`rules::Rules`]. Around them the model plays the engine (which looks at the fences, plans, waits on the host for other
//! devices and names its own device's fences in the submission), the devices and the host, and keeps *ghost bytes*: for
//! each page the history of its writes, and for each copy the write whose bytes it holds ([`ghost`]). So it can tell what nobody
//! else can: whether a read found what the last write left.
//!
//! **What is held** in every state is in [`verdict::Broken`]: one writer or many readers, no stale read, valid implies current, nothing
//! lost that a good copy is left of, every failure reported, everything ends, and the directory's own checker.
//!
//! **How much.** Breadth first from an untouched block. States that differ only in fence numbers or in the names of the two pages
//! are one. A [`world::Shape`] bounds how much is unsettled at once; within it nothing is left out, and there is no bound on the
//! length of a history. That the rules are not right by chance shows in [`mutants`]: wrong rules, each of which must be
//! rejected by the invariant that it breaks.

mod endings;
mod explore;
mod ghost;
mod key;
mod mutants;
mod offers;
mod rules;
mod steps;
mod verdict;
mod world;

use std::io::Write as _;

use explore::{explore, walk};
use rules::Shipped;
use world::Shape;

/// Host and two devices with memory of their own, one page, two submissions unsettled, devices can be lost.
const ONE_PAGE: Shape = Shape {
    name: "two devices, one page, two submissions",
    pages: 1,
    whole_only: [false, false],
    own_memory: [true, true],
    transfer_queue: [false, false],
    direct_copies: false,
    in_flight: [2, 2],
    in_flight_total: 2,
    can_be_lost: [true, true],
    open_guards: false,
    discards: true,
};

/// Devices that copy out of each other's memory, and can be lost while the other does.
const DIRECT: Shape = Shape {
    name: "two devices that copy from each other, one page, two submissions",
    direct_copies: true,
    ..ONE_PAGE
};

/// Two pages, host and two devices, one submission unsettled on each; the second device always works on both pages.
const TWO_PAGES: Shape = Shape {
    name: "two devices, two pages, one submission each",
    discards: false,
    pages: 2,
    whole_only: [false, true],
    in_flight: [1, 1],
    can_be_lost: [false, false],
    ..ONE_PAGE
};

/// Two pages and one device, where submissions wait for each other.
const ONE_DEVICE: Shape = Shape {
    name: "one device, two pages, two submissions",
    discards: false,
    pages: 2,
    in_flight: [2, 0],
    can_be_lost: [true, false],
    ..ONE_PAGE
};

/// A chain of three: copy in, write, copy home.
const CHAIN: Shape = Shape {
    name: "two devices, one page, three submissions",
    discards: false,
    in_flight: [3, 1],
    in_flight_total: 3,
    can_be_lost: [false, false],
    ..ONE_PAGE
};

/// A device that copies on another queue than it computes on.
const TRANSFER_QUEUE: Shape = Shape {
    name: "one device with a transfer queue, two pages, two submissions",
    transfer_queue: [true, false],
    ..ONE_DEVICE
};

/// The second device works on the host's own memory.
const SHARED_HOST: Shape = Shape {
    name: "a device of its own memory and one on the host's, one page, three submissions",
    own_memory: [true, false],
    in_flight: [2, 2],
    in_flight_total: 3,
    ..ONE_PAGE
};

/// Two pages and one device with three submissions.
const THREE: Shape = Shape {
    name: "one device, two pages, three submissions",
    in_flight: [3, 0],
    in_flight_total: 3,
    can_be_lost: [false, false],
    ..ONE_DEVICE
};

/// The host's read guards stay open while devices go on.
const OPEN_GUARDS: Shape =
    Shape { name: "one device, two pages, open guards", open_guards: true, ..ONE_DEVICE };

/// Two pages that are given up, together and apart.
const DISCARDS: Shape = Shape {
    name: "one device, two pages, one submission, discards",
    in_flight: [1, 0],
    in_flight_total: 1,
    discards: true,
    ..ONE_DEVICE
};

/// More of everything than can be explored whole: two pages, three submissions a device, two queues, losses, open guards.
const WIDE: Shape = Shape {
    name: "two devices, two pages, six submissions",
    pages: 2,
    transfer_queue: [true, false],
    in_flight: [3, 3],
    in_flight_total: 6,
    open_guards: true,
    ..ONE_PAGE
};

fn holds(shape: &Shape) {
    match explore(shape, &Shipped) {
        // Written past the capture of the test's output: the count belongs into every log.
        Ok(found) => {
            let mut log = std::io::stderr().lock();
            let _ = writeln!(
                log,
                "{}: {} states, {} steps, logs of at most {} promises",
                shape.name, found.states, found.steps, found.longest_log
            );
        }
        Err(counterexample) => panic!("{}: {counterexample:?}", shape.name),
    }
}

#[test]
fn the_rules_hold_for_two_devices_and_one_page() {
    holds(&ONE_PAGE);
}

#[test]
fn the_rules_hold_for_devices_that_copy_from_each_other() {
    holds(&DIRECT);
}

#[test]
fn the_rules_hold_for_two_devices_and_two_pages() {
    holds(&TWO_PAGES);
}

#[test]
fn the_rules_hold_for_one_device_and_two_pages() {
    holds(&ONE_DEVICE);
}

#[test]
fn the_rules_hold_for_chains_of_submissions() {
    holds(&CHAIN);
}

#[test]
fn the_rules_hold_for_a_transfer_queue() {
    holds(&TRANSFER_QUEUE);
}

#[test]
fn the_rules_hold_for_a_device_on_the_hosts_memory() {
    holds(&SHARED_HOST);
}

#[test]
#[ignore = "takes minutes: 3.5 million states, for `cargo xtask deep`"]
fn the_rules_hold_for_three_submissions() {
    holds(&THREE);
}

#[test]
fn the_rules_hold_for_pages_that_are_given_up() {
    holds(&DISCARDS);
}

#[test]
fn the_rules_hold_under_open_guards() {
    holds(&OPEN_GUARDS);
}

#[test]
fn the_rules_hold_on_random_walks_through_more() {
    for seed in 0..3000 {
        if let Err(counterexample) = walk(&WIDE, &Shipped, seed, 60) {
            panic!("{}, seed {seed}: {counterexample:?}", WIDE.name);
        }
    }
}
