use super::{IDLE, INCREMENT, Rig, garbage};
use crate::{
    access::Access,
    backend::{
        DeviceError, LaunchWork,
        bench::{DOUBLE, block, params, words},
    },
    embedded::Backing,
    fence::{Failure, FenceState},
    host::HostSpan,
    simulated::{Progress, SimulatedOptions, Violation},
    units::{BLOCK_BYTES, PAGE_BYTES},
};

#[test]
fn fresh_memory_and_write_arguments_hold_garbage() {
    for seed in 0..4 {
        let options = SimulatedOptions { seed, backing: Backing::Blocks, ..Default::default() };
        let rig = Rig::new(options);
        assert!(rig.read(2 * BLOCK_BYTES).iter().all(garbage));

        let all = [words(rig.memory.address, 2 * BLOCK_BYTES / 4, Access::Write)];
        let zeroed = rig.bench.zero(rig.memory.memory, 0..2 * BLOCK_BYTES, &[]).unwrap();
        rig.bench.launch(&IDLE, &all, &[zeroed]).unwrap();
        assert!(rig.read(BLOCK_BYTES).iter().all(garbage));

        let zeroed = rig.bench.zero(rig.memory.memory, block(0), &[]).unwrap();
        assert_eq!(rig.bench.end(zeroed), FenceState::Ok);
        rig.bench.device.unback(rig.memory.memory, &[block(0)]);
        rig.bench.device.back(rig.memory.memory, &[block(0)]).unwrap();
        assert!(rig.read(BLOCK_BYTES).iter().all(garbage));
        assert_eq!(rig.control.violations(), []);
    }
}

#[test]
fn memory_that_is_not_there_fails_the_fence_and_is_noted() {
    let rig = Rig::new(SimulatedOptions { backing: Backing::Blocks, ..Default::default() });
    rig.bench.device.unback(rig.memory.memory, &[block(1)]);
    let host = rig.bench.arena.view().pointer(HostSpan { offset_bytes: 0, len_bytes: 0 }) as u64;
    let bad = [
        words(rig.memory.address + BLOCK_BYTES - 4, 2, Access::Read),
        words(rig.memory.address + 2 * BLOCK_BYTES, 1, Access::Read),
        words(rig.memory.address - 4, 1, Access::Read),
        words(host, 1, Access::Read),
    ];
    for (nth, array) in bad.into_iter().enumerate() {
        let run = rig.bench.launch(&IDLE, &[array], &[]).unwrap();
        assert!(matches!(rig.bench.end(run), FenceState::Failed(Failure::Driver(_))));
        assert_eq!(rig.control.violations().len(), nth + 1);
        assert!(
            matches!(rig.control.violations()[nth], Violation::Work { work, .. } if work == run)
        );
    }
}

#[test]
fn addresses_are_no_pointers_and_never_used_twice() {
    let rig = Rig::by_step(0);
    assert!(rig.memory.address >> 47 != 0, "no process can map it");
    rig.bench.device.release(rig.memory.memory);
    let again = rig.bench.device.reserve(2 * BLOCK_BYTES).unwrap();
    assert_ne!(again.address, rig.memory.address);
    let stale = rig.bench.launch(&IDLE, &rig.page(0, Access::Read), &[]).unwrap();
    assert_eq!(rig.control.violations().len(), 1);
    assert!(rig.control.step_to(stale));
}

#[test]
fn memory_given_back_under_a_work_is_noted() {
    let noted = |give_back: &dyn Fn(&Rig)| {
        let (progress, backing) = (Progress::ByStep, Backing::Blocks);
        let rig = Rig::new(SimulatedOptions { progress, backing, ..Default::default() });
        let run = rig.launch(&INCREMENT, 0, &[]);
        let before = rig.control.violations().len();
        give_back(&rig);
        let noted = rig.control.violations()[before..].to_vec();
        noted.iter().any(|one| matches!(one, Violation::InUse { work, .. } if *work == run))
    };
    assert!(noted(&|rig| rig.bench.device.unback(rig.memory.memory, &[block(0), block(1)])));
    assert!(noted(&|rig| rig.bench.device.release(rig.memory.memory)));
    assert!(!noted(&|rig| {
        rig.control.run_all();
        rig.bench.device.release(rig.memory.memory);
    }));

    let rig = Rig::by_step(0);
    let span = rig.bench.arena.allocate(PAGE_BYTES).unwrap();
    let window = rig.bench.device.open_window(span).unwrap();
    rig.bench.device.host_released(span);
    assert_eq!(rig.control.violations(), []);
    rig.bench.launch(&INCREMENT, &[words(window.address, 1, Access::Update)], &[]).unwrap();
    rig.bench.device.close_window(window.window);
    rig.bench.device.host_released(span);
    assert_eq!(rig.control.violations().len(), 2);
    rig.control.run_all();
    assert_eq!(rig.control.violations().len(), 3, "the work itself found the window closed");
}

#[test]
fn a_parameter_block_must_agree_with_the_arrays() {
    let rig = Rig::by_step(0);
    let arrays = rig.page(0, Access::Update);
    let (params, layout) = params(&rig.page(1, Access::Update));
    let kernel = rig.bench.device.prepare(&DOUBLE, &layout).unwrap();
    let work = LaunchWork {
        kernel,
        source: &DOUBLE,
        groups: [1, 1, 1],
        params: &params,
        layout: &layout,
        arrays: &arrays,
        waits: &[],
    };
    rig.bench.device.submit_launch(&work).unwrap();
    rig.bench.device.submit_launch(&LaunchWork { groups: [0, 1, 1], ..work }).unwrap();
    assert_eq!(rig.control.violations().len(), 2);
}

#[test]
fn a_full_device_says_how_much_was_asked() {
    let options =
        SimulatedOptions { memory_limit_bytes: Some(3 * BLOCK_BYTES), ..Default::default() };
    let rig = Rig::new(options);
    let more = rig.bench.device.reserve(2 * BLOCK_BYTES).unwrap();
    let more_bytes = 0..2 * BLOCK_BYTES;
    let refused = rig.bench.device.back(more.memory, &[more_bytes]);
    assert_eq!(refused, Err(DeviceError::OutOfMemory { asked_bytes: 2 * BLOCK_BYTES }));
    assert_eq!(rig.control.used_bytes(), 2 * BLOCK_BYTES);
    rig.bench.device.release(rig.memory.memory);
    assert_eq!(rig.control.used_bytes(), 0);
}
