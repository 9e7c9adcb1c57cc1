//! The other side: vectors of another process are used here.
//!
//! One thread reads the socket and waits for nothing else: answers wake whoever asked, recalls go to the import's own thread ([`hmmap_core::Recall`]). Everybody
//! who asks sends his question himself and waits for its answer, up to a deadline. That is done on threads that answer page faults too, so it takes no memory: the places
//! for answers are there from the start.

mod dma_buf;
mod link;
mod session;

use std::{
    fmt,
    ops::Range,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use bytemuck::Pod;
use hmmap_core::{
    Imported, Runtime,
    home::{ForeignMemory, Grant, Home, HomeError, Recalled},
};

use crate::{
    ShareError,
    socket::Socket,
    wire::{Code, Message, Opened, Pages},
};
pub use dma_buf::ImportedDmaBuf;
use link::Link;
use session::Answer;

/// How an [`Importer`] asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImporterOptions {
    /// How long an answer may take. The exporter's own deadline for those who hold what is asked for has to fit in it.
    pub deadline: Duration,
}

impl Default for ImporterOptions {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(5) }
    }
}

/// A connection to an exporter. Imports keep it alive.
pub struct Importer {
    link: Arc<Link>,
    reader: Option<JoinHandle<()>>,
}

/// The home of an imported vector: the other end of the connection.
struct Remote {
    link: Arc<Link>,
    buffer: u64,
}

impl Importer {
    /// Connects to an exporter's socket.
    ///
    /// # Errors
    /// [`ShareError::System`]: nobody is there, or no thread can be had.
    pub fn connect(path: impl AsRef<Path>, options: ImporterOptions) -> Result<Self, ShareError> {
        Self::start(Socket::connect(path.as_ref())?, options)
    }

    /// Over a connected SEQPACKET socket.
    ///
    /// # Errors
    /// As [`Importer::connect`].
    pub fn over(socket: OwnedFd, options: ImporterOptions) -> Result<Self, ShareError> {
        Self::start(Socket::of(socket)?, options)
    }

    fn start(socket: Socket, options: ImporterOptions) -> Result<Self, ShareError> {
        let link = Arc::new(Link::new(socket, options.deadline)?);
        let reading = Arc::clone(&link);
        let reader = thread::Builder::new().name("hmmap import".to_owned());
        let reader = reader.spawn(move || {
            // A subscriber's panic ends the connection, and nobody waits for it.
            if catch_unwind(AssertUnwindSafe(|| Arc::clone(&reading).read())).is_err() {
                reading.fail();
            }
        });
        let reader = reader.map_err(|error| ShareError::of_io(&error))?;
        Ok(Self { link, reader: Some(reader) })
    }

    /// Opens a vector of the exporter's by its name. None of its pages is here yet; each is asked for when it is first used.
    ///
    /// # Errors
    /// [`ShareError::Refused`] with the exporter's reason; [`ShareError::Late`], [`ShareError::Gone`]; [`ShareError::Length`] when the vector is not whole
    /// elements; [`ShareError::Memory`] when its file is not what was said or cannot be mapped.
    pub fn open<T: Pod>(&self, mem: &Runtime, name: &str) -> Result<Imported<T>, ShareError> {
        let question = Message::Open { name: name.to_owned() };
        let (answer, fd) = self.link.ask(&question)?;
        let opened = match answer {
            Answer::Opened(opened) => opened,
            Answer::Refused(code) => return Err(ShareError::Refused { code }),
            Answer::Granted | Answer::OpenedDmaBuf(_) => return Err(ShareError::Gone),
        };
        let Some(fd) = fd else { return Err(ShareError::Gone) };
        let imported = self.import(mem, opened, fd);
        if imported.is_err() {
            self.link.release(opened.buffer, &[]);
        }
        imported
    }

    fn import<T: Pod>(
        &self,
        mem: &Runtime,
        opened: Opened,
        fd: OwnedFd,
    ) -> Result<Imported<T>, ShareError> {
        let Opened { buffer, len_bytes, used_bytes, most, .. } = opened;
        let element_bytes = size_of::<T>() as u64;
        if element_bytes == 0 || !used_bytes.is_multiple_of(element_bytes) {
            return Err(ShareError::Length { used_bytes, element_bytes });
        }
        let len = (used_bytes / element_bytes) as usize;
        let memory = ForeignMemory { fd, len_bytes, most };
        let home = Arc::new(Remote { link: Arc::clone(&self.link), buffer });
        let imported = mem.import(memory, len, home)?;
        self.link.serve(buffer, imported.recall());
        Ok(imported)
    }

    /// Opens the dma-buf that is served under this name. It is here for good, and for reading and writing: nothing of it is asked for or recalled. The connection may end.
    ///
    /// # Errors
    /// [`ShareError::Refused`] with the exporter's reason, [`Code::Otherwise`] where a vector is served under it; [`ShareError::Late`], [`ShareError::Gone`];
    /// [`ShareError::NotDmaBuf`], [`ShareError::ShortDmaBuf`] when what came is not what was said.
    pub fn open_dma_buf(&self, name: &str) -> Result<ImportedDmaBuf, ShareError> {
        let (answer, fd) = self.link.ask(&Message::OpenDmaBuf { name: name.to_owned() })?;
        match (answer, fd) {
            (Answer::OpenedDmaBuf(opened), Some(fd)) => ImportedDmaBuf::new(&self.link, opened, fd),
            (Answer::Refused(code), _) => Err(ShareError::Refused { code }),
            _ => Err(ShareError::Gone),
        }
    }

    /// Why the connection is over, if it is: pages that are here stay, and no others come.
    pub fn end(&self) -> Option<Code> {
        self.link.end()
    }
}

impl Drop for Importer {
    /// The connection stays while vectors of it do.
    fn drop(&mut self) {
        if self.link.abandon() {
            let _ = self.reader.take().map(JoinHandle::join);
        }
    }
}

impl Home for Remote {
    fn grant(&self, pages: Range<usize>, access: Grant) -> Result<(), HomeError> {
        let pages = Pages::of(&(pages.start as u64..pages.end as u64));
        let question = Message::Ask { buffer: self.buffer, pages, access };
        match self.link.ask(&question) {
            Ok((Answer::Granted, _)) => Ok(()),
            Ok((Answer::Refused(Code::ReadOnly), _)) => Err(HomeError::ReadOnly),
            Ok((Answer::Refused(code), _)) => {
                Err(HomeError::Refused { reason: code.meaning().into() })
            }
            Err(ShareError::Late { waited }) => Err(HomeError::TimedOut { waited }),
            Ok(_) | Err(_) => Err(HomeError::Gone),
        }
    }

    fn closed(&self, recalled: &Recalled) {
        self.link.release(self.buffer, &recalled.lost);
    }
}

impl fmt::Debug for Importer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Importer").field("end", &self.end()).finish_non_exhaustive()
    }
}
