//! One served vector: the peer that it sees, and the thread that waits in its stead.

use std::{
    collections::HashMap,
    ops::Range,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
};

use hmmap_core::{
    Error, Mappable, Punch,
    peer::{Peer, PeerError, PeerMapping, Place, Reach, Revoked},
    units::BLOCK_BYTES,
};

use super::{Inbox, Note, Offer, arbiter::Holder};
use crate::wire::Code;

/// What may take long.
enum Job {
    Map { block: u64 },
    Unmap { block: u64 },
    CutOff { holder: Holder, pages: Vec<Range<u64>> },
    Stop,
}

/// A served vector, as the thread that serves has it.
pub(super) struct Link {
    pub(super) name: String,
    pub(super) fd: OwnedFd,
    /// Writers can be cut off.
    pub(super) is_lent: bool,
    /// `None` of a dma-buf, whose pages nobody moves.
    mappable: Option<Mappable>,
    /// What its owner waits for, by block.
    revoked: HashMap<u64, Vec<Revoked>>,
    jobs: Sender<Job>,
    worker: Option<JoinHandle<()>>,
}

/// All importers of one vector.
struct Importers {
    name: String,
    export: usize,
    inbox: Arc<Inbox>,
}

impl Peer for Importers {
    fn name(&self) -> &str {
        &self.name
    }

    /// The file that they map is host memory.
    fn reach(&self, place: &Place<'_>) -> Reach {
        if place.device.is_none() {
            return Reach::Hops(1);
        }
        Reach::No { reason: "other processes map the vector's host memory".to_owned() }
    }

    fn revoke(&self, revoked: Revoked) {
        self.inbox.push(Note::Revoked { export: self.export, revoked });
    }
}

struct Worker {
    mappable: Mappable,
    punch: Option<Punch>,
    importers: Arc<Importers>,
    mappings: HashMap<u64, PeerMapping>,
}

impl Link {
    pub(super) fn new(offer: Offer, export: usize, inbox: &Arc<Inbox>) -> std::io::Result<Self> {
        let Offer { name, fd, memory, .. } = offer;
        let revoked = HashMap::new();
        let (jobs, taken) = mpsc::channel();
        let Some((mappable, punch)) = memory else {
            // Nobody ever has a job for it.
            let (is_lent, mappable, worker) = (false, None, None);
            return Ok(Self { name, fd, is_lent, mappable, revoked, jobs, worker });
        };
        let is_lent = punch.is_some();
        let importers =
            Importers { name: format!("importers of {name}"), export, inbox: Arc::clone(inbox) };
        let importers = Arc::new(importers);
        let known = mappable.clone();
        let worker = Worker { mappable, punch, importers, mappings: HashMap::new() };
        let thread = thread::Builder::new().name("hmmap link".to_owned());
        let thread = thread.spawn(move || worker.run(&taken))?;
        let (mappable, worker) = (Some(known), Some(thread));
        Ok(Self { name, fd, is_lent, mappable, revoked, jobs, worker })
    }

    pub(super) fn vector_is_gone(&self) -> bool {
        self.mappable.as_ref().is_some_and(Mappable::is_gone)
    }

    /// Nothing of it is used any more. Its thread ends when it has done what it was told, and is not waited for.
    pub(super) fn end(mut self) {
        let _ = self.jobs.send(Job::Stop);
        self.worker = None;
    }

    pub(super) fn map(&self, block: u64) {
        let _ = self.jobs.send(Job::Map { block });
    }

    pub(super) fn cut_off(&self, holder: Holder, pages: Vec<Range<u64>>) {
        let _ = self.jobs.send(Job::CutOff { holder, pages });
    }

    /// The block that the owner wants with this.
    pub(super) fn revoke(&mut self, revoked: Revoked) -> u64 {
        let bytes = revoked.bytes();
        let block = bytes.start / BLOCK_BYTES;
        self.revoked.entry(block).or_default().push(revoked);
        block
    }

    /// Nobody uses the block any more: whoever waits is told, and else its mapping ends.
    pub(super) fn give_back(&mut self, block: u64) {
        match self.revoked.remove(&block) {
            Some(waiting) => waiting.iter().for_each(Revoked::confirm),
            None => {
                let _ = self.jobs.send(Job::Unmap { block });
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for waiting in self.revoked.values() {
            waiting.iter().for_each(Revoked::confirm);
        }
        let _ = self.jobs.send(Job::Stop);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

impl Worker {
    fn run(mut self, jobs: &Receiver<Job>) {
        let export = self.importers.export;
        let inbox = Arc::clone(&self.importers.inbox);
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Map { block } => {
                    // Whatever panics, a subscriber perhaps: who asked is answered.
                    let mapped = catch_unwind(AssertUnwindSafe(|| self.map(block)));
                    let outcome = mapped.unwrap_or(Err(Code::Failed));
                    inbox.push(Note::Mapped { export, block, outcome });
                }
                Job::Unmap { block } => drop(self.mappings.remove(&block)),
                Job::CutOff { holder, pages } => {
                    for run in pages {
                        let _ = catch_unwind(AssertUnwindSafe(|| self.punch(run)));
                    }
                    inbox.push(Note::CutOff { holder });
                }
                Job::Stop => return,
            }
        }
    }

    fn map(&mut self, block: u64) -> Result<(), Code> {
        let len_bytes = self.mappable.len_bytes();
        let bytes =
            (block * BLOCK_BYTES).min(len_bytes)..((block + 1) * BLOCK_BYTES).min(len_bytes);
        if bytes.is_empty() {
            // Of the file, but not of the vector: nothing there can move.
            return Ok(());
        }
        let mapped = match self.mappings.get(&block) {
            Some(mapping) => mapping.segments().map(drop),
            None => {
                let peer: Arc<dyn Peer> = self.importers.clone();
                let mapped = self.mappable.map_peer(peer, bytes);
                mapped.map(|mapping| drop(self.mappings.insert(block, mapping)))
            }
        };
        mapped.map_err(|error| {
            let code = match &error {
                Error::Peer { source: PeerError::Released, .. } => Code::Unknown,
                _ => Code::Failed,
            };
            tracing::warn!(name = self.importers.name, block, %error, "a block cannot be served");
            code
        })
    }

    /// What cannot be taken from a mapping stays there: whoever has the file can see it, in any case.
    fn punch(&self, pages: Range<u64>) {
        let Some(punch) = &self.punch else { return };
        if let Err(error) = punch.punch(pages.start as usize..pages.end as usize) {
            tracing::warn!(name = self.importers.name, %error, "pages stay in the mapping of a process that was cut off");
        }
    }
}
