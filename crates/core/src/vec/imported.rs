//! [`Imported`]: a vector in another process's memory.
#![allow(
    unsafe_code,
    reason = "a slice of memory that others may write is the caller's to vouch for"
)]

use std::{
    fmt,
    ops::{Range, RangeBounds},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Weak,
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
};

use bytemuck::Pod;

use super::{Buffer, Read, SharedVec, Update, Write};
use crate::{
    access::Access,
    directory::{PageSpan, Residency},
    error::Error,
    home::{ForeignMemory, Grants, Home, Keep, Recalled, Recalling},
    host::{HostError, MemoryFile, ShareFault},
    runtime::{Inner, Runtime},
    sync::about_to_run_user_code,
};

/// A vector in memory of another process, its [`Home`], which grants and recalls its pages. Kernels use it like any other vector. The host copies
/// elements in and out: it gets no slices, because a `&[T]` promises what only the other process could keep ([`Imported::slice`] is for those
/// who know that it does).
///
/// Dropping it waits for our own work on it, brings home what was written, and tells the home. Forgetting it leaves it as it is: it is recalled like any
/// other.
pub struct Imported<T: Pod> {
    pub(super) vec: SharedVec<T>,
    home: Arc<dyn Home>,
    recall: Recall,
    worker: Option<JoinHandle<()>>,
}

/// The way for the home's wishes, on whichever thread they arrive.
#[derive(Clone)]
pub struct Recall {
    buffer: Weak<Buffer>,
    jobs: Sender<Job>,
}

struct Job {
    recall: Recalling,
    done: Done,
    is_last: IsLast,
}

type Done = Box<dyn FnOnce(Recalled) + Send>;

/// Whether a recall ends the import.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IsLast {
    Yes,
    No,
}

impl Recall {
    /// Takes pages back: `done` is called when nothing of this process uses them beyond `keep` any more and what was written is in the file. Waits for
    /// nothing here; `done` runs on a thread of the import's own, which serves one recall after the other, or at once when the vector is gone.
    /// Pages beyond the end are nobody's.
    pub fn recall(
        &self,
        pages: Range<usize>,
        keep: Keep,
        done: impl FnOnce(Recalled) + Send + 'static,
    ) {
        if let Err(done) = self.send(pages, keep, Box::new(done), IsLast::No) {
            tell(done, Recalled::default());
        }
    }

    /// Hands a recall to the thread, under the lock under which it begins: what follows the last one finds the vector closed. Without a thread that takes it,
    /// `done` comes back.
    fn send(
        &self,
        pages: Range<usize>,
        keep: Keep,
        done: Done,
        is_last: IsLast,
    ) -> Result<(), Done> {
        let Some(buffer) = self.buffer.upgrade() else { return Err(done) };
        let all = buffer.all();
        let first = (pages.start as u64).min(all.end);
        let span = PageSpan { first, end: (pages.end as u64).clamp(first, all.end) };
        let mut state = buffer.state.lock();
        let Some(grants) = state.grants.as_deref_mut().filter(|grants| !grants.is_closed()) else {
            return Err(done);
        };
        let recall = grants.start_recall(span, keep);
        if is_last == IsLast::Yes {
            grants.close();
        }
        self.jobs.send(Job { recall, done, is_last }).map_err(|unsent| unsent.0.done)
    }
}

/// Its panic hook has said so; there is nobody to tell.
fn tell(done: Done, recalled: Recalled) {
    about_to_run_user_code();
    let _ = catch_unwind(AssertUnwindSafe(|| done(recalled)));
}

/// Serves recalls in order of arrival.
fn serve(inner: &Arc<Inner>, buffer: &Arc<Buffer>, jobs: &Receiver<Job>) {
    while let Ok(Job { recall, done, is_last }) = jobs.recv() {
        tell(done, inner.answer_recall(buffer, &recall));
        // The answer does not wait for a subscriber, and is given whatever that does.
        let _ = catch_unwind(AssertUnwindSafe(|| inner.tell_losses()));
        if is_last == IsLast::Yes {
            return;
        }
    }
}

impl Runtime {
    /// A vector of `len` elements over another process's memory, from its first byte on. No page is granted yet; each is asked for when it is first used.
    ///
    /// # Errors
    /// [`Error::Host`] with [`HostError::NotShared`]: [`ShareFault::NotSealed`], [`ShareFault::WrongSize`], [`ShareFault::TooShort`], or what the
    /// system refused. Nothing is mapped then, and the file is closed.
    pub fn import<T: Pod>(
        &self,
        memory: ForeignMemory,
        len: usize,
        home: Arc<dyn Home>,
    ) -> Result<Imported<T>, Error> {
        let most = memory.most;
        let file = MemoryFile::adopt(memory).map_err(HostError::NotShared)?;
        let element_bytes = SharedVec::<T>::ELEMENT_BYTES;
        let bytes = len.checked_mul(element_bytes);
        let asked_bytes = bytes.ok_or(Error::LengthOverflow { len, element_bytes })? as u64;
        if asked_bytes > file.len_bytes() {
            let file_bytes = file.len_bytes();
            let fault = ShareFault::TooShort { asked_bytes, file_bytes };
            return Err(HostError::NotShared(fault).into());
        }
        let taken = self.inner().take_file_span(&file)?;
        let vec = SharedVec::<T>::over(self, len, taken, Some(file))?;
        let buffer = vec.buffer.clone();
        let grants = Grants::new(home.clone(), most, buffer.pages());
        buffer.state.lock().grants = Some(Box::new(grants));
        let (jobs, served) = mpsc::channel();
        let recall = Recall { buffer: Arc::downgrade(&buffer), jobs };
        let inner = self.inner().clone();
        let worker = thread::Builder::new().name("hmmap recall".to_owned());
        let worker = worker.spawn(move || serve(&inner, &buffer, &served));
        let refused = |error: std::io::Error| {
            let errno = rustix::io::Errno::from_io_error(&error);
            HostError::NotShared(ShareFault::Refused(errno.unwrap_or(rustix::io::Errno::AGAIN)))
        };
        Ok(Imported { vec, home, recall, worker: Some(worker.map_err(refused)?) })
    }
}

impl<T: Pod> Imported<T> {
    /// How many elements.
    pub fn len(&self) -> usize {
        self.vec.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.vec.is_empty()
    }

    /// The runtime that it belongs to.
    pub fn runtime(&self) -> &Runtime {
        self.vec.runtime()
    }

    /// The way for the home's recalls.
    pub fn recall(&self) -> Recall {
        self.recall.clone()
    }

    /// As a kernel argument that is only read.
    pub fn read(&self) -> Read<'_, T> {
        self.vec.read()
    }

    /// As a kernel argument that is read and written.
    pub fn update(&mut self) -> Update<'_, T> {
        self.vec.update()
    }

    /// As a kernel argument that is overwritten whole.
    pub fn write(&mut self) -> Write<'_, T> {
        self.vec.write()
    }

    /// One element.
    ///
    /// # Errors
    /// As [`Imported::copy_to`].
    pub fn load(&self, at: usize) -> Result<T, Error> {
        let mut element = [T::zeroed()];
        self.vec.copy_out(at, &mut element)?;
        Ok(element[0])
    }

    /// Overwrites one element.
    ///
    /// # Errors
    /// As [`Imported::copy_to`].
    pub fn store(&mut self, at: usize, element: T) -> Result<(), Error> {
        self.vec.copy_in(at, &[element])
    }

    /// Copies the elements from `start` on into a slice, page by page: what is recalled in between is granted anew.
    ///
    /// # Errors
    /// [`Error::Home`]; [`Error::OutOfRange`]; what happened to the range here, as [`SharedVec::host`].
    pub fn copy_to(&self, start: usize, elements: &mut [T]) -> Result<(), Error> {
        self.vec.copy_out(start, elements)
    }

    /// Overwrites the elements from `start` on, page by page.
    ///
    /// # Errors
    /// As [`Imported::copy_to`].
    pub fn copy_from(&mut self, start: usize, elements: &[T]) -> Result<(), Error> {
        self.vec.copy_in(start, elements)
    }

    /// A range as a slice. A page that is recalled while the slice is out comes again with a touch, where touches fault
    /// ([`Runtime::host_faults`], and memory that was imported for writing); else the slice goes on showing the file's bytes.
    ///
    /// # Errors
    /// As [`Imported::copy_to`].
    ///
    /// # Safety
    /// While the slice is out, nobody writes the range: neither the home, granted or not, nor whoever it grants pages to after a recall.
    pub unsafe fn slice(&self, range: impl RangeBounds<usize>) -> Result<&[T], Error> {
        let elements = self.vec.resolve(range)?;
        self.vec.host_access(&elements, Access::Read)?;
        let first = self.vec.data.as_ptr().wrapping_add(elements.start);
        // SAFETY: (1) the elements lie in the vector's memory, which stays mapped while `self` is borrowed, and any bytes are a `T`; (2) nobody writes them: by
        // the caller's word nobody elsewhere, and here whoever does borrows the vector exclusively.
        Ok(unsafe { std::slice::from_raw_parts(first, elements.len()) })
    }

    /// Who holds the pages of a range here, without asking anybody. Pages that are not granted are empty.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn residency(&self, range: impl RangeBounds<usize>) -> Result<Vec<Residency>, Error> {
        self.vec.residency(range)
    }
}

impl<T: Pod> Drop for Imported<T> {
    fn drop(&mut self) {
        let Some(worker) = self.worker.take() else { return };
        let home = self.home.clone();
        let close = move |recalled: Recalled| home.closed(&recalled);
        let all = 0..self.vec.buffer.pages() as usize;
        if let Err(done) = self.recall.send(all, Keep::Nothing, Box::new(close), IsLast::Yes) {
            tell(done, Recalled::default());
        }
        // Dropped by what a recall calls when it is done: the thread cannot wait for itself, and ends when it gets there.
        if worker.thread().id() != thread::current().id() {
            about_to_run_user_code();
            let _ = worker.join();
        }
    }
}

impl<T: Pod> fmt::Debug for Imported<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imported").field("vec", &self.vec).finish_non_exhaustive()
    }
}

impl fmt::Debug for Recall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recall").finish_non_exhaustive()
    }
}
