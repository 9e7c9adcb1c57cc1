//! The open simulated device: the device contract over the schedule, with every rule checked.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    Progress, Queues, SimulatedOptions,
    link::LinkCounters,
    order::Touched,
    record::{Request, Violation, WorkRecord},
    schedule::Schedule,
};
use crate::{
    backend::{
        ArrayArgument, Device, DeviceError, DeviceFacts, LaunchWork, MemoryId, OpenContext,
        Reservation, TransferWork, Window, WindowId, faulty::CallFaults,
    },
    embedded::{
        MemorySpace,
        kernels::Kernels,
        memory::{Addresses, DeviceMemory, MemoryFault},
        operation::Operation,
    },
    fence::{FencePoint, FenceState},
    host::HostSpan,
    kernel::{KernelId, ParamLayout, Source},
};

/// What the provider, its open device and the test's hand have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) faults: CallFaults,
    state: Mutex<State>,
    /// A work was executed, or the device was lost.
    moved: Condvar,
}

#[derive(Debug)]
struct State {
    progress: Progress,
    violations: Vec<Violation>,
    /// Outlives the device, so that a test can read it afterwards.
    schedule: Option<Schedule>,
    /// While the device is open.
    memory: Option<DeviceMemory>,
    kernels: Kernels,
}

impl Shared {
    pub(super) fn new(progress: Progress) -> Self {
        let state = State {
            progress,
            violations: Vec::new(),
            schedule: None,
            memory: None,
            kernels: Kernels::default(),
        };
        Self { faults: CallFaults::default(), state: Mutex::new(state), moved: Condvar::new() }
    }

    /// Runs `body` on the open device, or answers `otherwise`.
    pub(super) fn with_schedule<R>(
        &self,
        otherwise: R,
        body: impl FnOnce(&mut Schedule, &DeviceMemory, &mut Vec<Violation>) -> R,
    ) -> R {
        let mut state = self.state.lock();
        let State { schedule, memory, violations, .. } = &mut *state;
        let (Some(schedule), Some(memory)) = (schedule, memory) else { return otherwise };
        let result = body(schedule, memory, violations);
        drop(state);
        self.moved.notify_all();
        result
    }

    pub(super) fn lose(&self) {
        self.with_schedule((), |schedule, memory, violations| {
            schedule.lose(Some(memory), violations)
        });
    }

    pub(super) fn set_progress(&self, progress: Progress) {
        self.state.lock().progress = progress;
        self.moved.notify_all();
    }

    pub(super) fn records(&self) -> Vec<WorkRecord> {
        self.state.lock().schedule.as_ref().map(Schedule::records).unwrap_or_default()
    }

    pub(super) fn violations(&self) -> Vec<Violation> {
        self.state.lock().violations.clone()
    }

    pub(super) fn counters(&self) -> LinkCounters {
        self.state.lock().schedule.as_ref().map(|schedule| schedule.counters).unwrap_or_default()
    }

    pub(super) fn clock_ns(&self) -> u64 {
        self.state.lock().schedule.as_ref().map_or(0, |schedule| schedule.host_ns)
    }

    /// Begins a call that can fail.
    ///
    /// # Errors
    /// The failure that the test asked for, or [`DeviceError::Lost`].
    pub(super) fn call(&self) -> Result<(), DeviceError> {
        let counted = self.faults.count();
        if counted == Err(DeviceError::Lost) {
            self.lose();
        }
        counted?;
        match &self.state.lock().schedule {
            Some(schedule) if schedule.lost => Err(DeviceError::Lost),
            _ => Ok(()),
        }
    }
}

/// One opening of a simulated device.
pub(super) struct SimulatedDevice {
    facts: DeviceFacts,
    transfer_queue: usize,
    shared: Arc<Shared>,
}

/// The parts of an open device, under its lock.
struct Parts<'a> {
    schedule: &'a mut Schedule,
    memory: &'a DeviceMemory,
    violations: &'a mut Vec<Violation>,
    kernels: &'a mut Kernels,
}

impl SimulatedDevice {
    /// # Errors
    /// The device is open already, or the test asked for a failure.
    pub(super) fn open(
        facts: DeviceFacts,
        options: &SimulatedOptions,
        shared: &Arc<Shared>,
        context: OpenContext,
    ) -> Result<Self, DeviceError> {
        shared.faults.count()?;
        let mut state = shared.state.lock();
        if state.memory.is_some() {
            return Err(DeviceError::Misuse {
                what: "a simulated device is opened once at a time",
            });
        }
        let limit_bytes = options.memory_limit_bytes.unwrap_or(u64::MAX);
        let (host, backing) = (context.host, options.backing);
        state.memory = Some(DeviceMemory::new(host, Addresses::Invented, backing, limit_bytes));
        state.schedule = Some(Schedule::new(context.device, options));
        state.kernels = Kernels::default();
        drop(state);
        let transfer_queue = match options.queues {
            Queues::One => 0,
            Queues::Two => 1,
        };
        Ok(Self { facts, transfer_queue, shared: Arc::clone(shared) })
    }

    /// Runs `body` on the device's parts. The device is open, so they are there.
    fn with<R>(
        &self,
        body: impl FnOnce(Parts<'_>) -> Result<R, DeviceError>,
    ) -> Result<R, DeviceError> {
        let mut state = self.shared.state.lock();
        let State { schedule, memory, violations, kernels, .. } = &mut *state;
        let (Some(schedule), Some(memory)) = (schedule, memory) else {
            return Err(DeviceError::Lost);
        };
        let result = body(Parts { schedule, memory, violations: &mut *violations, kernels });
        if let Err(DeviceError::Misuse { what }) = result {
            violations.push(Violation::Call { what });
        }
        result
    }

    /// The same for a call that can fail.
    fn call<R>(
        &self,
        body: impl FnOnce(Parts<'_>) -> Result<R, DeviceError>,
    ) -> Result<R, DeviceError> {
        self.shared.call()?;
        self.with(body)
    }

    /// Something is given back that works use; notes each use.
    fn give_back(
        &self,
        call: &'static str,
        uses: impl Fn(&Request, &[Touched]) -> bool,
        body: impl FnOnce(&DeviceMemory) -> Result<(), MemoryFault>,
    ) {
        let given = self.with(|parts| {
            let users = parts.schedule.users(uses);
            parts.violations.extend(users.map(|work| Violation::InUse { work, call }));
            body(parts.memory).map_err(DeviceError::from)
        });
        if let Err(error) = given {
            tracing::error!(call, %error, "a simulated device's memory was given back wrongly");
        }
    }

    fn submit(
        &self,
        queue: usize,
        waits: &[FencePoint],
        request: Request,
    ) -> Result<FencePoint, DeviceError> {
        let max_groups = self.facts.max_groups;
        self.call(|Parts { schedule, memory, violations, kernels }| {
            if let Request::Launch { kernel, source, .. } = &request {
                kernels.check(*kernel, source)?;
            }
            let operation = match request.defect(max_groups) {
                Some(what) => Err(what),
                None => operation(&request, memory)?,
            };
            schedule.submit(queue, waits, request, operation, violations)
        })
    }

    /// The fence's state after the device was given a chance to move on.
    fn look(&self, point: FencePoint, state: &mut MutexGuard<'_, State>) -> FenceState {
        let State { schedule, memory, violations, progress, .. } = &mut **state;
        let (Some(schedule), Some(memory)) = (schedule, memory) else { return FenceState::Lost };
        let pending = schedule.state(point) == FenceState::Pending;
        if pending && *progress == Progress::WhenAsked && schedule.toss() {
            schedule.step(memory, violations);
            self.shared.moved.notify_all();
        }
        schedule.look(point)
    }
}

/// The operation of a request; the inner error is a breach of the contract for which the work has to answer.
fn operation(
    request: &Request,
    memory: &DeviceMemory,
) -> Result<Result<Operation, &'static str>, DeviceError> {
    match request.operation(memory) {
        Ok(operation) => Ok(Ok(operation)),
        Err(DeviceError::Misuse { what }) => Ok(Err(what)),
        Err(error) => Err(error),
    }
}

impl Device for SimulatedDevice {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn reserve(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        self.call(|parts| parts.memory.reserve(len_bytes))
    }

    fn back(&self, memory: MemoryId, ranges: &[Range<u64>]) -> Result<(), DeviceError> {
        self.call(|parts| {
            let places = parts.memory.back(memory, ranges)?;
            parts.schedule.fill_with_garbage(places);
            Ok(())
        })
    }

    fn unback(&self, memory: MemoryId, ranges: &[Range<u64>]) {
        let space = MemorySpace::Device(memory);
        let within = |one: &Touched| ranges.iter().any(|range| one.lies_in(space, range));
        self.give_back(
            "unback",
            |_, touched| touched.iter().any(within),
            |device| device.unback(memory, ranges),
        );
    }

    fn release(&self, memory: MemoryId) {
        let space = MemorySpace::Device(memory);
        self.give_back(
            "release",
            |_, touched| touched.iter().any(|one| one.space == space),
            |device| device.release(memory),
        );
    }

    fn open_window(&self, span: HostSpan) -> Result<Window, DeviceError> {
        self.call(|parts| match self.facts.capabilities.host_window.is_proved() {
            true => parts.memory.open_window(span),
            false => Err(DeviceError::Unsupported { what: "host window" }),
        })
    }

    fn close_window(&self, window: WindowId) {
        let mut addresses = 0..0;
        // A window that is not there has no users; closing it is noted below.
        let _ = self.with(|parts| {
            addresses = parts.memory.window_addresses(window).unwrap_or_default();
            Ok(())
        });
        let within = |array: &ArrayArgument| addresses.contains(&array.address);
        let uses = |request: &Request| match request {
            Request::Transfer { .. } => false,
            Request::Launch { arrays, .. } => arrays.iter().any(within),
        };
        self.give_back(
            "close_window",
            |request, _| uses(request),
            |device| device.close_window(window),
        );
    }

    fn host_released(&self, span: HostSpan) {
        let bytes = span.offset_bytes..span.end_bytes();
        let within = |one: &Touched| one.lies_in(MemorySpace::Host, &bytes);
        self.give_back("host_released", |_, touched| touched.iter().any(within), |_| Ok(()));
    }

    fn prepare(
        &self,
        source: &'static Source,
        _layout: &ParamLayout,
    ) -> Result<KernelId, DeviceError> {
        self.call(|parts| parts.kernels.prepare(source))
    }

    fn submit_transfer(&self, work: &TransferWork<'_>) -> Result<FencePoint, DeviceError> {
        self.submit(self.transfer_queue, work.waits, Request::transfer(work))
    }

    fn submit_launch(&self, work: &LaunchWork<'_>) -> Result<FencePoint, DeviceError> {
        self.submit(0, work.waits, Request::launch(work))
    }

    fn poll(&self, point: FencePoint) -> FenceState {
        self.look(point, &mut self.shared.state.lock())
    }

    fn wait(&self, point: FencePoint, timeout: Duration) -> FenceState {
        let until = Instant::now().checked_add(timeout);
        let mut state = self.shared.state.lock();
        loop {
            let pending = |state: &State| {
                state.schedule.as_ref().is_some_and(|schedule| !schedule.ready().is_empty())
            };
            let fence = self.look(point, &mut state);
            if fence.has_ended() {
                return fence;
            }
            if state.progress == Progress::WhenAsked && pending(&state) {
                continue;
            }
            match until {
                None => self.shared.moved.wait(&mut state),
                Some(until) => {
                    if self.shared.moved.wait_until(&mut state, until).timed_out() {
                        return self.look(point, &mut state);
                    }
                }
            }
        }
    }
}

impl Drop for SimulatedDevice {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let State { schedule, memory, violations, .. } = &mut *state;
        if let Some(schedule) = schedule {
            schedule.lose(None, violations);
        }
        let memory = memory.take();
        drop(state);
        drop(memory);
    }
}

impl std::fmt::Debug for SimulatedDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedDevice")
            .field("name", &self.facts.summary.name)
            .finish_non_exhaustive()
    }
}
