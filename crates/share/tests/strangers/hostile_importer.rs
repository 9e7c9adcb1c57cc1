//! An importer that does not keep to anything. The exporter, the vectors' owner and an honest importer beside it lose nothing by it.
#![allow(clippy::single_range_in_vec_init, reason = "one stretch of pages is meant")]

use std::{
    fs::OpenOptions,
    io::Write as _,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use hmmap_core::{Imported, Lent, Runtime, SharedVec, home::Grant};
use hmmap_share::{
    ExportEvent, Exporter, ExporterOptions, Importer, ImporterOptions, Quota,
    wire::{Code, Message, Pages},
};
use rustix::{io::Errno, net::Shutdown};

use crate::{
    BLOCK, PAGE, alone, descriptors,
    harness::{Other, part, say, socket_path},
    raw::{Raw, bytes},
    runtime, until,
};

/// One thing that an importer may not do, and what comes of it.
struct Lie {
    name: &'static str,
    tell: fn(&Path),
    /// Why its connection ends.
    ends: Code,
    /// And why others of its may.
    others_end: &'static [Code],
    /// What it held for writing when that happened.
    lost: bool,
    /// It says when it holds a page of each vector, and waits for the recall.
    holds: bool,
}

const fn lie(name: &'static str, ends: Code, tell: fn(&Path)) -> Lie {
    Lie { name, tell, ends, others_end: &[], lost: false, holds: false }
}

const fn holding(name: &'static str, ends: Code, lost: bool, tell: fn(&Path)) -> Lie {
    Lie { name, tell, ends, others_end: &[], lost, holds: true }
}

const FIRST: Pages = Pages { first: 0, count: 1 };

const LIES: &[Lie] = &[
    lie("is not of this protocol", Code::Protocol, |at| says(at, b"GET / HTTP/1.1")),
    lie("is cut short", Code::Protocol, |at| says(at, &bytes(0, &Message::Hello)[..10])),
    lie("is of another version", Code::Protocol, |at| {
        let mut hello = bytes(0, &Message::Hello);
        hello[4] += 1;
        says(at, &hello);
    }),
    lie("lies about its length", Code::Protocol, |at| {
        let mut hello = bytes(0, &Message::Hello);
        hello[8] += 8;
        says(at, &hello);
    }),
    lie("is too long", Code::Protocol, |at| says(at, &[0x68; 10_000])),
    lie("brings a descriptor along", Code::Protocol, |at| brings(at, 1)),
    lie("brings 250 descriptors along", Code::Protocol, |at| brings(at, 250)),
    lie("does not say hello", Code::Protocol, |at| {
        let raw = Raw::connect(at);
        raw.send(1, &Message::Open { name: "frames".to_owned() }).unwrap();
        raw.read_to_the_end();
    }),
    lie("says hello twice", Code::Protocol, |at| breaks(at, &Message::Hello)),
    lie("speaks as an exporter", Code::Protocol, |at| breaks(at, &Message::Granted)),
    lie("confirms what nobody recalled", Code::Protocol, |at| {
        breaks(at, &Message::Confirmed { dirty: vec![], lost: vec![] });
    }),
    lie("releases what it has not open", Code::Protocol, |at| {
        breaks(at, &Message::Release { buffer: 1, lost: vec![] });
    }),
    lie("asks for what it may not have", Code::Done, asks_for_too_much),
    lie("opens too much", Code::Done, opens_too_much),
    lie("asks and does not listen", Code::Done, asks_and_does_not_listen),
    lie("connects and is silent", Code::Late, |at| Raw::connect(at).read_to_the_end()),
    Lie {
        others_end: &[Code::Quota, Code::Late],
        ..lie("connects and does nothing, many times", Code::Done, connects_often)
    },
    lie("closes half of the connection", Code::Done, |at| {
        let raw = Raw::connect(at);
        raw.greet();
        raw.send(1, &Message::Open { name: "frames".to_owned() }).unwrap();
        raw.shut(Shutdown::Write);
        raw.read_to_the_end();
    }),
    lie("goes without waiting for an answer", Code::Done, |at| {
        let raw = Raw::connect(at);
        raw.greet();
        let (opened, _) = raw.open("lent");
        raw.send(2, &ask(opened.buffer, FIRST, Grant::Read)).unwrap();
    }),
    lie("opens the file again to write it", Code::Done, writes_what_is_to_be_read),
    holding("does not answer", Code::Late, true, |at| {
        let (raw, ..) = holds(at);
        raw.read_to_the_end();
    }),
    holding("answers another recall", Code::Protocol, true, |at| {
        let (raw, ..) = holds(at);
        let (sequence, _) = recall(&raw);
        raw.send(sequence + 77, &Message::Confirmed { dirty: vec![], lost: vec![] }).unwrap();
        raw.read_to_the_end();
    }),
    holding("answers with pages that nobody asked for", Code::Protocol, true, |at| {
        let (raw, ..) = holds(at);
        let (sequence, _) = recall(&raw);
        let dirty = vec![Pages { first: 5, count: 20 }];
        raw.send(sequence, &Message::Confirmed { dirty, lost: vec![] }).unwrap();
        raw.read_to_the_end();
    }),
    holding("answers twice", Code::Protocol, false, |at| {
        let (raw, ..) = holds(at);
        let confirmed = Message::Confirmed { dirty: vec![], lost: vec![] };
        let (sequence, _) = recall(&raw);
        raw.send(sequence, &confirmed).unwrap();
        let (sequence, _) = recall(&raw);
        raw.send(sequence, &confirmed).unwrap();
        raw.send(sequence, &confirmed).unwrap();
        raw.read_to_the_end();
    }),
    holding("closes instead of an answer", Code::Done, true, |at| {
        let (raw, ..) = holds(at);
        recall(&raw);
    }),
];

fn ask(buffer: u64, pages: Pages, access: Grant) -> Message {
    Message::Ask { buffer, pages, access }
}

fn says(at: &Path, bytes: &[u8]) {
    let raw = Raw::connect(at);
    raw.send_bytes(bytes, &[]).unwrap();
    raw.read_to_the_end();
}

fn brings(at: &Path, how_many: usize) {
    let raw = Raw::connect(at);
    let file = OpenOptions::new().read(true).open("/proc/self/exe").unwrap();
    let with = vec![file.as_fd(); how_many];
    raw.send_with(0, &Message::Hello, &with).unwrap();
    raw.read_to_the_end();
}

/// As a greeted importer.
fn breaks(at: &Path, message: &Message) {
    let raw = Raw::connect(at);
    raw.greet();
    raw.send(1, message).unwrap();
    raw.read_to_the_end();
}

fn refused(raw: &Raw, sequence: u64, question: &Message) -> Code {
    raw.send(sequence, question).unwrap();
    match raw.answer(sequence) {
        (Message::Refused { code }, None) => code,
        other => panic!("not refused: {other:?}"),
    }
}

fn asks_for_too_much(at: &Path) {
    let raw = Raw::connect(at);
    raw.greet();
    let (frames, _) = raw.open("frames");
    let far = Pages { first: 1 << 40, count: 1 };
    let over = Pages { first: 0, count: frames.len_bytes / 65_536 + 1 };
    assert_eq!(refused(&raw, 2, &ask(frames.buffer, far, Grant::Read)), Code::Protocol);
    assert_eq!(refused(&raw, 3, &ask(frames.buffer, over, Grant::Read)), Code::Protocol);
    assert_eq!(refused(&raw, 4, &ask(frames.buffer, FIRST, Grant::Write)), Code::ReadOnly);
    // Those of others are no secret, and no use.
    for buffer in (0..20).filter(|buffer| *buffer != frames.buffer) {
        assert_eq!(refused(&raw, 5 + buffer, &ask(buffer, FIRST, Grant::Read)), Code::Unknown);
    }
    let unknown = Message::Open { name: "no such vector".to_owned() };
    assert_eq!(refused(&raw, 40, &unknown), Code::Unknown);
    let secret = Message::Open { name: "secret".to_owned() };
    assert_eq!(refused(&raw, 41, &secret), Code::Denied);
    // Whoever is to decide panics: that is no yes, and the end of nothing.
    let panics = Message::Open { name: "panics".to_owned() };
    assert_eq!(refused(&raw, 42, &panics), Code::Denied);
}

fn opens_too_much(at: &Path) {
    let raw = Raw::connect(at);
    raw.greet();
    let kept: Vec<_> = (0..Quota::default().buffers).map(|_| raw.open("frames")).collect();
    let more = Message::Open { name: "frames".to_owned() };
    assert_eq!(refused(&raw, 2, &more), Code::Quota);
    // One back, one more.
    raw.send(0, &Message::Release { buffer: kept[0].0.buffer, lost: vec![] }).unwrap();
    raw.open("frames");
    assert_eq!(refused(&raw, 3, &more), Code::Quota);
}

/// Until the exporter does not read any more either.
fn asks_and_does_not_listen(at: &Path) {
    let raw = Raw::connect(at);
    raw.greet();
    let (frames, _) = raw.open("frames");
    let mut refused = 0;
    for sequence in 2..100_000 {
        match raw.try_send(sequence, &ask(frames.buffer, FIRST, Grant::Read)) {
            Ok(()) => refused = 0,
            Err(Errno::AGAIN) if refused > 50 => return,
            Err(Errno::AGAIN) => {
                refused += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("100,000 asks were taken");
}

fn connects_often(at: &Path) {
    let most = Quota::default().peers;
    let all: Vec<Raw> = (0..most + 20).map(|_| Raw::connect(at)).collect();
    // A newcomer gets in all the same: who came first and has nothing open makes room.
    let newcomer = Raw::connect(at);
    newcomer.greet();
    newcomer.open("frames");
    let left = all.iter().filter(|raw| raw.try_send(0, &Message::Hello).is_ok());
    assert!(left.count() < most);
}

fn writes_what_is_to_be_read(at: &Path) {
    let raw = Raw::connect(at);
    raw.greet();
    let (opened, fd) = raw.open("frames");
    raw.send(2, &ask(opened.buffer, FIRST, Grant::Read)).unwrap();
    assert_eq!(raw.answer(2).0, Message::Granted);
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut again = OpenOptions::new().read(true).write(true).open(path).unwrap();
    for fd in [fd.as_fd(), again.as_fd()] {
        assert!(rustix::io::write(fd, &[1; 64]).is_err());
        assert_eq!(rustix::fs::ftruncate(fd, 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(fd, opened.len_bytes * 2), Err(Errno::PERM));
        use rustix::fs::{FallocateFlags as How, SealFlags, fallocate, fcntl_add_seals};
        let punch = How::PUNCH_HOLE | How::KEEP_SIZE;
        assert_eq!(fallocate(fd, punch, 0, 65_536), Err(Errno::PERM));
        // Nobody is kept from anything by seals of a stranger's.
        assert_eq!(fcntl_add_seals(fd, SealFlags::WRITE), Err(Errno::PERM));
    }
    assert!(again.write(&[1; 64]).is_err());
}

/// Holds the first page of both vectors, one of them to write.
fn holds(at: &Path) -> (Raw, Vec<OwnedFd>) {
    let raw = Raw::connect(at);
    raw.greet();
    let (frames, first) = raw.open("frames");
    let (lent, second) = raw.open("lent");
    for (sequence, question) in
        [(2, ask(frames.buffer, FIRST, Grant::Read)), (3, ask(lent.buffer, FIRST, Grant::Write))]
    {
        raw.send(sequence, &question).unwrap();
        assert_eq!(raw.answer(sequence).0, Message::Granted);
    }
    say("holding");
    (raw, vec![first, second])
}

fn recall(raw: &Raw) -> (u64, Pages) {
    while let Some((sequence, message, _)) = raw.receive() {
        if let Message::Recall { pages, .. } = message {
            return (sequence, pages);
        }
    }
    panic!("the end, and no recall");
}

/// Those who keep to it.
struct Honest {
    mem: Runtime,
    frames: SharedVec<u32>,
    /// Served, and opened by nobody.
    secret: SharedVec<u32>,
    lent: Lent<u32>,
    exporter: Exporter,
    importer: (Importer, Imported<u32>, Imported<u32>),
    round: u32,
}

const N: usize = 2 * BLOCK;

impl Honest {
    fn new(socket: &Path) -> Self {
        let (mem, other) = (runtime(), runtime());
        let frames = SharedVec::<u32>::shareable(&mem, N).unwrap();
        let secret = SharedVec::<u32>::shareable(&mem, N).unwrap();
        let lent = SharedVec::<u32>::shareable(&mem, N).unwrap().lend().unwrap();
        let mut options = ExporterOptions::default().authorize(|_, name| {
            assert_ne!(name, "panics", "as the test wants it");
            name != "secret"
        });
        options.deadline = Duration::from_millis(300);
        let exporter = Exporter::bind(socket, options).unwrap();
        exporter.export("frames", &frames).unwrap();
        exporter.export("secret", &secret).unwrap();
        exporter.export("panics", &secret).unwrap();
        exporter.export_lent("lent", &lent).unwrap();
        let importer = Importer::connect(socket, ImporterOptions::default()).unwrap();
        let seen = importer.open::<u32>(&other, "frames").unwrap();
        let written = importer.open::<u32>(&other, "lent").unwrap();
        Self { mem, frames, secret, lent, exporter, importer: (importer, seen, written), round: 0 }
    }

    /// Everybody does what they do, on the pages that the liar may hold and on others.
    fn go_on(&mut self) {
        self.round += 1;
        let Self { frames, importer: (_, seen, written), round, .. } = self;
        for i in [0, PAGE, N - 1] {
            frames[i] = *round + i as u32;
            assert_eq!(seen.load(i).unwrap(), *round + i as u32);
            written.store(i, *round).unwrap();
            assert_eq!(written.load(i).unwrap(), *round);
        }
        assert!(frames[1..PAGE].iter().chain(&frames[PAGE + 1..N - 1]).all(|word| *word == 0));
    }
}

#[test]
fn an_importer_that_lies_harms_nobody() {
    const NAME: &str = "hostile_importer::an_importer_that_lies_harms_nobody";
    if let Some(socket) = part() {
        for line in std::io::stdin().lines() {
            let line = line.unwrap();
            let lie = LIES.iter().find(|lie| lie.name == line).unwrap();
            (lie.tell)(&socket);
            say("told");
        }
        return;
    }
    let _alone = alone();
    let socket = socket_path(NAME);
    let mut honest = Honest::new(&socket);
    honest.go_on();
    let mut other = Other::start(NAME, &socket);
    let before = descriptors();
    for lie in LIES {
        println!("an importer {}", lie.name);
        other.tell(lie.name);
        if lie.holds {
            other.expect("holding");
            honest.go_on();
        }
        other.expect("told");
        let mut events = Vec::new();
        let left = |event: &ExportEvent| matches!(event, ExportEvent::Left { code, .. } if *code == lie.ends);
        let may_leave = |event: &ExportEvent| match event {
            ExportEvent::Left { code, .. } => left(event) || lie.others_end.contains(code),
            ExportEvent::Lost { .. } => true,
        };
        until("the liar has left", || {
            events.extend(honest.exporter.take_events());
            events.iter().any(left)
        });
        until("its descriptors are closed", || descriptors() == before);
        events.extend(honest.exporter.take_events());
        assert!(events.iter().all(may_leave), "{events:?}");
        let lost = events.iter().filter(|event| !is_left(event));
        let expected = ExportEvent::Lost { name: "lent".to_owned(), pages: vec![0..1] };
        assert!(lost.eq(lie.lost.then_some(&expected)), "{events:?}");
        honest.go_on();
    }
    other.join();
    let Honest { mem, frames, secret, lent, exporter, importer, round } = honest;
    drop(importer);
    let lent = lent.take_back().unwrap();
    assert_eq!((lent[0], lent[PAGE], lent[N - 1], lent[1]), (round, round, round, 0));
    drop((frames, secret, lent, exporter, mem));
    std::fs::remove_file(socket).unwrap();
}

fn is_left(event: &ExportEvent) -> bool {
    matches!(event, ExportEvent::Left { .. })
}
