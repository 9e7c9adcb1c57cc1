//! An exporter that does not keep to anything. The importer believes nothing that it has not looked at, and nothing that it waits for lasts.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

use hmmap_core::{
    Error, Runtime,
    home::{Grant, HomeError, Keep},
    host::{HostError, ShareFault},
};
use hmmap_share::{
    Importer, ImporterOptions, ShareError,
    wire::{Code, Message, Opened, OpenedDmaBuf, Pages},
};
use rustix::fs::{MemfdFlags, SealFlags};

use crate::{
    PAGE, alone, descriptors,
    harness::{Other, part, say, socket_path},
    raw::{self, Raw, bytes},
    runtime, until,
};

const BLOCK_BYTES: u64 = 2 << 20;
const SEALED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// What the exporter does with a connection, and what the importer makes of it.
struct Lie {
    name: &'static str,
    tell: fn(&Raw),
    meets: fn(&Runtime, &Importer),
}

const LIES: &[Lie] = &[
    Lie {
        name: "says another size",
        tell: |raw| {
            let opened = Opened { len_bytes: 2 * BLOCK_BYTES, ..opened() };
            opens(raw, opened, &[memory(SEALED)]);
        },
        meets: |mem, importer| {
            let wrong =
                ShareFault::WrongSize { file_bytes: BLOCK_BYTES, said_bytes: 2 * BLOCK_BYTES };
            assert_eq!(fault(mem, importer), wrong);
        },
    },
    Lie {
        name: "gives a file that it can shrink",
        tell: |raw| opens(raw, opened(), &[memory(SealFlags::GROW)]),
        meets: not_sealed,
    },
    Lie {
        name: "gives a pipe",
        tell: |raw| opens(raw, opened(), &[rustix::pipe::pipe().unwrap().0]),
        meets: not_sealed,
    },
    Lie {
        name: "gives a device",
        tell: |raw| opens(raw, opened(), &[std::fs::File::open("/dev/zero").unwrap().into()]),
        meets: not_sealed,
    },
    Lie {
        name: "gives a directory",
        tell: |raw| opens(raw, opened(), &[std::fs::File::open("/proc").unwrap().into()]),
        meets: not_sealed,
    },
    Lie {
        name: "gives huge pages that nobody has",
        tell: |raw| opens(raw, opened(), &[huge()]),
        meets: |mem, importer| {
            let fault = fault(mem, importer);
            assert!(matches!(fault, ShareFault::HugePages | ShareFault::NotSealed), "{fault}");
        },
    },
    Lie {
        name: "gives memory to be written that is sealed",
        tell: |raw| opens(raw, opened(), &[memory(SEALED | SealFlags::FUTURE_WRITE)]),
        meets: |mem, importer| {
            assert!(matches!(fault(mem, importer), ShareFault::Refused(_)));
        },
    },
    Lie {
        name: "gives memory as a dma-buf",
        tell: |raw| gives_dma_buf(raw, &[memory(SEALED)]),
        meets: |_, importer| {
            let refused = importer.open_dma_buf("x").unwrap_err();
            assert!(matches!(refused, ShareError::NotDmaBuf { .. }), "{refused}");
        },
    },
    Lie {
        name: "gives a pipe as a dma-buf",
        tell: |raw| gives_dma_buf(raw, &[rustix::pipe::pipe().unwrap().0]),
        meets: |_, importer| {
            let refused = importer.open_dma_buf("x").unwrap_err();
            assert!(matches!(refused, ShareError::NotDmaBuf { .. }), "{refused}");
        },
    },
    Lie {
        name: "gives no descriptor as a dma-buf",
        tell: |raw| gives_dma_buf(raw, &[]),
        meets: |_, importer| {
            let refused = importer.open_dma_buf("x").unwrap_err();
            assert!(matches!(refused, ShareError::Gone), "{refused}");
        },
    },
    Lie {
        name: "gives a vector where a dma-buf was asked for",
        tell: |raw| opens(raw, opened(), &[memory(SEALED)]),
        meets: |_, importer| {
            let refused = importer.open_dma_buf("x").unwrap_err();
            assert!(matches!(refused, ShareError::Gone), "{refused}");
        },
    },
    Lie { name: "gives nothing", tell: |raw| opens(raw, opened(), &[]), meets: broke_it },
    Lie {
        name: "gives two files",
        tell: |raw| opens(raw, opened(), &[memory(SEALED), memory(SEALED)]),
        meets: broke_it,
    },
    Lie {
        name: "says that more is used than there is",
        tell: |raw| {
            // Behind the header, the number and the length.
            let mut opened = bytes(asked(raw), &Message::Opened(opened()));
            opened[40..48].copy_from_slice(&(2 * BLOCK_BYTES).to_le_bytes());
            raw.send_bytes(&opened, &[memory(SEALED).as_fd()]).unwrap();
            raw.read_to_the_end();
        },
        meets: broke_it,
    },
    Lie {
        name: "has half an element",
        tell: |raw| opens(raw, Opened { used_bytes: 6, ..opened() }, &[memory(SEALED)]),
        meets: |mem, importer| {
            let refused = importer.open::<u32>(mem, "x").unwrap_err();
            assert!(matches!(refused, ShareError::Length { used_bytes: 6, element_bytes: 4 }));
        },
    },
    Lie {
        name: "does not answer",
        tell: |raw| {
            asked(raw);
            raw.read_to_the_end();
        },
        meets: |mem, importer| {
            let refused = importer.open::<u32>(mem, "x").unwrap_err();
            assert!(matches!(refused, ShareError::Late { .. }), "{refused:?}");
        },
    },
    Lie {
        name: "does not even say hello",
        tell: |raw| {
            let (sequence, _, _) = raw.receive().unwrap();
            raw.send(sequence, &Message::Granted).unwrap();
            raw.read_to_the_end();
        },
        meets: broke_it,
    },
    Lie {
        name: "grants what was to be opened",
        tell: |raw| {
            raw.send(asked(raw), &Message::Granted).unwrap();
            raw.read_to_the_end();
        },
        meets: broke_it,
    },
    Lie {
        name: "opens twice",
        tell: |raw| {
            let sequence = asked(raw);
            for _ in 0..2 {
                let file = memory(SEALED);
                let with = [file.as_fd()];
                raw.send_with(sequence, &Message::Opened(opened()), &with).unwrap();
            }
            raw.read_to_the_end();
        },
        meets: |mem, importer| {
            let opened = importer.open::<u32>(mem, "x");
            until("it is found out", || importer.end() == Some(Code::Protocol));
            if let Ok(x) = opened {
                assert!(gone(&x.load(0).unwrap_err()));
            }
        },
    },
    Lie {
        name: "recalls what is not open",
        tell: |raw| {
            asked(raw);
            raw.send(9, &recall(FIRST)).unwrap();
            raw.read_to_the_end();
        },
        meets: broke_it,
    },
    Lie {
        name: "does not grant",
        tell: |raw| opens(raw, opened(), &[memory(SEALED)]),
        meets: |mem, importer| {
            let mut x = importer.open::<u32>(mem, "x").unwrap();
            for error in [x.load(0).unwrap_err(), x.store(PAGE, 1).unwrap_err()] {
                let late = matches!(error, Error::Home { source: HomeError::TimedOut { .. }, .. });
                assert!(late, "{error:?}");
            }
        },
    },
    Lie {
        name: "grants once and goes",
        tell: |raw| {
            let memory = memory(SEALED);
            rustix::io::pwrite(&memory, &77_u32.to_le_bytes(), 0).unwrap();
            gives(raw, opened(), &[memory]);
            raw.send(asked(raw), &Message::Granted).unwrap();
        },
        meets: |mem, importer| {
            let mut x = importer.open::<u32>(mem, "x").unwrap();
            assert_eq!(x.load(0).unwrap(), 77);
            until("it is gone", || importer.end().is_some());
            assert_eq!(x.load(0).unwrap(), 77, "what is here stays");
            assert!(gone(&x.load(PAGE).unwrap_err()));
            assert!(gone(&x.store(0, 1).unwrap_err()));
        },
    },
    Lie {
        name: "recalls without end and does not listen",
        tell: |raw| {
            gives(raw, opened(), &[memory(SEALED)]);
            for sequence in 10..100_000 {
                if raw.send(sequence, &recall(FIRST)).is_err() {
                    return;
                }
            }
            panic!("nobody minded");
        },
        meets: |mem, importer| {
            let mut x = importer.open::<u32>(mem, "x").unwrap();
            until("it is found out", || importer.end() == Some(Code::Protocol));
            assert!(gone(&x.store(0, 1).unwrap_err()));
        },
    },
    Lie {
        name: "recalls beyond the end",
        tell: |raw| {
            gives(raw, opened(), &[memory(SEALED)]);
            raw.send(asked(raw), &Message::Granted).unwrap();
            raw.send(10, &recall(Pages { first: 0, count: 1 << 40 })).unwrap();
            while let Some((sequence, message, _)) = raw.receive() {
                match message {
                    Message::Confirmed { dirty, lost } => {
                        // Nothing, when the recall overtook the grant on its way to whoever asked.
                        assert!(dirty.is_empty() || dirty == [FIRST], "{dirty:?}");
                        assert_eq!((sequence, lost), (10, vec![]));
                        return;
                    }
                    other => println!("{other:?}"),
                }
            }
        },
        meets: |mem, importer| {
            let mut x = importer.open::<u32>(mem, "x").unwrap();
            let _ = x.store(0, 5);
            until("it is gone", || importer.end().is_some());
        },
    },
];

const FIRST: Pages = Pages { first: 0, count: 1 };

fn opened() -> Opened {
    Opened {
        buffer: 3,
        len_bytes: BLOCK_BYTES,
        used_bytes: BLOCK_BYTES,
        page_bytes: 65_536,
        seals: SEALED.bits(),
        most: Grant::Write,
    }
}

fn recall(pages: Pages) -> Message {
    Message::Recall { buffer: 3, pages, keep: Keep::Nothing, deadline_ms: 100 }
}

fn memory(seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create("hostile", flags).unwrap();
    rustix::fs::ftruncate(&memory, BLOCK_BYTES).unwrap();
    rustix::fs::fcntl_add_seals(&memory, seals).unwrap();
    memory
}

/// Sealed, of the right size, and a touch ends with a signal once the pool of huge pages is empty.
fn huge() -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    // Where the kernel has none, what is no memfd does as well.
    let Ok(memory) = rustix::fs::memfd_create("hostile", flags) else {
        return rustix::pipe::pipe().unwrap().0;
    };
    rustix::fs::ftruncate(&memory, BLOCK_BYTES).unwrap();
    rustix::fs::fcntl_add_seals(&memory, SEALED).unwrap();
    memory
}

/// The next question, after both have said hello.
fn asked(raw: &Raw) -> u64 {
    loop {
        match raw.receive().expect("a question") {
            (sequence, Message::Hello, _) => raw.send(sequence, &Message::Hello).unwrap(),
            (
                sequence,
                Message::Open { .. } | Message::OpenDmaBuf { .. } | Message::Ask { .. },
                _,
            ) => return sequence,
            other => panic!("no question: {other:?}"),
        }
    }
}

fn gives(raw: &Raw, opened: Opened, files: &[OwnedFd]) {
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    raw.send_with(asked(raw), &Message::Opened(opened), &files).unwrap();
}

fn opens(raw: &Raw, opened: Opened, files: &[OwnedFd]) {
    gives(raw, opened, files);
    raw.read_to_the_end();
}

fn gives_dma_buf(raw: &Raw, files: &[OwnedFd]) {
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let (len_bytes, used_bytes) = (BLOCK_BYTES, BLOCK_BYTES);
    let opened = OpenedDmaBuf { buffer: 3, len_bytes, offset_bytes: 0, used_bytes };
    raw.send_with(asked(raw), &Message::OpenedDmaBuf(opened), &files).unwrap();
    raw.read_to_the_end();
}

/// Why the memory was not mapped.
fn fault(mem: &Runtime, importer: &Importer) -> ShareFault {
    match importer.open::<u32>(mem, "x").unwrap_err() {
        ShareError::Memory(Error::Host(HostError::NotShared(fault))) => fault,
        other => panic!("{other:?}"),
    }
}

fn not_sealed(mem: &Runtime, importer: &Importer) {
    assert_eq!(fault(mem, importer), ShareFault::NotSealed);
}

/// Nothing more is believed.
fn broke_it(mem: &Runtime, importer: &Importer) {
    let refused = importer.open::<u32>(mem, "x").unwrap_err();
    assert!(matches!(refused, ShareError::Gone), "{refused:?}");
    assert_eq!(importer.end(), Some(Code::Protocol));
    assert!(matches!(importer.open::<u32>(mem, "x"), Err(ShareError::Gone)));
}

fn gone(error: &Error) -> bool {
    matches!(error, Error::Home { source: HomeError::Gone, .. })
}

#[test]
fn an_exporter_that_lies_is_not_believed() {
    const NAME: &str = "hostile_exporter::an_exporter_that_lies_is_not_believed";
    if let Some(socket) = part() {
        let listener = raw::listen(&socket);
        say("listening");
        for line in std::io::stdin().lines() {
            let line = line.unwrap();
            let lie = LIES.iter().find(|lie| lie.name == line).unwrap();
            (lie.tell)(&Raw::accept(&listener));
            say("told");
        }
        return;
    }
    let _alone = alone();
    let socket = socket_path(NAME);
    let mut other = Other::start(NAME, &socket);
    other.expect("listening");
    let mem = runtime();
    let before = descriptors();
    for lie in LIES {
        println!("an exporter {}", lie.name);
        other.tell(lie.name);
        let importer = connect(&socket);
        (lie.meets)(&mem, &importer);
        drop(importer);
        other.expect("told");
        until("its descriptors are closed", || descriptors() == before);
    }
    other.join();
    std::fs::remove_file(socket).unwrap();
}

fn connect(socket: &Path) -> Importer {
    let options = ImporterOptions { deadline: Duration::from_millis(300) };
    Importer::connect(socket, options).unwrap()
}
