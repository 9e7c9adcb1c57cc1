//! The open window: reservations, and a thread that copies in order.
#![allow(unsafe_code, reason = "copies between the arena and the window")]

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use hmmap_core::{
    backend::{
        Device, DeviceError, DeviceFacts, Direction, Exported, Handle, LaunchWork, MemoryId,
        OpenContext, Reservation, TransferWork, Window, WindowId,
    },
    embedded::Progress,
    fence::{FencePoint, FenceState, TimelineId},
    host::{HostSpan, ServiceView},
    kernel::{KernelId, ParamLayout, Source},
    p2p::{HandleKinds, Opaque},
};
use parking_lot::Mutex;

use super::{
    DRIVER, MappedWindow, Piece,
    places::{PlaceFault, Places, Region},
};

const NO_KERNELS: DeviceError =
    DeviceError::Unsupported { what: "kernels, on memory without a processor" };

/// The window is open in a runtime, until this goes.
#[derive(Debug)]
pub(super) struct Taken(pub(super) Arc<AtomicBool>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

/// A reservation as [`crate::VfioPeer`] takes it in.
#[derive(Debug)]
pub(crate) struct WindowShare {
    pub(crate) window: Arc<MappedWindow>,
    region: Region,
}

impl WindowShare {
    /// Where these bytes of the reservation are in the window; `None` when some of them are not backed.
    pub(crate) fn pieces(&self, offset_bytes: u64, len_bytes: u64) -> Option<Vec<Piece>> {
        self.region.pieces(offset_bytes, len_bytes).ok()
    }
}

/// What the thread is to do.
#[derive(Debug)]
enum Step {
    In { host: HostSpan, pieces: Vec<Piece> },
    Out { host: HostSpan, pieces: Vec<Piece> },
    Zero { pieces: Vec<Piece> },
}

/// What is handed to the thread, and how much of it there was.
#[derive(Debug)]
struct Line {
    jobs: Option<Sender<Vec<Step>>>,
    last: u64,
}

/// Dropping it waits until everything that was submitted is done.
pub(super) struct WindowDevice {
    facts: DeviceFacts,
    timeline: TimelineId,
    window: Arc<MappedWindow>,
    places: Mutex<Places>,
    line: Mutex<Line>,
    progress: Arc<Progress>,
    worker: Option<JoinHandle<()>>,
    /// The window lost what was in it. Whoever ends work looks, and ends it, under this lock: once somebody has heard that work is lost, it does not end well.
    is_lost: Arc<Mutex<bool>>,
    _taken: Taken,
}

impl WindowDevice {
    /// # Errors
    /// The system gives no thread.
    pub(super) fn open(
        facts: DeviceFacts,
        window: Arc<MappedWindow>,
        context: OpenContext,
        taken: Taken,
    ) -> Result<Self, DeviceError> {
        let (jobs, received) = channel();
        let progress = Arc::new(Progress::new());
        window.put_guard();
        let is_lost = Arc::new(Mutex::new(false));
        let lost = is_lost.clone();
        let (copies, ended, host) = (window.clone(), progress.clone(), context.host);
        let worker = Builder::new()
            .name("hmmap window".to_owned())
            .spawn(move || work(&copies, &host, &received, &ended, &lost))
            .map_err(|error| DeviceError::Driver {
                call: "pthread_create",
                code: error.raw_os_error().unwrap_or(0),
            })?;
        Ok(Self {
            facts,
            timeline: TimelineId::new(context.device, 0),
            places: Mutex::new(Places::new(window.pages_bytes())),
            window,
            line: Mutex::new(Line { jobs: Some(jobs), last: 0 }),
            progress,
            worker: Some(worker),
            is_lost,
            _taken: taken,
        })
    }

    /// Looks whether the window is what it was.
    fn alive(&self) -> Result<(), DeviceError> {
        let is_kept = self.window.is_kept();
        let mut is_lost = self.is_lost.lock();
        *is_lost |= !is_kept;
        if *is_lost { Err(DeviceError::Lost) } else { Ok(()) }
    }

    /// How work stands. What has not ended when the window is lost is lost with it.
    fn state(&self, value: u64) -> FenceState {
        let is_lost = self.is_lost.lock();
        match self.progress.poll(value) {
            FenceState::Pending if *is_lost => FenceState::Lost,
            state => state,
        }
    }

    /// The steps of a batch, with the places that the memory has now: it is not given back before the batch has ended.
    fn steps(&self, work: &TransferWork<'_>) -> Result<Vec<Step>, PlaceFault> {
        let places = self.places.lock();
        let copies = work.copies.iter().map(|copy| {
            let host = copy.host;
            let region = places.region(copy.memory)?;
            let pieces = region.pieces(copy.offset_bytes, host.len_bytes)?;
            Ok(match copy.direction {
                Direction::HostToDevice => Step::In { host, pieces },
                Direction::DeviceToHost => Step::Out { host, pieces },
            })
        });
        let zeros = work.zeros.iter().map(|zero| {
            let region = places.region(zero.memory)?;
            Ok(Step::Zero { pieces: region.pieces(zero.offset_bytes, zero.len_bytes)? })
        });
        copies.chain(zeros).collect()
    }
}

/// Does what comes, in order, until nobody can submit any more.
fn work(
    window: &MappedWindow,
    host: &ServiceView,
    jobs: &Receiver<Vec<Step>>,
    progress: &Progress,
    is_lost: &Mutex<bool>,
) {
    for job in jobs {
        let mut is_kept = true;
        for step in &job {
            is_kept &= match step {
                // SAFETY: the engine names spans of the arena, whose view stays mapped; they are as long as the pieces and begin on a page; nobody writes them
                // before the fence has ended.
                Step::In { host: span, pieces } => unsafe {
                    window.copy_in(host.pointer(*span), pieces)
                },
                // SAFETY: as above; and nobody uses them before the fence has ended.
                Step::Out { host: span, pieces } => unsafe {
                    window.copy_out(host.pointer(*span), pieces)
                },
                Step::Zero { pieces } => window.zero(pieces),
            }
        }
        let mut is_lost = is_lost.lock();
        *is_lost |= !is_kept;
        progress.end_next(if *is_lost { FenceState::Lost } else { FenceState::Ok });
    }
}

impl From<PlaceFault> for DeviceError {
    fn from(fault: PlaceFault) -> Self {
        match fault {
            PlaceFault::Full { asked_bytes } => Self::OutOfMemory { asked_bytes },
            PlaceFault::Outside => Self::Misuse { what: "memory that is not reserved" },
            PlaceFault::Backing => Self::Misuse { what: "memory that is not, or is, backed" },
        }
    }
}

impl Device for WindowDevice {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn lost_by(&self) -> Option<&'static str> {
        self.is_lost.lock().then_some("the window lost what was in it: a reset, or unplugged")
    }

    fn reserve(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        let memory = self.places.lock().reserve(len_bytes);
        Ok(Reservation { memory, address: memory.0, backs_whole: false })
    }

    fn back(&self, memory: MemoryId, ranges: &[Range<u64>]) -> Result<(), DeviceError> {
        Ok(self.places.lock().back(memory, ranges)?)
    }

    fn unback(&self, memory: MemoryId, ranges: &[Range<u64>]) {
        noticed(self.places.lock().unback(memory, ranges));
    }

    fn release(&self, memory: MemoryId) {
        noticed(self.places.lock().release(memory));
    }

    fn open_window(&self, _span: HostSpan) -> Result<Window, DeviceError> {
        Err(NO_KERNELS)
    }

    fn close_window(&self, _window: WindowId) {}

    fn host_released(&self, _span: HostSpan) {}

    fn prepare(
        &self,
        _source: &'static Source,
        _layout: &ParamLayout,
    ) -> Result<KernelId, DeviceError> {
        Err(NO_KERNELS)
    }

    fn submit_transfer(&self, work: &TransferWork<'_>) -> Result<FencePoint, DeviceError> {
        self.alive()?;
        let steps = self.steps(work)?;
        let mut line = self.line.lock();
        // Everything runs in order, so what was handed out has ended before this begins.
        let is_known =
            |wait: &FencePoint| wait.timeline == self.timeline && wait.value <= line.last;
        if !work.waits.iter().all(is_known) {
            return Err(DeviceError::Misuse { what: "a wait for a fence unknown here" });
        }
        let sent = line.jobs.as_ref().and_then(|jobs| jobs.send(steps).ok());
        sent.ok_or(DeviceError::Lost)?;
        line.last += 1;
        Ok(FencePoint { timeline: self.timeline, value: line.last })
    }

    fn submit_launch(&self, _work: &LaunchWork<'_>) -> Result<FencePoint, DeviceError> {
        Err(NO_KERNELS)
    }

    fn export(&self, memory: MemoryId, kinds: HandleKinds) -> Result<Exported, DeviceError> {
        if !kinds.contains(HandleKinds::IN_DRIVER) {
            return Err(DeviceError::Unsupported { what: "handles of a window for other drivers" });
        }
        self.alive()?;
        let region = self.places.lock().region(memory)?.clone();
        let len_bytes = region.len_bytes();
        let share = WindowShare { window: self.window.clone(), region };
        Ok(Exported {
            handle: Handle::InProcess(Arc::new(share)),
            kind: HandleKinds::IN_DRIVER,
            driver: DRIVER,
            opaque: Opaque::SameDriver,
            device: [0; 16],
            allocation: memory.0,
            memory_type: 0,
            allocation_bytes: len_bytes,
            offset_bytes: 0,
            len_bytes,
            is_alone: false,
        })
    }

    fn poll(&self, point: FencePoint) -> FenceState {
        if point.timeline != self.timeline {
            return FenceState::Lost;
        }
        self.state(point.value)
    }

    fn wait(&self, point: FencePoint, timeout: Duration) -> FenceState {
        if point.timeline != self.timeline {
            return FenceState::Lost;
        }
        match self.state(point.value) {
            FenceState::Pending => {}
            ended => return ended,
        }
        self.progress.wait(point.value, Instant::now().checked_add(timeout))
    }
}

impl Drop for WindowDevice {
    fn drop(&mut self) {
        self.line.lock().jobs = None;
        if self.worker.take().is_some_and(|worker| worker.join().is_err()) {
            tracing::error!("the thread that copies to a window panicked");
        }
    }
}

impl fmt::Debug for WindowDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WindowDevice")
            .field("name", &self.facts.summary.name)
            .finish_non_exhaustive()
    }
}

/// The methods that give things back have no error to return.
fn noticed(result: Result<(), PlaceFault>) {
    if let Err(fault) = result {
        tracing::error!(?fault, "a call broke the device contract");
        debug_assert!(false, "a call broke the device contract: {fault:?}");
    }
}
