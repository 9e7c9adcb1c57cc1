//! The directory against an oracle that keeps everything: per page the list of all that was ever recorded, never folded, never merged,
//! replayed from the start for each question.
//!
//! Random works are submitted on three timelines to random spans, end well or fail (what waits for failed work then
//! never begins, as the device contract says), devices are lost, and now and then the directory looks at the fences. Whatever it answers must be
//! what the oracle answers, its runs must be in canonical form, and it must not take more memory than its runs.

mod cases;

use cases::cases;
use hmmap_core::{
    coherence::{Effect, Promise},
    directory::{Directory, PageSpan, Run},
    fence::{Failure, FencePoint, FenceState, TimelineId},
    node::{DeviceId, NodeId},
};
use proptest::prelude::*;

const DEVICES: usize = 2;
/// One queue on the first device, two on the second.
const TIMELINES: [(usize, u8); 3] = [(0, 0), (1, 0), (1, 1)];

fn device(index: usize) -> DeviceId {
    DeviceId::new(index).unwrap()
}

fn own(index: usize) -> NodeId {
    NodeId::of_device(device(index))
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    CopyIn,
    CopyOut,
    Zero,
    Write,
    Read,
}

#[derive(Clone, Debug)]
enum Step {
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

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        1 => Just(Kind::CopyIn),
        1 => Just(Kind::CopyOut),
        1 => Just(Kind::Zero),
        4 => Just(Kind::Write),
        2 => Just(Kind::Read),
    ];
    let timeline = 0..TIMELINES.len();
    // Starts and lengths that often meet block boundaries, and often do not.
    let place = prop_oneof![0..200u64, (0..7u64).prop_map(|block| block * 32)];
    let count = prop_oneof![1..4u64, 1..200u64, (1..4u64).prop_map(|blocks| blocks * 32)];
    let span = (place, count);
    prop_oneof![
        8 => (timeline.clone(), kind, span.clone()).prop_map(|(timeline, kind, (first, pages))| {
            Step::Submit { timeline, kind, first, pages }
        }),
        2 => span.clone().prop_map(|(first, pages)| Step::HostWrite { first, pages }),
        1 => span.clone().prop_map(|(first, pages)| Step::HostZero { first, pages }),
        8 => (timeline, prop::bool::weighted(0.2))
            .prop_map(|(timeline, fails)| Step::End { timeline, fails }),
        3 => span.prop_map(|(first, pages)| Step::Settle { first, pages }),
        1 => prop_oneof![9 => Just(DEVICES), 1 => 0..DEVICES].prop_map(|device| Step::Lose { device }),
    ]
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

struct Both {
    directory: Directory,
    facts: Vec<Vec<Fact>>,
    timelines: [Timeline; TIMELINES.len()],
    lost: [bool; DEVICES],
}

impl Both {
    fn new(pages: u64) -> Self {
        Self {
            directory: Directory::new(pages),
            facts: vec![Vec::new(); pages as usize],
            timelines: Default::default(),
            lost: [false; DEVICES],
        }
    }

    fn span(&self, first: u64, pages: u64) -> PageSpan {
        let len = self.directory.pages();
        let first = first.min(len - 1);
        PageSpan { first, end: (first + pages).min(len) }
    }

    fn record(&mut self, span: PageSpan, fact: Fact) {
        (span.first..span.end).for_each(|page| self.facts[page as usize].push(fact));
    }

    fn take(&mut self, step: &Step) {
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
            Step::End { timeline, fails } => self.end(timeline, fails),
            Step::Settle { first, pages } => {
                self.settle(self.span(first, pages));
                self.settle_all();
            }
            Step::Lose { device } if device < DEVICES => self.lose(device),
            Step::Lose { .. } => {}
        }
    }

    fn done(&mut self, effect: Effect, span: PageSpan) {
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
        if timeline.ends.len() as u64 == timeline.submitted {
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
            timeline.broken &= (timeline.ends.len() as u64) < timeline.submitted;
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

    fn compare(&self) -> Result<(), TestCaseError> {
        let all = PageSpan { first: 0, end: self.directory.pages() };
        let mut answers = Vec::new();
        let runs = self.directory.residency(all);
        for run in &runs {
            prop_assert_eq!(run.pages.start, answers.len() as u64, "a gap or an overlap");
            let nodes = run.nodes.to_vec();
            let answer = Answer { nodes, lost: run.lost, pending: run.pending };
            answers.extend(run.pages.clone().map(|_| answer.clone()));
        }
        let replayed: Vec<Answer> = self.facts.iter().map(|facts| replay(facts)).collect();
        prop_assert_eq!(&answers, &replayed);
        let neighbours = runs.windows(2);
        for pair in neighbours {
            let same = (&pair[0].nodes, pair[0].lost, pair[0].pending)
                != (&pair[1].nodes, pair[1].lost, pair[1].pending);
            prop_assert!(same, "runs of residency are as long as possible: {:?}", pair);
        }
        self.check_runs()
    }

    /// Runs are in order, cover every block once, and no two neighbours are equal.
    fn check_runs(&self) -> Result<(), TestCaseError> {
        let runs: Vec<(std::ops::Range<u32>, &Run)> = self.directory.runs().collect();
        let mut next = 0;
        for (blocks, _) in &runs {
            prop_assert_eq!(blocks.start, next);
            prop_assert!(blocks.end > blocks.start);
            next = blocks.end;
        }
        prop_assert_eq!(u64::from(next), self.directory.pages().div_ceil(32));
        for pair in runs.windows(2) {
            let differ = pair[0].1.backed != pair[1].1.backed || pair[0].1.log != pair[1].1.log;
            prop_assert!(differ, "equal neighbours: {:?}", pair);
        }
        let spilled: usize = runs.iter().map(|(_, run)| run.log.heap_bytes()).sum();
        let own_bytes = self.directory.footprint_bytes() - spilled - size_of::<Directory>();
        // Growing by a quarter at a time; joining runs does not give memory back.
        let most = self.directory.pages().div_ceil(32) as usize;
        prop_assert!(own_bytes <= (most + most / 4 + 1) * size_of::<Run>());
        Ok(())
    }

    /// The log of a block is about as long as the timelines are many, whatever happened.
    fn check_length(&self) -> Result<(), TestCaseError> {
        for (blocks, run) in self.directory.runs() {
            let promises = run.log.promises();
            let ended = promises.iter().filter(|promise| !promise.is_pending()).count();
            let pending = promises.len() - ended;
            // A write, and for each node one that came true and one that tore.
            let bound = (pending + 1) * (1 + 2 * (DEVICES + 1)) * 32;
            prop_assert!(ended <= bound, "blocks {:?}: {} ended promises", blocks, ended);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn the_directory_answers_as_if_it_had_kept_everything(
        pages in prop_oneof![1..3u64, 30..35u64, 60..70u64, 100..200u64],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut both = Both::new(pages);
        for step in &steps {
            both.take(step);
            both.compare()?;
            both.check_length()?;
        }
        for timeline in 0..TIMELINES.len() {
            (0..steps.len()).for_each(|_| both.end(timeline, false));
        }
        both.settle_all();
        both.compare()?;
        prop_assert!(both.directory.runs().all(|(_, run)| run.log.is_settled()));
    }

    /// What `look` shows for any span is what `change` would change: each page of the span once, none outside.
    #[test]
    fn look_and_change_cover_a_span_once(
        pages in 1..200u64,
        writes in prop::collection::vec((0..200u64, 1..80u64), 0..6),
        asked in (0..200u64, 1..200u64),
    ) {
        let mut both = Both::new(pages);
        for (first, count) in writes {
            both.done(Effect::Write { on: NodeId::HOST }, both.span(first, count));
        }
        let span = both.span(asked.0, asked.1);
        let mut looked = vec![0; pages.next_multiple_of(32) as usize];
        both.directory.look(span, |blocks, mask, _| {
            for block in blocks {
                let places = mask.spans().flatten().map(|page| u64::from(block) * 32 + u64::from(page));
                places.for_each(|page| looked[page as usize] += 1);
            }
        });
        for (page, times) in looked.iter().enumerate() {
            let inside = (span.first..span.end).contains(&(page as u64));
            // The pages past the end follow the last one.
            let past = page as u64 >= pages && span.end == pages;
            prop_assert_eq!(*times, i32::from(inside || past), "page {}", page);
        }
    }
}
