//! Explores the revocation rules exhaustively, with peers that are slow, lie and die.
//!
//! **What is explored** is the shipped [`Revocation`], behind the trait [`rules::Rules`]. Around it the model plays the engine, which does
//! one action after the other, and the peers, which map, work, confirm and end whenever they like. Between any two
//! actions everything else may happen ([`world`]).
//!
//! **What is held** is in [`world::Broken`]: nothing moves while an honest peer can use its address or has work on it, nor under a pin; all
//! are told before anybody is waited for; whoever begins meanwhile gets no old address; and from every state the engine alone,
//! with no peer's help, comes to an end that lets everybody sleeping go on.
//!
//! That the rules are not right by chance shows in [`mutants`]: wrong orders, each rejected by the invariant that it breaks.

mod mutants;
mod rules;
mod world;

use std::{
    collections::{HashSet, VecDeque},
    io::Write as _,
};

use rules::{Rules, Shipped};
use world::{Broken, Nature, Shape, World};

/// Two dynamic peers in this process: nothing can be enforced.
const BARE: Shape = shape("two peers of this process", [Nature::Bare, Nature::Bare], 1);
/// A peer whose mapping can be cut off beside one where it cannot.
const SEVERABLE: Shape =
    shape("one that can be cut off beside one that cannot", [Nature::Severable, Nature::Bare], 1);
/// A pin beside a dynamic peer, on two pages.
const PIN: Shape = shape("a pin beside a peer, two pages", [Nature::Static, Nature::Bare], 2);
/// A peer that confirms and goes on, beside an honest one.
const LIAR: Shape = shape("a liar beside an honest peer", [Nature::Liar, Nature::Bare], 1);
/// A peer that may end at any moment, beside one that does not.
const MORTAL: Shape =
    shape("one that may die beside one that lives", [Nature::Mortal, Nature::Bare], 1);
/// The same on two pages: a death ends both mappings.
const MORTAL_TWICE: Shape =
    shape("one that may die beside a pin, two pages", [Nature::Mortal, Nature::Static], 2);

const SHAPES: [&Shape; 6] = [&BARE, &SEVERABLE, &PIN, &LIAR, &MORTAL, &MORTAL_TWICE];

const fn shape(name: &'static str, peers: [Nature; 2], pages: usize) -> Shape {
    Shape { name, peers, pages }
}

/// Breadth first; the first broken invariant with a shortest way there.
fn explore(shape: &Shape, rules: &dyn Rules) -> Result<usize, (Broken, Vec<world::Step>)> {
    let start = World::new(shape);
    let mut known = HashSet::from([start.clone()]);
    let mut parents: Vec<(usize, Option<world::Step>)> = vec![(0, None)];
    let mut frontier = VecDeque::from([(0, start)]);
    while let Some((at, world)) = frontier.pop_front() {
        for step in world.steps() {
            let mut next = world.clone();
            let taken = next.take(step, rules).and_then(|()| next.check(rules));
            if let Err(broken) = taken {
                let mut trace = vec![step];
                let mut from = at;
                while let (parent, Some(step)) = parents[from] {
                    trace.push(step);
                    from = parent;
                }
                trace.reverse();
                return Err((broken, trace));
            }
            if known.insert(next.clone()) {
                parents.push((at, Some(step)));
                frontier.push_back((parents.len() - 1, next));
            }
        }
    }
    Ok(known.len())
}

fn holds(shape: &Shape) {
    match explore(shape, &Shipped) {
        Ok(states) => {
            // Written past the capture of the test's output: the count belongs into every log.
            let _ = writeln!(std::io::stderr().lock(), "{}: {states} states", shape.name);
        }
        Err((broken, trace)) => panic!("{}: {broken:?} after {trace:#?}", shape.name),
    }
}

#[test]
fn the_protocol_holds_for_peers_of_this_process() {
    holds(&BARE);
}

#[test]
fn the_protocol_holds_where_some_can_be_cut_off() {
    holds(&SEVERABLE);
}

#[test]
fn the_protocol_holds_under_a_pin() {
    holds(&PIN);
}

#[test]
fn the_protocol_holds_beside_a_liar() {
    holds(&LIAR);
}

#[test]
fn the_protocol_holds_where_peers_die() {
    holds(&MORTAL);
    holds(&MORTAL_TWICE);
}

#[test]
fn every_wrong_order_is_caught_by_name() {
    for mutant in mutants::ALL {
        let found = SHAPES.iter().find_map(|shape| explore(shape, mutant.rules).err());
        match found {
            Some((broken, trace)) => {
                assert_eq!(broken, mutant.breaks, "{}: {trace:#?}", mutant.name);
            }
            None => panic!("nothing is wrong with: {}", mutant.name),
        }
    }
}
