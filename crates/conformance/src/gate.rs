//! A gate between the runtime and a device: it decides when news of the device's work gets through.
//!
//! ```text
//!            open                late                       held                     lost
//! poll       as it is            pending until waited for   pending                  lost, unless seen to end before
//! wait       as it is            waits, and lets it through pending, at once         lost, unless seen to end before
//! submit     passed on           passed on                  passed on                refused
//! ```
//!
//! The work itself is never held up: the device does it as fast as it does. So whatever the gate says happens to a driver that is slow to
//! tell. News gets through in order: with a piece of work, what it waited for and what came before it on its timeline.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hmmap_core::{
    Source,
    backend::{
        AcrossWork, Device, DeviceError, DeviceFacts, DeviceSummary, Exported, Imported,
        LaunchWork, MemoryId, OpenContext, Provider, Reservation, TransferWork, Window, WindowId,
    },
    fence::{FencePoint, FenceState, TimelineId},
    host::HostSpan,
    kernel::{KernelId, ParamLayout},
    p2p::HandleKinds,
};
use parking_lot::Mutex;

/// The longest that a piece of work may take that a case waits for.
const LONGEST: Duration = Duration::from_secs(120);

/// The hand on one device under test. Clones are the same hand.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Control>);

#[derive(Debug)]
struct Control {
    state: Mutex<State>,
    waits: AtomicU64,
    submissions: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    way: Way,
    /// Up to which value news got through.
    seen: BTreeMap<TimelineId, u64>,
    /// What was submitted and not let through yet, with what it waits for.
    submitted: BTreeMap<FencePoint, Vec<FencePoint>>,
    device: Option<Weak<dyn Device>>,
    gated: Option<Weak<GatedDevice>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Way {
    #[default]
    Open,
    Late,
    Held,
    Lost,
}

impl Gate {
    /// A gate before `inner`, and the provider that stands for both.
    pub fn before(inner: Arc<dyn Provider>) -> (Self, Arc<dyn Provider>) {
        let control = Control {
            state: Mutex::default(),
            waits: AtomicU64::new(0),
            submissions: AtomicU64::new(0),
        };
        let gate = Self(Arc::new(control));
        let provider = Arc::new(GatedProvider { inner, gate: gate.clone() });
        (gate, provider)
    }

    /// News gets through as it comes.
    pub fn open(&self) {
        self.0.state.lock().way = Way::Open;
    }

    /// Work counts as in flight until somebody waits for it.
    pub fn late(&self) {
        self.0.state.lock().way = Way::Late;
    }

    /// Work counts as in flight, and every wait for it runs out at once.
    pub fn hold(&self) {
        self.0.state.lock().way = Way::Held;
    }

    /// Waits for everything that was submitted, and lets the news through. Gives the first that did not end well.
    pub fn settle(&self) -> Option<FenceState> {
        let mut state = self.0.state.lock();
        let device = state.device.as_ref()?.upgrade()?;
        let points: Vec<_> = state.submitted.keys().copied().collect();
        let ends = points.into_iter().map(|point| {
            let end = device.wait(point, LONGEST);
            state.let_through(point);
            end
        });
        ends.filter(|end| *end != FenceState::Ok).last()
    }

    /// The device counts as lost from now on; what was not seen to end is lost with it. Waits for the device's work first, so that
    /// nothing of it touches memory that is given to others.
    pub fn lose(&self) {
        let mut state = self.0.state.lock();
        if let Some(device) = state.device.as_ref().and_then(Weak::upgrade) {
            for point in state.submitted.keys() {
                device.wait(*point, LONGEST);
            }
        }
        state.way = Way::Lost;
    }

    /// The device behind the gate, once it is open: for work that a case submits itself.
    pub fn device(&self) -> Option<Arc<dyn Device>> {
        let gated = self.0.state.lock().gated.as_ref()?.upgrade()?;
        Some(gated)
    }

    /// How many waits there were.
    pub fn waits(&self) -> u64 {
        self.0.waits.load(Relaxed)
    }

    /// How many submissions the device accepted.
    pub fn submissions(&self) -> u64 {
        self.0.submissions.load(Relaxed)
    }
}

impl State {
    /// `point` was seen to end, and with it what it waited for and what came before it.
    fn let_through(&mut self, point: FencePoint) {
        let seen = self.seen.entry(point.timeline).or_default();
        *seen = (*seen).max(point.value);
        let mut behind = vec![point];
        while let Some(point) = behind.pop() {
            let first = FencePoint { value: 0, ..point };
            let ended: Vec<_> = self.submitted.range(first..=point).map(|(at, _)| *at).collect();
            for ended in ended {
                for wait in self.submitted.remove(&ended).unwrap_or_default() {
                    let seen = self.seen.entry(wait.timeline).or_default();
                    *seen = (*seen).max(wait.value);
                    behind.push(wait);
                }
            }
        }
    }

    fn was_seen(&self, point: FencePoint) -> bool {
        self.seen.get(&point.timeline).is_some_and(|seen| *seen >= point.value)
    }
}

/// The provider of a device behind a gate.
#[derive(Debug)]
struct GatedProvider {
    inner: Arc<dyn Provider>,
    gate: Gate,
}

impl Provider for GatedProvider {
    fn summary(&self) -> &DeviceSummary {
        self.inner.summary()
    }

    fn open(&self, context: OpenContext) -> Result<Arc<dyn Device>, DeviceError> {
        let inner = self.inner.open(context)?;
        let device = Some(Arc::downgrade(&inner));
        let gated = Arc::new(GatedDevice { inner, gate: self.gate.clone() });
        let mut state = self.gate.0.state.lock();
        (state.device, state.gated) = (device, Some(Arc::downgrade(&gated)));
        drop(state);
        Ok(gated)
    }
}

/// A device behind a gate.
#[derive(Debug)]
struct GatedDevice {
    inner: Arc<dyn Device>,
    gate: Gate,
}

impl GatedDevice {
    fn alive(&self) -> Result<(), DeviceError> {
        match self.gate.0.state.lock().way {
            Way::Lost => Err(DeviceError::Lost),
            Way::Open | Way::Late | Way::Held => Ok(()),
        }
    }

    fn submit(
        &self,
        waits: &[FencePoint],
        submit: impl FnOnce(&dyn Device) -> Result<FencePoint, DeviceError>,
    ) -> Result<FencePoint, DeviceError> {
        self.alive()?;
        // Not under the lock: nobody can ask about the point before it is returned.
        let point = submit(&*self.inner)?;
        let mut state = self.gate.0.state.lock();
        let waits = waits.iter().filter(|wait| !state.was_seen(**wait)).copied().collect();
        state.submitted.insert(point, waits);
        self.gate.0.submissions.fetch_add(1, Relaxed);
        Ok(point)
    }
}

impl Device for GatedDevice {
    fn facts(&self) -> &DeviceFacts {
        self.inner.facts()
    }

    fn lost_by(&self) -> Option<&'static str> {
        self.inner.lost_by()
    }

    fn reserve(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        self.alive()?;
        self.inner.reserve(len_bytes)
    }

    fn reserve_whole(&self, len_bytes: u64) -> Result<Reservation, DeviceError> {
        self.alive()?;
        self.inner.reserve_whole(len_bytes)
    }

    fn back(&self, memory: MemoryId, ranges: &[Range<u64>]) -> Result<(), DeviceError> {
        self.alive()?;
        self.inner.back(memory, ranges)
    }

    fn unback(&self, memory: MemoryId, ranges: &[Range<u64>]) {
        self.inner.unback(memory, ranges);
    }

    fn release(&self, memory: MemoryId) {
        self.inner.release(memory);
    }

    fn open_window(&self, span: HostSpan) -> Result<Window, DeviceError> {
        self.alive()?;
        self.inner.open_window(span)
    }

    fn close_window(&self, window: WindowId) {
        self.inner.close_window(window);
    }

    fn host_released(&self, span: HostSpan) {
        self.inner.host_released(span);
    }

    fn prepare(
        &self,
        source: &'static Source,
        layout: &ParamLayout,
    ) -> Result<KernelId, DeviceError> {
        self.alive()?;
        self.inner.prepare(source, layout)
    }

    fn submit_transfer(&self, work: &TransferWork<'_>) -> Result<FencePoint, DeviceError> {
        self.submit(work.waits, |inner| inner.submit_transfer(work))
    }

    fn submit_launch(&self, work: &LaunchWork<'_>) -> Result<FencePoint, DeviceError> {
        self.submit(work.waits, |inner| inner.submit_launch(work))
    }

    fn export(&self, memory: MemoryId, kinds: HandleKinds) -> Result<Exported, DeviceError> {
        self.alive()?;
        self.inner.export(memory, kinds)
    }

    fn import(&self, exported: &Exported) -> Result<Imported, DeviceError> {
        self.alive()?;
        self.inner.import(exported)
    }

    fn submit_between(&self, work: &AcrossWork<'_>) -> Result<FencePoint, DeviceError> {
        self.submit(work.waits, |inner| inner.submit_between(work))
    }

    fn poll(&self, point: FencePoint) -> FenceState {
        let mut state = self.gate.0.state.lock();
        let seen = state.was_seen(point);
        match state.way {
            _ if seen => self.inner.poll(point),
            Way::Late | Way::Held => FenceState::Pending,
            Way::Lost => FenceState::Lost,
            Way::Open => {
                let end = self.inner.poll(point);
                if end.has_ended() {
                    state.let_through(point);
                }
                end
            }
        }
    }

    fn wait(&self, point: FencePoint, timeout: Duration) -> FenceState {
        self.gate.0.waits.fetch_add(1, Relaxed);
        let (way, seen) = {
            let state = self.gate.0.state.lock();
            (state.way, state.was_seen(point))
        };
        let timeout = match way {
            _ if seen => timeout,
            Way::Held => return FenceState::Pending,
            Way::Lost => return FenceState::Lost,
            // A case holds news back with waits that run out at once; who does wait gets an answer all the same.
            Way::Late => timeout.max(LONGEST),
            Way::Open => timeout,
        };
        let end = self.inner.wait(point, timeout);
        if end.has_ended() {
            self.gate.0.state.lock().let_through(point);
        }
        end
    }
}
