//! Breadth first through every state that can be reached.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
};

use crate::{
    key::{Key, key},
    offers::{Step, actions, events},
    rules::Rules,
    steps::after,
    verdict::Broken,
    world::{DEVICES, Shape, World},
};

/// What an exploration found.
#[derive(Debug, Default)]
pub(crate) struct Explored {
    pub(crate) states: usize,
    pub(crate) steps: usize,
    /// The longest log of any state.
    pub(crate) longest_log: usize,
}

/// How a state was reached that breaks an invariant.
pub(crate) struct Counterexample {
    pub(crate) broken: Broken,
    pub(crate) trace: Vec<Step>,
}

/// Explores everything; stops at the first state that breaks an invariant, by a shortest way there.
pub(crate) fn explore(shape: &Shape, rules: &impl Rules) -> Result<Explored, Counterexample> {
    let mut explorer = Explorer {
        shape,
        rules,
        known: HashSet::new(),
        parents: Vec::new(),
        frontier: VecDeque::new(),
        explored: Explored::default(),
        path: Vec::new(),
        from: 0,
    };
    explorer.keep(World::new());
    while let Some((at, world)) = explorer.frontier.pop_front() {
        explorer.from = at;
        explorer.expand(&world).map_err(|broken| explorer.counterexample(broken))?;
    }
    explorer.explored.states = explorer.known.len();
    Ok(explorer.explored)
}

/// Takes `steps` steps at random, by a seed.
pub(crate) fn walk(
    shape: &Shape,
    rules: &impl Rules,
    seed: u64,
    steps: usize,
) -> Result<(), Counterexample> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::new();
    let mut trace = Vec::new();
    while trace.len() < steps {
        // The engine looks at the fences before it does anything, so what it does and what happens are chosen apart.
        let mut choices: Vec<Step> = (0..DEVICES).flat_map(|d| events(&world, shape, d)).collect();
        if choices.is_empty() || random.bool() {
            trace.push(Step::Settle { late: world.ended_unseen() > 1 && random.u8(..4) == 0 });
            world = taken(&world, &mut trace, shape, rules)?.unwrap_or(world);
            choices = actions(&world, shape, rules);
        }
        let Some(step) = random.choice(choices) else { continue };
        // A loss ends most of what could happen.
        if matches!(step, Step::Lose { .. }) && random.u8(..16) > 0 {
            continue;
        }
        trace.push(step);
        world = taken(&world, &mut trace, shape, rules)?.unwrap_or(world);
    }
    Ok(())
}

fn taken(
    world: &World,
    trace: &mut Vec<Step>,
    shape: &Shape,
    rules: &impl Rules,
) -> Result<Option<World>, Counterexample> {
    let step = trace.last().expect("a step was pushed");
    let next = after(world, step, shape, rules);
    next.map_err(|broken| Counterexample { broken, trace: std::mem::take(trace) })
}

struct Explorer<'a, R> {
    shape: &'a Shape,
    rules: &'a R,
    known: HashSet<Key>,
    /// For each state the one it was first reached from, and how.
    parents: Vec<(u32, Box<[Step]>)>,
    frontier: VecDeque<(u32, World)>,
    explored: Explored,
    /// The way from the state that is being expanded.
    path: Vec<Step>,
    from: u32,
}

impl<R: Rules> Explorer<'_, R> {
    fn expand(&mut self, world: &World) -> Result<(), Broken> {
        self.expand_events(world, 0)?;
        // The engine looks at the fences before it plans. What ends between the two could as well end after both.
        self.path.push(Step::Settle { late: false });
        if let Some(looked) = self.step(world)? {
            for step in actions(&looked, self.shape, self.rules) {
                self.path.push(step);
                if let Some(next) = self.step(&looked)? {
                    self.keep(next);
                }
                self.path.pop();
            }
        }
        self.path.pop();
        Ok(())
    }

    /// Any number of events before the engine looks. Those of different devices come in the devices' order: they commute.
    fn expand_events(&mut self, world: &World, first_device: usize) -> Result<(), Broken> {
        for device in first_device..DEVICES {
            for event in events(world, self.shape, device) {
                self.path.push(event);
                if let Some(next) = self.step(world)? {
                    for late in [false, true] {
                        if late && next.ended_unseen() < 2 {
                            continue;
                        }
                        self.path.push(Step::Settle { late });
                        if let Some(looked) = self.step(&next)? {
                            self.keep(looked);
                        }
                        self.path.pop();
                    }
                    self.expand_events(&next, device)?;
                }
                self.path.pop();
            }
        }
        Ok(())
    }

    /// Takes the last step of the path; leaves the path as it is when the step breaks something.
    fn step(&mut self, world: &World) -> Result<Option<World>, Broken> {
        self.explored.steps += 1;
        let step = self.path.last().expect("a step was pushed");
        after(world, step, self.shape, self.rules)
    }

    fn keep(&mut self, world: World) {
        if self.known.insert(key(&world)) {
            let longest = &mut self.explored.longest_log;
            *longest = (*longest).max(world.log.promises().len());
            self.parents.push((self.from, self.path.as_slice().into()));
            self.frontier.push_back((self.parents.len() as u32 - 1, world));
        }
    }

    fn counterexample(&self, broken: Broken) -> Counterexample {
        let mut legs = vec![self.path.as_slice()];
        let mut at = self.from;
        while at != 0 {
            let (from, leg) = &self.parents[at as usize];
            legs.push(leg);
            at = *from;
        }
        let trace = legs.into_iter().rev().flatten().cloned().collect();
        Counterexample { broken, trace }
    }
}

impl fmt::Debug for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({:?}), reached by", self.broken.name(), self.broken)?;
        self.trace.iter().enumerate().try_for_each(|(n, step)| writeln!(f, "{n:>4} {step:?}"))
    }
}
