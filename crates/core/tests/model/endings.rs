//! How work ends, what the engine makes of it, and how copies go.

use hmmap_core::{
    coherence::{self, Effect, Promise},
    fence::{Failure, FencePoint, FenceState},
    node::NodeId,
    units::PageMask,
};
use smallvec::SmallVec;

use crate::{
    ghost::{Fate, GARBAGE, ZEROS},
    rules::Rules,
    verdict::Broken,
    world::{DEVICES, Health, PAGES, Shape, Work, World, each_page, own_node, timeline_index},
};

impl World {
    pub(crate) fn end(
        &mut self,
        timeline: usize,
        fails: bool,
        rules: &impl Rules,
    ) -> Result<(), Broken> {
        let mut queue = self.in_flight.iter().map(|work| timeline_index(work.point.timeline));
        let oldest = queue.position(|of| of == timeline).expect("only work in flight ends");
        let work = self.in_flight.remove(oldest);
        let never_began = work.doomed && !rules.runs_after_a_failed_wait();
        if never_began {
            self.end_writes(&work, Fate::Failed);
            self.ended.push((work.point, FenceState::Failed(Failure::Dependency)));
        } else if fails && !work.doomed {
            self.tear(&work);
            self.ended.push((work.point, FenceState::Failed(Failure::Injected)));
        } else {
            self.perform(&work)?;
            self.ended.push((work.point, FenceState::Ok));
        }
        let ended_well = matches!(self.ended.last(), Some((_, FenceState::Ok)));
        for waiter in &mut self.in_flight {
            let waits = waiter.waits.len();
            waiter.waits.retain(|wait| *wait != work.point);
            waiter.doomed |= waiter.waits.len() < waits && !ended_well;
        }
        Ok(())
    }

    fn perform(&mut self, work: &Work) -> Result<(), Broken> {
        for item in &work.items {
            // A copy out of the memory of another device that is lost finds anything.
            let is_lost = |node: NodeId| {
                node.device().is_some_and(|device| self.health[device.index()] != Health::Alive)
            };
            if let Some(node) = item.effect.reads().filter(|node| !is_lost(*node)) {
                self.check_read(node, item.reads, item.after)?;
            }
            for page in each_page(item.pages) {
                match item.effect {
                    Effect::Copy { from, to } => *self.copy_mut(to, page) = self.copy(from, page),
                    Effect::Discard => unreachable!("only the host discards, at once"),
                    Effect::Zero { on } => *self.copy_mut(on, page) = self.histories[page].zeros(),
                    Effect::Write { on } => *self.copy_mut(on, page) = item.makes[page],
                    Effect::Read { .. } => {}
                }
            }
        }
        self.end_writes(work, Fate::Done);
        Ok(())
    }

    /// The work stopped half way.
    fn tear(&mut self, work: &Work) {
        for item in &work.items {
            if let Some(node) = item.effect.overwrites() {
                each_page(item.pages).for_each(|page| *self.copy_mut(node, page) = GARBAGE);
            }
        }
        self.end_writes(work, Fate::Failed);
    }

    fn end_writes(&mut self, work: &Work, fate: Fate) {
        for item in &work.items {
            for page in each_page(item.pages).filter(|page| item.makes[*page] != GARBAGE) {
                self.histories[page].end(item.makes[page], fate);
            }
        }
    }

    /// The rules look at the fences; whoever has failed must be reported. A fence that is lost gives its device away.
    pub(crate) fn settle(
        &mut self,
        late: bool,
        shape: &Shape,
        rules: &impl Rules,
    ) -> Result<(), Broken> {
        let world = &*self;
        let pending = world.log.promises().iter().filter(|promise| promise.is_pending());
        let first =
            pending.map(|promise| promise.fence).find(|fence| world.fate(*fence).has_ended());
        let mut missed = first.filter(|_| late);
        let mut due = SmallVec::<[FencePoint; 4]>::new();
        let mut seen_lost = SmallVec::<[usize; DEVICES]>::new();
        let mut skip = missed;
        for promise in self.log.promises().iter().filter(|promise| promise.is_pending()) {
            if skip.take_if(|fence| *fence == promise.fence).is_some() {
                continue;
            }
            match self.fate(promise.fence) {
                FenceState::Pending | FenceState::Ok => continue,
                FenceState::Failed(_) => {}
                FenceState::Lost => seen_lost.push(promise.fence.timeline.device().index()),
            }
            due.push(promise.fence);
        }
        let mut log = self.log.clone();
        let mut poll = |point: FencePoint| match missed {
            Some(fence) if fence == point => {
                missed = None;
                FenceState::Pending
            }
            _ => world.fate(point),
        };
        rules.settle(&mut log, &mut poll, &mut |settlement| {
            due.retain(|fence| *fence != settlement.fence);
        });
        self.log = log;
        if !due.is_empty() {
            return Err(Broken::FailureNotReported);
        }
        // All that was pending on a lost device has ended: whatever was missed is seen before the directory gives the device up.
        if !seen_lost.is_empty() && late {
            self.settle(false, shape, rules)?;
        }
        for device in seen_lost {
            if self.health[device] == Health::Lost {
                self.notice(device, shape, rules);
            }
        }
        Ok(())
    }

    pub(crate) fn evict(&mut self, device: usize, rules: &impl Rules) -> Result<(), Broken> {
        let node = own_node(device);
        if self.in_flight.iter().any(|work| work.touches(node)) {
            return Err(Broken::FreedInUse { node });
        }
        rules.drop_clean(&mut self.log, node, PageMask::FULL);
        self.backed[device] = false;
        for page in 0..PAGES {
            self.check_given_up(node, page)?;
            *self.copy_mut(node, page) = GARBAGE;
        }
        Ok(())
    }

    /// A copy may go when another is as good and nothing in flight can spoil that one.
    fn check_given_up(&self, node: NodeId, page: usize) -> Result<(), Broken> {
        let newest = self.histories[page].newest();
        let (promised, bit) = (self.log.promised(), PageMask::from_bits(1 << page));
        // An empty page needs no copy: its zeros can be made anywhere.
        let needs_none = promised.empty().overlaps(bit) && newest == ZEROS;
        let is_lost = promised.lost().overlaps(bit);
        // A lost device that nobody knows of yet is no copy that counts, nor one to blame the rules for.
        let is_known = !self.health.contains(&Health::Lost) && !is_lost;
        if self.copy(node, page) != newest || needs_none || !is_known {
            return Ok(());
        }
        let nodes = std::iter::once(NodeId::HOST).chain((0..DEVICES).map(own_node));
        let mut safe = nodes.filter(|other| {
            *other != node
                && self.copy(*other, page) == newest
                && !self.in_flight.iter().any(|work| work.overwrites(*other, bit))
        });
        if safe.next().is_some() { Ok(()) } else { Err(Broken::LastCopyGivenUp { node, page }) }
    }

    pub(crate) fn lose(&mut self, device: usize, shape: &Shape) {
        let all = std::mem::take(&mut self.in_flight);
        let (mine, others): (SmallVec<[Work; 4]>, _) =
            all.into_iter().partition(|work| work.device() == device);
        self.in_flight = others;
        for work in mine {
            self.tear(&work);
            self.ended.push((work.point, FenceState::Lost));
        }
        if shape.own_memory[device] {
            self.copies[own_node(device).index()] = [GARBAGE; PAGES];
        }
        // What others have copied out of it, and nobody has seen to have ended yet, may be anything.
        let under_way = |one: &Promise| self.in_flight.iter().any(|work| work.point == one.fence());
        let is_source =
            |one: &Promise| one.source_abroad().is_some_and(|source| source.index() == device);
        let promises = self.log.promises().iter().filter(|promise| promise.is_pending());
        let doubtful = promises.filter(|one| is_source(one) && !under_way(one));
        let doubtful: SmallVec<[_; 4]> =
            doubtful.filter_map(|one| Some((one.effect.overwrites()?, one.pages))).collect();
        for (node, pages) in doubtful {
            each_page(pages).for_each(|page| *self.copy_mut(node, page) = GARBAGE);
        }
        self.health[device] = Health::Lost;
    }

    pub(crate) fn notice(&mut self, device: usize, shape: &Shape, rules: &impl Rules) {
        if shape.own_memory[device] {
            rules.lose_node(&mut self.log, own_node(device));
        }
        self.backed[device] = false;
        self.health[device] = Health::Gone;
    }

    /// The directory's own checker, with what is really backed.
    pub(crate) fn check(&self) -> Result<(), coherence::Violation> {
        coherence::check(&self.log, |node| {
            node.device().is_none_or(|device| self.backed[device.index()])
        })
    }
}
