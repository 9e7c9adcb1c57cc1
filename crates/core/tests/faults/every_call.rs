//! Each call and each piece of work of every public entry point fails in its turn.
//!
//! A scenario is played again and again: in round `n` the `n`-th call that a device gets during the entry point under test answers an
//! error, until a round in which there are fewer calls. After each round everything must hold what the oracle says, or be reported as lost,
//! the entry point must work when it is called again, and all memory must have come back.

use std::sync::Arc;

use hmmap_core::{
    Error, Hint, NodeId, SharedVec,
    backend::DeviceError,
    fence::FenceState,
    hints::Granularity,
    peer::{Peer, Place, Reach, Revoked},
};

use crate::{
    kernels::{Element, element, value},
    oracle::{Part, World},
    rig::{Device, OWN, Rig, device},
};

/// Two vectors of a page and a bit, one of more than a block, and one that fills the rest of a device.
const LENS: [usize; 4] = [5, 5, 131, 200];
const X: usize = 0;
const Y: usize = 1;
const LARGE: usize = 2;
const FILLER: usize = 3;

const DEVICES: [Device; 2] = [OWN, OWN];
/// Room for the large vector, or for the filler, and not for both.
const LIMIT_BYTES: u64 = 5 << 20;

const ERRORS: [DeviceError; 3] =
    [DeviceError::Injected, DeviceError::OutOfMemory { asked_bytes: 1 }, DeviceError::Lost];

fn part(vec: usize) -> Part {
    Part { vec, at: 0..LENS[vec] }
}

/// Vectors as most programs have them in the middle of a run: `X` was written by the second device, `Y` by the host, the large one
/// in part by the first device and in part by the host, and the first device is full.
fn prepared() -> World {
    let rig = Rig::new(7, &DEVICES, Some(LIMIT_BYTES));
    let mut world = World::new(&rig, &LENS);
    world.fill(1, &part(X), 100);
    world.host_write(&part(Y), 200);
    world.fill(0, &part(LARGE), 300);
    world.host_write(&Part { vec: LARGE, at: 40..60 }, 400);
    world.fill(0, &part(FILLER), 500);
    world.read(&Part { vec: FILLER, at: 3..4 });
    world
}

/// A peer that reaches whatever there is and gives it back at once.
struct Reader;

impl Peer for Reader {
    fn name(&self) -> &str {
        "reader"
    }

    fn reach(&self, _: &Place<'_>) -> Reach {
        Reach::Hops(1)
    }

    fn revoke(&self, revoked: Revoked) {
        revoked.confirm();
    }
}

/// An entry point, called in a prepared world.
struct Entry {
    name: &'static str,
    call: fn(&mut World),
}

const fn entry(name: &'static str, call: fn(&mut World)) -> Entry {
    Entry { name, call }
}

const ENTRIES: [Entry; 25] = [
    entry("launch that reads what another device holds", |world| {
        world.add(0, X, 0, &part(Y));
    }),
    entry("launch that overwrites in part", |world| {
        world.fill(0, &Part { vec: LARGE, at: 50..90 }, 600);
    }),
    entry("launch that needs room", |world| {
        world.add(0, Y, 0, &Part { vec: LARGE, at: 30..35 });
        world.fill(0, &part(LARGE), 600);
        world.copy(0, LARGE, 0, &Part { vec: FILLER, at: 0..1 });
        let evicted = world.rig.runtime.stats().evicted_blocks;
        assert!(evicted > 0 || !world.faultless, "there was room");
    }),
    entry("launches in a row", |world| {
        (0..3).for_each(|_| drop(world.add(0, X, 0, &part(Y))));
        world.copy(1, Y, 0, &part(X));
    }),
    entry("launch and wait", |world| {
        let fence = world.add(0, X, 0, &part(Y));
        fence.iter().for_each(|fence| world.wait(fence));
    }),
    entry("prefetch", |world| {
        world.prefetch(0, &part(X));
        world.prefetch(1, &part(LARGE));
    }),
    entry("prefetch to the host", |world| {
        world.prefetch_home(&part(X));
        world.prefetch_home(&part(LARGE));
    }),
    entry("launch in place", |world| {
        // What the second device holds comes home, and both are used there.
        for vec in [X, Y] {
            world.hint(&part(vec), Hint::PreferredLocation(NodeId::HOST));
        }
        world.add(0, X, 0, &part(Y));
        world.hint(&part(Y), Hint::NoPreferredLocation);
        world.add(0, X, 0, &part(Y));
        world.hint(&part(Y), Hint::AccessedBy(NodeId::of_device(device(1))));
        world.add(1, X, 0, &part(Y));
    }),
    entry("launch of granules", |world| {
        world.hint(&part(LARGE), Hint::Granularity(Granularity::BLOCK));
        world.fill(0, &Part { vec: LARGE, at: 44..49 }, 620);
    }),
    entry("host", |world| world.read(&part(LARGE))),
    entry("host_mut", |world| world.host_write(&part(LARGE), 700)),
    entry("host_mut in part", |world| world.host_write(&Part { vec: X, at: 1..2 }, 700)),
    entry("overwrite", |world| world.host_overwrite(&part(LARGE), 700)),
    entry("overwrite in part", |world| world.host_overwrite(&Part { vec: X, at: 1..2 }, 700)),
    entry("discard", |world| world.discard(&part(LARGE))),
    entry("map_peer, and a write that takes it back", |world| {
        for vec in [X, LARGE] {
            let mapping = world.vecs[vec].map_peer(Arc::new(Reader), ..);
            if let Some(mapping) = world.expect(mapping) {
                world.host_write(&Part { vec, at: 0..1 }, 750);
                world.expect(mapping.segments().map(drop));
            }
        }
    }),
    entry("lend_on, map_peer and take_back", |world| {
        for vec in [X, LARGE] {
            world.lend_on(0, vec, Arc::new(Reader));
        }
    }),
    entry("acquire and release", |world| {
        // The signal of work that has ended well stands for the caller's.
        let Some(fence) = world.fill(0, &part(FILLER), 550) else { return };
        world.wait(&fence);
        let Some(signal) = fence.point().filter(|_| fence.wait().is_ok()) else { return };
        let runtime = world.rig.runtime.clone();
        let [x, y, ..] = world.vecs.as_mut_slice() else { return };
        let answer = runtime.acquire(device(0), [x.read().into(), y.read().into()]);
        let answer = answer.and_then(|acquired| acquired.release(signal)).map(drop);
        world.expect(answer);
    }),
    entry("to_vec and try_clone", |world| {
        // What they find is checked by reading it again.
        let copies = (world.vecs[X].to_vec(), world.vecs[LARGE].try_clone());
        world.expect(copies.0);
        world.expect(copies.1);
    }),
    entry("acquire and drop", |world| {
        let runtime = world.rig.runtime.clone();
        let [x, y, ..] = world.vecs.as_mut_slice() else { return };
        let answer = runtime.acquire(device(0), [x.read().into(), y.update().into()]).map(drop);
        world.expect(answer);
    }),
    entry("acquire and forget", |world| {
        let runtime = world.rig.runtime.clone();
        let [x, y, ..] = world.vecs.as_mut_slice() else { return };
        let answer = runtime.acquire(device(0), [x.read().into(), y.update().into()]);
        let answer = answer.map(std::mem::forget);
        world.expect(answer);
    }),
    entry("residency, in_flight and Debug", |world| {
        world.fill(0, &part(Y), 800);
        for vec in &world.vecs {
            vec.residency(..).unwrap();
            vec.in_flight(..).unwrap();
            assert!(format!("{vec:?}").contains("SharedVec"));
        }
    }),
    entry("drop with work in flight", |world| {
        world.add(0, X, 0, &part(Y));
        world.begin_anew(Y);
    }),
    entry("from_slice and from_fn", |world| {
        let runtime = world.rig.runtime.clone();
        let slice = SharedVec::from_slice(&runtime, &[element(1)]);
        assert_eq!(world.expect(slice.map(|vec| vec.len())), Some(1));
        let from_fn = SharedVec::<Element>::from_fn(&runtime, 2, |i| element(i as u32));
        assert_eq!(world.expect(from_fn.map(|vec| vec.len())), Some(2));
    }),
    entry("facts, node and device_memory", |world| {
        let runtime = world.rig.runtime.clone();
        world.expect(runtime.facts(device(0)).map(|facts| facts.max_groups));
        world.expect(runtime.node(device(1)));
        world.expect(runtime.device_memory(device(1)));
    }),
];

/// Plays an entry point with a fault, then checks everything. False when the fault did not strike.
fn round(entry: &Entry, strike: impl Fn(&World), struck: impl Fn(&World) -> bool) -> bool {
    let mut world = prepared();
    strike(&world);
    world.faultless = false;
    (entry.call)(&mut world);
    let hit = struck(&world);
    world.faultless = !hit;
    world.rig.end_faults();
    world.read_all();
    // The entry point works again, or says that the device is lost.
    (entry.call)(&mut world);
    world.read_all();
    let rig = world.rig.clone();
    drop(world);
    rig.finish();
    hit
}

#[test]
fn each_call_of_each_entry_point_may_fail() {
    let mut rounds = 0;
    for entry in &ENTRIES {
        for on in 0..DEVICES.len() {
            for error in ERRORS {
                let faults = |world: &World| world.rig.controls[on].faults().clone();
                let mut n = 1;
                while round(
                    entry,
                    |world| faults(world).fail_nth_call(n, error.clone()),
                    |world| faults(world).fired() > 0,
                ) {
                    n += 1;
                    assert!(n < 100, "{}: calls without end", entry.name);
                }
                rounds += n;
            }
        }
    }
    println!("{rounds} rounds");
    assert!(rounds > 2 * 3 * ENTRIES.len() as u64, "no call was made to fail");
}

#[test]
fn each_work_of_each_entry_point_may_fail() {
    let mut rounds = 0;
    for entry in &ENTRIES {
        for on in 0..DEVICES.len() {
            let failed = |world: &World| {
                let records = world.rig.controls[on].records();
                records.iter().any(|record| matches!(record.state, FenceState::Failed(_)))
            };
            let mut n = 1;
            // Works run when somebody asks for their fence, so all that are there are run before the count is taken.
            while round(
                entry,
                |world| world.rig.controls[on].fail_nth_work(n),
                |world| {
                    for control in &world.rig.controls {
                        control.run_all();
                    }
                    failed(world)
                },
            ) {
                n += 1;
                assert!(n < 100, "{}: works without end", entry.name);
            }
            rounds += n;
        }
    }
    println!("{rounds} rounds");
    assert!(rounds > 2 * ENTRIES.len() as u64, "no work was made to fail");
}

#[test]
fn a_device_may_be_lost_before_each_entry_point() {
    for entry in &ENTRIES {
        for on in 0..DEVICES.len() {
            let lose = |world: &World| world.rig.controls[on].lose();
            assert!(round(entry, lose, |_| true), "{}", entry.name);
        }
    }
}

/// Work that failed is told of once, by the next access or by its fence.
#[test]
fn failed_work_is_reported_once() {
    for waits in [false, true] {
        let mut world = prepared();
        world.rig.controls[0].run_all();
        world.rig.controls[0].fail_nth_work(1);
        world.faultless = false;
        let fence = world.fill(0, &part(Y), 900).unwrap();
        if waits {
            world.wait(&fence);
            assert_eq!(world.vecs[Y].host(..).map(|found| value(&found[0])), Ok(Some(200)));
        } else {
            let told = world.vecs[Y].host(..).unwrap_err();
            assert!(
                matches!(&told, Error::WorkFailed { fence: f, .. } if Some(*f) == fence.point())
            );
            let again = world.vecs[Y].host(..).map(|found| value(&found[0]));
            assert_eq!(again, Ok(Some(200)), "it holds what it held before");
        }
        let rig = world.rig.clone();
        drop((world, fence));
        rig.finish();
    }
}

/// Growing moves the elements, by way of the host.
#[test]
fn each_call_of_growing_may_fail() {
    type Grow = fn(&mut SharedVec<Element>, &mut Vec<u32>) -> Result<(), Error>;
    let ways: [Grow; 4] = [
        |vec, model| {
            vec.push(element(1))?;
            model.push(1);
            Ok(())
        },
        |vec, model| {
            vec.extend_from_slice(&[element(2); 90])?;
            model.extend([2; 90]);
            Ok(())
        },
        |vec, model| {
            vec.resize(60, element(3))?;
            model.resize(60, 3);
            Ok(())
        },
        |vec, _| vec.reserve(500),
    ];
    for grow in ways {
        for error in ERRORS {
            for n in 1.. {
                let rig = Rig::new(n, &DEVICES, None);
                let mut world = World::new(&rig, &[50]);
                world.fill(0, &Part { vec: 0, at: 0..50 }, 5);
                world.rig.controls[0].run_all();
                let faults = rig.controls[0].faults().clone();
                faults.fail_nth_call(n, error.clone());
                let mut model = vec![5; 50];
                let answer = grow(&mut world.vecs[0], &mut model);
                let fired = faults.fired() > 0;
                assert_eq!(answer.is_err(), fired, "{answer:?}");
                faults.fail_nth_call(0, DeviceError::Injected);
                // The first answer may be the rest of the failure.
                let found = world.vecs[0].to_vec().or_else(|_| world.vecs[0].to_vec());
                let lost = error == DeviceError::Lost && fired;
                match found {
                    Ok(found) => {
                        let found: Vec<_> = found.iter().map(value).collect();
                        assert!(found.iter().copied().eq(model.iter().copied().map(Some)));
                    }
                    Err(told) => {
                        assert!(lost && matches!(told, Error::DataLost { .. }), "{told:?}")
                    }
                }
                drop(world);
                rig.finish();
                if !fired {
                    break;
                }
            }
        }
    }
}
