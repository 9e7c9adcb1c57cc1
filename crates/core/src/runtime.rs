// long file: the public calls of a runtime, a few lines each, and what they share; split when the next kind of call comes
//! The runtime: one arena, the devices, the counters. The only module that knows every part.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use smallvec::SmallVec;

use crate::{
    backend::{Device, DeviceError, DeviceFacts, DeviceSummary, OpenContext, Provider},
    engine::{Budget, FaultResolver, Ledger, Route, Waiters, Watcher, are_neighbours},
    error::Error,
    events::{Recorder, What},
    group::Member,
    host::{
        Arena, FaultLoop, HostError, HostFaultFacts, HostFaults, HostPages, HostSpan, UserView,
    },
    kernel::{KernelId, ParamLayout, Source},
    node::{DeviceId, MAX_NODES, NodeId},
    options::{MemoryModel, Options},
    peer::PinQuota,
    stats::{Counters, Stats},
    sync::{FairMutex, Mutex, RwLock, about_to_run_user_code},
    vec::Buffer,
};

/// A set of devices and the memory shared with them. Clones are the same runtime.
#[derive(Clone)]
pub struct Runtime(Arc<Held>);

/// What users hold of a runtime. The library's own threads hold the inside alone, and only while they work.
#[derive(Debug)]
struct Held {
    inner: Arc<Inner>,
    /// Vectors that are made through this are in it.
    group: Option<Arc<Member>>,
    open: Arc<Open>,
}

/// A runtime that somebody holds, in whatever group.
#[derive(Debug)]
struct Open {
    inner: Arc<Inner>,
}

impl Drop for Open {
    /// Waits for the threads that answer faults and those of futures: nothing of the runtime, a driver least of all, is to go on behind the back of a program
    /// that has let go of it and may be about to end.
    fn drop(&mut self) {
        if let Some(faults) = &self.inner.faults {
            faults.end();
        }
        self.inner.watcher.end();
        self.inner.waiters.join();
    }
}

pub(crate) struct Inner {
    pub(crate) id: u64,
    pub(crate) arena: Arena,
    pub(crate) slots: Box<[Slot]>,
    pub(crate) options: Options,
    pub(crate) counters: Counters,
    /// Where events go while somebody records.
    pub(crate) recorder: Arc<Recorder>,
    /// What static peers pin.
    pub(crate) pins: Arc<PinQuota>,
    /// Answers the host's faults; nothing where they cannot be had.
    faults: Option<FaultLoop>,
    /// Whose part of the arena is where.
    pub(crate) placed: Mutex<Placed>,
    /// Buffers whose vectors were dropped with work in flight.
    pub(crate) retired: Mutex<Vec<Arc<Buffer>>>,
    /// Set once any device was lost.
    pub(crate) any_lost: AtomicBool,
    /// How pages get from one device to another, as far as that was asked for.
    pub(crate) routes: RwLock<HashMap<(DeviceId, DeviceId), Route>>,
    /// Threads of futures.
    pub(crate) waiters: Arc<Waiters>,
    /// Does what the threads that answer faults may not.
    pub(crate) watcher: Arc<Watcher>,
}

/// What lies where in the arena.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    /// By the offset of the first byte.
    pub(crate) buffers: BTreeMap<u64, Weak<Buffer>>,
    /// Pages that nobody has and that end with a signal, because they were touched all the same. The next vector there takes that back.
    pub(crate) strays: Vec<HostSpan>,
}

/// One device, open or not.
pub(crate) struct Slot {
    pub(crate) id: DeviceId,
    provider: Arc<dyn Provider>,
    open: OnceLock<Result<OpenDevice, Error>>,
    /// Other drivers of the same card.
    pub(crate) neighbours: SmallVec<[DeviceId; 1]>,
    /// The ways to those that were open before were tried.
    met: OnceLock<()>,
    pub(crate) lost: AtomicBool,
    /// An event has told that it is lost.
    lost_told: AtomicBool,
    /// Whose turn it is to make room on the device: launches that find none queue here in order of arrival.
    pub(crate) turn: FairMutex<()>,
    /// Buffers that have memory on the device.
    pub(crate) residents: Mutex<Vec<std::sync::Weak<Buffer>>>,
    /// What was used when, and who leaves.
    pub(crate) ledger: Ledger,
}

/// A device that is open.
#[derive(Debug)]
pub(crate) struct OpenDevice {
    pub(crate) id: DeviceId,
    pub(crate) device: Arc<dyn Device>,
    /// The node that its kernels work on: its own, or the host's.
    pub(crate) node: NodeId,
    pub(crate) budget: Budget,
    kernels: RwLock<HashMap<usize, KernelId>>,
}

impl Runtime {
    /// A runtime over these devices; the first is the default. None is opened yet.
    ///
    /// # Errors
    /// [`Error::TooManyDevices`]; [`Error::Host`] when the system grants no address window, or no huge page that the options ask
    /// for.
    pub fn new(providers: Vec<Arc<dyn Provider>>, options: Options) -> Result<Self, Error> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let count = providers.len();
        let slots: Option<Box<[Slot]>> = providers
            .into_iter()
            .enumerate()
            .map(|(index, provider)| {
                let id = DeviceId::new(index)?;
                Some(Slot::new(id, provider, Ledger::new(&options.eviction)))
            })
            .collect();
        let mut slots = slots.ok_or(Error::TooManyDevices { count, limit: MAX_NODES - 1 })?;
        find_neighbours(&mut slots);
        let arena = Arena::of_pages(options.host_pages)?;
        let inner = Arc::new_cyclic(|this| Inner {
            faults: serve_faults(&arena, options.host_faults, this.clone()),
            placed: Mutex::default(),
            // Ids only have to differ.
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            arena,
            slots,
            pins: PinQuota::new(options.max_pinned_bytes),
            options,
            counters: Counters::default(),
            recorder: Arc::new(Recorder::new()),
            retired: Mutex::default(),
            any_lost: AtomicBool::new(false),
            routes: RwLock::default(),
            waiters: Arc::default(),
            watcher: Arc::default(),
        });
        let open = Arc::new(Open { inner: inner.clone() });
        Ok(Self(Arc::new(Held { inner, group: None, open })))
    }

    /// The devices, the default one first. Opens none.
    pub fn devices(&self) -> impl Iterator<Item = (DeviceId, &DeviceSummary)> {
        self.inner().slots.iter().map(|slot| (slot.id, slot.provider.summary()))
    }

    /// What a device was found to be able to do. Opens it.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`], or what the device answered when it was opened.
    pub fn facts(&self, device: DeviceId) -> Result<&DeviceFacts, Error> {
        Ok(self.inner().open(device)?.device.facts())
    }

    /// The node that a device's kernels work on: [`NodeId::HOST`] where nothing moves. Opens the device.
    ///
    /// # Errors
    /// As [`Runtime::facts`].
    pub fn node(&self, device: DeviceId) -> Result<NodeId, Error> {
        Ok(self.inner().open(device)?.node)
    }

    /// Device memory that buffers of this runtime use now, and its limit, in bytes. Opens the device.
    ///
    /// # Errors
    /// As [`Runtime::facts`].
    pub fn device_memory(&self, device: DeviceId) -> Result<DeviceMemory, Error> {
        let budget = &self.inner().open(device)?.budget;
        Ok(DeviceMemory {
            used_bytes: budget.used_bytes(),
            idle_reserve_bytes: budget.idle_reserve_bytes(),
            limit_bytes: budget.limit_bytes(),
        })
    }

    /// How the host's touches of pages that are elsewhere are noticed; `None` where they are not, and vectors bring all
    /// of themselves home before they hand out a slice.
    pub fn host_faults(&self) -> Option<HostFaultFacts> {
        self.inner().user_view().map(UserView::facts)
    }

    /// How large the pages of host memory are.
    pub fn host_pages(&self) -> HostPages {
        self.inner().options.host_pages
    }

    /// The device that [`Runtime::launch`] uses.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] when the runtime has none.
    pub fn default_device(&self) -> Result<DeviceId, Error> {
        let first = self.inner().slots.first().map(|slot| slot.id);
        first.ok_or(Error::NoSuchDevice { asked: 0, count: 0 })
    }

    /// What has moved so far, and why.
    pub fn stats(&self) -> Stats {
        let inner = self.inner();
        let mut stats = inner.counters.read();
        (stats.pinned_bytes, stats.refused_pins) =
            (inner.pins.pinned_bytes(), inner.pins.refused());
        stats
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0.inner
    }

    /// The group of the vectors that are made through this handle.
    pub(crate) fn group(&self) -> Option<&Arc<Member>> {
        self.0.group.as_ref()
    }

    /// The same runtime for vectors of this group, or of none.
    pub(crate) fn within(&self, group: Option<Arc<Member>>) -> Self {
        let Held { inner, open, .. } = &*self.0;
        Self(Arc::new(Held { inner: inner.clone(), group, open: open.clone() }))
    }
}

/// Use of a device's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceMemory {
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes that groups have reserved and do not use: nobody else gets them.
    pub idle_reserve_bytes: u64,
    /// The most that the runtime will use.
    pub limit_bytes: u64,
}

impl Slot {
    fn new(id: DeviceId, provider: Arc<dyn Provider>, ledger: Ledger) -> Self {
        Self {
            ledger,
            id,
            provider,
            open: OnceLock::new(),
            neighbours: SmallVec::new(),
            met: OnceLock::new(),
            lost: AtomicBool::new(false),
            lost_told: AtomicBool::new(false),
            turn: FairMutex::new(()),
            residents: Mutex::default(),
        }
    }
}

/// Tells each device which others are drivers of the same card.
fn find_neighbours(slots: &mut [Slot]) {
    let summaries: Vec<_> =
        slots.iter().map(|slot| (slot.id, slot.provider.summary().clone())).collect();
    for slot in slots {
        let own = slot.provider.summary();
        let near =
            summaries.iter().filter(|(id, other)| *id != slot.id && are_neighbours(own, other));
        slot.neighbours = near.map(|(id, _)| *id).collect();
    }
}

/// The user view and the threads that answer its faults, if they are wanted and can be had.
fn serve_faults(arena: &Arena, asked: HostFaults, runtime: Weak<Inner>) -> Option<FaultLoop> {
    // Under the explorer of orders every thread must be the explorer's.
    if asked == HostFaults::Off || cfg!(shuttle) {
        return None;
    }
    let started = arena
        .map_user_view(asked)
        .and_then(|view| FaultLoop::start(Arc::new(view), Box::new(FaultResolver::new(runtime))));
    match started {
        Ok(faults) => Some(faults),
        Err(error) => {
            tracing::info!(%error, "no page faults for the host: vectors come home whole when they are indexed");
            None
        }
    }
}

impl Inner {
    /// The mapping that the program touches, where its touches fault.
    pub(crate) fn user_view(&self) -> Option<&UserView> {
        self.faults.as_ref().map(|faults| &**faults.view())
    }

    /// A new buffer: its part of the arena is known from now on, and ends with no signal.
    pub(crate) fn enter(&self, buffer: &Arc<Buffer>) -> Result<(), HostError> {
        if buffer.span.len_bytes == 0 {
            return Ok(());
        }
        let vector = buffer.state.lock().number;
        self.recorder.note(|| What::Made { vector, pages: buffer.pages() });
        let mut placed = self.placed.lock();
        placed.buffers.insert(buffer.span.offset_bytes, Arc::downgrade(buffer));
        let Some(view) = self.user_view() else { return Ok(()) };
        let mut cured = Ok(());
        placed.strays.retain(|stray| {
            if cured.is_err() || !stray.overlaps(buffer.span) {
                return true;
            }
            cured = view.cure(*stray);
            cured.is_err()
        });
        if let Err(source) = cured {
            // The span is never dealt out again.
            placed.buffers.remove(&buffer.span.offset_bytes);
            return Err(HostError::NotRevoked { source });
        }
        Ok(())
    }

    /// A buffer that is known, counted; `None` for one without memory.
    pub(crate) fn buffer_of(&self, buffer: &Buffer) -> Option<Arc<Buffer>> {
        if buffer.span.len_bytes == 0 {
            return None;
        }
        self.placed.lock().buffers.get(&buffer.span.offset_bytes)?.upgrade()
    }

    /// A buffer whose vector is gone.
    pub(crate) fn leave_arena(&self, buffer: &Buffer) {
        if buffer.span.len_bytes > 0 {
            self.placed.lock().buffers.remove(&buffer.span.offset_bytes);
            self.recorder.note(|| What::Dropped { vector: buffer.state.lock().number });
        }
    }

    pub(crate) fn slot(&self, device: DeviceId) -> Result<&Slot, Error> {
        let asked = device.index();
        self.slots.get(asked).ok_or(Error::NoSuchDevice { asked, count: self.slots.len() })
    }

    /// The open device; opens it the first time.
    pub(crate) fn open(&self, device: DeviceId) -> Result<&OpenDevice, Error> {
        let slot = self.slot(device)?;
        let opened = slot.open.get_or_init(|| self.open_slot(slot));
        let opened = opened.as_ref().map_err(Clone::clone)?;
        if !slot.neighbours.is_empty() {
            slot.met.get_or_init(|| self.meet_neighbours(opened));
        }
        Ok(opened)
    }

    /// The device if it was opened; nothing can be pending on one that was not.
    pub(crate) fn opened(&self, device: DeviceId) -> Option<&OpenDevice> {
        self.slots.get(device.index())?.open.get()?.as_ref().ok()
    }

    fn open_slot(&self, slot: &Slot) -> Result<OpenDevice, Error> {
        let context = OpenContext { device: slot.id, host: self.arena.view().clone() };
        let summary = slot.provider.summary();
        let refused =
            |source| Error::Device { device: slot.id, name: summary.name.clone(), source };
        let device = slot.provider.open(context).map_err(refused)?;
        let facts = device.facts();
        let window = facts.capabilities.host_window.is_proved();
        let node = match self.options.memory_model {
            MemoryModel::Auto if facts.shares_host_memory && window => NodeId::HOST,
            MemoryModel::Auto | MemoryModel::Migrate => NodeId::of_device(slot.id),
            MemoryModel::Unified if window => NodeId::HOST,
            MemoryModel::Unified => {
                return Err(refused(DeviceError::Unsupported {
                    what: "MemoryModel::Unified: kernels were not proved to reach host memory",
                }));
            }
        };
        let reported = facts.summary.memory_bytes / 10 * 9;
        let limit_bytes = self.options.device_memory_limit_bytes.unwrap_or(reported);
        tracing::info!(device = %slot.id, name = %facts.summary.name, %node, limit_bytes, "opened");
        Ok(OpenDevice {
            id: slot.id,
            node,
            budget: Budget::new(limit_bytes),
            kernels: RwLock::default(),
            device,
        })
    }

    /// An error of a device, with its name; takes note when it says that the device is lost.
    pub(crate) fn refused(&self, open: &OpenDevice, source: DeviceError) -> Error {
        if source == DeviceError::Lost {
            self.mark_lost(open.id);
        }
        Error::Device { device: open.id, name: open.device.facts().summary.name.clone(), source }
    }

    /// Takes note of a lost device. Locks may be held: [`Inner::tell_losses`] has the event.
    pub(crate) fn mark_lost(&self, device: DeviceId) {
        let Some(slot) = self.slots.get(device.index()) else { return };
        // Release: whoever sees `any_lost` also sees which device.
        if !slot.lost.swap(true, Ordering::Relaxed) {
            self.any_lost.store(true, Ordering::Release);
        }
    }

    /// Emits an event for each device that was lost since the last time, and tells its peers. No lock is held, and no fault is being answered.
    pub(crate) fn tell_losses(&self) {
        if !self.any_lost.load(Ordering::Acquire) {
            return;
        }
        for slot in self.slots.iter().filter(|slot| slot.lost.load(Ordering::Relaxed)) {
            if !slot.lost_told.swap(true, Ordering::Relaxed) {
                about_to_run_user_code();
                let by = self.opened(slot.id).and_then(|open| open.device.lost_by());
                tracing::warn!(device = %slot.id, name = slot.provider.summary().name, by, "device lost");
                self.tell_peers_of_loss(NodeId::of_device(slot.id));
            }
        }
    }
}

impl OpenDevice {
    /// The kernel made ready on this device, the first time by asking it.
    pub(crate) fn kernel(
        &self,
        source: &'static Source,
        layout: &ParamLayout,
    ) -> Result<KernelId, DeviceError> {
        let key = std::ptr::from_ref(source).addr();
        if let Some(kernel) = self.kernels.read().get(&key) {
            return Ok(*kernel);
        }
        let kernel = self.device.prepare(source, layout)?;
        self.kernels.write().insert(key, kernel);
        Ok(kernel)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let devices: Vec<_> = self.devices().map(|(_, summary)| &summary.name).collect();
        f.debug_struct("Runtime").field("devices", &devices).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // No vector is left, since each holds the runtime; what was dropped with work in flight is waited for.
        self.release_retired_at_end();
    }
}
