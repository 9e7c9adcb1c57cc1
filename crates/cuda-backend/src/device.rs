// long file: one device, which is one trait; split when the trait is
//! The open CUDA device: the contract of [`Device`] over streams, memory, registrations and kernels.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, OnceLock},
    time::Duration,
};

use hmmap_core::{
    backend::{
        AcrossWork, Capability, Copy, Device, DeviceError, DeviceFacts, Direction, Exported,
        Imported, LaunchWork, MemoryId, OpenContext, Reservation, TransferWork, Window, WindowId,
    },
    fence::{FencePoint, FenceState, TimelineId},
    host::HostSpan,
    kernel::{KernelId, ParamLayout, Source},
    node::DeviceId,
    p2p::HandleKinds,
};
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::{
    context::{Context, Current},
    kernels::Kernels,
    memory::{DeviceMemory, Identity},
    options::{Backing, HostCopies, Options},
    physical::Physical,
    slabs::{Slab, Slabs, parts},
    staging::Ring,
    timeline::{Event, Keeps, Timeline},
    work::{self, Host},
};

/// The timeline of the stream that runs kernels.
const COMPUTE: u8 = 0;
/// The timeline of the stream that copies to the device, and fills.
const TO_DEVICE: u8 = 1;
/// The timeline of the stream that copies to the host.
const TO_HOST: u8 = 2;
/// Timelines of the program's own streams begin here.
const FIRST_ADOPTED: u8 = 3;
/// The most streams that a program can lend.
const MOST_ADOPTED: usize = 28;

/// An open CUDA device. The order of the fields is the order of their end: streams wait for their work first.
#[derive(Debug)]
pub struct CudaDevice {
    facts: DeviceFacts,
    options: Options,
    /// Whether many copies in one call were tried and worked.
    batches: Capability,
    number: DeviceId,
    compute: Timeline,
    to_device: Timeline,
    to_host: Timeline,
    adopted: [OnceLock<Timeline>; MOST_ADOPTED],
    rings: Mutex<Rings>,
    windows: Mutex<Windows>,
    slabs: Slabs,
    memory: DeviceMemory,
    kernels: Kernels,
    context: Arc<Context>,
}

/// One ring per direction, made when it is first needed.
#[derive(Debug, Default)]
struct Rings {
    to_device: Option<Arc<Ring>>,
    to_host: Option<Arc<Ring>>,
}

#[derive(Debug, Default)]
struct Windows {
    next: u64,
    open: HashMap<WindowId, Vec<Arc<Slab>>>,
}

impl CudaDevice {
    /// Streams, memory and tables over a context. What `facts` says is proved is used.
    pub(crate) fn open(
        context: &Arc<Context>,
        physical: &Physical,
        (facts, batches): (DeviceFacts, Capability),
        options: &Options,
        opening: &OpenContext,
    ) -> Result<Self, DeviceError> {
        let limit_bytes = options.max_pinned_bytes.unwrap_or_else(quarter_of_memory);
        let memory_bytes = options.memory_limit_bytes.unwrap_or(physical.summary.memory_bytes);
        let identity = Identity { device: physical.uuid };
        let memory = DeviceMemory::new(context, options.backing, memory_bytes, identity);
        if facts.external.is_some() {
            memory.set_sharing_proved();
        }
        Ok(Self {
            facts,
            batches,
            options: options.clone(),
            number: opening.device,
            compute: Timeline::new(context)?,
            to_device: Timeline::new(context)?,
            to_host: Timeline::new(context)?,
            adopted: [const { OnceLock::new() }; MOST_ADOPTED],
            rings: Mutex::default(),
            windows: Mutex::default(),
            slabs: Slabs::new(context, &opening.host, limit_bytes),
            memory,
            kernels: Kernels::new(context),
            context: Arc::clone(context),
        })
    }

    /// Host memory that is registered now, in bytes.
    pub fn pinned_bytes(&self) -> u64 {
        self.slabs.pinned_bytes()
    }

    /// Whether many copies go to the driver in one call (`cuMemcpyBatchAsync`, CUDA 12.8), as found by trying it.
    pub fn copies_in_batches(&self) -> &Capability {
        &self.batches
    }

    /// Device memory that is under reservations now, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.memory.used_bytes()
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn number(&self) -> DeviceId {
        self.number
    }

    /// A timeline by its number.
    pub(crate) fn timeline(&self, number: u8) -> Option<&Timeline> {
        match number {
            COMPUTE => Some(&self.compute),
            TO_DEVICE => Some(&self.to_device),
            TO_HOST => Some(&self.to_host),
            other => self.adopted.get(usize::from(other - FIRST_ADOPTED))?.get(),
        }
    }

    /// Takes a timeline of the program's own, and returns its number.
    pub(crate) fn adopt(&self, timeline: Timeline) -> Result<u8, DeviceError> {
        let mut timeline = Some(timeline);
        for (number, place) in (FIRST_ADOPTED..).zip(&self.adopted) {
            let Some(offered) = timeline.take() else { break };
            match place.set(offered) {
                Ok(()) => return Ok(number),
                Err(refused) => timeline = Some(refused),
            }
        }
        Err(DeviceError::Unsupported { what: "more streams of the program's own" })
    }

    pub(crate) fn point(&self, number: u8, value: u64) -> FencePoint {
        FencePoint { timeline: TimelineId::new(self.number, number), value }
    }

    /// The events to wait for in a stream of timeline `own`, which needs none for its own work.
    pub(crate) fn events(
        &self,
        own: u8,
        waits: &[FencePoint],
    ) -> Result<SmallVec<[Arc<Event>; 4]>, DeviceError> {
        let unknown = DeviceError::Misuse { what: "a wait for a fence unknown here" };
        let mut events = SmallVec::new();
        for wait in waits {
            let number = wait.timeline.queue();
            let timeline = self.timeline(number).filter(|_| wait.timeline.device() == self.number);
            let timeline = timeline.ok_or_else(|| unknown.clone())?;
            if wait.value > timeline.handed_out() {
                return Err(unknown);
            }
            if number != own {
                events.extend(timeline.event_of(wait.value));
            }
        }
        Ok(events)
    }

    /// Ends all copies, so that what they kept is let go.
    fn rest(&self) {
        for timeline in [&self.to_device, &self.to_host] {
            timeline.finish();
            timeline.tidy();
        }
    }

    /// How these copies reach the arena, with what they keep.
    fn host_of(
        &self,
        current: &Current<'_>,
        copies: &[&Copy],
        direction: Direction,
    ) -> Result<(Host, Keeps), DeviceError> {
        let mut keeps = Keeps::new();
        if copies.is_empty() {
            return Ok((Host::Registered, keeps));
        }
        let is_proved = self.facts.capabilities.direct_copy.is_proved();
        let direct = match self.options.host_copies {
            HostCopies::Staging => false,
            HostCopies::Registered if !is_proved => {
                return Err(DeviceError::Unsupported { what: "registering host memory" });
            }
            HostCopies::Registered => true,
            HostCopies::Auto => {
                is_proved && self.slabs.can_hold(copies.iter().map(|copy| copy.host))
            }
        };
        if direct {
            match self.register(current, copies, &mut keeps) {
                // The driver registers no more: this batch goes by hand.
                Err(DeviceError::OutOfMemory { .. } | DeviceError::Driver { .. })
                    if self.options.host_copies == HostCopies::Auto =>
                {
                    keeps.clear();
                }
                registered => return registered.map(|()| (Host::Registered, keeps)),
            }
        }
        let ring = self.ring(direction)?;
        keeps.push(Arc::clone(&ring) as Arc<_>);
        Ok((Host::Ring(ring), keeps))
    }

    fn register(
        &self,
        current: &Current<'_>,
        copies: &[&Copy],
        keeps: &mut Keeps,
    ) -> Result<(), DeviceError> {
        let mut last: Option<Arc<Slab>> = None;
        for part in copies.iter().flat_map(|copy| parts(copy.host)) {
            let slab = self.slabs.get(current, part, || self.rest())?;
            if last.as_ref().is_none_or(|last| !Arc::ptr_eq(last, &slab)) {
                keeps.push(Arc::clone(&slab) as Arc<_>);
                last = Some(slab);
            }
        }
        Ok(())
    }

    fn ring(&self, direction: Direction) -> Result<Arc<Ring>, DeviceError> {
        let mut rings = self.rings.lock();
        let place = match direction {
            Direction::HostToDevice => &mut rings.to_device,
            Direction::DeviceToHost => &mut rings.to_host,
        };
        if let Some(ring) = place {
            return Ok(Arc::clone(ring));
        }
        let ring = Arc::new(Ring::new(&self.context, self.options.staging_bytes.max(1 << 16))?);
        *place = Some(Arc::clone(&ring));
        Ok(ring)
    }

    /// Submits the copies of one direction, and fills.
    fn transfer(
        &self,
        current: &Current<'_>,
        work: &TransferWork<'_>,
        direction: Direction,
        events: &[Arc<Event>],
    ) -> Result<FencePoint, DeviceError> {
        let of_direction = |copy: &&Copy| copy.direction == direction;
        let copies: SmallVec<[&Copy; 8]> = work.copies.iter().filter(of_direction).collect();
        let (number, timeline, zeros) = match direction {
            Direction::HostToDevice => (TO_DEVICE, &self.to_device, work.zeros),
            Direction::DeviceToHost => (TO_HOST, &self.to_host, &[][..]),
        };
        let (host, keeps) = self.host_of(current, &copies, direction)?;
        let batch = current.api().cuMemcpyBatchAsync.filter(|_| self.batches.is_proved());
        let value = timeline.submit(current, events, keeps, |stream| {
            let way = work::Way { current, stream, memory: &self.memory };
            way.copies(&copies, self.slabs.host(), &host, batch)?;
            zeros.iter().try_for_each(|zero| way.fill(zero))
        })?;
        Ok(self.point(number, value))
    }
}

impl Device for CudaDevice {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn lost_by(&self) -> Option<&'static str> {
        self.context.lost_by()
    }

    fn reserve(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        self.memory.reserve(len_bytes)
    }

    fn reserve_whole(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        self.memory.reserve_as(len_bytes, Backing::Whole)
    }

    fn back(&self, memory: MemoryId, ranges: &[Range<u64>]) -> Result<(), DeviceError> {
        self.memory.back(memory, ranges)
    }

    fn unback(&self, memory: MemoryId, ranges: &[Range<u64>]) {
        noticed("unback", self.memory.unback(memory, ranges));
    }

    fn release(&self, memory: MemoryId) {
        noticed("release", self.memory.release(memory));
    }

    fn open_window(&self, span: HostSpan) -> Result<Window, DeviceError> {
        let unsupported = DeviceError::Unsupported { what: "kernels that reach host memory" };
        if !self.facts.capabilities.host_window.is_proved() {
            return Err(unsupported);
        }
        let current = self.context.enter()?;
        let mut slabs = Vec::new();
        let mut address = None;
        for part in parts(span) {
            let slab = self.slabs.get(&current, part, || self.rest())?;
            let at = slab.device_address(&current, part.offset_bytes)?;
            let start = *address.get_or_insert(at);
            if at - start != part.offset_bytes - span.offset_bytes {
                // Registrations that are no neighbours for the device.
                return Err(unsupported);
            }
            slabs.push(slab);
        }
        let mut windows = self.windows.lock();
        windows.next += 1;
        let window = WindowId(windows.next);
        windows.open.insert(window, slabs);
        Ok(Window { window, address: address.ok_or(unsupported)? })
    }

    fn close_window(&self, window: WindowId) {
        let closed = self.windows.lock().open.remove(&window);
        let missing = DeviceError::Misuse { what: "a window that is not open" };
        noticed("close_window", closed.map(drop).ok_or(missing));
    }

    fn host_released(&self, span: HostSpan) {
        self.slabs.forget(span, || self.rest());
    }

    fn prepare(
        &self,
        source: &'static Source,
        layout: &ParamLayout,
    ) -> Result<KernelId, DeviceError> {
        self.kernels.prepare(source, layout)
    }

    fn submit_transfer(&self, work: &TransferWork<'_>) -> Result<FencePoint, DeviceError> {
        let current = self.context.enter()?;
        let has = |direction| work.copies.iter().any(|copy| copy.direction == direction);
        let goes_up = has(Direction::HostToDevice) || !work.zeros.is_empty();
        if !has(Direction::DeviceToHost) {
            let events = self.events(TO_DEVICE, work.waits)?;
            return self.transfer(&current, work, Direction::HostToDevice, &events);
        }
        let events = self.events(TO_HOST, work.waits)?;
        let down = self.transfer(&current, work, Direction::DeviceToHost, &events)?;
        if !goes_up {
            return Ok(down);
        }
        // Both ways at once: the fence is that of one stream, after the other.
        let mut events = self.events(TO_DEVICE, work.waits)?;
        let before: SmallVec<[_; 4]> = events.drain(..).collect();
        let up = self.transfer(&current, work, Direction::HostToDevice, &before);
        let joined = up.and_then(|up| self.join(&current, up, down));
        if joined.is_err() {
            // Half of a batch is not to run on behind the caller.
            self.to_host.finish();
        }
        joined
    }

    fn submit_launch(&self, work: &LaunchWork<'_>) -> Result<FencePoint, DeviceError> {
        let unknown = DeviceError::Misuse { what: "a launch of a kernel that was not prepared" };
        let ready = self.kernels.get(work.kernel).ok_or(unknown)?;
        let current = self.context.enter()?;
        let events = self.events(COMPUTE, work.waits)?;
        let value = self.compute.submit(&current, &events, Keeps::new(), |stream| {
            work::launch(&current, stream, ready, work)
        })?;
        Ok(self.point(COMPUTE, value))
    }

    fn export(&self, memory: MemoryId, kinds: HandleKinds) -> Result<Exported, DeviceError> {
        self.memory.export(memory, kinds)
    }

    fn import(&self, exported: &Exported) -> Result<Imported, DeviceError> {
        self.memory.import(exported)
    }

    fn submit_between(&self, work: &AcrossWork<'_>) -> Result<FencePoint, DeviceError> {
        let current = self.context.enter()?;
        let events = self.events(TO_DEVICE, work.waits)?;
        let value = self.to_device.submit(&current, &events, Keeps::new(), |stream| {
            let way = work::Way { current: &current, stream, memory: &self.memory };
            work.copies.iter().try_for_each(|copy| way.across(copy))
        })?;
        Ok(self.point(TO_DEVICE, value))
    }

    fn poll(&self, point: FencePoint) -> FenceState {
        let timeline = self.timeline(point.timeline.queue());
        timeline.map_or(FenceState::Lost, |timeline| timeline.poll(point.value))
    }

    fn wait(&self, point: FencePoint, timeout: Duration) -> FenceState {
        let timeline = self.timeline(point.timeline.queue());
        timeline.map_or(FenceState::Lost, |timeline| timeline.wait(point.value, timeout))
    }
}

impl CudaDevice {
    /// A fence that ends after both.
    fn join(
        &self,
        current: &Current<'_>,
        up: FencePoint,
        down: FencePoint,
    ) -> Result<FencePoint, DeviceError> {
        let events = self.events(TO_DEVICE, &[down])?;
        if events.is_empty() {
            return Ok(up);
        }
        let value = self.to_device.submit(current, &events, Keeps::new(), |_| Ok(()))?;
        Ok(self.point(TO_DEVICE, value))
    }
}

/// The methods that give things back have no error to return.
fn noticed(call: &'static str, result: Result<(), DeviceError>) {
    match result {
        Ok(()) | Err(DeviceError::Lost) => {}
        Err(error) => {
            tracing::error!(call, %error, "a device method that cannot fail did");
            debug_assert!(
                !matches!(error, DeviceError::Misuse { .. }),
                "{call} broke the device contract: {error}"
            );
        }
    }
}

/// The default limit of registered host memory.
fn quarter_of_memory() -> u64 {
    let system = rustix::system::sysinfo();
    system.totalram as u64 * u64::from(system.mem_unit) / 4
}
