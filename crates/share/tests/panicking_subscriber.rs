//! A subscriber that panics on the threads between processes leaves nobody waiting.

use std::{os::fd::OwnedFd, sync::Arc, thread, time::Duration};

use hmmap_core::{
    Options, Runtime, SharedVec,
    embedded::{EmbeddedOptions, EmbeddedProvider},
};
use hmmap_share::{Exporter, ExporterOptions, Importer, ImporterOptions};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// Panics on our threads, whatever is said there.
struct Panics;

impl tracing::Subscriber for Panics {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        let thread = thread::current();
        matches!(thread.name(), Some("hmmap export" | "hmmap import" | "hmmap link"))
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        panic!("as the test wants it");
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

fn runtime() -> Runtime {
    // Deadlines are longer than the runner lets a test live.
    let options = Options { peer_deadline: Some(Duration::from_secs(1000)), ..Options::default() };
    let device = EmbeddedProvider::new(EmbeddedOptions::default());
    Runtime::new(vec![Arc::new(device)], options).unwrap()
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

#[test]
fn whoever_waits_is_answered() {
    tracing::subscriber::set_global_default(Panics).unwrap();
    let (mem, other) = (runtime(), runtime());
    let mut frames = SharedVec::<u32>::shareable(&mem, 1000).unwrap();
    let mut options = ExporterOptions::default();
    options.deadline = Duration::from_secs(1000);
    let exporter = Exporter::new(options).unwrap();
    exporter.export("frames", &frames).unwrap();
    let (ours, theirs) = pair();
    exporter.attach(ours).unwrap();
    let options = ImporterOptions { deadline: Duration::from_secs(1000) };
    let importer = Importer::over(theirs, options).unwrap();
    let seen = importer.open::<u32>(&other, "frames").unwrap();
    assert_eq!(seen.load(7).unwrap(), 0);

    // An exporter that talks nonsense to an importer.
    let (nonsense, theirs) = pair();
    let fooled = Importer::over(theirs, options).unwrap();
    rustix::io::write(&nonsense, b"nonsense").unwrap();
    assert!(fooled.open::<u32>(&other, "frames").is_err());
    assert!(fooled.end().is_some());

    // And an importer that talks nonsense to the exporter, whose thread says so, and panics.
    let (nonsense, theirs) = pair();
    exporter.attach(theirs).unwrap();
    rustix::io::write(&nonsense, b"nonsense").unwrap();
    while importer.end().is_none() {
        thread::sleep(Duration::from_millis(1));
    }
    frames[7] = 8;
    assert_eq!(frames[7], 8);
    assert!(seen.load(900).is_ok() && importer.open::<u32>(&other, "frames").is_err());
    assert!(exporter.export("more", &frames).is_err() && !exporter.withdraw("frames"));
    drop((seen, importer, fooled, exporter, frames));
}
