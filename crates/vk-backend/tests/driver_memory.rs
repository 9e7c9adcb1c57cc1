//! Memory under reservations: backing, limits, and giving back.

mod lab;

use std::{
    hint,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use hmmap_core::{
    backend::{DeviceError, Zero},
    units::{BLOCK_BYTES, PAGE_BYTES},
};
use hmmap_vulkan::{Backing, Options};
use lab::{block, in_every_mode, lab, pattern, sparse_lab, watched};

#[test]
fn blocks_come_and_go_and_leave_the_others_alone() {
    let Some(lab) = sparse_lab(watched()) else { return };
    let memory = lab.device.reserve(4 * BLOCK_BYTES).unwrap();
    assert!(!memory.backs_whole);
    let id = memory.memory;
    let (from, to) = (lab.span(BLOCK_BYTES), lab.span(BLOCK_BYTES));
    lab.device.back(id, &[block(1), block(3)]).unwrap();
    for (number, seed) in [(1, 11), (3, 33)] {
        lab.write(from, pattern(seed));
        lab.move_now(&[lab.up(from, id, number * BLOCK_BYTES)]);
    }
    // Block 1 goes; whatever it held must never show in block 3, or survive as block 3's.
    lab.device.unback(id, &[block(1)]);
    let two = 0..2 * BLOCK_BYTES;
    lab.device.back(id, std::slice::from_ref(&two)).unwrap();
    lab.write(from, pattern(99));
    lab.move_now(&[lab.up(from, id, 0), lab.up(from, id, BLOCK_BYTES)]);
    lab.write(from, pattern(33));
    lab.move_now(&[lab.down(to, id, 3 * BLOCK_BYTES)]);
    assert_eq!(lab.read(to), lab.read(from));
    lab.device.unback(id, &[0..2 * BLOCK_BYTES, block(3)]);
    assert_eq!(lab.vulkan.used_bytes(), 0);
    lab.device.release(id);
    lab.close();
}

#[test]
fn a_kernel_reads_blocks_of_two_backings_as_one_array() {
    let Some(lab) = sparse_lab(watched()) else { return };
    let n = 3 * BLOCK_BYTES / 4;
    let (x, y) =
        (lab.device.reserve(3 * BLOCK_BYTES).unwrap(), lab.reserve_backed(3 * BLOCK_BYTES));
    for number in [2, 0, 1] {
        lab.device.back(x.memory, &[block(number)]).unwrap();
    }
    let host = lab.span(3 * BLOCK_BYTES);
    lab.write(host, |at| ((at / 4) as f32).to_ne_bytes()[(at % 4) as usize]);
    let sent = lab.submit(&[], &[lab.up(host, x.memory, 0)], &[]).unwrap();
    let zero = Zero { memory: y.memory, offset_bytes: 0, len_bytes: 3 * BLOCK_BYTES };
    let zeroed = lab.submit(&[], &[], &[zero]).unwrap();
    let run = lab.saxpy(2.0, x.address, y.address, n, &[sent, zeroed]).unwrap();
    lab.finish(lab.submit(&[run], &[lab.down(host, y.memory, 0)], &[]).unwrap());
    let got = lab::floats(&lab.read(host));
    assert!(got.iter().enumerate().all(|(i, value)| *value == 2.0 * i as f32));
    lab.device.release(x.memory);
    lab.device.release(y.memory);
    lab.close();
}

#[test]
fn the_last_block_may_end_with_the_reservation() {
    in_every_mode(|lab| {
        let len_bytes = BLOCK_BYTES + 3 * PAGE_BYTES;
        let memory = lab.reserve_backed(len_bytes);
        assert_eq!(memory.address % PAGE_BYTES, 0);
        let (from, to) = (lab.span(len_bytes), lab.span(len_bytes));
        lab.write(from, pattern(4));
        lab.move_now(&[lab.up(from, memory.memory, 0)]);
        lab.move_now(&[lab.down(to, memory.memory, 0)]);
        assert_eq!(lab.read(to), lab.read(from));
        assert_eq!(lab.vulkan.used_bytes(), len_bytes);
        lab.device.release(memory.memory);
        assert_eq!(lab.vulkan.used_bytes(), 0);
    });
}

#[test]
fn the_limit_is_kept_and_a_refusal_changes_nothing() {
    for backing in [Backing::Committed, Backing::Auto] {
        let limit = 4 * BLOCK_BYTES;
        let options = Options { memory_limit_bytes: Some(limit), backing, ..watched() };
        let Some(lab) = lab(options) else { return };
        assert_eq!(lab.device.facts().summary.memory_bytes, limit);
        let first = lab.reserve_backed(3 * BLOCK_BYTES);
        // Where memory cannot come later, reserving is what fails.
        let second = lab.device.reserve(2 * BLOCK_BYTES);
        let error = match second {
            Ok(second) => {
                let whole = 0..2 * BLOCK_BYTES;
                let error =
                    lab.device.back(second.memory, std::slice::from_ref(&whole)).unwrap_err();
                lab.device.release(second.memory);
                error
            }
            Err(error) => error,
        };
        assert_eq!(error, DeviceError::OutOfMemory { asked_bytes: 2 * BLOCK_BYTES });
        assert_eq!(lab.vulkan.used_bytes(), 3 * BLOCK_BYTES);
        lab.device.release(first.memory);
        let again = lab.reserve_backed(4 * BLOCK_BYTES);
        lab.device.release(again.memory);
        lab.close();
    }
}

#[test]
fn what_the_device_cannot_address_is_said_in_numbers() {
    in_every_mode(|lab| {
        let asked_bytes = 1 << 50;
        let error = lab.device.reserve(asked_bytes).unwrap_err();
        let DeviceError::OutOfAddresses { asked_bytes: asked, limit_bytes } = error else {
            panic!("{error}")
        };
        assert_eq!(asked, asked_bytes);
        assert!(limit_bytes < asked_bytes);
    });
}

#[test]
fn misuse_is_noticed() {
    let Some(lab) = lab(watched()) else { return };
    let memory = lab.reserve_backed(BLOCK_BYTES);
    let again = lab.device.back(memory.memory, &[block(0)]);
    assert!(matches!(again, Err(DeviceError::Misuse { .. })), "{again:?}");
    let span = lab.span(BLOCK_BYTES);
    let outside = lab.submit(&[], &[lab.up(span, memory.memory, PAGE_BYTES)], &[]);
    assert!(matches!(outside, Err(DeviceError::Misuse { .. })), "{outside:?}");
    lab.device.release(memory.memory);
    let gone = lab.submit(&[], &[lab.up(span, memory.memory, 0)], &[]);
    assert!(matches!(gone, Err(DeviceError::Misuse { .. })), "{gone:?}");
    lab.close();
}

#[test]
fn two_devices_over_one_physical_device_share_nothing() {
    let Some(first) = lab(watched()) else { return };
    let Some(second) = lab(watched()) else { return };
    let len_bytes = BLOCK_BYTES;
    let mut ends = Vec::new();
    for (lab, seed) in [(&first, 1), (&second, 2)] {
        let (from, to) = (lab.span(len_bytes), lab.span(len_bytes));
        lab.write(from, pattern(seed));
        let memory = lab.reserve_backed(len_bytes);
        let sent = lab.submit(&[], &[lab.up(from, memory.memory, 0)], &[]).unwrap();
        let back = lab.submit(&[sent], &[lab.down(to, memory.memory, 0)], &[]).unwrap();
        ends.push((lab, from, to, memory, back));
    }
    for (lab, from, to, memory, back) in ends {
        lab.finish(back);
        assert_eq!(lab.read(to), lab.read(from));
        lab.device.release(memory.memory);
    }
    first.close();
    second.close();
}

#[test]
fn a_device_opens_twice_from_one_provider() {
    let Some(lab) = lab(watched()) else { return };
    use hmmap_core::backend::{OpenContext, Provider as _};
    let context = OpenContext {
        device: hmmap_core::node::DeviceId::new(4).unwrap(),
        host: std::sync::Arc::clone(lab.arena.view()),
    };
    let other = lab.provider.open(context).unwrap();
    let a = lab.device.reserve(PAGE_BYTES).unwrap();
    let b = other.reserve(PAGE_BYTES).unwrap();
    assert_eq!(other.facts().summary, lab.device.facts().summary);
    lab.device.release(a.memory);
    other.release(b.memory);
    drop(other);
    lab.close();
}

/// The driver's thread may still look at what a submission waited for when the submission has signalled its end: a crash, not a failure, where the device goes too soon.
#[test]
fn a_device_may_go_as_soon_as_the_last_submission_has_ended() {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            });
        }
        for _ in 0..50 {
            let Some(lab) = sparse_lab(Options::default()) else { break };
            let long = lab.reserve_backed(4 * BLOCK_BYTES).memory;
            let zero = Zero { memory: long, offset_bytes: 0, len_bytes: 4 * BLOCK_BYTES };
            lab.submit(&[], &[], &[zero]).unwrap();
            // The bind waits behind that, and the last submission for the bind.
            let memory = lab.reserve_backed(BLOCK_BYTES).memory;
            let zero = Zero { memory, offset_bytes: 0, len_bytes: PAGE_BYTES };
            lab.finish(lab.submit(&[], &[], &[zero]).unwrap());
            lab.device.release(memory);
            lab.device.release(long);
            assert_eq!(lab.vulkan.used_bytes(), 0);
        }
        over.store(true, Ordering::Relaxed);
    });
}
