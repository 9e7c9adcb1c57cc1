//! Works, and the seed that decides which of them runs next.
//!
//! ```text
//! submit -> waiting --(its waits have ended, the seed picks it)--> executed --(all values below too)--> ended
//! ```
//!
//! Nothing runs by itself: a step executes one work, on the thread that asks for it. Any work whose waits have ended may be the next, on
//! either queue and in any order within one; its value ends when all values below it were executed, so values end in order all the
//! same. How a work ends is decided when it is executed.

use std::sync::{OnceLock, mpsc};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{
    SeenFences, SimulatedOptions,
    link::{LinkCounters, LinkModel},
    order::{Clock, QUEUES, Touched, conflict, conflict_within},
    record::{Request, Violation, WorkRecord},
};
use crate::{
    access::Access,
    backend::DeviceError,
    embedded::{memory::DeviceMemory, operation::Operation, place::Place},
    fence::{Failure, FencePoint, FenceState, TimelineId},
    node::DeviceId,
};

/// How many works of a queue, from the oldest, the seed chooses from.
const WINDOW: usize = 32;
/// What a work ends with that touched memory which is not there, as a driver would report it (`EFAULT`).
pub(super) const ADDRESS_FAULT: Failure = Failure::Driver(-14);

/// Everything about the works of one open device.
#[derive(Debug)]
pub(super) struct Schedule {
    timelines: [Timeline; QUEUES],
    rng: fastrand::Rng,
    link: LinkModel,
    seen_fences: SeenFences,
    /// What the host has seen ended.
    seen: Clock,
    pub(super) host_ns: u64,
    pub(super) counters: LinkCounters,
    submitted: u64,
    executed: u64,
    fail_work: Option<u64>,
    pub(super) lost: bool,
}

#[derive(Debug)]
struct Timeline {
    id: TimelineId,
    /// Value `v` is at `v - 1`.
    works: Vec<Work>,
    /// Every value up to this one has ended.
    ended: u64,
}

#[derive(Debug)]
struct Work {
    record: WorkRecord,
    touched: Vec<Touched>,
    /// What is known to have ended when this value has.
    after: Clock,
    plan: Plan,
    /// How it ended, once it was executed.
    outcome: Option<FenceState>,
}

/// What a work's submission decided about its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plan {
    Run,
    /// A test asked for its failure.
    Fail,
    /// It was not well formed, which has been noted.
    Refuse,
}

impl Schedule {
    pub(super) fn new(device: DeviceId, options: &SimulatedOptions) -> Self {
        let timeline =
            |queue| Timeline { id: TimelineId::new(device, queue), works: Vec::new(), ended: 0 };
        Self {
            timelines: [timeline(0), timeline(1)],
            rng: fastrand::Rng::with_seed(options.seed),
            link: options.link,
            seen_fences: options.seen_fences,
            seen: Clock::default(),
            host_ns: 0,
            counters: LinkCounters::default(),
            submitted: 0,
            executed: 0,
            fail_work: None,
            lost: false,
        }
    }

    /// A byte that no reader takes for data: not zero, and huge as a float.
    fn garbage(&mut self) -> u8 {
        self.rng.u8(0x70..0x80) | if self.rng.bool() { 0x80 } else { 0 }
    }

    /// Leaves in fresh memory what nobody may rely on.
    pub(super) fn fill_with_garbage(&mut self, places: Vec<Place>) {
        let garbage = self.garbage();
        run_alone(Operation::fill(places, garbage));
    }

    /// True by the seed, every other time.
    pub(super) fn toss(&mut self) -> bool {
        self.rng.bool()
    }

    /// Makes the `n`-th work from now fail.
    pub(super) fn fail_nth_work(&mut self, n: u64) {
        self.fail_work = (n > 0).then_some(self.submitted + n);
    }

    /// Takes a work and hands out its value. Breaches of the contract that show already are noted.
    ///
    /// # Errors
    /// [`DeviceError::Misuse`] when it waits for a value that was not handed out.
    pub(super) fn submit(
        &mut self,
        queue: usize,
        waits: &[FencePoint],
        request: Request,
        operation: Result<Operation, &'static str>,
        violations: &mut Vec<Violation>,
    ) -> Result<FencePoint, DeviceError> {
        if !waits.iter().all(|wait| self.work(*wait).is_some()) {
            return Err(DeviceError::Misuse { what: "a wait for a fence unknown here" });
        }
        let timeline = &self.timelines[queue];
        let fence = FencePoint { timeline: timeline.id, value: timeline.works.len() as u64 + 1 };
        let (touched, mut plan) = match operation {
            Ok(operation) => (Touched::all(&operation), Plan::Run),
            Err(what) => {
                violations.push(Violation::Work { work: fence, what });
                (Vec::new(), Plan::Refuse)
            }
        };
        let before = self.before(waits);
        violations.extend(conflict_within(fence, &touched));
        violations.extend(self.conflicts(fence, before, &touched));

        self.submitted += 1;
        if self.fail_work.take_if(|at| *at == self.submitted).is_some() {
            plan = Plan::Fail;
        }
        self.counters.count(&request);
        let begin_ns = self.begin_ns(queue, waits);
        let end_ns = begin_ns.saturating_add(self.link.duration_ns(&request, &touched));
        let mut after = before;
        after.reach(fence);
        let timeline = &mut self.timelines[queue];
        if let Some(last) = timeline.works.last() {
            after.join(last.after);
        }
        let record = WorkRecord {
            fence,
            waits: waits.to_vec(),
            request,
            state: FenceState::Pending,
            turn: None,
            begin_ns,
            end_ns,
        };
        timeline.works.push(Work { record, touched, after, plan, outcome: None });
        Ok(fence)
    }

    /// What has ended before a work with these waits begins.
    fn before(&self, waits: &[FencePoint]) -> Clock {
        let mut before = match self.seen_fences {
            SeenFences::Order => self.seen,
            SeenFences::DoNotOrder => Clock::default(),
        };
        for work in waits.iter().filter_map(|wait| self.work(*wait)) {
            before.join(work.after);
        }
        before
    }

    fn conflicts(&self, fence: FencePoint, before: Clock, touched: &[Touched]) -> Vec<Violation> {
        let unordered = self.timelines.iter().enumerate().flat_map(|(queue, timeline)| {
            timeline.works.get(before.at(queue) as usize..).unwrap_or_default()
        });
        let conflicts = unordered
            .filter_map(|work| conflict((work.record.fence, &work.touched), (fence, touched)));
        conflicts.collect()
    }

    fn begin_ns(&self, queue: usize, waits: &[FencePoint]) -> u64 {
        let queue_free = self.timelines[queue].works.last().map(|work| work.record.end_ns);
        let waits_end = waits.iter().filter_map(|wait| Some(self.work(*wait)?.record.end_ns));
        waits_end.chain(queue_free).fold(self.host_ns, u64::max)
    }

    fn work(&self, point: FencePoint) -> Option<&Work> {
        let timeline = self.timelines.get(usize::from(point.timeline.queue()))?;
        if timeline.id != point.timeline {
            return None;
        }
        timeline.works.get(usize::try_from(point.value.checked_sub(1)?).ok()?)
    }

    /// How a fence stands, without telling the host. A fence that was not handed out is pending; one of another device is lost.
    pub(super) fn state(&self, point: FencePoint) -> FenceState {
        let known = self.timelines.iter().any(|timeline| timeline.id == point.timeline);
        self.work(point)
            .map_or(if known { FenceState::Pending } else { FenceState::Lost }, |work| {
                work.record.state
            })
    }

    /// How a fence stands; the host learns of it.
    pub(super) fn look(&mut self, point: FencePoint) -> FenceState {
        let state = self.state(point);
        if state.has_ended()
            && let Some((after, end_ns)) =
                self.work(point).map(|work| (work.after, work.record.end_ns))
        {
            self.seen.join(after);
            self.host_ns = self.host_ns.max(end_ns);
        }
        state
    }

    /// The works that may be executed now.
    pub(super) fn ready(&self) -> Vec<FencePoint> {
        let waiting = self.timelines.iter().flat_map(|timeline| {
            let open = timeline.works[timeline.ended as usize..].iter();
            open.filter(|work| work.outcome.is_none()).take(WINDOW)
        });
        let ready = waiting
            .filter(|work| work.record.waits.iter().all(|wait| self.state(*wait).has_ended()));
        ready.map(|work| work.record.fence).collect()
    }

    /// The works that have not ended.
    pub(super) fn pending(&self) -> Vec<FencePoint> {
        let open = self.timelines.iter().flat_map(|timeline| {
            timeline.works[timeline.ended as usize..].iter().map(|work| work.record.fence)
        });
        open.collect()
    }

    /// Executes one work, as the seed chooses.
    pub(super) fn step(
        &mut self,
        memory: &DeviceMemory,
        violations: &mut Vec<Violation>,
    ) -> Option<FencePoint> {
        let ready = self.ready();
        let point = *self.rng.choice(&ready)?;
        self.execute(point, memory, violations);
        Some(point)
    }

    /// Executes a work that is ready.
    pub(super) fn execute(
        &mut self,
        point: FencePoint,
        memory: &DeviceMemory,
        violations: &mut Vec<Violation>,
    ) {
        let Some(work) = self.work(point) else { return };
        let failed_wait = work.record.waits.iter().any(|wait| self.state(*wait) != FenceState::Ok);
        let outcome = match (work.plan, work.record.request.operation(memory)) {
            _ if failed_wait => FenceState::Failed(Failure::Dependency),
            (Plan::Refuse, _) => FenceState::Failed(ADDRESS_FAULT),
            (_, Err(_)) => {
                let what = "memory of a work was given back before it ran";
                violations.push(Violation::Work { work: point, what });
                FenceState::Failed(ADDRESS_FAULT)
            }
            (Plan::Fail, Ok(operation)) => {
                self.spoil(&operation);
                FenceState::Failed(Failure::Injected)
            }
            (Plan::Run, Ok(operation)) => self.run(operation),
        };
        self.end(point, outcome);
    }

    /// Half of the works that fail leave garbage in what they were to write.
    fn spoil(&mut self, operation: &Operation) {
        if self.toss() {
            let garbage = self.garbage();
            run_alone(Operation::fill(written(operation, Access::writes), garbage));
        }
    }

    fn run(&mut self, operation: Operation) -> FenceState {
        if matches!(operation, Operation::Launch(_)) {
            let garbage = self.garbage();
            let overwritten = written(&operation, |access| access == Access::Write);
            run_alone(Operation::fill(overwritten, garbage));
        }
        run_alone(operation)
    }

    fn end(&mut self, point: FencePoint, outcome: FenceState) {
        let turn = self.executed;
        self.executed += 1;
        let timeline = &mut self.timelines[usize::from(point.timeline.queue())];
        let work = &mut timeline.works[point.value as usize - 1];
        work.outcome = Some(outcome);
        work.record.turn = Some(turn);
        timeline.advance();
    }

    /// Ends all that has not ended as lost. What could have run has run or has not, as the seed decides.
    pub(super) fn lose(&mut self, memory: Option<&DeviceMemory>, violations: &mut Vec<Violation>) {
        while let Some(memory) = memory
            && self.toss()
            && self.step(memory, violations).is_some()
        {}
        self.lost = true;
        for timeline in &mut self.timelines {
            for work in &mut timeline.works[timeline.ended as usize..] {
                work.outcome = Some(FenceState::Lost);
            }
            timeline.advance();
        }
    }

    /// The works that have not ended and for which `uses` holds.
    pub(super) fn users(
        &self,
        uses: impl Fn(&Request, &[Touched]) -> bool,
    ) -> impl Iterator<Item = FencePoint> {
        let open =
            self.timelines.iter().flat_map(|timeline| &timeline.works[timeline.ended as usize..]);
        open.filter(move |work| uses(&work.record.request, &work.touched))
            .map(|work| work.record.fence)
    }

    /// Every work so far, in order of queue and value.
    pub(super) fn records(&self) -> Vec<WorkRecord> {
        let works = self.timelines.iter().flat_map(|timeline| &timeline.works);
        works.map(|work| work.record.clone()).collect()
    }
}

impl Timeline {
    /// Ends the values up to the first that was not executed.
    fn advance(&mut self) {
        let executed = self.works[self.ended as usize..].iter_mut();
        for (work, outcome) in executed.map_while(|work| work.outcome.map(|state| (work, state))) {
            work.record.state = outcome;
            self.ended += 1;
        }
    }
}

/// The places that an operation writes with an access that `which` picks.
fn written(operation: &Operation, which: impl Fn(Access) -> bool) -> Vec<Place> {
    let touched = operation.touches().into_iter();
    touched.filter(|touch| which(touch.access)).map(|touch| touch.place.clone()).collect()
}

/// Runs an operation in a pool of one thread, so that a twin's parallel iterators split and reduce the same way each time.
/// All simulated devices of the process share that thread, which keeps no state. The caller waits without stealing work, which might
/// need the lock that the caller holds.
fn run_alone(operation: Operation) -> FenceState {
    static ONE_THREAD: OnceLock<Option<ThreadPool>> = OnceLock::new();
    let pool = ONE_THREAD.get_or_init(|| {
        let name = |_| "hmmap simulated".to_owned();
        ThreadPoolBuilder::new().num_threads(1).thread_name(name).build().ok()
    });
    let Some(pool) = pool else { return ended(operation.run()) };
    let (tell, told) = mpsc::sync_channel(1);
    pool.spawn(move || {
        let state = ended(operation.run());
        // The caller waits for it and is there.
        let _ = tell.send(state);
    });
    told.recv().unwrap_or(FenceState::Lost)
}

fn ended(result: Result<(), Failure>) -> FenceState {
    result.map_or_else(FenceState::Failed, |()| FenceState::Ok)
}
