//! A launch: reserve the working set, bring it, run the kernel, remember what it promised.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use parking_lot::MutexGuard;
use smallvec::SmallVec;

use super::{
    batch::{Batch, conflicts, record},
    plan::{Plan, Request, Step, plan},
    settle::bytes_of,
    wait::Fence,
};
use crate::{
    access::Access,
    backend::{ArrayArgument, DeviceError, LaunchWork},
    coherence::Effect,
    directory::{FenceSet, PageSpan},
    error::Error,
    fence::FencePoint,
    kernel::{Arguments, BoundArguments, Grid, Kernel, KernelId, Source},
    node::{DeviceId, NodeId},
    runtime::{Inner, OpenDevice, Runtime},
    stats::Cause,
    vec::{Binding, Buffer, BufferState},
};

impl Runtime {
    /// Launches a kernel on the default device. Asynchronous: the pages are brought, the kernel is queued, the fence says when it
    /// has ended. Whoever keeps no fence loses nothing: the next access to the vectors waits for what it must.
    ///
    /// # Errors
    /// As [`Runtime::launch_on`].
    pub fn launch(&self, grid: impl Into<Grid>, kernel: impl Kernel) -> Result<Fence, Error> {
        self.launch_on(self.default_device()?, grid, kernel)
    }

    /// Launches a kernel on a device. A grid without items does nothing.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`]; [`Error::Arguments`], [`Error::ForeignVector`] and [`Error::GridTooLarge`] for what is wrong with
    /// the call; [`Error::Device`] for what the device refuses (a kernel that it has no code for, a layout that does not
    /// match the shader's); [`Error::OutOfDeviceMemory`] when the working set does not fit; [`Error::WorkFailed`],
    /// [`Error::DeviceLost`] and [`Error::DataLost`] for what happened to the vectors before. Nothing was launched then.
    pub fn launch_on(
        &self,
        device: DeviceId,
        grid: impl Into<Grid>,
        kernel: impl Kernel,
    ) -> Result<Fence, Error> {
        let inner = self.inner();
        let point = launch(inner, inner.open(device)?, grid.into(), &kernel)?;
        Ok(Fence::new(self.clone(), point))
    }
}

fn launch<K: Kernel>(
    inner: &Inner,
    open: &OpenDevice,
    grid: Grid,
    kernel: &K,
) -> Result<Option<FencePoint>, Error> {
    let source = K::source();
    let name = source.name;
    let mut arguments = Arguments::new(grid, source.workgroup);
    kernel.bind(&mut arguments);
    let bound = arguments.finish().map_err(|source| Error::Arguments { kernel: name, source })?;
    let foreign = bound.arrays.iter().position(|array| array.buffer.runtime_id != inner.id);
    if let Some(argument) = foreign {
        return Err(Error::ForeignVector { kernel: name, argument });
    }
    if grid.is_empty() {
        return Ok(None);
    }
    let groups = grid.groups(source.workgroup).ok_or(Error::GridTooLarge { kernel: name })?;
    let limits = open.device.facts().max_groups;
    if groups.iter().zip(limits).any(|(asked, limit)| *asked > limit) {
        return Err(Error::GridTooLarge { kernel: name });
    }
    let ready = open.kernel(source, &bound.layout);
    let kernel = ready.map_err(|error| inner.refused(open, error))?;
    inner.release_retired();
    Launch { inner, open, source, kernel, groups, bound }.run().map(Some)
}

/// One launch on its way.
struct Launch<'a> {
    inner: &'a Inner,
    open: &'a OpenDevice,
    source: &'static Source,
    kernel: KernelId,
    groups: [u32; 3],
    bound: BoundArguments<'a>,
}

/// Pages of one buffer that the kernel uses.
#[derive(Clone, Copy, Debug)]
struct Use {
    /// The buffer's place among the locked ones.
    number: usize,
    request: Request,
}

/// What came of one attempt.
enum Attempt {
    Submitted(FencePoint),
    /// The host has to wait for these first.
    Wait(FenceSet),
    /// The device has no room for the working set.
    NoRoom {
        asked_bytes: u64,
        shortfall_bytes: u64,
    },
}

/// The buffers of a launch, each once, and their locks, taken in order of address.
struct Locked<'a> {
    buffers: SmallVec<[&'a Arc<Buffer>; 6]>,
    states: SmallVec<[MutexGuard<'a, BufferState>; 6]>,
}

impl<'a> Locked<'a> {
    fn new(buffers: &SmallVec<[&'a Arc<Buffer>; 6]>) -> Self {
        let states = buffers.iter().map(|buffer| buffer.state.lock()).collect();
        Self { buffers: buffers.clone(), states }
    }
}

impl<'a> Launch<'a> {
    fn run(mut self) -> Result<FencePoint, Error> {
        let buffers = self.buffers();
        let uses = self.uses(&buffers);
        let slot = self.inner.slot(self.open.id)?;
        let mut turn = None;
        loop {
            let mut locked = Locked::new(&buffers);
            // Who waits for room goes first: others do not take it from under them.
            let may_take = turn.is_some() || !slot.turn.is_locked();
            let attempt = self.attempt(&mut locked, &uses, may_take)?;
            drop(locked);
            match attempt {
                Attempt::Submitted(fence) => {
                    tracing::debug!(kernel = self.source.name, device = %self.open.id, %fence, "launched");
                    return Ok(fence);
                }
                Attempt::Wait(fences) => self.inner.wait_all(&fences)?,
                Attempt::NoRoom { .. } if turn.is_none() => turn = Some(slot.turn.lock()),
                Attempt::NoRoom { asked_bytes, shortfall_bytes } => {
                    self.inner.make_room(self.open, asked_bytes, shortfall_bytes, &buffers)?;
                }
            }
        }
    }

    /// The buffers, each once, in order of address: the order in which locks are taken.
    fn buffers(&self) -> SmallVec<[&'a Arc<Buffer>; 6]> {
        let arrays = self.bound.arrays.iter().filter(|array| !array.bytes.is_empty());
        let mut buffers: SmallVec<[&'a Arc<Buffer>; 6]> =
            arrays.map(|array| array.buffer).collect();
        buffers.sort_unstable_by_key(|buffer| Arc::as_ptr(buffer));
        buffers.dedup_by_key(|buffer| Arc::as_ptr(buffer));
        buffers
    }

    /// What the kernel uses. Ranges of one buffer that are read and share pages become one, so no page is planned twice
    /// (a buffer that is written has only one argument: it is borrowed exclusively).
    fn uses(&self, buffers: &[&Arc<Buffer>]) -> SmallVec<[Use; 6]> {
        let mut uses: SmallVec<[Use; 6]> = SmallVec::new();
        for array in self.bound.arrays.iter().filter(|array| !array.bytes.is_empty()) {
            let number = buffers.iter().position(|buffer| Arc::ptr_eq(buffer, array.buffer));
            let Some(number) = number else { continue };
            let mut span = PageSpan::touching(&array.bytes);
            let inside = PageSpan::inside(&array.bytes, array.vec_bytes);
            if array.access == Access::Read {
                uses.retain(|earlier| {
                    let known = earlier.request.span;
                    let shares = earlier.number == number
                        && known.first <= span.end
                        && span.first <= known.end;
                    if shares {
                        span.first = span.first.min(known.first);
                        span.end = span.end.max(known.end);
                    }
                    !shares
                });
            }
            let request = Request { node: self.open.node, access: array.access, span, inside };
            uses.push(Use { number, request });
        }
        uses
    }

    /// One pass from the directory as it is to the accepted launch, or to what stands in the way.
    fn attempt(
        &mut self,
        locked: &mut Locked<'_>,
        uses: &[Use],
        may_take: bool,
    ) -> Result<Attempt, Error> {
        let (inner, open) = (self.inner, self.open);
        let mut plans: SmallVec<[(Use, Plan); 6]> = SmallVec::new();
        for one in uses {
            let state = &mut locked.states[one.number];
            inner.settle(state, one.request.span);
            inner.take_notice(state, one.request.span)?;
            inner.bind(open, locked.buffers[one.number], state)?;
            let plan = plan(&state.directory, one.request);
            if let Some(lost) = plan.lost {
                return Err(Error::DataLost { bytes: bytes_of(lost) });
            }
            plans.push((*one, plan));
        }
        let abroad = steps_from_other_devices(&plans, open.node);
        if !abroad.is_empty() {
            let Locked { buffers, states } = locked;
            let waits = inner.copy_home(&abroad, Cause::Launch, buffers, states.as_mut_slice())?;
            return Ok(Attempt::Wait(waits));
        }
        if !open.node.is_host()
            && let Some(no_room) = self.back(locked, uses, may_take)?
        {
            return Ok(no_room);
        }
        let mut batch = Batch::new(open);
        for (one, plan) in &plans {
            let (buffer, state) = (locked.buffers[one.number], &mut locked.states[one.number]);
            plan.steps.iter().for_each(|step| batch.copy(one.number, buffer, state, *step));
            if open.node.is_host() {
                inner.zero_host(buffer, state, &plan.zeros)?;
            } else {
                plan.zeros.iter().for_each(|zero| batch.zero(one.number, state, *zero));
            }
        }
        let mut foreign = std::mem::take(&mut batch.foreign);
        let mut waits = FenceSet::default();
        for one in uses {
            conflicts(&locked.states[one.number], effect(one.request), one.request.span, |fence| {
                let own = fence.timeline.device() == open.id;
                if own { waits.insert(fence) } else { foreign.insert(fence) }
            });
        }
        if !foreign.is_empty() {
            return Ok(Attempt::Wait(foreign));
        }
        if !batch.is_empty() {
            waits.insert(batch.submit(inner, Cause::Launch, locked.states.as_mut_slice())?);
        }
        self.submit(locked, uses, &waits).map(Attempt::Submitted)
    }

    /// Reserves memory for the whole working set in one step, all or nothing, then puts it in place.
    fn back(
        &self,
        locked: &mut Locked<'_>,
        uses: &[Use],
        may_take: bool,
    ) -> Result<Option<Attempt>, Error> {
        let (inner, open) = (self.inner, self.open);
        let mut wanted = SmallVec::<[_; 6]>::new();
        for (number, buffer) in locked.buffers.iter().enumerate() {
            let state = &locked.states[number];
            let Some(reservation) = state.memory(open.id) else { continue };
            let spans = uses.iter().filter(|one| one.number == number).map(|one| one.request.span);
            let unbacked = inner.unbacked(reservation, open.node, buffer, state, spans);
            if unbacked.bytes > 0 {
                wanted.push((number, reservation, unbacked));
            }
        }
        let asked_bytes: u64 = wanted.iter().map(|(.., unbacked)| unbacked.bytes).sum();
        if asked_bytes == 0 {
            return Ok(None);
        }
        if !may_take || !open.budget.try_take(asked_bytes) {
            let shortfall_bytes = asked_bytes.saturating_sub(open.budget.free_bytes());
            return Ok(Some(Attempt::NoRoom { asked_bytes, shortfall_bytes }));
        }
        let mut left_bytes = asked_bytes;
        for (number, reservation, unbacked) in wanted {
            match inner.back(open, reservation, &mut locked.states[number], &unbacked) {
                Ok(()) => left_bytes -= unbacked.bytes,
                Err(DeviceError::OutOfMemory { .. }) => {
                    // The driver has less than the limit says; only memory of ours can make room.
                    open.budget.give(left_bytes);
                    let shortfall_bytes = left_bytes;
                    return Ok(Some(Attempt::NoRoom { asked_bytes: left_bytes, shortfall_bytes }));
                }
                Err(error) => {
                    open.budget.give(left_bytes);
                    return Err(inner.refused(open, error));
                }
            }
        }
        Ok(None)
    }

    /// Submits the kernel and records what it promises.
    fn submit(
        &mut self,
        locked: &mut Locked<'_>,
        uses: &[Use],
        waits: &FenceSet,
    ) -> Result<FencePoint, Error> {
        let mut arrays = SmallVec::<[ArrayArgument; 6]>::new();
        for array in &self.bound.arrays {
            let place = locked.buffers.iter().position(|buffer| Arc::ptr_eq(buffer, array.buffer));
            let binding = place.and_then(|number| locked.states[number].binding(self.open.id));
            let base = binding.as_ref().map_or(0, Binding::address);
            let address = if array.bytes.is_empty() { 0 } else { base + array.bytes.start };
            let at = array.address_at;
            self.bound.params[at..at + 8].copy_from_slice(&address.to_ne_bytes());
            let len_bytes = array.bytes.end - array.bytes.start;
            arrays.push(ArrayArgument { address, len_bytes, access: array.access });
        }
        let work = LaunchWork {
            kernel: self.kernel,
            source: self.source,
            groups: self.groups,
            params: &self.bound.params,
            layout: &self.bound.layout,
            arrays: &arrays,
            waits: waits.as_slice(),
        };
        let submitted = self.open.device.submit_launch(&work);
        let fence = submitted.map_err(|error| self.inner.refused(self.open, error))?;
        let launches = self.inner.counters.launches.fetch_add(1, Relaxed) + 1;
        for one in uses {
            let state = &mut locked.states[one.number];
            state.last_use = launches;
            record(state, fence, effect(one.request), one.request.span);
        }
        Ok(fence)
    }
}

fn effect(request: Request) -> Effect {
    let on = request.node;
    if request.access.writes() { Effect::Write { on } } else { Effect::Read { on } }
}

/// Copies whose source is neither the host nor the node itself: they go through the host.
fn steps_from_other_devices(plans: &[(Use, Plan)], node: NodeId) -> Vec<(usize, Step)> {
    let mut abroad = Vec::new();
    for (one, plan) in plans {
        let steps = plan.steps.iter().filter(|step| !step.from.is_host() && step.from != node);
        abroad.extend(steps.map(|step| (one.number, *step)));
    }
    abroad
}
