//! A runtime on fresh devices behind gates, and the operations that cases are made of: each is watched, and each does the
//! same to the oracle.

use std::{
    ops::{Range, RangeBounds},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use hmmap::kernels::{Fill, Saxpy, StreamCopy};
use hmmap_core::{
    DeviceCopies, DeviceId, Error, Fence, NodeId, Options, Runtime, SharedVec, host::HostFaults,
};
use parking_lot::Mutex;

use crate::{
    case::{CaseFailure, Context, ensure},
    gate::Gate,
    mirror::Mirror,
    observe::{Before, Deed, Touched, rows_now},
    setup::HostStyle,
    table::{Model, Touch},
};

/// Elements in a page.
pub(crate) const PAGE: usize = (hmmap_core::units::PAGE_BYTES / size_of::<f32>() as u64) as usize;
/// Elements in a block.
pub(crate) const BLOCK: usize = (hmmap_core::units::BLOCK_BYTES / size_of::<f32>() as u64) as usize;

/// A runtime on one or two fresh devices.
#[derive(Debug)]
pub struct Rig<'c> {
    pub(crate) context: &'c Context<'c>,
    /// The runtime under test.
    pub runtime: Runtime,
    gates: Vec<Gate>,
    devices: Vec<DeviceId>,
    model: Model,
    late: AtomicBool,
    watch: Mutex<Watch>,
}

/// How closely a rig compares its operations with the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Watch {
    /// Places, costs and waits.
    #[default]
    All,
    /// Places only: something else moves pages or waits at the same time, like an eviction.
    Places,
    /// Nothing but data: other threads touch the same pages.
    Data,
}

impl<'c> Rig<'c> {
    pub(crate) fn new(
        context: &'c Context<'c>,
        options: Options,
        count: usize,
    ) -> Result<Self, CaseFailure> {
        let setup = context.setup();
        let second = || setup.second.as_ref().unwrap_or(&setup.first);
        let factories = (0..count).map(|i| if i == 0 { &setup.first } else { second() });
        let (gates, providers): (Vec<_>, Vec<_>) =
            factories.map(|factory| Gate::before(factory())).unzip();
        let runtime = Runtime::new(providers, options)?;
        let devices: Vec<_> = runtime.devices().map(|(id, _)| id).collect();
        let mut model = Model::Migrate;
        for device in &devices {
            if runtime.node(*device)? == NodeId::HOST {
                model = Model::Unified;
            }
        }
        // The mode says so of a device alone, too: its table is that of two.
        let gives = || runtime.facts(devices[0]).map(|facts| facts.external.is_some());
        if model == Model::Migrate && setup.device_copies == DeviceCopies::Auto && gives()? {
            model = Model::Direct;
        }
        context.found_model(model);
        Ok(Self {
            context,
            runtime,
            gates,
            devices,
            model,
            late: AtomicBool::new(false),
            watch: Mutex::default(),
        })
    }

    /// The first device.
    pub fn device(&self) -> DeviceId {
        self.devices[0]
    }

    /// The last device: the second where there are two.
    pub fn other(&self) -> DeviceId {
        self.devices[self.devices.len() - 1]
    }

    /// The gate before a device.
    pub fn gate(&self, device: DeviceId) -> &Gate {
        &self.gates[device.index()]
    }

    /// Where kernels work.
    pub fn model(&self) -> Model {
        self.model
    }

    /// From now on work counts as in flight until somebody waits for it.
    pub fn late(&self) {
        self.late.store(true, Relaxed);
        self.gates.iter().for_each(Gate::late);
    }

    /// From now on every wait runs out at once. The runtime needs a deadline for its waits.
    pub fn hold(&self) {
        self.gates.iter().for_each(Gate::hold);
    }

    /// How closely the operations that follow are compared with the table.
    pub fn watch(&self, watch: Watch) {
        *self.watch.lock() = watch;
    }

    pub(crate) fn watching(&self) -> Watch {
        let asked = *self.watch.lock();
        match self.context.setup().host_style {
            HostStyle::Guards => asked,
            _ if self.context.setup().moves_blocks() => Watch::Data,
            // A stream of touches brings more than what is touched, under a cause of its own.
            HostStyle::Indexing(HostFaults::Auto | HostFaults::UserModeOnly) => {
                asked.max(Watch::Places)
            }
            // What is read leaves the devices, or whole vectors come home.
            HostStyle::Indexing(HostFaults::NoSharing | HostFaults::Off) => Watch::Data,
        }
    }

    /// True when pages that nobody touched may come home behind a stream of touches.
    pub(crate) fn may_bring_ahead(&self) -> bool {
        self.context.setup().host_style != HostStyle::Guards
    }

    /// Elements for the host to read, in the style of the setup.
    fn slice<'v>(
        &self,
        vec: &'v SharedVec<f32>,
        elements: Range<usize>,
    ) -> Result<&'v [f32], Error> {
        if self.indexes(vec, &elements) { Ok(&vec[elements]) } else { vec.host(elements) }
    }

    /// Elements for the host to change, in the style of the setup.
    fn slice_mut<'v>(
        &self,
        vec: &'v mut SharedVec<f32>,
        elements: Range<usize>,
    ) -> Result<&'v mut [f32], Error> {
        if self.indexes(vec, &elements) { Ok(&mut vec[elements]) } else { vec.host_mut(elements) }
    }

    /// A touch of what is lost ends with a signal, so there only a guard can be asked.
    fn indexes(&self, vec: &SharedVec<f32>, elements: &Range<usize>) -> bool {
        let is_lost =
            || vec.residency(elements.clone()).is_ok_and(|runs| runs.iter().any(|run| run.lost));
        self.context.setup().host_style != HostStyle::Guards && !is_lost()
    }

    pub(crate) fn is_late(&self) -> bool {
        self.late.load(Relaxed)
    }

    /// Waits for everything in flight on every device.
    pub fn settle(&self) -> Result<(), CaseFailure> {
        for gate in &self.gates {
            if let Some(end) = gate.settle() {
                return Err(CaseFailure::broken(format!("work ended {end:?}")));
            }
        }
        Ok(())
    }

    /// How many waits there were on all devices.
    pub fn waits(&self) -> u64 {
        self.gates.iter().map(Gate::waits).sum()
    }

    /// Device memory in use on all devices, in bytes.
    pub fn used_bytes(&self) -> Result<u64, CaseFailure> {
        let used = self.devices.iter().map(|device| self.runtime.device_memory(*device));
        Ok(used.map(|memory| memory.map(|memory| memory.used_bytes)).sum::<Result<u64, _>>()?)
    }

    /// Makes the runtime look after vectors that were dropped with work in flight.
    pub fn sweep(&self) -> Result<(), CaseFailure> {
        drop(SharedVec::<f32>::new(&self.runtime, 1)?);
        Ok(())
    }

    /// A vector that nobody has written, with its oracle.
    pub fn zeros(&self, len: usize) -> Result<Mirror, CaseFailure> {
        Mirror::zeros(&self.runtime, len)
    }

    /// A vector that the host has written, with its oracle.
    pub fn filled(
        &self,
        len: usize,
        element: impl Fn(usize) -> f32,
    ) -> Result<Mirror, CaseFailure> {
        let mut mirror = self.zeros(len)?;
        self.host_write(&mut mirror, .., element)?;
        Ok(mirror)
    }

    /// The host reads a range and compares it with the oracle.
    pub fn host_read(
        &self,
        mirror: &Mirror,
        range: impl RangeBounds<usize>,
    ) -> Result<(), CaseFailure> {
        let elements = mirror.resolve(&range);
        let touched = Touched { vec: &mirror.vec, elements, deed: Deed::Read };
        let elements = touched.elements.clone();
        let before = Before::look(self, None, &[touched])?;
        let answer = self.slice(&mirror.vec, elements.clone());
        if self.went_on(&before, answer.as_ref().err())? {
            mirror.compare(elements, answer?)?;
        }
        before.compare(self, &[&mirror.vec])
    }

    /// The host overwrites a range; element `i` of the vector becomes `element(i)`.
    pub fn host_write(
        &self,
        mirror: &mut Mirror,
        range: impl RangeBounds<usize>,
        element: impl Fn(usize) -> f32,
    ) -> Result<(), CaseFailure> {
        let elements = mirror.resolve(&range);
        let touched = Touched { vec: &mirror.vec, elements: elements.clone(), deed: Deed::Update };
        let before = Before::look(self, None, &[touched])?;
        let answer = self.slice_mut(&mut mirror.vec, elements.clone());
        if self.went_on(&before, answer.as_ref().err())? {
            let (slice, oracle) = (answer?, &mut mirror.oracle[elements.clone()]);
            for (i, (slot, oracle)) in elements.zip(slice.iter_mut().zip(oracle)) {
                (*slot, *oracle) = (element(i), element(i));
            }
        }
        before.compare(self, &[&mirror.vec])
    }

    /// The host overwrites a range without asking what it held; element `i` of the vector becomes `element(i)`.
    pub fn host_overwrite(
        &self,
        mirror: &mut Mirror,
        range: impl RangeBounds<usize>,
        element: impl Fn(usize) -> f32,
    ) -> Result<(), CaseFailure> {
        let elements = mirror.resolve(&range);
        let touched = Touched { vec: &mirror.vec, elements: elements.clone(), deed: Deed::Write };
        let before = Before::look(self, None, &[touched])?;
        let answer = mirror.vec.overwrite(elements.clone());
        if self.went_on(&before, answer.as_ref().err())? {
            let (slice, oracle) = (answer?, &mut mirror.oracle[elements.clone()]);
            for (i, (slot, oracle)) in elements.zip(slice.iter_mut().zip(oracle)) {
                (*slot, *oracle) = (element(i), element(i));
            }
        }
        before.compare(self, &[&mirror.vec])
    }

    /// The host gives up what a range holds: it is zeros from then on.
    pub fn discard(
        &self,
        mirror: &mut Mirror,
        range: impl RangeBounds<usize>,
    ) -> Result<(), CaseFailure> {
        let elements = mirror.resolve(&range);
        let touched = Touched { vec: &mirror.vec, elements: elements.clone(), deed: Deed::Discard };
        let before = Before::look(self, None, &[touched])?;
        let answer = mirror.vec.discard(elements.clone());
        if self.went_on(&before, answer.as_ref().err())? {
            mirror.oracle[elements].fill(0.0);
        }
        before.compare(self, &[&mirror.vec])
    }

    /// A device overwrites a range with one value.
    pub fn fill(
        &self,
        device: DeviceId,
        mirror: &mut Mirror,
        range: impl RangeBounds<usize>,
        value: f32,
    ) -> Result<Option<Fence>, CaseFailure> {
        let elements = mirror.resolve(&range);
        let touched = Touched { vec: &mirror.vec, elements: elements.clone(), deed: Deed::Write };
        let before = Before::look(self, Some(device), &[touched])?;
        let out = mirror.vec.write().range(elements.clone());
        let answer = self.runtime.launch_on(device, elements.len(), Fill { out, value });
        let fence = self.launched(&before, answer)?;
        if fence.is_some() {
            mirror.oracle[elements].fill(value);
        }
        before.compare(self, &[&mirror.vec])?;
        Ok(fence)
    }

    /// A device reads a range of `from` and overwrites an equally long range of `to` with it.
    pub fn copy(
        &self,
        device: DeviceId,
        (from, from_range): (&Mirror, impl RangeBounds<usize>),
        (to, to_range): (&mut Mirror, impl RangeBounds<usize>),
    ) -> Result<Option<Fence>, CaseFailure> {
        let (read, written) = (from.resolve(&from_range), to.resolve(&to_range));
        let touched = [
            Touched { vec: &from.vec, elements: read.clone(), deed: Deed::Read },
            Touched { vec: &to.vec, elements: written.clone(), deed: Deed::Write },
        ];
        let before = Before::look(self, Some(device), &touched)?;
        let a = from.vec.read().range(read.clone());
        let c = to.vec.write().range(written.clone());
        let answer = self.runtime.launch_on(device, read.len(), StreamCopy { a, c });
        let fence = self.launched(&before, answer)?;
        if fence.is_some() {
            to.oracle[written].copy_from_slice(&from.oracle[read]);
        }
        before.compare(self, &[&from.vec, &to.vec])?;
        Ok(fence)
    }

    /// A device adds `a` times a range of `x` to an equally long range of `y`.
    pub fn saxpy(
        &self,
        device: DeviceId,
        a: f32,
        (x, x_range): (&Mirror, impl RangeBounds<usize>),
        (y, y_range): (&mut Mirror, impl RangeBounds<usize>),
    ) -> Result<Option<Fence>, CaseFailure> {
        let (read, updated) = (x.resolve(&x_range), y.resolve(&y_range));
        let touched = [
            Touched { vec: &x.vec, elements: read.clone(), deed: Deed::Read },
            Touched { vec: &y.vec, elements: updated.clone(), deed: Deed::Update },
        ];
        let before = Before::look(self, Some(device), &touched)?;
        let kernel = Saxpy {
            a,
            x: x.vec.read().range(read.clone()),
            y: y.vec.update().range(updated.clone()),
        };
        let answer = self.runtime.launch_on(device, read.len(), kernel);
        let fence = self.launched(&before, answer)?;
        if fence.is_some() {
            let pairs = y.oracle[updated].iter_mut().zip(&x.oracle[read]);
            pairs.for_each(|(y, x)| *y += a * *x);
        }
        before.compare(self, &[&x.vec, &y.vec])?;
        Ok(fence)
    }

    /// Brings a range to a device ahead of a kernel that reads it.
    pub fn prefetch(
        &self,
        device: DeviceId,
        mirror: &Mirror,
        range: impl RangeBounds<usize>,
    ) -> Result<Option<Fence>, CaseFailure> {
        let elements = mirror.resolve(&range);
        let touched =
            Touched { vec: &mirror.vec, elements: elements.clone(), deed: Deed::Prefetch };
        let before = Before::look(self, Some(device), &[touched])?;
        let fence = self.launched(&before, mirror.vec.prefetch(elements, device))?;
        before.compare(self, &[&mirror.vec])?;
        Ok(fence)
    }

    /// Drops the vector; counts the rows of its pages.
    pub fn drop_vec(&self, mirror: Mirror) -> Result<(), CaseFailure> {
        self.context.cover(rows_now(self, &mirror.vec, Touch::Drop)?.into_iter());
        drop(mirror);
        Ok(())
    }

    /// The fence of a launch that went on; `None` when it was refused as the table says.
    fn launched(
        &self,
        before: &Before,
        answer: Result<Fence, Error>,
    ) -> Result<Option<Fence>, CaseFailure> {
        Ok(if self.went_on(before, answer.as_ref().err())? { Some(answer?) } else { None })
    }

    /// True when the access went on. A refusal that the table has is no failure, anything else is.
    fn went_on(&self, before: &Before, error: Option<&Error>) -> Result<bool, CaseFailure> {
        let should_refuse = before.is_refused(self.model);
        match error {
            None => {
                ensure!(!should_refuse, "an access to lost data went on");
                Ok(true)
            }
            Some(Error::DataLost { .. }) if should_refuse => Ok(false),
            Some(error) => Err(error.clone().into()),
        }
    }
}
