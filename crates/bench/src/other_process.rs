//! A second process, for what is measured across processes: this program again, as an importer that does what it is told.
//!
//! ```text
//! parent                                   child (the same program, started with HMMAP_BENCH_OTHER)
//! Exporter on socket 1              <----  Importer
//! one byte on socket 2: a command   ---->  does it, and answers with how long it took and how many bytes it copied
//! ```

use std::{
    env,
    hint::black_box,
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use hmmap::{
    Choice, Hmmap, Imported,
    share::{Exporter, ExporterOptions, Importer, ImporterOptions, ShareError},
};

use crate::{BenchError, host_memory::Mapping};

const OTHER: &str = "HMMAP_BENCH_OTHER";
/// How long the other process has for anything.
const DEADLINE: Duration = Duration::from_secs(60);
/// This program can be started again as the other process: its `main` has asked whether it is.
static IS_PLAYED: AtomicBool = AtomicBool::new(false);
/// What the exporter serves.
pub(crate) const NAME: &str = "bench";

/// What the other process is told to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Order {
    /// Answer, and nothing else.
    Echo,
    /// Read the first element.
    Touch,
    /// Read all of it, which is here.
    Read,
    /// The same of a plain mapping.
    ReadPlain,
    /// Open it, and read all of it.
    ReadCold,
    /// Map plain shared memory, and read all of it.
    ReadPlainCold,
}

const ORDERS: [Order; 6] = [
    Order::Echo,
    Order::Touch,
    Order::Read,
    Order::ReadPlain,
    Order::ReadCold,
    Order::ReadPlainCold,
];

/// The other process, and the exporter that serves it.
#[derive(Debug)]
pub(crate) struct OtherProcess {
    _exporter: Exporter,
    socket: PathBuf,
    orders: UnixStream,
    child: Child,
}

impl OtherProcess {
    /// Starts it, for memory of so many bytes. `export` serves the vector as [`NAME`].
    pub(crate) fn start(
        bytes: u64,
        export: impl FnOnce(&Exporter) -> Result<(), ShareError>,
    ) -> Result<Self, BenchError> {
        if !IS_PLAYED.load(Relaxed) {
            let reason = "this program cannot be started as the other process";
            return Err(BenchError::DoesNotApply(reason.to_owned()));
        }
        let socket = env::temp_dir().join(format!("hmmap-bench-{}", std::process::id()));
        let orders = socket.with_extension("orders");
        for left in [&socket, &orders] {
            let _ = std::fs::remove_file(left);
        }
        let exporter = Exporter::bind(&socket, ExporterOptions::default())?;
        export(&exporter)?;
        let listener = UnixListener::bind(&orders)?;
        let child = Command::new(env::current_exe()?)
            .env(OTHER, &socket)
            .env("HMMAP_BENCH_OTHER_BYTES", bytes.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let (orders, child) = accept(&listener, child)?;
        orders.set_read_timeout(Some(DEADLINE))?;
        Ok(Self { _exporter: exporter, socket, orders, child })
    }

    /// Has it do something: how long it took there, and how many bytes it copied.
    pub(crate) fn order(&mut self, order: Order) -> Result<(Duration, u64), BenchError> {
        self.orders.write_all(&[order as u8])?;
        let mut answer = [0; 16];
        self.orders.read_exact(&mut answer)?;
        let (ns, bytes) = answer.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
        Ok((Duration::from_nanos(number(ns)), number(bytes)))
    }

    /// There and back, with nothing done.
    pub(crate) fn round_trip(&mut self) -> Result<Duration, BenchError> {
        let started = Instant::now();
        self.order(Order::Echo)?;
        Ok(started.elapsed())
    }
}

/// Waits for the child to connect, unless it ends first.
fn accept(listener: &UnixListener, mut child: Child) -> io::Result<(UnixStream, Child)> {
    let until = Instant::now() + DEADLINE;
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((connected, _)) => {
                connected.set_nonblocking(false)?;
                return Ok((connected, child));
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(error) if Instant::now() > until || child.try_wait()?.is_some() => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
        let _ = std::fs::remove_file(self.socket.with_extension("orders"));
    }
}

/// Plays the other process, if that is what this program was started for: for the first line of `main`. True when it did, and all is over.
///
/// # Errors
/// Whatever the library or the system answers.
pub fn play_other_process() -> Result<bool, BenchError> {
    let Some(socket) = env::var_os(OTHER).map(PathBuf::from) else {
        IS_PLAYED.store(true, Relaxed);
        return Ok(false);
    };
    let bytes = env::var("HMMAP_BENCH_OTHER_BYTES").ok().and_then(|bytes| bytes.parse().ok());
    let mut part = Part::new(&socket, bytes.unwrap_or_default())?;
    let mut orders = UnixStream::connect(socket.with_extension("orders"))?;
    let mut order = [0];
    while orders.read_exact(&mut order).is_ok() {
        let order = ORDERS.get(usize::from(order[0])).copied();
        let order = order.ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
        let (taken, copied) = part.obey(order)?;
        let ns = u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX);
        orders.write_all(&[ns.to_le_bytes(), copied.to_le_bytes()].concat())?;
    }
    Ok(true)
}

struct Part {
    mem: Hmmap,
    importer: Importer,
    vec: Option<Imported<u32>>,
    plain: Mapping,
}

impl Part {
    fn new(socket: &Path, bytes: u64) -> Result<Self, BenchError> {
        let mem = Hmmap::builder().devices(Choice::Embedded).build()?;
        let importer = Importer::connect(socket, ImporterOptions::default())?;
        let vec = Some(importer.open(&mem, NAME)?);
        let mut plain = Mapping::shared(bytes)?;
        plain.bytes_mut().fill(1);
        Ok(Self { mem, importer, vec, plain })
    }

    fn obey(&mut self, order: Order) -> Result<(Duration, u64), BenchError> {
        let before = self.mem.stats();
        if order == Order::ReadCold {
            self.vec = None;
        }
        let started = Instant::now();
        match order {
            Order::Echo => {}
            Order::Touch => drop(black_box(self.vec()?.load(0)?)),
            Order::Read | Order::ReadCold => drop(black_box(read(self.vec()?)?)),
            Order::ReadPlain => drop(black_box(sum(bytemuck::cast_slice(self.plain.bytes())))),
            Order::ReadPlainCold => drop(black_box(self.plain.read_again(sum)?)),
        }
        let taken = started.elapsed();
        Ok((taken, (self.mem.stats() - before).total().bytes()))
    }

    fn vec(&mut self) -> Result<&Imported<u32>, BenchError> {
        if self.vec.is_none() {
            self.vec = Some(self.importer.open(&self.mem, NAME)?);
        }
        self.vec.as_ref().ok_or(BenchError::LimitEnded)
    }
}

/// In place, as plain memory is read.
fn read(vec: &Imported<u32>) -> Result<u64, BenchError> {
    // SAFETY: the other process writes nothing while it waits for the answer to an order.
    let elements = unsafe { vec.slice(..)? };
    Ok(sum(elements))
}

fn sum(elements: &[u32]) -> u64 {
    elements.iter().map(|element| u64::from(*element)).sum()
}
