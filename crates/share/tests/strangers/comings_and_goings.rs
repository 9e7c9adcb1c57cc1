//! Vectors that are served for a while, one after the other, leave nothing behind.

use hmmap_core::SharedVec;
use hmmap_share::{Exporter, ExporterOptions, Importer, ImporterOptions};

use crate::{BLOCK, alone, descriptors, harness::socket_path, runtime, until};

#[test]
fn what_was_withdrawn_is_closed() {
    let _alone = alone();
    let socket = socket_path("comings_and_goings::what_was_withdrawn_is_closed");
    let (mem, other) = (runtime(), runtime());
    let exporter = Exporter::bind(&socket, ExporterOptions::default()).unwrap();
    let importer = Importer::connect(&socket, ImporterOptions::default()).unwrap();
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let mut before = None;
    for round in 0..40 {
        let mut frames = SharedVec::<u32>::shareable(&mem, BLOCK).unwrap();
        frames[7] = round;
        exporter.export("frames", &frames).unwrap();
        // Used and withdrawn, used and dropped, not used and withdrawn.
        if round % 3 < 2 {
            let seen = importer.open::<u32>(&other, "frames").unwrap();
            assert_eq!(seen.load(7).unwrap(), round);
            if round % 3 == 1 {
                drop(frames);
                until("it is told", || seen.load(BLOCK / 2).is_err());
            } else {
                assert!(exporter.withdraw("frames"));
            }
        } else {
            assert!(exporter.withdraw("frames"));
        }
        let now = (descriptors(), threads());
        let before = *before.get_or_insert(now);
        until("nothing of it is left", || (descriptors(), threads()) <= before);
    }
    drop((importer, exporter));
    std::fs::remove_file(socket).unwrap();
}
