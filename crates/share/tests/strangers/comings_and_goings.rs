//! Vectors that are served for a while, one after the other, leave nothing behind.

use hmmap_core::{SharedVec, home::Grant};
use hmmap_share::{
    ExportEvent, Exporter, ExporterOptions, Importer, ImporterOptions,
    wire::{Message, Pages},
};
use rustix::net::RecvFlags;

use crate::{BLOCK, alone, descriptors, harness::socket_path, raw::Raw, runtime, until};

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

/// Who gives a buffer back and goes while something of it is recalled has given it back: the recall that it never read makes nothing of that.
#[test]
fn who_leaves_in_the_middle_of_a_recall_has_lost_nothing() {
    let _alone = alone();
    let mem = runtime();
    let lent = SharedVec::<u32>::shareable(&mem, BLOCK).unwrap().lend().unwrap();
    let socket = socket_path("leaves in the middle");
    let exporter = Exporter::bind(&socket, ExporterOptions::default()).unwrap();
    exporter.export_lent("lent", &lent).unwrap();
    let page = |buffer| {
        let pages = Pages { first: 0, count: 1 };
        Message::Ask { buffer, pages, access: Grant::Write }
    };
    for _ in 0..20 {
        let [first, second] = [(); 2].map(|()| {
            let raw = Raw::connect(&socket);
            raw.greet();
            raw
        });
        let (opened, _) = first.open("lent");
        first.send(2, &page(opened.buffer)).unwrap();
        assert_eq!(first.answer(2).0, Message::Granted);
        let (other, _) = second.open("lent");
        second.send(2, &page(other.buffer)).unwrap();
        until("it is recalled", || {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            rustix::net::recv(&first.fd, &mut [0; 8], flags).is_ok()
        });
        first.send(0, &Message::Release { buffer: opened.buffer, lost: vec![] }).unwrap();
        drop(first);
        assert_eq!(second.answer(2).0, Message::Granted);
        second.send(0, &Message::Release { buffer: other.buffer, lost: vec![] }).unwrap();
    }
    let lost = |event: &ExportEvent| matches!(event, ExportEvent::Lost { .. });
    let events = exporter.take_events();
    assert!(!events.iter().any(lost), "{events:?}");
    std::fs::remove_file(socket).unwrap();
}
