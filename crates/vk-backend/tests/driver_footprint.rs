//! What the process pays: pages and mappings.

mod lab;

use std::sync::Mutex;

use hmmap_core::{
    backend::{DeviceKind, Reservation, Zero},
    units::{BLOCK_BYTES, PAGE_BYTES},
};
use lab::{block, lab, sparse_lab, watched};

/// The figures are those of the whole process, so these tests run one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Kilobytes of the process's memory that is there.
fn resident() -> u64 {
    let line = |name| kilobytes("/proc/self/status", name);
    line("RssShmem:") + line("RssAnon:")
}

/// Kilobytes of a line in a file of /proc.
fn kilobytes(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn ten_thousand_small_reservations_cost_their_pages_and_give_them_back() {
    let _alone = ALONE.lock().unwrap();
    let Some(lab) = lab(watched()) else { return };
    let software = lab.device.facts().summary.kind == DeviceKind::Cpu;
    let before = resident();
    let count = 10_000;
    let all: Vec<_> = (0..count).map(|_| lab.reserve_backed(PAGE_BYTES)).collect();
    let mut addresses: Vec<_> = all.iter().map(|memory| memory.address).collect();
    addresses.sort_unstable();
    assert!(addresses.windows(2).all(|two| two[1] - two[0] >= PAGE_BYTES));
    let zero = |memory: &Reservation| Zero {
        memory: memory.memory,
        offset_bytes: 0,
        len_bytes: PAGE_BYTES,
    };
    let zeros: Vec<_> = all.iter().map(zero).collect();
    lab.finish(lab.submit(&[], &[], &zeros).unwrap());
    assert_eq!(lab.vulkan.used_bytes(), count * PAGE_BYTES);
    let each = (resident() - before) / count;
    // Chunks are whole, and the system rounds; the goal is 72 KiB on the device.
    assert!(!software || (60..=72).contains(&each), "{each} KiB each");
    for memory in &all {
        lab.device.release(memory.memory);
    }
    assert_eq!(lab.vulkan.used_bytes(), 0);
    // The rest is tables of the layer and of this test.
    assert!(!software || resident() < before + 24 * 1024, "{} KiB stay", resident() - before);
    lab.close();
}

#[test]
fn scattered_blocks_stay_within_the_systems_mappings() {
    let _alone = ALONE.lock().unwrap();
    let Some(lab) = sparse_lab(watched()) else { return };
    let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let before = maps();
    let blocks = 256;
    let memory = lab.device.reserve(blocks * BLOCK_BYTES).unwrap();
    for number in (0..blocks).step_by(2) {
        lab.device.back(memory.memory, &[block(number)]).unwrap();
    }
    for number in (0..blocks).step_by(2) {
        lab.device.unback(memory.memory, &[block(number)]);
    }
    assert!(maps() < before + 32, "{} mappings stay of {blocks}", maps() - before);
    lab.device.release(memory.memory);
    lab.close();
}

#[test]
fn blocks_that_were_written_give_their_pages_back() {
    let _alone = ALONE.lock().unwrap();
    let Some(lab) = sparse_lab(watched()) else { return };
    if lab.device.facts().summary.kind != DeviceKind::Cpu {
        return lab::skip("device memory is not the process's own");
    }
    let before = resident();
    let memory = lab.reserve_backed(64 * BLOCK_BYTES);
    let zero = Zero { memory: memory.memory, offset_bytes: 0, len_bytes: 64 * BLOCK_BYTES };
    lab.finish(lab.submit(&[], &[], &[zero]).unwrap());
    let full = resident();
    assert!(full - before > 120 * 1024, "{} KiB for 128 MiB", full - before);
    let half = 0..32 * BLOCK_BYTES;
    lab.device.unback(memory.memory, std::slice::from_ref(&half));
    // Nobody waits for that but what is submitted next.
    let last = Zero { offset_bytes: 63 * BLOCK_BYTES, len_bytes: PAGE_BYTES, ..zero };
    lab.finish(lab.submit(&[], &[], &[last]).unwrap());
    assert!(full - resident() > 60 * 1024, "half of it went back: {} KiB", full - resident());
    lab.device.release(memory.memory);
    assert!(resident() < before + 24 * 1024, "{} KiB stay", resident() - before);
    lab.close();
}

#[test]
fn pages_of_a_released_reservation_are_there_for_the_next_of_its_length() {
    let _alone = ALONE.lock().unwrap();
    let Some(lab) = lab(watched()) else { return };
    if lab.device.facts().summary.kind != DeviceKind::Cpu {
        return lab::skip("device memory is not the process's own");
    }
    let len_bytes = 16 * PAGE_BYTES;
    let written = || {
        let memory = lab.reserve_backed(len_bytes);
        let zero = Zero { memory: memory.memory, offset_bytes: 0, len_bytes };
        lab.finish(lab.submit(&[], &[], &[zero]).unwrap());
        memory
    };
    // What the first submission costs besides is there from here on.
    lab.device.release(written().memory);
    let memory = written();
    let (other, full) = (lab.reserve_backed(PAGE_BYTES), resident());
    lab.device.release(memory.memory);
    assert!(full - resident() < 64, "{} KiB of 1 MiB went back", full - resident());
    let again = written();
    assert_eq!(again.address, memory.address);
    assert!(resident() < full + 64, "{} KiB more", resident() - full);
    // What is evicted goes back at once.
    lab.device.unback(again.memory, std::slice::from_ref(&(0..len_bytes)));
    assert!(full - resident() > 960, "{} KiB of 1 MiB went back", full - resident());
    lab.device.release(again.memory);
    lab.device.release(other.memory);
    lab.close();
}
