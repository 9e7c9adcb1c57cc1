//! The working set of a launch: everything that has to be where the device can reach it, reserved in one step.
//!
//! An attempt goes from the directory as it is to the moment at which work may be handed to the device, and hands over to `finish` with the
//! locks still held and the fences that the work must wait for. What stands in the way (another device's work, no
//! room) is waited for without locks, and the attempt starts again.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use smallvec::SmallVec;

use super::{
    batch::{Batch, conflicts, is_followed_by},
    budget::ByGroup,
    lack::Lack,
    ledger::{Doing, Note, Told, Used},
    locked::{Locked, effect},
    memory::Unbacked,
    peers::{Marks, Wanted, Why},
    placement::Uses,
    plan::{Plan, Request, Step, plan},
    settle::bytes_of,
    user_view,
};
use crate::{
    backend::{DeviceError, MemoryId, Reservation},
    directory::{FenceSet, PageSpan},
    error::Error,
    events::What,
    fence::FencePoint,
    home::Asked,
    host::HostError,
    kernel::BoundArray,
    runtime::{Inner, OpenDevice},
    stats::Cause,
    vec::Buffer,
};

/// The arrays of one piece of work on one device.
#[derive(Clone, Copy)]
pub(super) struct WorkingSet<'w, 'a> {
    pub(super) inner: &'w Inner,
    pub(super) open: &'w OpenDevice,
    pub(super) arrays: &'w [BoundArray<'a>],
    /// What moves is counted under this.
    pub(super) cause: Cause,
    /// What is to be done with it there.
    pub(super) doing: Doing,
    /// What is known to follow, the next one first.
    pub(super) queue: &'w [Note],
}

/// A working set that is where the device reaches it, with its buffers still locked.
pub(super) struct Brought<'b> {
    pub(super) uses: &'b [Use],
    /// What work on the set has to wait for, the copies of this attempt among it.
    pub(super) waits: &'b FenceSet,
    /// The copies and fills of this attempt; `None` when everything was there already.
    pub(super) copies: Option<FencePoint>,
    /// What peers cannot map before this goes.
    pub(super) marks: &'b mut Marks,
}

/// Pages of one buffer that the kernel uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    /// The buffer's place among the locked ones.
    pub(super) number: usize,
    pub(super) request: Request,
}

/// A step between devices: of which buffer, and what the copying device knows the source's memory as.
type Across = (usize, Step, MemoryId);

/// What came of one attempt.
enum Attempt<R> {
    Done(R),
    /// The host has to wait for these first.
    Wait(FenceSet),
    /// Peers have to give these back first.
    Peers(Vec<Wanted>),
    /// Another process has to grant these first: of which buffer.
    Grant(usize, Asked),
    /// What was in a neighbour's memory is there no more.
    Moved,
    NoRoom(NoRoom),
}

/// The device has no room for a working set.
#[derive(Clone, Debug, Default)]
pub(super) struct NoRoom {
    pub(super) asked: ByGroup,
    /// What the driver has not although our account has it.
    pub(super) driver_bytes: u64,
    /// [`super::Budget::gifts`] as this was found.
    pub(super) gifts: u64,
}

impl NoRoom {
    /// What has to leave.
    pub(super) fn lack(&self, open: &OpenDevice) -> Lack {
        open.budget.lack(&self.asked).at_least(self.driver_bytes)
    }
}

/// What a working set needs itself: nothing of it is moved out to make room for the rest.
#[derive(Clone, Copy, Default)]
pub(super) struct Kept<'k> {
    buffers: &'k [&'k Arc<Buffer>],
    uses: &'k [Use],
}

impl Kept<'_> {
    /// The pages that it needs of a buffer.
    pub(super) fn spans(&self, buffer: &Arc<Buffer>) -> SmallVec<[PageSpan; 6]> {
        let number = self.buffers.iter().position(|kept| Arc::ptr_eq(kept, buffer));
        let mine = self.uses.iter().filter(|one| Some(one.number) == number);
        // What is used on the host's pages needs none of its memory here.
        let uses = mine.filter(|one| !one.request.node.is_host());
        uses.map(|one| one.request.span).collect()
    }
}

impl<'w, 'a> WorkingSet<'w, 'a> {
    /// Brings the working set and hands over to `finish`.
    pub(super) fn bring<R>(
        self,
        mut finish: impl FnMut(&mut Locked<'_>, Brought<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.close_gates();
        let buffers = self.buffers();
        let mut asked = None;
        let mut windowed = SmallVec::<[usize; 6]>::new();
        let mut left_home = None;
        let slot = self.inner.slot(self.open.id)?;
        let mut turn = None;
        let mut marks = Marks::default();
        let why = Why { cause: self.cause, initiator: self.open.node, tolerates_late: false };
        // The ledger has heard of it; it keeps none of what works on the host's memory in place.
        let mut is_told = self.open.node.is_host();
        loop {
            let mut locked = Locked::new(&buffers);
            let left_home = left_home.get_or_insert_with(|| self.left_home(&mut locked));
            let Uses { asked: uses, wider } =
                asked.get_or_insert_with(|| self.uses(&mut locked, &windowed, left_home));
            // Who waits for room goes first: others do not take it from under them.
            let may_take = turn.is_some() || !slot.turn.is_locked();
            let attempt = match wider.take() {
                Some(wider) => {
                    let mut finish = |locked: &mut Locked<'_>, brought: Brought<'_>| {
                        finish(locked, Brought { uses, ..brought })
                    };
                    match self.attempt(&mut locked, &wider, may_take, &mut marks, &mut finish)? {
                        done @ Attempt::Done(_) => done,
                        // More than was asked for stands in nobody's way.
                        _ => continue,
                    }
                }
                None => self.attempt(&mut locked, uses, may_take, &mut marks, &mut finish)?,
            };
            let mut note = None;
            match attempt {
                _ if is_told => {}
                Attempt::Done(_) => slot.ledger.note(self.doing, self.used(&locked, uses)),
                Attempt::NoRoom(_) => {
                    let uses = self.used(&locked, uses).collect();
                    note = Some(Note { doing: self.doing, uses });
                }
                _ => {}
            }
            drop(locked);
            match attempt {
                Attempt::Done(result) => {
                    if !windowed.is_empty() {
                        let (device, vectors) = (self.open.id, windowed.len() as u32);
                        self.inner.counters.windowed.fetch_add(u64::from(vectors), Relaxed);
                        self.inner.recorder.note(|| What::Windowed { device, vectors });
                    }
                    return Ok(result);
                }
                Attempt::Wait(fences) => self.inner.wait_all(&fences)?,
                Attempt::Peers(wanted) => self.inner.take_back(&mut marks, &wanted, why)?,
                Attempt::Grant(number, asked) => self.inner.obtain(buffers[number], asked)?,
                Attempt::Moved => asked = None,
                Attempt::NoRoom(_) if turn.is_none() => turn = Some(slot.turn.lock()),
                Attempt::NoRoom(no_room) => {
                    is_told = true;
                    let kept = Kept { buffers: &buffers, uses };
                    let told = Told { coming: note, queue: self.queue };
                    let made = self.inner.make_room(self.open, &no_room, kept, told);
                    if let Err(error) = &made
                        && let Some(next) =
                            self.next_windowed(error, &no_room, &buffers, uses, &windowed)
                    {
                        windowed.push(next);
                        asked = None;
                        continue;
                    }
                    made?;
                }
            }
        }
    }

    /// What the ledger hears of it.
    fn used(&self, locked: &Locked<'_>, uses: &[Use]) -> impl Iterator<Item = Used> {
        // What is used on the host's pages takes no room on the device.
        let there = uses.iter().filter(|one| one.request.node == self.open.node);
        there.filter_map(|one| {
            let (buffer, state) = (locked.buffers[one.number], &locked.states[one.number]);
            let Request { span, access, .. } = one.request;
            Some(Used::new(state.memory(self.open.id)?, buffer, span, access))
        })
    }

    /// Where only fences keep the host and this device apart, the vectors ask before they hand out slices from now on.
    fn close_gates(&self) {
        if self.open.node.is_host() || self.inner.user_view().is_none() {
            self.arrays.iter().for_each(|array| array.hinge.close());
        }
    }

    /// Takes what the device is about to use away from the host's touches, as far as it must.
    pub(super) fn leave_user_view(
        &self,
        locked: &mut Locked<'_>,
        uses: &[Use],
    ) -> Result<(), Error> {
        let Some(view) = self.inner.user_view() else { return Ok(()) };
        for one in uses {
            let (buffer, state) = (locked.buffers[one.number], &mut locked.states[one.number]);
            let Request { span, access, node, .. } = one.request;
            // What works on the host's memory in place leaves it where it is.
            if node.is_host() && !(access.writes() && user_view::is_poisoned(state, span)) {
                continue;
            }
            user_view::leave(view, buffer, state, span, access)
                .map_err(|source| Error::Host(HostError::NotRevoked { source }))?;
        }
        Ok(())
    }

    /// The buffers, each once, in order of address: the order in which locks are taken.
    pub(super) fn buffers(&self) -> SmallVec<[&'a Arc<Buffer>; 6]> {
        let arrays = self.arrays.iter().filter(|array| !array.bytes.is_empty());
        let mut buffers: SmallVec<[&'a Arc<Buffer>; 6]> =
            arrays.map(|array| array.buffer).collect();
        buffers.sort_unstable_by_key(|buffer| Arc::as_ptr(buffer));
        buffers.dedup_by_key(|buffer| Arc::as_ptr(buffer));
        buffers
    }

    /// What is missing for a use. `None` for one of a neighbour's memory, if what it needs is there no more.
    fn plan_of(self, locked: &mut Locked<'_>, one: &Use) -> Result<Option<Plan>, Error> {
        let (inner, open, node) = (self.inner, self.open, one.request.node);
        let state = &mut locked.states[one.number];
        inner.settle(state, one.request.span);
        inner.take_notice(state, one.request.span)?;
        let is_abroad = node != open.node && !node.is_host();
        if is_abroad && state.binding(open.id, node).is_none() {
            return Ok(None);
        }
        inner.bind(open, node, locked.buffers[one.number], state)?;
        let plan = plan(&state.directory, one.request);
        if let Some(lost) = plan.lost {
            return Err(Error::DataLost { bytes: bytes_of(lost) });
        }
        Ok((!is_abroad || plan.is_empty()).then_some(plan))
    }

    /// One pass from the directory as it is to the accepted launch, or to what stands in the way.
    fn attempt<R>(
        self,
        locked: &mut Locked<'_>,
        uses: &[Use],
        may_take: bool,
        marks: &mut Marks,
        finish: &mut impl FnMut(&mut Locked<'_>, Brought<'_>) -> Result<R, Error>,
    ) -> Result<Attempt<R>, Error> {
        let (inner, open) = (self.inner, self.open);
        let mut plans: SmallVec<[(Use, Plan); 6]> = SmallVec::new();
        for one in uses {
            let state = &locked.states[one.number];
            if let Some(asked) = state.lacking(one.request.span, one.request.access) {
                return Ok(Attempt::Grant(one.number, asked));
            }
            let Some(plan) = self.plan_of(locked, one)? else { return Ok(Attempt::Moved) };
            // Most launches find everything in place.
            if !plan.is_empty() {
                plans.push((*one, plan));
            }
        }
        let wanted = locked.hindered(uses);
        if !wanted.is_empty() {
            return Ok(Attempt::Peers(wanted));
        }
        let (abroad, across) = self.sources_abroad(locked, &plans);
        if !abroad.is_empty() {
            let Locked { buffers, states } = locked;
            let waits = inner.copy_home(&abroad, self.cause, buffers, states.as_mut_slice())?;
            return Ok(Attempt::Wait(waits));
        }
        if !open.node.is_host()
            && let Some(no_room) = self.back(locked, uses, may_take)?
        {
            return Ok(no_room);
        }
        self.goes_there(locked, &plans);
        let mut batch = self.batch(locked, &plans, &across)?;
        let mut foreign = std::mem::take(&mut batch.foreign);
        let mut waits = FenceSet::default();
        for one in uses {
            conflicts(
                &locked.states[one.number],
                effect(one.request),
                one.request.span,
                |promise| {
                    let set = if is_followed_by(open, promise) { &mut waits } else { &mut foreign };
                    set.insert(promise.fence());
                },
            );
        }
        if !foreign.is_empty() {
            return Ok(Attempt::Wait(foreign));
        }
        for one in uses.iter().filter(|one| one.request.access.writes()) {
            inner.count_collapsed(&locked.states[one.number], one.request.span);
        }
        self.leave_user_view(locked, uses)?;
        let goes_across = batch.goes_across();
        let copies = if batch.is_empty() {
            None
        } else {
            Some(batch.submit(inner, self.cause, locked.states.as_mut_slice())?)
        };
        // What came from another device counts once that device is seen to have lived through it.
        waits.extend(copies);
        if goes_across {
            return Ok(Attempt::Wait(waits));
        }
        finish(locked, Brought { uses, waits: &waits, copies, marks }).map(Attempt::Done)
    }

    /// What has to be copied and zeroed. A node that is the host's is zeroed at once.
    fn batch(
        self,
        locked: &mut Locked<'_>,
        plans: &[(Use, Plan)],
        across: &[Across],
    ) -> Result<Batch<'w>, Error> {
        let (inner, open) = (self.inner, self.open);
        let mut batch = Batch::new(open);
        for (one, plan) in plans {
            let (buffer, state) = (locked.buffers[one.number], &mut locked.states[one.number]);
            for step in &plan.steps {
                match across
                    .iter()
                    .find(|(number, known, _)| (*number, known) == (one.number, step))
                {
                    Some((.., from)) => batch.across(one.number, state, *step, *from),
                    None => batch.copy(one.number, buffer, state, *step),
                }
            }
            if one.request.node.is_host() {
                inner.zero_host(buffer, state, &plan.zeros)?;
            } else {
                plan.zeros.iter().for_each(|zero| batch.zero(one.number, state, *zero));
            }
        }
        Ok(batch)
    }

    /// Copies whose source is neither the host nor the node itself: those that go to the host or through it, and those that the device does itself, with what it
    /// knows the source's memory as.
    fn sources_abroad(
        self,
        locked: &mut Locked<'_>,
        plans: &[(Use, Plan)],
    ) -> (Vec<(usize, Step)>, Vec<Across>) {
        let (mut abroad, mut across) = (Vec::new(), Vec::new());
        for (one, plan) in plans {
            let abroad_of = |step: &&Step| !step.from.is_host() && step.from != step.to;
            for step in plan.steps.iter().filter(abroad_of) {
                let state = &mut locked.states[one.number];
                let taken_in = if step.to.is_host() {
                    None
                } else {
                    self.inner.take_in(self.open, state, *step)
                };
                match taken_in {
                    Some(from) => across.push((one.number, *step, from)),
                    None => abroad.push((one.number, *step)),
                }
            }
        }
        (abroad, across)
    }

    /// Reserves memory for the whole working set in one step, all or nothing, then puts it in place.
    fn back<R>(
        self,
        locked: &mut Locked<'_>,
        uses: &[Use],
        may_take: bool,
    ) -> Result<Option<Attempt<R>>, Error> {
        let (inner, open) = (self.inner, self.open);
        let mut wanted = SmallVec::<[(usize, Reservation, Unbacked); 6]>::new();
        for (number, buffer) in locked.buffers.iter().enumerate() {
            let state = &locked.states[number];
            let Some(reservation) = state.memory(open.id) else { continue };
            let there = |one: &&Use| one.number == number && one.request.node == open.node;
            let spans = uses.iter().filter(there).map(|one| one.request.span);
            let unbacked = inner.unbacked(reservation, open.node, buffer, state, spans);
            if unbacked.bytes > 0 {
                wanted.push((number, reservation, unbacked));
            }
        }
        if wanted.is_empty() {
            return Ok(None);
        }
        let of = |wanted: &[(usize, Reservation, Unbacked)]| {
            let mut asked = ByGroup::default();
            for (number, _, unbacked) in wanted {
                asked.add(locked.buffers[*number].group_id(), unbacked.bytes);
            }
            asked
        };
        let asked = of(&wanted);
        let gifts = open.budget.gifts();
        if !may_take || !open.budget.try_take(&asked) {
            return Ok(Some(Attempt::NoRoom(NoRoom { asked, driver_bytes: 0, gifts })));
        }
        for (done, (number, reservation, unbacked)) in wanted.iter().enumerate() {
            let state = &mut locked.states[*number];
            let Err(error) = inner.back(open, *reservation, state, unbacked) else { continue };
            let left = of(&wanted[done..]);
            left.iter().for_each(|(group, bytes)| open.budget.give(group, bytes));
            let DeviceError::OutOfMemory { .. } = error else {
                return Err(inner.refused(open, error));
            };
            // The driver has less than the limit says; only memory of ours can make room.
            let driver_bytes = left.total_bytes();
            // Those of this attempt itself are no sign of others.
            let gifts = gifts + left.iter().count() as u64;
            return Ok(Some(Attempt::NoRoom(NoRoom { asked: left, driver_bytes, gifts })));
        }
        Ok(None)
    }
}
