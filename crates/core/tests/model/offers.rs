//! What can happen next in a state.

use hmmap_core::{
    access::Access,
    coherence::{BlockState, Effect},
    node::NodeId,
    units::PageMask,
};
use smallvec::SmallVec;

use crate::{
    rules::Rules,
    world::{DEVICES, Health, QUEUES, Shape, World},
};

/// An effect of a submission on pages; `reads` are the pages whose bytes matter to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    pub(crate) effect: Effect,
    pub(crate) pages: PageMask,
    pub(crate) reads: PageMask,
}

/// One thing that happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// A device accepts copies and fills, or a launch.
    Submit { device: usize, queue: usize, asked: SmallVec<[Asked; 2]> },
    /// The host fills its pages with zeros.
    HostZero(PageMask),
    /// The host opens a guard that reads.
    HostRead(PageMask),
    /// The host opens a guard that writes, writes, and closes it.
    HostWrite { pages: PageMask, reads: PageMask },
    /// The host gives up what pages hold.
    HostDiscard(PageMask),
    /// The host closes its guards that read.
    CloseGuards,
    /// The oldest work on a queue ends, `Ok` or as its own failure; work whose wait failed ends as a failed dependency.
    End { device: usize, queue: usize, fails: bool },
    /// The rules look at the fences; `late` when the first that has ended did so just after it was looked at.
    Settle { late: bool },
    /// The device's copies are given up, if that costs nothing, and its memory with them.
    Evict { device: usize },
    /// A device is lost, and all its work in flight.
    Lose { device: usize },
    /// The engine takes note of a lost device.
    Notice { device: usize },
}

const ONE: PageMask = PageMask::from_bits(1);
const TWO: PageMask = PageMask::from_bits(2);
const BOTH: PageMask = PageMask::from_bits(3);

/// An access to pages, of which `whole` are covered to the last byte.
#[derive(Clone, Copy)]
struct Request {
    access: Access,
    pages: PageMask,
    whole: PageMask,
}

const fn request(access: Access, pages: PageMask, whole: PageMask) -> Request {
    Request { access, pages, whole }
}

/// Every access that one launch or one guard makes.
const REQUESTS: [&[Request]; 13] = [
    &[request(Access::Read, ONE, ONE)],
    &[request(Access::Read, TWO, TWO)],
    &[request(Access::Read, BOTH, BOTH)],
    &[request(Access::Update, ONE, ONE)],
    &[request(Access::Update, TWO, TWO)],
    &[request(Access::Update, BOTH, BOTH)],
    &[request(Access::Write, ONE, ONE)],
    &[request(Access::Write, TWO, TWO)],
    &[request(Access::Write, BOTH, BOTH)],
    &[request(Access::Write, BOTH, ONE)],
    &[request(Access::Write, BOTH, TWO)],
    &[request(Access::Read, ONE, ONE), request(Access::Update, TWO, TWO)],
    &[request(Access::Read, TWO, TWO), request(Access::Write, ONE, ONE)],
];

/// What the engine can do next, in a state whose fences it has just looked at.
pub(crate) fn actions(world: &World, shape: &Shape, rules: &impl Rules) -> Vec<Step> {
    let mut steps = Vec::with_capacity(32);
    let promised = world.log.promised();
    let accessed = PageMask::span(0, shape.pages as u32);
    let known = |requests: &&[Request]| requests.iter().all(|one| accessed.contains(one.pages));
    for requests in REQUESTS.into_iter().filter(known) {
        let writes = requests.iter().any(|one| one.access.writes());
        if writes && !world.guarded.is_empty() {
            // The vector is borrowed.
            continue;
        }
        let mut offered = Offered { world, shape, rules, promised: &promised, steps: &mut steps };
        let is_whole = requests.len() == 1 && requests[0].pages == BOTH;
        for device in (0..DEVICES).filter(|device| is_whole || !shape.whole_only[*device]) {
            offered.offer_device(device, requests);
        }
        if let [one] = requests {
            offered.offer_host(*one);
        }
    }
    if world.guarded.is_empty() && shape.discards {
        let discards = [ONE, TWO, BOTH].into_iter().filter(|pages| accessed.contains(*pages));
        steps.extend(discards.map(Step::HostDiscard));
    }
    if !world.guarded.is_empty() {
        steps.push(Step::CloseGuards);
    }
    for device in 0..DEVICES {
        if world.health[device] == Health::Lost {
            steps.push(Step::Notice { device });
        }
        if world.backed[device] && shape.own_memory[device] {
            steps.push(Step::Evict { device });
        }
    }
    steps
}

struct Offered<'a, R> {
    world: &'a World,
    shape: &'a Shape,
    rules: &'a R,
    promised: &'a BlockState,
    steps: &'a mut Vec<Step>,
}

impl<R: Rules> Offered<'_, R> {
    fn offer_device(&mut self, device: usize, requests: &[Request]) {
        let node = self.shape.node(device);
        let mut ready = true;
        for one in requests {
            ready &= self.bring(node, *one);
        }
        if !ready {
            return;
        }
        let asked = requests.iter().map(|one| {
            let pages = one.pages;
            match one.access {
                Access::Read => Asked { effect: Effect::Read { on: node }, pages, reads: pages },
                Access::Update => Asked { effect: Effect::Write { on: node }, pages, reads: pages },
                Access::Write => {
                    let reads = pages.without(one.whole);
                    Asked { effect: Effect::Write { on: node }, pages, reads }
                }
            }
        });
        let asked = asked.collect();
        self.submit(device, 0, asked);
    }

    fn offer_host(&mut self, one: Request) {
        if !self.bring(NodeId::HOST, one) {
            return;
        }
        let pages = one.pages;
        let step = match one.access {
            Access::Read => Step::HostRead(pages),
            Access::Update => Step::HostWrite { pages, reads: pages },
            Access::Write => Step::HostWrite { pages, reads: pages.without(one.whole) },
        };
        self.offer(step);
    }

    /// Offers what brings the pages to the node. True when nothing is missing.
    fn bring(&mut self, node: NodeId, one: Request) -> bool {
        let needs = self.rules.needs(self.promised, node, one.access, one.pages, one.whole);
        if needs.is_nothing() {
            return true;
        }
        if !needs.lost.is_empty() {
            return false;
        }
        let mut batch = SmallVec::<[Asked; 2]>::new();
        for (from, pages) in &needs.copy {
            // Copies are made by the device whose memory they leave or reach; between two devices by the one that needs the pages, or else
            // they go through the host.
            let direct = self.shape.direct_copies && !node.is_host();
            let to = if from.is_host() || direct { node } else { NodeId::HOST };
            let asked =
                Asked { effect: Effect::Copy { from: *from, to }, pages: *pages, reads: *pages };
            match from.device().filter(|_| !direct) {
                None => batch.push(asked),
                Some(device) => self.transfer(device.index(), smallvec::smallvec![asked]),
            }
        }
        match node.device() {
            Some(device) => {
                if !needs.zero.is_empty() {
                    let (effect, pages) = (Effect::Zero { on: node }, needs.zero);
                    batch.push(Asked { effect, pages, reads: PageMask::EMPTY });
                }
                if !batch.is_empty() {
                    self.transfer(device.index(), batch);
                }
            }
            None if !needs.zero.is_empty() => self.offer(Step::HostZero(needs.zero)),
            None => {}
        }
        false
    }

    fn transfer(&mut self, device: usize, asked: SmallVec<[Asked; 2]>) {
        self.submit(device, usize::from(self.shape.transfer_queue[device]), asked);
    }

    fn submit(&mut self, device: usize, queue: usize, asked: SmallVec<[Asked; 2]>) {
        let busy = self.world.unsettled();
        let on_device = busy.iter().filter(|point| point.timeline.device().index() == device);
        if self.world.health[device] == Health::Alive
            && on_device.count() < self.shape.in_flight[device]
            && busy.len() < self.shape.in_flight_total
        {
            self.offer(Step::Submit { device, queue, asked });
        }
    }

    fn offer(&mut self, step: Step) {
        if !self.steps.contains(&step) {
            self.steps.push(step);
        }
    }
}

/// What happens on a device without the engine's doing.
pub(crate) fn events(world: &World, shape: &Shape, device: usize) -> Vec<Step> {
    let mut steps = Vec::with_capacity(4);
    for queue in 0..QUEUES {
        let timeline = crate::world::timeline(device, queue);
        let oldest = world.in_flight.iter().find(|work| work.point.timeline == timeline);
        let Some(oldest) = oldest.filter(|work| work.waits.is_empty()) else { continue };
        if !oldest.doomed {
            steps.push(Step::End { device, queue, fails: false });
        }
        steps.push(Step::End { device, queue, fails: true });
    }
    if world.health[device] == Health::Alive && shape.can_be_lost[device] {
        steps.push(Step::Lose { device });
    }
    steps
}
