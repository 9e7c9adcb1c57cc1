//! A double of the exporter: it plays the other process over the same file, in this one. The real one lives in `hmmap-share`.

use std::{
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use hmmap_core::{
    Imported, Recall, Runtime,
    home::{ForeignMemory, Grant, Home, HomeError, Keep, Recalled},
};
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, SealFlags};

use crate::stranger::Stranger;

pub(crate) const BLOCK: u64 = 2 << 20;
/// Words in a page.
pub(crate) const PAGE: usize = 65_536 / 4;

pub(crate) struct Exporter {
    pub(crate) file: OwnedFd,
    pub(crate) len_bytes: u64,
    /// Its own mapping.
    pub(crate) memory: Stranger,
    /// What was asked for and granted.
    pub(crate) asked: Mutex<Vec<(Range<usize>, Grant)>>,
    pub(crate) refuses: Mutex<Option<HomeError>>,
    /// Runs in the middle of the next grant.
    pub(crate) meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    pub(crate) closed: Mutex<Vec<Recalled>>,
    pub(crate) grants: AtomicU32,
}

pub(crate) fn file(len_bytes: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("exporter", flags).unwrap();
    rustix::fs::ftruncate(&file, len_bytes).unwrap();
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    file
}

impl Exporter {
    pub(crate) fn new(blocks: u64) -> Arc<Self> {
        let len_bytes = blocks * BLOCK;
        let file = file(len_bytes, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL);
        let memory = Stranger::map(file.as_fd(), len_bytes, true).unwrap();
        Arc::new(Self {
            file,
            len_bytes,
            memory,
            asked: Mutex::default(),
            refuses: Mutex::default(),
            meanwhile: Mutex::default(),
            closed: Mutex::default(),
            grants: AtomicU32::new(0),
        })
    }

    pub(crate) fn memory(&self, most: Grant) -> ForeignMemory {
        let fd = self.file.try_clone().unwrap();
        ForeignMemory { fd, len_bytes: self.len_bytes, most }
    }

    pub(crate) fn import(self: &Arc<Self>, mem: &Runtime, len: usize) -> Imported<u32> {
        mem.import(self.memory(Grant::Write), len, self.clone()).unwrap()
    }

    pub(crate) fn take_asked(&self) -> Vec<(Range<usize>, Grant)> {
        std::mem::take(&mut self.asked.lock())
    }
}

impl Home for Exporter {
    fn grant(&self, pages: Range<usize>, access: Grant) -> Result<(), HomeError> {
        assert!(hmmap_core::locks_held().is_none_or(|held| held == 0));
        self.grants.fetch_add(1, SeqCst);
        if let Some(error) = self.refuses.lock().clone() {
            return Err(error);
        }
        self.asked.lock().push((pages, access));
        let meanwhile = self.meanwhile.lock().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        Ok(())
    }

    fn closed(&self, recalled: &Recalled) {
        self.closed.lock().push(recalled.clone());
    }
}

/// Recalls and waits until it is done.
pub(crate) fn recall(recall: &Recall, pages: Range<usize>, keep: Keep) -> Recalled {
    let (told, done) = mpsc::channel();
    recall.recall(pages, keep, move |recalled| told.send(recalled).unwrap());
    done.recv_timeout(Duration::from_secs(60)).expect("a recall comes to an end")
}
