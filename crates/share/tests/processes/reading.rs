//! A vector that its owner goes on using, read in another process.

use std::time::{Duration, Instant};

use hmmap_core::SharedVec;
use hmmap_share::{Exporter, ExporterOptions, Importer, ImporterOptions, ShareError};

use crate::{
    BLOCK, PAGE,
    harness::{Other, hear, part, say, socket_path},
    kernels::{Add, Count},
    runtime,
};

const N: usize = 3 * BLOCK + 5 * PAGE + 7;

/// What a kernel writes here is read there, by copying and by a kernel of its own; writing it again takes it back first, and the next read sees that.
#[test]
fn a_vector_is_read_by_another_process() {
    const NAME: &str = "reading::a_vector_is_read_by_another_process";
    if let Some(socket) = part() {
        let mem = runtime();
        let importer = Importer::connect(&socket, ImporterOptions::default()).unwrap();
        let x = importer.open::<u32>(&mem, "frames").unwrap();
        assert_eq!(x.len(), N);
        let mut seen = vec![0; N];
        x.copy_to(0, &mut seen).unwrap();
        assert!(seen.iter().enumerate().all(|(i, value)| *value == 5 + i as u32));
        say("read");
        hear("written");
        assert_eq!(x.load(N - 1).unwrap(), 9 + N as u32 - 1);
        let mut sum = SharedVec::<u32>::new(&mem, N).unwrap();
        mem.launch(N, Add { x: x.read(), y: sum.update() }).unwrap();
        assert!(sum.iter().enumerate().all(|(i, value)| *value == 9 + i as u32));
        say("added");
        hear("dropped");
        // What was granted may be read until it is recalled.
        let until = Instant::now() + Duration::from_secs(60);
        let refused = loop {
            match x.load(2 * BLOCK) {
                Ok(_) => assert!(Instant::now() < until, "it is never recalled"),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, hmmap_core::Error::Home { .. }), "{refused:?}");
        return;
    }
    let mem = runtime();
    let mut y = SharedVec::<u32>::shareable(&mem, N).unwrap();
    mem.launch(N, Count { y: y.write(), seed: 5, pause_ms: 0 }).unwrap();
    let socket = socket_path(NAME);
    let exporter = Exporter::bind(&socket, ExporterOptions::default()).unwrap();
    exporter.export("frames", &y).unwrap();
    let mut other = Other::start(NAME, &socket);
    other.expect("read");
    mem.launch(N, Count { y: y.write(), seed: 8, pause_ms: 0 }).unwrap();
    for value in y.iter_mut() {
        *value += 1;
    }
    other.tell("written");
    other.expect("added");
    drop(y);
    other.tell("dropped");
    other.join();
    // The name is free again, whether anybody had used the vector or not.
    for _ in 0..2 {
        let next = SharedVec::<u32>::shareable(&mem, N).unwrap();
        exporter.export("frames", &next).unwrap();
        let taken = exporter.export("frames", &next);
        assert!(matches!(taken, Err(ShareError::Name { .. })), "{taken:?}");
    }
    drop(exporter);
    std::fs::remove_file(socket).unwrap();
}
