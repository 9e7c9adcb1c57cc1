//! A device as a peer: nothing moves between its addresses and its fence.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

use hmmap_core::{Error, SharedVec, embedded::EmbeddedMemory, peer::MappingState};

use crate::{
    kernels::Count,
    rig::{RUNGS, device, runtime},
};

const N: usize = 50_000;

#[test]
fn q4_nothing_is_written_between_a_devices_addresses_and_its_fence() {
    let mem = runtime(RUNGS[0], EmbeddedMemory::Own, 1);
    let mut y = SharedVec::from_slice(&mem, &vec![3u32; N]).unwrap();
    let mut other = SharedVec::<u32>::new(&mem, N).unwrap();
    let peer = mem.device_peer(device(0)).unwrap();
    let mapping = y.map_peer(peer.clone(), ..).unwrap();
    let written = AtomicBool::new(false);
    let (writer, other, seen) = (&mut y, &mut other, &written);
    let (mem, shown) = (&mem, &mapping);
    thread::scope(|scope| {
        let submit = move |segments: &hmmap_core::peer::Segments| -> Result<_, Error> {
            scope.spawn(move || {
                writer.host_mut(..).unwrap().fill(4);
                seen.store(true, SeqCst);
            });
            while !shown.retry(segments.stamp()) {
                thread::yield_now();
            }
            // It was told, and this is the moment at which it must not have confirmed.
            thread::sleep(Duration::from_millis(30));
            assert!(!seen.load(SeqCst), "written between the addresses and the fence");
            let work = Count { y: other.write(), seed: 0, pause_ms: 0 };
            Ok(mem.launch(N, work)?.point().expect("a launch of a kernel has a fence"))
        };
        peer.work(&mapping, submit).unwrap();
    });
    assert!(written.load(SeqCst));
    assert_eq!(mapping.state(), MappingState::Unmapped);
    assert!(y.host(..).unwrap().iter().all(|y| *y == 4));
}
