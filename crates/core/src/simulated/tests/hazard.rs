use std::time::Duration;

use super::{IDLE, INCREMENT, Rig};
use crate::{
    access::Access,
    backend::{Direction, bench::words},
    embedded::MemorySpace,
    fence::FenceState,
    simulated::{SeenFences, SimulatedOptions, Violation},
    units::{BLOCK_BYTES, PAGE_BYTES},
};

#[test]
fn a_missing_wait_is_a_hazard_and_a_wait_chain_is_none() {
    let rig = Rig::by_step(0);
    let up = rig.bench.arena.allocate(2 * PAGE_BYTES).unwrap();
    rig.bench.put(up, 1);
    let write = rig.copy(Direction::HostToDevice, up, &[]);
    let run = rig.launch(&INCREMENT, 1, &[write]);
    let chained = rig.bench.zero(rig.memory.memory, 0..2 * PAGE_BYTES, &[run]).unwrap();
    assert_eq!(rig.control.violations(), []);
    // Reads of the same bytes need no order.
    let read = rig.page(5, Access::Read);
    rig.bench.launch(&IDLE, &read, &[]).unwrap();
    rig.bench.launch(&IDLE, &read, &[]).unwrap();
    assert_eq!(rig.control.violations(), []);
    let loose = rig.launch(&INCREMENT, 1, &[run]);
    let bytes = PAGE_BYTES..PAGE_BYTES + 64;
    let hazard = Violation::Hazard {
        earlier: chained,
        earlier_access: Access::Write,
        later: loose,
        later_access: Access::Update,
        space: MemorySpace::Device(rig.memory.memory),
        bytes,
    };
    assert_eq!(rig.control.violations(), [hazard]);
}

#[test]
fn host_memory_is_watched_too_through_copies_and_windows() {
    let rig = Rig::by_step(0);
    let span = rig.bench.arena.allocate(BLOCK_BYTES).unwrap();
    let down = rig.copy(Direction::DeviceToHost, span.part(PAGE_BYTES, PAGE_BYTES), &[]);
    let window = rig.bench.device.open_window(span).unwrap();
    let x = [words(window.address + PAGE_BYTES + 60, 4, Access::Read)];
    let read = rig.bench.launch(&IDLE, &x, &[]).unwrap();
    let at = span.offset_bytes + PAGE_BYTES + 60;
    let [Violation::Hazard { earlier, later, space, bytes, .. }] = &rig.control.violations()[..]
    else {
        panic!("one hazard: {:?}", rig.control.violations());
    };
    assert_eq!((*earlier, *later), (down, read));
    assert_eq!((*space, bytes.clone()), (MemorySpace::Host, at..at + 16));
}

#[test]
fn a_value_that_was_waited_for_covers_those_below_it() {
    let rig = Rig::by_step(0);
    rig.launch(&INCREMENT, 0, &[]);
    let second = rig.launch(&INCREMENT, 1, &[]);
    rig.bench.zero(rig.memory.memory, 0..PAGE_BYTES, &[second]).unwrap();
    assert_eq!(rig.control.violations(), []);

    // And so does what those below it waited for.
    let third = rig.launch(&INCREMENT, 3, &[]);
    rig.bench.zero(rig.memory.memory, 4 * PAGE_BYTES..5 * PAGE_BYTES, &[third]).unwrap();
    let loose = rig.bench.zero(rig.memory.memory, 5 * PAGE_BYTES..6 * PAGE_BYTES, &[]).unwrap();
    rig.launch(&INCREMENT, 3, &[loose]);
    assert_eq!(rig.control.violations(), []);
}

#[test]
fn what_the_host_saw_ended_orders_unless_only_waits_do() {
    for (seen_fences, hazards) in [(SeenFences::Order, 0), (SeenFences::DoNotOrder, 1)] {
        let rig = Rig::new(SimulatedOptions { seen_fences, ..Default::default() });
        let first = rig.launch(&INCREMENT, 0, &[]);
        assert_eq!(rig.bench.device.wait(first, Duration::MAX), FenceState::Ok);
        rig.launch(&INCREMENT, 0, &[]);
        assert_eq!(rig.control.violations().len(), hazards);
    }
    let rig = Rig::by_step(0);
    rig.launch(&INCREMENT, 0, &[]);
    rig.control.run_all();
    rig.launch(&INCREMENT, 0, &[]);
    assert_eq!(rig.control.violations().len(), 1, "it has ended, but the host has not looked");
}

#[test]
fn copies_of_a_batch_that_overlap_are_a_hazard() {
    let rig = Rig::by_step(0);
    let bytes = |offset_bytes, len_bytes| crate::backend::Zero {
        memory: rig.memory.memory,
        offset_bytes,
        len_bytes,
    };
    let batch = |zeros: &[_]| {
        let work = crate::backend::TransferWork { waits: &[], copies: &[], zeros };
        let end = rig.bench.device.submit_transfer(&work).unwrap();
        assert!(rig.control.step_to(end));
        rig.bench.device.poll(end);
    };
    batch(&[bytes(0, PAGE_BYTES), bytes(PAGE_BYTES, PAGE_BYTES)]);
    assert_eq!(rig.control.violations(), []);
    batch(&[bytes(PAGE_BYTES, PAGE_BYTES), bytes(0, 2 * PAGE_BYTES)]);
    assert_eq!(rig.control.violations().len(), 1);
}
