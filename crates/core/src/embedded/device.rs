//! The open embedded device: two queues, their workers, and the device contract over them.

use std::{
    ops::Range,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use rayon::{ThreadPool, ThreadPoolBuilder};
use smallvec::SmallVec;

use super::{
    EmbeddedOptions,
    kernels::Kernels,
    memory::{Addresses, DeviceMemory, MemoryFault},
    operation::Operation,
    queue::{Job, Queue},
};
use crate::{
    backend::{
        Device, DeviceError, DeviceFacts, LaunchWork, MemoryId, OpenContext, Reservation,
        TransferWork, Window, WindowId,
    },
    fence::{Failure, FencePoint, FenceState, TimelineId},
    host::HostSpan,
    kernel::{KernelId, ParamLayout, Source},
};

const COMPUTE: u8 = 0;
const TRANSFER: u8 = 1;

/// Dropping it ends the jobs that have not begun as lost, waits for those that run, and joins every thread.
pub(super) struct EmbeddedDevice {
    facts: DeviceFacts,
    memory: DeviceMemory,
    kernels: RwLock<Kernels>,
    queues: Arc<Queues>,
    pool: Option<ThreadPool>,
    threads: Vec<JoinHandle<()>>,
}

/// The compute queue and the transfer queue.
type Queues = [Queue; 2];

impl EmbeddedDevice {
    /// # Errors
    /// The system does not give the threads.
    pub(super) fn open(
        facts: DeviceFacts,
        options: &EmbeddedOptions,
        context: OpenContext,
    ) -> Result<Self, DeviceError> {
        let queue = |number| Queue::new(TimelineId::new(context.device, number));
        let queues = Arc::new([queue(COMPUTE), queue(TRANSFER)]);
        let limit_bytes = options.memory_limit_bytes.unwrap_or(u64::MAX);
        let mut device = Self {
            facts,
            memory: DeviceMemory::new(
                context.host,
                Addresses::OfProcess,
                options.backing,
                limit_bytes,
            ),
            kernels: RwLock::default(),
            queues,
            pool: None,
            threads: Vec::new(),
        };
        device.start_pool(options.threads.get())?;
        device.start_transfers()?;
        Ok(device)
    }

    /// Starts the pool. Its first job is the compute queue's worker, so that a twin runs on a thread of the pool already and a
    /// small kernel meets no other thread.
    fn start_pool(&mut self, threads: usize) -> Result<(), DeviceError> {
        let started = Mutex::new(Vec::new());
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("hmmap cpu {index}"))
            .spawn_handler(|thread| {
                let name = thread.name().unwrap_or("hmmap cpu").to_owned();
                let handle = thread::Builder::new().name(name).spawn(|| thread.run())?;
                started.lock().push(handle);
                Ok(())
            })
            .build()
            .map_err(|error| no_thread(&error))?;
        self.threads.append(&mut started.into_inner());
        let queues = Arc::clone(&self.queues);
        pool.spawn(move || queues[usize::from(COMPUTE)].work(|job| run(&queues, job)));
        self.pool = Some(pool);
        Ok(())
    }

    fn start_transfers(&mut self) -> Result<(), DeviceError> {
        let queues = Arc::clone(&self.queues);
        let worker = thread::Builder::new()
            .name("hmmap cpu copy".to_owned())
            .spawn(move || queues[usize::from(TRANSFER)].work(|job| run(&queues, job)))
            .map_err(|error| no_thread(&error))?;
        self.threads.push(worker);
        Ok(())
    }

    fn submit(
        &self,
        queue: u8,
        waits: &[FencePoint],
        operation: Operation,
    ) -> Result<FencePoint, DeviceError> {
        for wait in waits {
            match self.queue(*wait) {
                Some(queue) if queue.handed_out(wait.value) => {}
                _ => return Err(DeviceError::Misuse { what: "a wait for a fence unknown here" }),
            }
        }
        let job = Job { waits: SmallVec::from_slice(waits), operation };
        Ok(self.queues[usize::from(queue)].submit(job))
    }

    fn queue(&self, point: FencePoint) -> Option<&Queue> {
        self.queues.iter().find(|queue| queue.timeline() == point.timeline)
    }
}

/// Waits for what the job waits for, then runs it.
fn run(queues: &Queues, job: &Job) -> FenceState {
    for wait in &job.waits {
        let queue = &queues[usize::from(wait.timeline.queue())];
        if queue.wait(wait.value, Duration::MAX) != FenceState::Ok {
            return FenceState::Failed(Failure::Dependency);
        }
    }
    match job.operation.run() {
        Ok(()) => FenceState::Ok,
        Err(failure) => FenceState::Failed(failure),
    }
}

impl Device for EmbeddedDevice {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn reserve(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        self.memory.reserve(len_bytes)
    }

    fn back(&self, memory: MemoryId, ranges: &[Range<u64>]) -> Result<(), DeviceError> {
        self.memory.back(memory, ranges).map(drop)
    }

    fn unback(&self, memory: MemoryId, ranges: &[Range<u64>]) {
        noticed(self.memory.unback(memory, ranges));
    }

    fn release(&self, memory: MemoryId) {
        noticed(self.memory.release(memory));
    }

    fn open_window(&self, span: HostSpan) -> Result<Window, DeviceError> {
        self.memory.open_window(span)
    }

    fn close_window(&self, window: WindowId) {
        noticed(self.memory.close_window(window));
    }

    fn host_released(&self, _span: HostSpan) {}

    fn prepare(
        &self,
        source: &'static Source,
        _layout: &ParamLayout,
    ) -> Result<KernelId, DeviceError> {
        self.kernels.write().prepare(source)
    }

    fn submit_transfer(&self, work: &TransferWork<'_>) -> Result<FencePoint, DeviceError> {
        let operation = Operation::transfer(work, &self.memory)?;
        self.submit(TRANSFER, work.waits, operation)
    }

    fn submit_launch(&self, work: &LaunchWork<'_>) -> Result<FencePoint, DeviceError> {
        self.kernels.read().check(work.kernel, work.source)?;
        let operation = Operation::launch(work, &self.memory)?;
        self.submit(COMPUTE, work.waits, operation)
    }

    fn poll(&self, point: FencePoint) -> FenceState {
        self.queue(point).map_or(FenceState::Lost, |queue| queue.poll(point.value))
    }

    fn wait(&self, point: FencePoint, timeout: Duration) -> FenceState {
        self.queue(point).map_or(FenceState::Lost, |queue| queue.wait(point.value, timeout))
    }
}

impl Drop for EmbeddedDevice {
    fn drop(&mut self) {
        for queue in self.queues.iter() {
            queue.close();
        }
        self.pool = None;
        let me = thread::current().id();
        for worker in self.threads.drain(..).filter(|worker| worker.thread().id() != me) {
            // A worker's panic would be a defect of this library; there is no caller left to hear of it.
            if worker.join().is_err() {
                tracing::error!("a worker of the embedded device panicked");
            }
        }
    }
}

impl std::fmt::Debug for EmbeddedDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedDevice")
            .field("name", &self.facts.summary.name)
            .finish_non_exhaustive()
    }
}

/// The methods that give things back have no error to return.
fn noticed(result: Result<(), MemoryFault>) {
    if let Err(fault) = result {
        tracing::error!(what = fault.what(), "a call broke the device contract");
        debug_assert!(false, "a call broke the device contract: {}", fault.what());
    }
}

fn no_thread(error: &(dyn std::error::Error + 'static)) -> DeviceError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            let code = io.raw_os_error().unwrap_or(0);
            return DeviceError::Driver { call: "pthread_create", code };
        }
        cause = error.source();
    }
    DeviceError::Driver { call: "pthread_create", code: 0 }
}
