//! The home's side: vectors of this process are served to others over a socket.
//!
//! ```text
//! socket  ->  serve (one thread, waits for nothing but poll)  ->  desk (decides)  ->  arbiter (who holds which page)
//!                 ^ inbox                                           |
//!                 |                                                 v
//!      link: a vector's peer  <-  revoke, from any thread      a thread for each export: brings blocks to the host, and takes pages from who is late
//! ```
//!
//! To the vector the whole of its importers is one dynamic [`Peer`](hmmap_core::peer::Peer) with a mapping for each block of 2 MiB. What its owner wants back is
//! recalled from whoever holds pages of the block; what one importer wants is recalled from the others.

mod arbiter;
#[cfg(all(test, shuttle))]
mod both_ways;
mod desk;
mod link;
mod serve;
mod served;

use std::{
    collections::VecDeque,
    fmt,
    ops::Range,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use bytemuck::Pod;
use hmmap_core::{
    Lent, Mappable, Punch, SharedVec,
    home::Grant,
    host::{DmaBuf, Sharing, dma_buf_bytes},
    peer::Revoked,
    units::PAGE_BYTES,
};
use parking_lot::Mutex;
use rustix::event::EventfdFlags;

use crate::{
    ShareError,
    socket::{self, Credentials, Socket},
    wire::{self, Code, MAX_NAME_BYTES, Message, Opened, OpenedDmaBuf},
};
use served::Served;

/// How much one importer, or all of them, may have of the exporter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// Connections at once. When there are more, the oldest that has nothing open goes.
    pub peers: usize,
    /// Buffers that one connection may have open at once.
    pub buffers: usize,
    /// Bytes of the files that one connection may have open at once.
    pub bytes: u64,
    /// Asks of one connection that may wait at once.
    pub asks: usize,
}

impl Default for Quota {
    fn default() -> Self {
        Self { peers: 64, buffers: 16, bytes: u64::MAX, asks: 64 }
    }
}

type Authorize = Box<dyn Fn(&Credentials, &str) -> bool + Send>;

/// How an [`Exporter`] serves.
pub struct ExporterOptions {
    /// How long an importer has to give back what is recalled. Three quarters of what the vector's owner gives its peers
    /// ([`hmmap_core::Options::peer_deadline`]), if that is less.
    pub deadline: Duration,
    /// How much an importer may have.
    pub quota: Quota,
    authorize: Authorize,
}

impl ExporterOptions {
    /// Whoever `authorize` is true for may open a buffer of this name; by default processes of our own user. It is called on the thread that
    /// answers everybody, so it must not wait. Where it panics, that means no.
    #[must_use]
    pub fn authorize(
        mut self,
        authorize: impl Fn(&Credentials, &str) -> bool + Send + 'static,
    ) -> Self {
        self.authorize = Box::new(authorize);
        self
    }
}

impl Default for ExporterOptions {
    fn default() -> Self {
        let user = rustix::process::geteuid().as_raw();
        Self {
            deadline: Duration::from_millis(500),
            quota: Quota::default(),
            authorize: Box::new(move |credentials, _| credentials.user == user),
        }
    }
}

/// What became of an importer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExportEvent {
    /// It is connected no more.
    Left {
        /// Who it was.
        credentials: Credentials,
        /// [`Code::Done`] when it left or died; else why it was cut off.
        code: Code,
    },
    /// It may have written these pages where they did not come home. The vector holds what came home before.
    Lost {
        /// The buffer's name.
        name: String,
        /// Which pages of it (64 KiB each).
        pages: Vec<Range<u64>>,
    },
}

/// Serves shareable vectors to other processes. Dropping it takes everything back.
pub struct Exporter {
    inbox: Arc<Inbox>,
    events: Arc<Mutex<Vec<ExportEvent>>>,
    thread: Option<JoinHandle<()>>,
}

/// What other threads have for the one that serves.
pub(crate) enum Note {
    Attach(Socket),
    Export(Box<Offer>, mpsc::Sender<bool>),
    Withdraw(String, mpsc::Sender<bool>),
    Mapped { export: usize, block: u64, outcome: Result<(), Code> },
    Revoked { export: usize, revoked: Revoked },
    CutOff { holder: arbiter::Holder },
    Stop,
}

/// A vector, or a dma-buf, to be served.
pub(crate) struct Offer {
    name: String,
    served: Served,
    fd: OwnedFd,
    /// `None` of a dma-buf. With the way to cut writers off, where there may be some.
    memory: Option<(Mappable, Option<Punch>)>,
}

/// The way to the thread that serves.
pub(crate) struct Inbox {
    /// `None` when nobody serves any more.
    notes: Mutex<Option<VecDeque<Note>>>,
    bell: OwnedFd,
}

impl Inbox {
    fn new() -> Result<Self, ShareError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let notes = Mutex::new(Some(VecDeque::with_capacity(256)));
        Ok(Self { notes, bell: rustix::event::eventfd(0, flags)? })
    }

    /// May be called on a thread that answers page faults: it takes a lock that is held for a push or a swap alone.
    pub(crate) fn push(&self, note: Note) {
        match (&mut *self.notes.lock(), note) {
            (Some(notes), note) => notes.push_back(note),
            (None, Note::Revoked { revoked, .. }) => revoked.confirm(),
            (None, _) => {}
        }
        // A bell that cannot ring any louder has rung.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    fn take(&self) -> VecDeque<Note> {
        self.notes.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn close(&self) {
        let left = self.notes.lock().take();
        for note in left.into_iter().flatten() {
            self.push(note);
        }
    }
}

impl Exporter {
    /// Serves whoever connects to a socket at `path`, which must not be there yet.
    ///
    /// # Errors
    /// [`ShareError::System`]: no socket can be had there, no thread, no descriptor.
    pub fn bind(path: impl AsRef<Path>, options: ExporterOptions) -> Result<Self, ShareError> {
        Self::start(Some(socket::listen(path.as_ref())?), options)
    }

    /// Serves the connections that it is handed with [`Exporter::attach`].
    ///
    /// # Errors
    /// As [`Exporter::bind`].
    pub fn new(options: ExporterOptions) -> Result<Self, ShareError> {
        Self::start(None, options)
    }

    fn start(listener: Option<OwnedFd>, options: ExporterOptions) -> Result<Self, ShareError> {
        let (inbox, events) = (Arc::new(Inbox::new()?), Arc::default());
        let server = serve::Server::new(listener, options, Arc::clone(&inbox), Arc::clone(&events));
        let thread = thread::Builder::new().name("hmmap export".to_owned());
        let left = Arc::clone(&inbox);
        let thread = thread.spawn(move || {
            // A panic here would be a defect. Whoever waits for a block is told then, and nobody is served.
            let _ = catch_unwind(AssertUnwindSafe(|| server.run()));
            left.close();
        });
        let thread = thread.map_err(|error| ShareError::of_io(&error))?;
        Ok(Self { inbox, events, thread: Some(thread) })
    }

    /// Serves one more connection: a connected SEQPACKET socket.
    ///
    /// # Errors
    /// [`ShareError::System`]: it is no such socket.
    pub fn attach(&self, socket: OwnedFd) -> Result<(), ShareError> {
        self.inbox.push(Note::Attach(Socket::of(socket)?));
        Ok(())
    }

    /// Serves a vector of [`SharedVec::shareable`] to be read. It stays its owner's: writing it, on the host or with a kernel, takes back what is
    /// written. The seals of its file say to everybody that it cannot be written elsewhere.
    ///
    /// Write it with kernels, or by index where writes fault ([`hmmap_core::Runtime::host_faults`]). What [`SharedVec::host_mut`] gives is written unseen: an importer
    /// that asks for a page meanwhile has it half done, and keeps that until the page is written again.
    ///
    /// # Errors
    /// [`ShareError::Memory`]: it is not shareable, or was shared to be written. [`ShareError::Name`]: empty, too long, or taken.
    pub fn export<T: Pod>(&self, name: &str, vec: &SharedVec<T>) -> Result<(), ShareError> {
        let memory = vec.share_memory(Sharing::Read)?;
        self.offer_vector(name, memory.fd.try_clone_to_owned(), Grant::Read, vec.mappable(), None)
    }

    /// Serves a lent vector to be written: one importer at a time has a page to write, or many to read. What an importer has on its devices comes home when another
    /// asks for it, or when the vector is taken back.
    ///
    /// # Errors
    /// As [`Exporter::export`].
    pub fn export_lent<T: Pod>(&self, name: &str, vec: &Lent<T>) -> Result<(), ShareError> {
        let memory = vec.share_memory(Sharing::Write)?;
        let fd = memory.fd.try_clone_to_owned();
        self.offer_vector(name, fd, Grant::Write, vec.mappable(), Some(vec.punch()))
    }

    /// Serves a dma-buf, host pages of a lent vector's or a device's memory: whoever opens it may read and write it, and has it for good, since the kernel takes back none. What
    /// keeps its users apart are the kernel's fences, which are in the dma-buf itself ([`hmmap_core::host::add_fence`], [`hmmap_core::host::HostAccess`]).
    ///
    /// It is kept until [`Exporter::withdraw`], whatever becomes of the vector. Where the kernel makes none, [`hmmap_core::Lent::dma_buf`] has said so before.
    ///
    /// # Errors
    /// [`ShareError::Name`]; [`ShareError::NotDmaBuf`]; [`ShareError::Wire`]: the vector is not inside of it.
    pub fn export_dma_buf<'fd>(
        &self,
        name: &str,
        buffer: impl Into<DmaBuf<'fd>>,
    ) -> Result<(), ShareError> {
        let DmaBuf { fd, offset_bytes, used_bytes } = buffer.into();
        let len_bytes = dma_buf_bytes(fd).map_err(|source| ShareError::NotDmaBuf { source })?;
        let opened = OpenedDmaBuf { buffer: 0, len_bytes, offset_bytes, used_bytes };
        wire::encode(0, &Message::OpenedDmaBuf(opened), &mut Vec::new())?;
        let fd = fd.try_clone_to_owned().map_err(|error| ShareError::of_io(&error))?;
        self.offer(name, Served::DmaBuf(opened), fd, None)
    }

    fn offer_vector(
        &self,
        name: &str,
        fd: std::io::Result<OwnedFd>,
        most: Grant,
        mappable: Mappable,
        punch: Option<Punch>,
    ) -> Result<(), ShareError> {
        let fd = fd.map_err(|error| ShareError::of_io(&error))?;
        let len_bytes = rustix::fs::fstat(&fd)?.st_size as u64;
        let seals = rustix::fs::fcntl_get_seals(&fd)?.bits();
        let used_bytes = mappable.len_bytes();
        let page_bytes = PAGE_BYTES as u32;
        let opened = Opened { buffer: 0, len_bytes, used_bytes, page_bytes, seals, most };
        self.offer(name, Served::Vector(opened), fd, Some((mappable, punch)))
    }

    fn offer(
        &self,
        name: &str,
        served: Served,
        fd: OwnedFd,
        memory: Option<(Mappable, Option<Punch>)>,
    ) -> Result<(), ShareError> {
        let wrong = |reason| ShareError::Name { name: name.to_owned(), reason };
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(wrong("it has no bytes, or more than 255"));
        }
        let offer = Box::new(Offer { name: name.to_owned(), served, fd, memory });
        let (told, answer) = mpsc::channel();
        self.inbox.push(Note::Export(offer, told));
        match answer.recv() {
            Ok(true) => Ok(()),
            Ok(false) => Err(wrong("a buffer of this name is being served")),
            Err(_) => Err(ShareError::Gone),
        }
    }

    /// Ends an export: importers give everything back, in their time, and get no more. False when there is none of this name.
    pub fn withdraw(&self, name: &str) -> bool {
        let (told, answer) = mpsc::channel();
        self.inbox.push(Note::Withdraw(name.to_owned(), told));
        answer.recv().unwrap_or(false)
    }

    /// What happened since the last call, in order. The first thousand are kept until somebody asks.
    pub fn take_events(&self) -> Vec<ExportEvent> {
        std::mem::take(&mut self.events.lock())
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.inbox.push(Note::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

impl fmt::Debug for ExporterOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExporterOptions")
            .field("deadline", &self.deadline)
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}
