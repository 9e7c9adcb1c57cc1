//! A vector that is lent, and written in another process.

use hmmap_core::{SharedVec, home::HomeError};
use hmmap_share::{ExportEvent, Exporter, ExporterOptions, Importer, ImporterOptions};

use crate::{
    BLOCK, PAGE,
    harness::{Other, hear, part, say, socket_path},
    kernels::Add,
    runtime,
};

const N: usize = 2 * BLOCK;

/// Pages are asked for, written by the host and by a kernel, called back with what was written, and asked for again.
#[test]
fn a_lent_vector_is_written_by_another_process() {
    const NAME: &str = "writing::a_lent_vector_is_written_by_another_process";
    if let Some(socket) = part() {
        let mem = runtime();
        let importer = Importer::connect(&socket, ImporterOptions::default()).unwrap();
        let mut x = importer.open::<u32>(&mem, "lent").unwrap();
        assert_eq!(x.load(PAGE).unwrap(), PAGE as u32);
        x.store(3, 1000).unwrap();
        let ones = SharedVec::from_fn(&mem, N, |_| 1_u32).unwrap();
        // What the kernel wrote is on the device alone, and comes home when the owner takes the vector back.
        mem.launch(N, Add { x: ones.read(), y: x.update() }).unwrap();
        say("written");
        hear("taken back");
        let gone = x.load(3).unwrap_err();
        // It moved when it was taken back, so what was lent is no more.
        let is_gone = matches!(
            &gone,
            hmmap_core::Error::Home { source: HomeError::Refused { .. } | HomeError::Gone, .. }
        );
        assert!(is_gone, "{gone:?}");
        say("refused");
        hear("lent again");
        drop(x);
        let mut x = importer.open::<u32>(&mem, "again").unwrap();
        assert_eq!(x.load(3).unwrap(), 77);
        x.store(4, 78).unwrap();
        say("again");
        return;
    }
    let mem = runtime();
    let mut y = SharedVec::<u32>::shareable(&mem, N).unwrap();
    for (i, value) in y.iter_mut().enumerate() {
        *value = i as u32;
    }
    let socket = socket_path(NAME);
    let exporter = Exporter::bind(&socket, ExporterOptions::default()).unwrap();
    let lent = y.lend().unwrap();
    exporter.export_lent("lent", &lent).unwrap();
    let mut other = Other::start(NAME, &socket);
    other.expect("written");
    let mut y = lent.take_back().unwrap();
    let expected = |i: usize| if i == 3 { 1001 } else { i as u32 + 1 };
    assert!(y.iter().enumerate().all(|(i, value)| *value == expected(i)));
    y[3] = 77;
    other.tell("taken back");
    other.expect("refused");
    let lent = y.lend().unwrap();
    exporter.export_lent("again", &lent).unwrap();
    other.tell("lent again");
    other.expect("again");
    other.join();
    assert!(exporter.withdraw("again") && !exporter.withdraw("again"));
    let y = lent.take_back().unwrap();
    assert_eq!(y[4], 78);
    let lost = |event: &ExportEvent| matches!(event, ExportEvent::Lost { .. });
    assert!(!exporter.take_events().iter().any(lost), "nothing was lost");
    std::fs::remove_file(socket).unwrap();
}

/// A process that is killed with pages to write costs their owner what it had not brought home, and nothing else.
#[test]
fn a_killed_writer_loses_what_it_had_and_no_more() {
    const NAME: &str = "writing::a_killed_writer_loses_what_it_had_and_no_more";
    if let Some(socket) = part() {
        let mem = runtime();
        let importer = Importer::connect(&socket, ImporterOptions::default()).unwrap();
        let mut x = importer.open::<u32>(&mem, "lent").unwrap();
        x.store(0, 11).unwrap();
        x.store(BLOCK + PAGE, 12).unwrap();
        assert_eq!(x.load(PAGE).unwrap(), 5);
        say("written");
        loop {
            std::thread::park();
        }
    }
    let mem = runtime();
    let mut y = SharedVec::<u32>::shareable(&mem, N).unwrap();
    y.fill(5);
    let socket = socket_path(NAME);
    let exporter = Exporter::bind(&socket, ExporterOptions::default()).unwrap();
    let lent = y.lend().unwrap();
    exporter.export_lent("lent", &lent).unwrap();
    let mut other = Other::start(NAME, &socket);
    other.expect("written");
    other.kill();
    let y = lent.take_back().unwrap();
    assert_eq!((y[PAGE], y[2 * PAGE], y[BLOCK]), (5, 5, 5));
    let events = exporter.take_events();
    let lost: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            ExportEvent::Lost { name, pages } => Some((name.as_str(), pages.clone())),
            ExportEvent::Left { .. } => None,
        })
        .collect();
    assert_eq!(lost, [("lent", vec![0..1, 33..34])], "{events:?}");
    std::fs::remove_file(socket).unwrap();
}
