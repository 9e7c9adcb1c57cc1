use std::{sync::Arc, time::Duration};

use super::{INCREMENT, Rig};
use crate::{
    backend::{
        DeviceError, Direction, OpenContext, Provider,
        bench::{Bench, PANIC, block},
    },
    fence::{Failure, FenceState},
    host::Arena,
    node::DeviceId,
    simulated::{SimulatedOptions, SimulatedProvider},
    units::PAGE_BYTES,
};

#[test]
fn a_failed_work_fails_what_depends_on_it_and_nothing_else() {
    for seed in 0..8 {
        let rig = Rig::by_step(seed);
        rig.control.fail_nth_work(2);
        let good = rig.launch(&INCREMENT, 0, &[]);
        let bad = rig.launch(&INCREMENT, 1, &[]);
        let panicked = rig.launch(&PANIC, 2, &[]);
        let dependents = [bad, panicked].map(|wait| rig.launch(&INCREMENT, 3, &[good, wait]));
        rig.control.run_all();
        let state = |point| rig.bench.device.poll(point);
        assert_eq!(state(good), FenceState::Ok);
        assert_eq!(state(bad), FenceState::Failed(Failure::Injected));
        assert_eq!(state(panicked), FenceState::Failed(Failure::KernelPanicked));
        assert_eq!(dependents.map(state), [FenceState::Failed(Failure::Dependency); 2]);
    }
}

#[test]
fn a_failed_work_leaves_its_memory_alone_or_full_of_garbage() {
    let word = |seed| {
        let rig = Rig::by_step(seed);
        let zeroed = rig.bench.zero(rig.memory.memory, 0..PAGE_BYTES, &[]).unwrap();
        rig.control.fail_nth_work(1);
        let run = rig.launch(&INCREMENT, 0, &[zeroed]);
        rig.control.run_all();
        let span = rig.bench.arena.allocate(PAGE_BYTES).unwrap();
        assert!(rig.bench.device.poll(run).has_ended());
        rig.copy(Direction::DeviceToHost, span, &[]);
        rig.control.run_all();
        rig.bench.get(span)[0]
    };
    let seen: Vec<u32> = (0..16).map(word).collect();
    assert!(seen.contains(&0) && seen.iter().any(|word| *word > 1), "{seen:x?}");
    assert!(!seen.contains(&1));
}

#[test]
fn any_call_can_be_made_to_fail_and_has_no_effect_then() {
    let rig = Rig::by_step(0);
    let faults = rig.control.faults();
    let memory = rig.memory.memory;
    let error = DeviceError::OutOfMemory { asked_bytes: 7 };
    faults.fail_nth_call(2, error.clone());
    assert!(rig.bench.zero(memory, block(0), &[]).is_ok());
    assert_eq!(rig.bench.zero(memory, block(0), &[]), Err(error.clone()));
    assert!(rig.bench.zero(memory, block(1), &[]).is_ok());
    assert_eq!(rig.control.records().len(), 2);
    faults.fail_nth_call(1, DeviceError::Injected);
    assert_eq!(rig.bench.device.reserve(PAGE_BYTES), Err(DeviceError::Injected));
    assert_eq!(faults.fired(), 2);
}

#[test]
fn a_lost_device_says_so_of_all_that_had_not_ended() {
    for seed in 0..8 {
        let rig = Rig::by_step(seed);
        let done = rig.launch(&INCREMENT, 0, &[]);
        rig.control.run_all();
        assert_eq!(rig.bench.device.poll(done), FenceState::Ok);
        let open: Vec<_> = (0..8).map(|page| rig.launch(&INCREMENT, page, &[done])).collect();
        let before: Vec<_> = rig.control.pending();
        rig.control.faults().fail_nth_call(1, DeviceError::Lost);
        assert_eq!(rig.bench.device.reserve(PAGE_BYTES), Err(DeviceError::Lost));
        assert_eq!(rig.bench.zero(rig.memory.memory, block(1), &[]), Err(DeviceError::Lost));
        assert_eq!(before, open);
        assert_eq!(rig.bench.device.poll(done), FenceState::Ok);
        let states = open.iter().map(|point| rig.bench.device.wait(*point, Duration::MAX));
        assert!(states.clone().all(FenceState::has_ended));
        assert!(states.clone().any(|state| state == FenceState::Lost));
        assert!(states.is_sorted_by_key(|state| state == FenceState::Lost));
        assert_eq!(rig.control.step(), None);
    }
}

#[test]
fn dropped_with_work_in_flight_it_keeps_what_it_wrote_down() {
    let rig = Rig::by_step(0);
    let run = rig.launch(&INCREMENT, 0, &[]);
    let Rig { bench: Bench { arena, device }, control, .. } = rig;
    drop(device);
    assert_eq!(Arc::strong_count(arena.view()), 1);
    assert_eq!(control.records().len(), 1);
    assert_eq!(control.records()[0].state, FenceState::Lost);
    assert_eq!(control.records()[0].fence, run);
    assert_eq!(control.step(), None);
}

#[test]
fn it_is_open_once_at_a_time() {
    let provider = SimulatedProvider::new(SimulatedOptions::default());
    let arena = Arena::new().unwrap();
    let open = || {
        let host = Arc::clone(arena.view());
        provider.open(OpenContext { device: DeviceId::new(0).unwrap(), host })
    };
    let first = open().unwrap();
    assert!(matches!(open(), Err(DeviceError::Misuse { .. })));
    drop(first);
    assert!(open().is_ok());
}
