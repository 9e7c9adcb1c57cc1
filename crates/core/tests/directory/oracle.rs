//! An oracle that keeps everything: per page the list of all that was ever recorded, never folded, never merged, replayed from the
//! start for each question.
//!
//! Works are submitted on three timelines to any spans, end well or fail (what waits for failed work then
//! never begins, as the device contract says), devices are lost, and now and then the directory looks at the fences. Whatever it answers must be
//! what the oracle answers, its runs must be in canonical form, and it must not take more memory than its runs.
//!
//! The steps are given: at random by the tests beside this file, by a fuzzer in `fuzz/`.

use hmmap_core::{
    coherence::{Effect, Promise},
    directory::{Directory, PageSpan, Run},
    fence::{Failure, FencePoint, FenceState, TimelineId},
    node::{DeviceId, NodeId},
};

/// What is not as it must be.
type Verdict = Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err(format!($($words)+));
        }
    };
}

pub(crate) const DEVICES: usize = 2;
/// One queue on the first device, two on the second.
pub(crate) const TIMELINES: [(usize, u8); 3] = [(0, 0), (1, 0), (1, 1)];

fn device(index: usize) -> DeviceId {
    DeviceId::new(index).unwrap()
}

fn own(index: usize) -> NodeId {
    NodeId::of_device(device(index))
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    CopyIn,
    CopyOut,
    Zero,
    Write,
    Read,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Submit {
        timeline: usize,
        kind: Kind,
        first: u64,
        pages: u64,
    },
    HostWrite {
        first: u64,
        pages: u64,
    },
    HostZero {
        first: u64,
        pages: u64,
    },
    Discard {
        first: u64,
        pages: u64,
    },
    /// The oldest work of a timeline ends.
    End {
        timeline: usize,
        fails: bool,
    },
    /// The directory looks at the fences of the runs under a span; then, so that the oracle can follow, at all.
    Settle {
        first: u64,
        pages: u64,
    },
    Lose {
        device: usize,
    },
}

/// How the oracle knows something that happened to a page.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fact {
    /// Was done, or was seen to have ended Ok.
    Done(Effect),
    InFlight(Effect, FencePoint),
    /// Stopped half way.
    Torn(Effect),
    /// The node's copy is gone.
    NodeLost(NodeId),
}

/// What the oracle says of a page: who holds it, whether it is lost, whether anything is in flight.
#[derive(Clone, Debug, PartialEq, Default)]
struct Answer {
    nodes: Vec<NodeId>,
    lost: bool,
    pending: bool,
}

fn replay(facts: &[Fact]) -> Answer {
    let mut answer = Answer::default();
    for fact in facts {
        match *fact {
            Fact::Done(effect) => answer.apply(effect),
            Fact::InFlight(effect, _) => {
                answer.apply(effect);
                answer.pending = true;
            }
            Fact::Torn(effect) => effect.overwrites().into_iter().for_each(|n| answer.destroy(n)),
            Fact::NodeLost(node) => answer.destroy(node),
        }
    }
    answer.nodes.sort();
    answer
}

impl Answer {
    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Read { .. } => return,
            Effect::Discard => {
                *self = Self { pending: self.pending, ..Self::default() };
                return;
            }
            Effect::Write { .. } => self.nodes.clear(),
            Effect::Copy { .. } | Effect::Zero { .. } => {}
        }
        let node = effect.overwrites().unwrap();
        self.nodes.retain(|held| *held != node);
        self.nodes.push(node);
        self.lost = false;
    }

    fn destroy(&mut self, node: NodeId) {
        let held = self.nodes.len();
        self.nodes.retain(|other| *other != node);
        self.lost |= self.nodes.is_empty() && held > 0;
    }
}

#[derive(Default)]
struct Timeline {
    submitted: u64,
    ends: Vec<FenceState>,
    /// Work has failed, and what was queued behind it does not begin.
    broken: bool,
}

/// The directory, and what the oracle knows.
pub(crate) struct Both {
    pub(crate) directory: Directory,
    facts: Vec<Vec<Fact>>,
    timelines: [Timeline; TIMELINES.len()],
    lost: [bool; DEVICES],
}

impl Timeline {
    fn has_pending(&self) -> bool {
        (self.ends.len() as u64) < self.submitted
    }
}

impl Both {
    pub(crate) fn new(pages: u64) -> Self {
        Self {
            directory: Directory::new(pages),
            facts: vec![Vec::new(); pages as usize],
            timelines: Default::default(),
            lost: [false; DEVICES],
        }
    }

    pub(crate) fn span(&self, first: u64, pages: u64) -> PageSpan {
        let len = self.directory.pages();
        let first = first.min(len - 1);
        PageSpan { first, end: (first + pages).min(len) }
    }

    fn record(&mut self, span: PageSpan, fact: Fact) {
        (span.first..span.end).for_each(|page| self.facts[page as usize].push(fact));
    }

    pub(crate) fn take(&mut self, step: &Step) {
        match *step {
            Step::Submit { timeline, kind, first, pages } => {
                self.submit(timeline, kind, self.span(first, pages));
            }
            Step::HostWrite { first, pages } => {
                self.done(Effect::Write { on: NodeId::HOST }, self.span(first, pages));
            }
            Step::HostZero { first, pages } => {
                self.done(Effect::Zero { on: NodeId::HOST }, self.span(first, pages));
            }
            Step::Discard { first, pages } => {
                self.done(Effect::Discard, self.span(first, pages));
            }
            Step::End { timeline, fails } => self.end(timeline, fails),
            Step::Settle { first, pages } => {
                self.settle(self.span(first, pages));
                self.settle_all();
            }
            Step::Lose { device } if device < DEVICES => self.lose(device),
            Step::Lose { .. } => {}
        }
    }

    pub(crate) fn done(&mut self, effect: Effect, span: PageSpan) {
        self.directory.change(span, |_, pages, run| run.log.done(effect, pages));
        self.record(span, Fact::Done(effect));
    }

    fn submit(&mut self, timeline: usize, kind: Kind, span: PageSpan) {
        let (index, queue) = TIMELINES[timeline];
        if self.lost[index] {
            return;
        }
        let on = own(index);
        let effect = match kind {
            Kind::CopyIn => Effect::Copy { from: NodeId::HOST, to: on },
            Kind::CopyOut => Effect::Copy { from: on, to: NodeId::HOST },
            Kind::Zero => Effect::Zero { on },
            Kind::Write => Effect::Write { on },
            Kind::Read => Effect::Read { on },
        };
        self.timelines[timeline].submitted += 1;
        let value = self.timelines[timeline].submitted;
        let fence = FencePoint { timeline: TimelineId::new(device(index), queue), value };
        self.directory.change(span, |_, pages, run| {
            run.backed.insert(on);
            run.log.promise(Promise::new(fence, effect, pages));
        });
        self.record(span, Fact::InFlight(effect, fence));
    }

    fn end(&mut self, timeline: usize, fails: bool) {
        let timeline = &mut self.timelines[timeline];
        if !timeline.has_pending() {
            return;
        }
        timeline.ends.push(match (timeline.broken, fails) {
            (true, _) => FenceState::Failed(Failure::Dependency),
            (false, true) => FenceState::Failed(Failure::Injected),
            (false, false) => FenceState::Ok,
        });
        timeline.broken |= fails;
    }

    fn state(timelines: &[Timeline], fence: FencePoint) -> FenceState {
        let of = (fence.timeline.device().index(), fence.timeline.queue());
        let at = TIMELINES.iter().position(|timeline| *timeline == of).unwrap();
        let ended = timelines[at].ends.get(fence.value as usize - 1);
        ended.copied().unwrap_or(FenceState::Pending)
    }

    fn settle(&mut self, span: PageSpan) {
        let timelines = &self.timelines;
        self.directory.settle(span, |fence| Self::state(timelines, fence), |_, _| {});
    }

    fn settle_all(&mut self) {
        self.settle(PageSpan { first: 0, end: self.directory.pages() });
        for fact in self.facts.iter_mut().flatten() {
            let Fact::InFlight(effect, fence) = *fact else { continue };
            *fact = match Self::state(&self.timelines, fence) {
                FenceState::Pending => continue,
                FenceState::Ok => Fact::Done(effect),
                FenceState::Failed(Failure::Dependency) => Fact::Done(Effect::Read { on: own(0) }),
                FenceState::Failed(_) | FenceState::Lost => Fact::Torn(effect),
            };
        }
        // The failure was seen, so what is submitted from now on does not wait for it.
        for timeline in &mut self.timelines {
            timeline.broken &= timeline.has_pending();
        }
    }

    fn lose(&mut self, index: usize) {
        if std::mem::replace(&mut self.lost[index], true) {
            return;
        }
        for (timeline, (device, _)) in self.timelines.iter_mut().zip(TIMELINES) {
            if device == index {
                timeline.ends.resize(timeline.submitted as usize, FenceState::Lost);
            }
        }
        self.settle_all();
        let all = PageSpan { first: 0, end: self.directory.pages() };
        self.directory.change(all, |_, _, run| {
            run.log.lose_node(own(index));
            run.backed.remove(own(index));
        });
        self.record(all, Fact::NodeLost(own(index)));
    }

    /// Compares all that the directory says with what the oracle says.
    pub(crate) fn check(&self) -> Verdict {
        self.compare()?;
        self.check_runs()?;
        self.check_length()
    }

    /// Lets everything end well, and checks that nothing is left.
    pub(crate) fn finish(&mut self) -> Verdict {
        for timeline in 0..TIMELINES.len() {
            while self.timelines[timeline].has_pending() {
                self.end(timeline, false);
            }
        }
        self.settle_all();
        self.check()?;
        let settled = self.directory.runs().all(|(_, run)| run.log.is_settled());
        ensure!(settled, "everything has ended and something is not settled");
        Ok(())
    }

    fn compare(&self) -> Verdict {
        let all = PageSpan { first: 0, end: self.directory.pages() };
        let mut answers = Vec::new();
        let runs = self.directory.residency(all);
        for run in &runs {
            ensure!(run.pages.start == answers.len() as u64, "a gap or an overlap: {runs:?}");
            let nodes = run.nodes.to_vec();
            let answer = Answer { nodes, lost: run.lost, pending: run.pending };
            answers.extend(run.pages.clone().map(|_| answer.clone()));
        }
        let replayed: Vec<Answer> = self.facts.iter().map(|facts| replay(facts)).collect();
        let differs = (0..replayed.len()).find(|page| answers.get(*page) != replayed.get(*page));
        if let Some(page) = differs {
            let (found, wanted) = (answers.get(page), &replayed[page]);
            return Err(format!("page {page} is {found:?} and should be {wanted:?}"));
        }
        let neighbours = runs.windows(2);
        for pair in neighbours {
            let differ = (&pair[0].nodes, pair[0].lost, pair[0].pending)
                != (&pair[1].nodes, pair[1].lost, pair[1].pending);
            ensure!(differ, "runs of residency are as long as possible: {pair:?}");
        }
        Ok(())
    }

    /// Runs are in order, cover every block once, and no two neighbours are equal.
    fn check_runs(&self) -> Verdict {
        let runs: Vec<(std::ops::Range<u32>, &Run)> = self.directory.runs().collect();
        let mut next = 0;
        for (blocks, _) in &runs {
            ensure!(blocks.start == next && blocks.end > next, "after block {next}: {blocks:?}");
            next = blocks.end;
        }
        ensure!(u64::from(next) == self.directory.pages().div_ceil(32), "the runs end at {next}");
        for pair in runs.windows(2) {
            let differ = pair[0].1.backed != pair[1].1.backed || pair[0].1.log != pair[1].1.log;
            ensure!(differ, "equal neighbours: {pair:?}");
        }
        let spilled: usize = runs.iter().map(|(_, run)| run.log.heap_bytes()).sum();
        let own_bytes = self.directory.footprint_bytes() - spilled - size_of::<Directory>();
        // Growing by a quarter at a time; joining runs does not give memory back.
        let most = self.directory.pages().div_ceil(32) as usize;
        ensure!(
            own_bytes <= (most + most / 4 + 1) * size_of::<Run>(),
            "it takes {own_bytes} bytes"
        );
        Ok(())
    }

    /// The log of a block is about as long as the timelines are many, whatever happened.
    fn check_length(&self) -> Verdict {
        for (blocks, run) in self.directory.runs() {
            let promises = run.log.promises();
            let ended = promises.iter().filter(|promise| !promise.is_pending()).count();
            let pending = promises.len() - ended;
            // A write, and for each node one that came true and one that tore.
            let bound = (pending + 1) * (1 + 2 * (DEVICES + 1)) * 32;
            ensure!(ended <= bound, "blocks {blocks:?}: {ended} ended promises");
        }
        Ok(())
    }
}
