//! A device that is lost in the middle.
#![cfg(feature = "test-doubles")]

mod lab;

use hmmap_core::{backend::DeviceError, fence::FenceState, units::BLOCK_BYTES};
use hmmap_vulkan::{HostCopies, Options};
use lab::{PATIENCE, SAXPY, lab, pattern, saxpy_layout, watched};

#[test]
fn what_ended_stays_and_the_rest_is_lost_without_a_hang() {
    for host_copies in [HostCopies::Auto, HostCopies::Staging] {
        let Some(lab) = lab(Options { host_copies, ..watched() }) else { return };
        let len_bytes = 8 * BLOCK_BYTES;
        let host = lab.span(len_bytes);
        lab.write(host, pattern(1));
        let (x, y) = (lab.reserve_backed(len_bytes), lab.reserve_backed(len_bytes));
        let ended = lab.submit(&[], &[lab.up(host, x.memory, 0)], &[]).unwrap();
        lab.finish(ended);
        let mut last = ended;
        let pending: Vec<_> = (0..20)
            .map(|_| {
                last = lab.saxpy(1.0, x.address, y.address, len_bytes / 4, &[last]).unwrap();
                last
            })
            .collect();
        let copy = lab.submit(&[last], &[lab.down(host, y.memory, 0)], &[]).unwrap();
        lab.vulkan.lose();
        // What a thread saw end before stays; nothing else ends but as lost, and nothing pends.
        assert_eq!(lab.device.poll(ended), FenceState::Ok);
        assert_eq!(lab.device.wait(copy, PATIENCE), FenceState::Lost);
        for point in pending {
            assert!(matches!(lab.device.poll(point), FenceState::Lost | FenceState::Ok));
        }
        assert_eq!(lab.device.poll(last), FenceState::Lost);
        assert_eq!(lab.device.reserve(BLOCK_BYTES).unwrap_err(), DeviceError::Lost);
        assert_eq!(lab.device.open_window(host).unwrap_err(), DeviceError::Lost);
        let zeros = lab.submit(&[], &[lab.up(host, x.memory, 0)], &[]);
        assert_eq!(zeros.unwrap_err(), DeviceError::Lost);
        assert_eq!(lab.saxpy(1.0, x.address, y.address, 1, &[]).unwrap_err(), DeviceError::Lost);
        assert!(lab.device.prepare(&SAXPY, &saxpy_layout()).is_ok(), "it was prepared before");
        lab.device.release(x.memory);
        lab.close();
    }
}

#[test]
fn waiting_threads_hear_of_the_loss() {
    let Some(lab) = lab(watched()) else { return };
    let y = lab.reserve_backed(BLOCK_BYTES);
    let mut never = lab.saxpy(1.0, y.address, y.address, 1, &[]).unwrap();
    lab.finish(never);
    never.value += 10;
    std::thread::scope(|threads| {
        let waiting: Vec<_> =
            (0..4).map(|_| threads.spawn(|| lab.device.wait(never, PATIENCE))).collect();
        std::thread::sleep(std::time::Duration::from_millis(20));
        lab.vulkan.lose();
        for thread in waiting {
            assert_eq!(thread.join().unwrap(), FenceState::Lost);
        }
    });
    lab.close();
}
