//! What a step does to the log, through the rules, and to the bytes.

use hmmap_core::{
    coherence::{Effect, Promise},
    directory::FenceSet,
    fence::{FencePoint, FenceState, TimelineId},
    node::NodeId,
    units::PageMask,
};
use smallvec::SmallVec;

use crate::{
    ghost::{Fate, GARBAGE, Version},
    offers::{Asked, Step},
    rules::Rules,
    verdict::{Broken, judge},
    world::{
        Item, PAGES, Shape, TIMELINES, Work, World, each_page, own_node, timeline, timeline_index,
    },
};

/// The state after a step, `None` when it has to wait.
pub(crate) fn after(
    world: &World,
    step: &Step,
    shape: &Shape,
    rules: &impl Rules,
) -> Result<Option<World>, Broken> {
    if world.has_to_wait(step, shape, rules) {
        return Ok(None);
    }
    let mut next = world.clone();
    match step {
        Step::Submit { device, queue, asked } => {
            next.submit(timeline(*device, *queue), asked, rules)?;
        }
        Step::HostZero(pages) => next.host_zero(*pages, rules)?,
        Step::HostRead(pages) => next.host_read(*pages, shape)?,
        Step::HostWrite { pages, reads } => next.host_write(*pages, *reads, rules)?,
        Step::HostDiscard(pages) => next.host_discard(*pages, rules),
        Step::CloseGuards => next.guarded = PageMask::EMPTY,
        Step::End { device, queue, fails } => {
            next.end(timeline_index(timeline(*device, *queue)), *fails, rules)?;
        }
        Step::Settle { late } => next.settle(*late, shape, rules)?,
        Step::Evict { device } => next.evict(*device, rules)?,
        Step::Lose { device } => next.lose(*device, shape),
        Step::Notice { device } => {
            // Whatever was pending on the device is seen to have ended before the directory gives it up.
            next.settle(false, shape, rules)?;
            next.notice(*device, shape, rules);
        }
    }
    next.normalise();
    judge(&next)?;
    Ok(Some(next))
}

impl World {
    /// True when a step cannot be taken as things are, or changes nothing.
    fn has_to_wait(&self, step: &Step, shape: &Shape, rules: &impl Rules) -> bool {
        let waits = |asked: &[Asked]| self.waits(asked, rules);
        let host_waits =
            |effect, pages| !waits(&[Asked { effect, pages, reads: PageMask::EMPTY }]).is_empty();
        match step {
            Step::Submit { device, asked, .. } => {
                let foreign = |wait: &FencePoint| wait.timeline.device().index() != *device;
                let crosses = |one: &Asked| {
                    let mut followed = self.log.followed(one.effect, one.pages);
                    followed.any(|promise| promise.source_abroad().is_some())
                };
                let waits_for_foreign =
                    rules.waits_for_foreign_fences() && waits(asked).as_slice().iter().any(foreign);
                waits_for_foreign
                    || rules.waits_for_copies_between_devices() && asked.iter().any(crosses)
            }
            Step::HostZero(pages) => host_waits(Effect::Zero { on: NodeId::HOST }, *pages),
            Step::HostWrite { pages, .. } | Step::HostDiscard(pages) => {
                host_waits(Effect::Write { on: NodeId::HOST }, *pages)
            }
            Step::HostRead(pages) => {
                let is_open = shape.open_guards && self.guarded.contains(*pages);
                is_open || host_waits(Effect::Read { on: NodeId::HOST }, *pages)
            }
            Step::Evict { device } => !rules.may_evict(&self.log, own_node(*device)),
            _ => false,
        }
    }

    fn waits(&self, asked: &[Asked], rules: &impl Rules) -> FenceSet {
        let mut waits = FenceSet::default();
        asked.iter().for_each(|one| rules.waits(&self.log, one.effect, one.pages, &mut waits));
        waits
    }

    fn submit(
        &mut self,
        timeline: TimelineId,
        asked: &[Asked],
        rules: &impl Rules,
    ) -> Result<(), Broken> {
        let waits = self.waits(asked, rules);
        let own = waits.as_slice().iter().filter(|w| w.timeline.device() == timeline.device());
        let point = self.next_point(timeline);
        let items = asked.iter().map(|one| self.item(one)).collect();
        let mut work =
            Work { point, items, waits: SmallVec::new(), doomed: false, behind: [0; TIMELINES] };
        for wait in own {
            match self.fate(*wait) {
                FenceState::Pending => work.waits.push(*wait),
                FenceState::Ok => {}
                FenceState::Failed(_) | FenceState::Lost => work.doomed = true,
            }
        }
        work.behind = self.behind(&work.waits);
        self.check_order(&work)?;
        for one in asked {
            rules.promise(&mut self.log, Promise::new(point, one.effect, one.pages));
            if let Some(device) = one.effect.overwrites().and_then(NodeId::device) {
                self.backed[device.index()] = true;
            }
        }
        self.in_flight.push(work);
        Ok(())
    }

    fn next_point(&mut self, timeline: TimelineId) -> FencePoint {
        let value = &mut self.last_value[timeline_index(timeline)];
        *value += 1;
        FencePoint { timeline, value: *value }
    }

    fn item(&mut self, asked: &Asked) -> Item {
        let Asked { effect, pages, reads } = *asked;
        let after = self.now();
        let mut makes = [GARBAGE; PAGES];
        if matches!(effect, Effect::Write { .. }) {
            each_page(pages).for_each(|page| makes[page] = self.histories[page].push());
        }
        Item { effect, pages, reads, after, makes }
    }

    /// What has ended when these have: values of a timeline end in order, and work ends after what it waits for.
    fn behind(&self, waits: &[FencePoint]) -> [u64; TIMELINES] {
        let mut behind = [0; TIMELINES];
        for wait in waits {
            let timeline = timeline_index(wait.timeline);
            behind[timeline] = behind[timeline].max(wait.value);
            let before = self.in_flight.iter().filter(|work| {
                work.point.timeline == wait.timeline && work.point.value <= wait.value
            });
            for work in before {
                behind.iter_mut().zip(work.behind).for_each(|(b, w)| *b = (*b).max(w));
            }
        }
        behind
    }

    /// Two accesses to one copy, one of which overwrites it, must be ordered.
    fn check_order(&self, work: &Work) -> Result<(), Broken> {
        let at_once = self.in_flight.iter().filter(|earlier| {
            earlier.point.value > work.behind[timeline_index(earlier.point.timeline)]
        });
        for earlier in at_once.flat_map(|earlier| &earlier.items) {
            for item in &work.items {
                self.check_pair(earlier, item.effect, item.pages)?;
            }
        }
        let over_guard = work.overwrites(NodeId::HOST, self.guarded);
        if over_guard { Err(Broken::GuardOverwritten) } else { Ok(()) }
    }

    fn check_pair(&self, earlier: &Item, effect: Effect, pages: PageMask) -> Result<(), Broken> {
        let shares = |a: Option<NodeId>, b: Option<NodeId>| a.is_some() && a == b;
        let conflict = shares(effect.overwrites(), earlier.effect.overwrites())
            || shares(effect.overwrites(), earlier.effect.reads())
            || shares(effect.reads(), earlier.effect.overwrites());
        if conflict && earlier.pages.overlaps(pages) {
            return Err(Broken::Unordered { earlier: earlier.effect, later: effect });
        }
        Ok(())
    }

    /// The host touches its copy itself.
    fn host_touches(&self, effect: Effect, pages: PageMask) -> Result<(), Broken> {
        let mut items = self.in_flight.iter().flat_map(|work| &work.items);
        items.try_for_each(|item| self.check_pair(item, effect, pages))
    }

    fn host_zero(&mut self, pages: PageMask, rules: &impl Rules) -> Result<(), Broken> {
        let effect = Effect::Zero { on: NodeId::HOST };
        self.host_touches(effect, pages)?;
        each_page(pages)
            .for_each(|page| *self.copy_mut(NodeId::HOST, page) = self.histories[page].zeros());
        rules.done(&mut self.log, effect, pages);
        Ok(())
    }

    fn host_read(&mut self, pages: PageMask, shape: &Shape) -> Result<(), Broken> {
        self.host_touches(Effect::Read { on: NodeId::HOST }, pages)?;
        self.check_read(NodeId::HOST, pages, self.now())?;
        if shape.open_guards {
            self.guarded = self.guarded.or(pages);
        }
        Ok(())
    }

    fn host_write(
        &mut self,
        pages: PageMask,
        reads: PageMask,
        rules: &impl Rules,
    ) -> Result<(), Broken> {
        let effect = Effect::Write { on: NodeId::HOST };
        self.host_touches(effect, pages)?;
        self.check_read(NodeId::HOST, reads, self.now())?;
        for page in each_page(pages) {
            let version = self.histories[page].push();
            self.histories[page].end(version, Fate::Done);
            *self.copy_mut(NodeId::HOST, page) = version;
        }
        rules.done(&mut self.log, effect, pages);
        Ok(())
    }

    fn host_discard(&mut self, pages: PageMask, rules: &impl Rules) {
        each_page(pages).for_each(|page| self.histories[page].push_zeros());
        rules.done(&mut self.log, Effect::Discard, pages);
    }

    /// Per page the write that was accepted last.
    fn now(&self) -> [Version; PAGES] {
        std::array::from_fn(|page| self.histories[page].last())
    }

    /// Whoever reads must find what the last write before it made.
    pub(crate) fn check_read(
        &self,
        node: NodeId,
        pages: PageMask,
        after: [Version; PAGES],
    ) -> Result<(), Broken> {
        for page in each_page(pages) {
            let (expected, fate) = self.histories[page].expected(after[page]);
            if fate != Fate::Done || self.copy(node, page) != expected {
                return Err(Broken::StaleRead { node, page });
            }
        }
        Ok(())
    }
}
