//! Two processes that serve each other, and touch each other's pages at once.
#![allow(
    unsafe_code,
    reason = "vouches for slices of memory that others write: words are read anew by index"
)]

use std::{path::Path, thread, time::Duration};

use hmmap_core::{Imported, SharedVec};
use hmmap_share::{Exporter, ExporterOptions, Importer, ImporterOptions};

use crate::{
    BLOCK, PAGE, alone,
    harness::{Other, hear, part, say, socket_path},
    kernels::Add,
    runtime,
};

const N: usize = BLOCK;
const ROUNDS: u32 = 60;

/// Both do the same, at once: serve a vector that they write and one that they lend, and use both of the other's.
fn plays(mine: &Path, theirs: &Path, agree: impl FnOnce()) {
    let mem = runtime();
    let mut frames = SharedVec::<u32>::shareable(&mem, N).unwrap();
    let lent = SharedVec::<u32>::shareable(&mem, N).unwrap().lend().unwrap();
    let mut options = ExporterOptions::default();
    options.deadline = Duration::from_secs(20);
    let exporter = Exporter::bind(mine, options).unwrap();
    exporter.export("frames", &frames).unwrap();
    exporter.export_lent("lent", &lent).unwrap();
    while !theirs.exists() {
        thread::sleep(Duration::from_millis(1));
    }
    let options = ImporterOptions { deadline: Duration::from_secs(60) };
    let importer = connect(theirs, options);
    let their_frames = open(&importer, &mem, "frames");
    let mut one = open(&importer, &mem, "lent");
    let mut two = open(&importer, &mem, "lent");
    let ones = SharedVec::from_fn(&mem, N, |_| 1_u32).unwrap();
    thread::scope(|scope| {
        // Each write takes the page back from the other process, whose writes take theirs from here.
        let owner = scope.spawn(|| {
            for round in 1..=ROUNDS {
                for page in 0..N / PAGE {
                    frames[page * PAGE] = round;
                }
            }
        });
        let reader = scope.spawn(|| {
            let mut seen = [0; N / PAGE];
            while seen.iter().any(|word| *word < ROUNDS) {
                for (page, before) in seen.iter_mut().enumerate() {
                    let now = their_frames.load(page * PAGE).unwrap();
                    assert!(now >= *before, "{now} after {before}");
                    *before = now;
                }
            }
        });
        // Two holders of one buffer take its pages from each other, by copies, kernels and touches.
        for round in 0..ROUNDS {
            let at = (round as usize % (N / PAGE)) * PAGE;
            mem.launch(N, Add { x: ones.read(), y: one.update() }).unwrap();
            two.store(at, 1000).unwrap();
            // SAFETY: who writes this word does so on this thread, and not while the slice is there; it is read once.
            let touched = unsafe { one.slice(at..=at) }.unwrap()[0];
            assert_eq!(touched, 1000, "round {round}");
        }
        owner.join().unwrap();
        reader.join().unwrap();
    });
    // Who is through first still serves.
    agree();
    drop((their_frames, one, two, importer));
    drop((frames, lent, exporter));
}

#[test]
fn two_that_serve_each_other_and_touch_at_once_both_end() {
    const NAME: &str = "both_ways::two_that_serve_each_other_and_touch_at_once_both_end";
    let theirs = |of: &Path| of.with_extension("other");
    if let Some(socket) = part() {
        plays(&theirs(&socket), &socket, || {
            say("through");
            hear("through");
        });
        return;
    }
    let _alone = alone();
    let socket = socket_path(NAME);
    let mut other = Other::start(NAME, &socket);
    plays(&socket, &theirs(&socket), || {
        other.expect("through");
        other.tell("through");
    });
    other.join();
    std::fs::remove_file(theirs(&socket)).unwrap();
    std::fs::remove_file(socket).unwrap();
}

/// Somebody listens there, or is about to.
fn connect(at: &Path, options: ImporterOptions) -> Importer {
    loop {
        match Importer::connect(at, options) {
            Ok(importer) => return importer,
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn open(importer: &Importer, mem: &hmmap_core::Runtime, name: &str) -> Imported<u32> {
    loop {
        match importer.open(mem, name) {
            Ok(imported) => return imported,
            // It is about to be served.
            Err(hmmap_share::ShareError::Refused { .. }) => thread::sleep(Duration::from_millis(1)),
            Err(other) => panic!("{other:?}"),
        }
    }
}
