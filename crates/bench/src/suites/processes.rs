//! Peers in other processes: reading what another wrote, and taking it back.

use std::{
    os::fd::OwnedFd,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use hmmap::{
    SharedVec,
    core::home::{Grant, Keep},
    share::{
        Exporter, ExporterOptions, ShareError,
        wire::{self, MAX_BYTES, Message, Pages},
    },
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{GIB, MIB, PAGE_BYTES, peer::case, touched::Touched};
use crate::{
    BenchError, Case, Trial,
    bare_faults::{BareFaults, Rights},
    case::Measure,
    other_process::{NAME, Order, OtherProcess},
    session::{Session, SharedLimit},
};

pub(super) const READ_WARM: Case = case(
    "consumer-reads/1GiB",
    GIB,
    0.95,
    Measure::Time(|session, case| Ok(Box::new(Reads::new(session, case, Order::Read)?))),
);

pub(super) const READ_COLD: Case = case(
    "consumer-reads-cold/1GiB",
    GIB,
    0.95,
    Measure::Time(|session, case| Ok(Box::new(Reads::new(session, case, Order::ReadCold)?))),
);

/// At most 1.5 times the parts.
pub(super) const REVOKE: Case = case(
    "revoke-across-processes/2MiB",
    2 * MIB,
    1.0 / 1.5,
    Measure::Time(|session, case| Ok(Box::new(Revoke::new(session, case)?))),
);

/// At most 1.5 times what bare datagrams take.
pub(super) const START: Case = case(
    "start/64-processes",
    2 * MIB,
    1.0 / 1.5,
    Measure::Time(|session, case| Ok(Box::new(Start::new(session, case)?))),
);

/// Another process reads all that this one wrote, and nothing is copied. The limit is plain shared memory, read the same way.
struct Reads {
    other: OtherProcess,
    order: Order,
    _vec: SharedVec<u32>,
}

impl Reads {
    fn new(session: &mut Session, case: &Case, order: Order) -> Result<Self, BenchError> {
        let (mem, _) = session.runtime(case)?;
        let mut vec = SharedVec::shareable(&mem, case.bytes as usize / size_of::<u32>())?;
        vec.fill(1);
        let other = OtherProcess::start(case.bytes, |exporter| exporter.export(NAME, &vec))?;
        Ok(Self { other, order, _vec: vec })
    }
}

impl Trial for Reads {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let (taken, copied) = self.other.order(self.order)?;
        if copied != 0 {
            let what = "bytes that the consumer copied";
            return Err(BenchError::Unexpected { what, expected: 0, found: copied });
        }
        Ok(taken)
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        let cold = self.order == Order::ReadCold;
        let plain = if cold { Order::ReadPlainCold } else { Order::ReadPlain };
        Ok(Some(self.other.order(plain)?.0))
    }
}

/// A device takes a block that the host has mapped and another process reads; then that process reads it again, so it comes home. The limit is the sum of
/// the parts, each bare: two round trips, the block leaves the user's view, both copies, a kernel with one item.
struct Revoke {
    touched: Touched,
    other: OtherProcess,
    bytes: u64,
    view: BareFaults,
    limit: SharedLimit,
}

impl Revoke {
    fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, device) = session.runtime(case)?;
        let first = SharedVec::shareable(&mem, case.bytes as usize / size_of::<u32>())?;
        let mut touched = Touched::around(mem, device, first, PAGE_BYTES)?;
        touched.written_on_the_device()?;
        let other =
            OtherProcess::start(PAGE_BYTES, |exporter| exporter.export(NAME, touched.first()))?;
        let (bytes, view) = (case.bytes, BareFaults::new(case.bytes)?);
        Ok(Self { touched, other, bytes, view, limit: session.limit() })
    }
}

impl Trial for Revoke {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let first = &mut self.touched.vecs()[0];
        for element in (0..first.len()).step_by(PAGE_BYTES as usize / size_of::<u32>()) {
            first[element] = element as u32;
        }
        self.other.order(Order::Touch)?;
        let before = self.touched.mem().stats();
        let started = Instant::now();
        self.touched.launch()?.wait()?;
        let revoked = started.elapsed();
        let (refaulted, _) = self.other.order(Order::Touch)?;
        let stats = self.touched.mem().stats() - before;
        let found = stats.total().bytes();
        if found != 2 * self.bytes || stats.revocations != 1 {
            let (what, expected) = ("bytes copied there and back", 2 * self.bytes);
            return Err(BenchError::Unexpected { what, expected, found });
        }
        Ok(revoked + refaulted)
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        self.view.show(Rights::Write)?;
        let left = self.view.revoke()?;
        let trips = self.other.round_trip()? + self.other.round_trip()?;
        let mut limit = self.limit.borrow_mut();
        let copied = limit.to_device(self.bytes)? + limit.to_host(self.bytes)?;
        Ok(Some(trips + left + copied + limit.touch(PAGE_BYTES)?))
    }
}

/// How long it takes until the last of 64 importers of one vector has been told. They are played by hand, so that the telling alone is measured. The
/// limit is so many datagrams of the same size, sent one after the other.
struct Start {
    vec: SharedVec<u32>,
    _exporter: Exporter,
    importers: Vec<Importer>,
    bare: Vec<(OwnedFd, OwnedFd)>,
}

/// One end of a connection to the exporter, and what the buffer is called there.
struct Importer {
    socket: OwnedFd,
    buffer: u64,
}

const IMPORTERS: usize = 64;

impl Start {
    fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, _) = session.runtime(case)?;
        let vec = SharedVec::shareable(&mem, case.bytes as usize / size_of::<u32>())?;
        let exporter = Exporter::new(ExporterOptions::default())?;
        exporter.export(NAME, &vec)?;
        let connect = |_| {
            let (socket, theirs) = pair()?;
            exporter.attach(theirs)?;
            say(&socket, 0, &Message::Hello)?;
            hear(&socket)?;
            say(&socket, 1, &Message::Open { name: NAME.to_owned() })?;
            match hear(&socket)? {
                (_, Message::Opened(opened)) => Ok(Importer { socket, buffer: opened.buffer }),
                _ => Err(unexpected("buffers opened")),
            }
        };
        let importers = (0..IMPORTERS).map(connect).collect::<Result<_, BenchError>>()?;
        let bare = (0..IMPORTERS).map(|_| pair()).collect::<Result<_, _>>()?;
        Ok(Self { vec, _exporter: exporter, importers, bare })
    }

    /// Everybody reads the first page.
    fn granted(&self) -> Result<(), BenchError> {
        for Importer { socket, buffer } in &self.importers {
            let (pages, access) = (Pages { first: 0, count: 1 }, Grant::Read);
            say(socket, 2, &Message::Ask { buffer: *buffer, pages, access })?;
            match hear(socket)? {
                (2, Message::Granted) => {}
                _ => return Err(unexpected("pages granted")),
            }
        }
        Ok(())
    }
}

impl Trial for Start {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        self.granted()?;
        let (vec, importers) = (&mut self.vec, &self.importers);
        let (go, wait) = mpsc::channel();
        thread::scope(|scope| {
            let owner = scope.spawn(move || {
                let _ = wait.recv();
                vec.host_mut(..).map(drop)
            });
            let started = Instant::now();
            let _ = go.send(());
            let told = importers.iter().map(|importer| hear(&importer.socket));
            let told = told.collect::<Result<Vec<_>, _>>()?;
            let taken = started.elapsed();
            for (importer, (sequence, message)) in importers.iter().zip(told) {
                if !matches!(message, Message::Recall { .. }) {
                    return Err(unexpected("pages recalled"));
                }
                let confirmed = Message::Confirmed { dirty: Vec::new(), lost: Vec::new() };
                say(&importer.socket, sequence, &confirmed)?;
            }
            owner.join().map_err(|_| BenchError::LimitEnded)??;
            Ok(taken)
        })
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        let recall = Message::Recall {
            buffer: 0,
            pages: Pages { first: 0, count: 1 },
            keep: Keep::Nothing,
            deadline_ms: 0,
        };
        let bare = &self.bare;
        let (go, wait) = mpsc::channel();
        thread::scope(|scope| {
            let owner = scope.spawn(move || {
                let _ = wait.recv();
                bare.iter().try_for_each(|(from, _)| say(from, 0, &recall))
            });
            let started = Instant::now();
            let _ = go.send(());
            bare.iter().try_for_each(|(_, to)| hear(to).map(drop))?;
            let taken = started.elapsed();
            owner.join().map_err(|_| BenchError::LimitEnded)??;
            Ok(Some(taken))
        })
    }
}

fn unexpected(what: &'static str) -> BenchError {
    BenchError::Unexpected { what, expected: IMPORTERS as u64, found: 0 }
}

fn pair() -> Result<(OwnedFd, OwnedFd), BenchError> {
    let flags = SocketFlags::CLOEXEC;
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    Ok(pair.map_err(std::io::Error::from)?)
}

fn say(socket: &OwnedFd, sequence: u64, message: &Message) -> Result<(), BenchError> {
    let mut bytes = Vec::with_capacity(MAX_BYTES);
    wire::encode(sequence, message, &mut bytes).map_err(ShareError::from)?;
    rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL).map_err(std::io::Error::from)?;
    Ok(())
}

fn hear(socket: &OwnedFd) -> Result<(u64, Message), BenchError> {
    let mut bytes = [0; MAX_BYTES];
    let (len, _) =
        rustix::net::recv(socket, &mut bytes, RecvFlags::empty()).map_err(std::io::Error::from)?;
    Ok(wire::decode(&bytes[..len]).map_err(ShareError::from)?)
}
