//! Pages, peers that map them, and an engine that takes the mappings back.

use std::collections::VecDeque;

use hmmap_core::revocation::{Action, Enforcement, Event, PartyId, Revocation};

use crate::rules::Rules;

const PEERS: usize = 2;
const PAGES: usize = 2;

/// What kind of peer one is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) enum Nature {
    /// Takes part; nothing can be enforced.
    Bare,
    /// Takes part; its mapping can be cut off.
    Severable,
    /// Takes no part: its mapping is a pin.
    Static,
    /// Confirms, and goes on using the address. It can be cut off.
    Liar,
    /// May end at any moment, with everything it has.
    Mortal,
}

/// How large the world is.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) peers: [Nature; PEERS],
    pub(crate) pages: usize,
}

/// What must never be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    /// Pages moved while an honest peer could use their address.
    MovedUnderAddress,
    /// Pages moved while work on them was in flight.
    MovedUnderWork,
    MovedUnderPin,
    WaitedBeforeAllWereTold,
    /// The stamps became even before the pages had moved, or were to stay.
    FinishedEarly,
    /// The engine alone does not come to an end.
    WaitsForEver,
    /// The revocation is over and somebody who begins still sleeps.
    SleepsForEver,
    /// The pages stayed though nobody could use the address.
    StayedForNobody,
    /// Somebody who had confirmed was cut off.
    CutOffTheHonest,
}

/// Where a page is. `FREED` is nowhere.
type Place = u8;
const FREED: Place = 2;

/// A peer's mapping of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
struct Mapping {
    /// The engine knows of it.
    known: bool,
    /// The address that the peer would use for new work.
    holds: Option<Place>,
    /// Where its work in flight goes.
    in_flight: Option<Place>,
    told: bool,
    confirmed: bool,
    /// It confirmed and goes on using the address.
    lied: bool,
    late: bool,
    /// The engine was told that the fences have ended.
    seen: bool,
}

impl Mapping {
    /// Who was late and has nothing left is in nobody's way any more.
    fn better_late_than_never(&mut self) {
        if self.late && self.confirmed && self.in_flight.is_none() {
            *self = Self::default();
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Hash)]
struct Page {
    place: Place,
    /// The stamp is odd: whoever begins sleeps, also who has no mapping yet.
    marked: bool,
    mappings: [Mapping; PEERS],
    running: Option<Running>,
}

/// A revocation under way.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
struct Running {
    machine: Revocation,
    todo: VecDeque<Action>,
    /// Which peer is which party.
    parties: Vec<u8>,
    /// Where the page is to go.
    to: Place,
    awaits: bool,
    /// Which parties were in the way at the deadline.
    in_the_way: Vec<bool>,
    decided: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub(crate) struct World {
    natures: [Nature; PEERS],
    alive: [bool; PEERS],
    pages: Vec<Page>,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// The peer begins and gets the page's address.
    Map {
        peer: usize,
        page: usize,
    },
    /// The peer submits work.
    Submit {
        peer: usize,
        page: usize,
    },
    /// The peer's work ends.
    WorkEnds {
        peer: usize,
        page: usize,
    },
    /// The peer says that its mapping is gone.
    Confirm {
        peer: usize,
        page: usize,
    },
    /// The engine hears of ended fences.
    SeeFences {
        party: usize,
        page: usize,
    },
    Die {
        peer: usize,
    },
    /// Somebody wants the page elsewhere.
    Begin {
        page: usize,
        to: Place,
    },
    /// The engine does its next action.
    Act {
        page: usize,
    },
    Deadline {
        page: usize,
    },
}

impl World {
    pub(crate) fn new(shape: &Shape) -> Self {
        assert!(shape.pages <= PAGES);
        let page =
            Page { place: 0, marked: false, mappings: [Mapping::default(); PEERS], running: None };
        Self { natures: shape.peers, alive: [true; PEERS], pages: vec![page; shape.pages] }
    }

    /// Everything that may happen now.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (number, page) in self.pages.iter().enumerate() {
            self.peer_steps(number, page, &mut steps);
            match &page.running {
                None if page.place != FREED => {
                    steps.push(Step::Begin { page: number, to: 1 - page.place });
                    steps.push(Step::Begin { page: number, to: FREED });
                }
                Some(running) if !running.todo.is_empty() => steps.push(Step::Act { page: number }),
                Some(running) => {
                    if running.awaits {
                        steps.push(Step::Deadline { page: number });
                    }
                    for (party, peer) in running.parties.iter().enumerate() {
                        let mapping = &page.mappings[usize::from(*peer)];
                        if mapping.in_flight.is_none() && !mapping.seen {
                            steps.push(Step::SeeFences { party, page: number });
                        }
                    }
                }
                None => {}
            }
        }
        for peer in (0..PEERS).filter(|peer| self.natures[*peer] == Nature::Mortal) {
            if self.alive[peer] {
                steps.push(Step::Die { peer });
            }
        }
        steps
    }

    fn peer_steps(&self, number: usize, page: &Page, steps: &mut Vec<Step>) {
        for peer in (0..PEERS).filter(|peer| self.alive[*peer]) {
            let (mapping, page) = (&page.mappings[peer], number);
            let lies = self.natures[peer] == Nature::Liar;
            // A pin is taken once; it is no refault.
            let may_map = !self.pages[number].marked && !mapping.late && mapping.holds.is_none();
            if may_map && self.pages[number].place != FREED {
                steps.push(Step::Map { peer, page });
            }
            if mapping.holds.is_some() && mapping.in_flight.is_none() && (!mapping.told || lies) {
                steps.push(Step::Submit { peer, page });
            }
            if mapping.in_flight.is_some() {
                steps.push(Step::WorkEnds { peer, page });
            }
            if mapping.told && !mapping.confirmed {
                steps.push(Step::Confirm { peer, page });
            }
        }
    }

    /// Takes one step.
    pub(crate) fn take(&mut self, step: Step, rules: &dyn Rules) -> Result<(), Broken> {
        match step {
            Step::Map { peer, page } => {
                let page = &mut self.pages[page];
                let mapping = &mut page.mappings[peer];
                mapping.known = true;
                mapping.holds = Some(page.place);
            }
            Step::Submit { peer, page } => {
                let mapping = &mut self.pages[page].mappings[peer];
                (mapping.in_flight, mapping.seen) = (mapping.holds, false);
            }
            Step::WorkEnds { peer, page } => {
                let mapping = &mut self.pages[page].mappings[peer];
                mapping.in_flight = None;
                mapping.better_late_than_never();
            }
            Step::Confirm { peer, page } => {
                let lies = self.natures[peer] == Nature::Liar;
                let mapping = &mut self.pages[page].mappings[peer];
                mapping.confirmed = true;
                if lies {
                    mapping.lied = true;
                } else {
                    mapping.holds = None;
                }
                mapping.better_late_than_never();
                self.tell(page, peer, rules, Event::Unmapped);
            }
            Step::SeeFences { party, page } => {
                let running = self.pages[page].running.as_ref();
                let peer = running.map_or(0, |running| usize::from(running.parties[party]));
                self.pages[page].mappings[peer].seen = true;
                self.tell(page, peer, rules, Event::FencesEnded);
            }
            Step::Die { peer } => {
                self.alive[peer] = false;
                for page in 0..self.pages.len() {
                    let Page { mappings, running, .. } = &mut self.pages[page];
                    let mapping = &mut mappings[peer];
                    let asked = |running: &Running| running.parties.contains(&(peer as u8));
                    let Mapping { told, .. } = *mapping;
                    let known = mapping.known && running.as_ref().is_some_and(asked);
                    *mapping = Mapping { known, told, seen: true, ..Mapping::default() };
                    self.tell(page, peer, rules, Event::Died);
                }
            }
            Step::Begin { page, to } => self.begin(page, to, rules),
            Step::Act { page } => return self.act(page, rules),
            Step::Deadline { page } => {
                let alive = self.alive;
                let Page { mappings, running, .. } = &mut self.pages[page];
                if let Some(running) = running {
                    let in_the_way = |peer: &u8| {
                        let mapping = &mappings[usize::from(*peer)];
                        alive[usize::from(*peer)] && !(mapping.confirmed && mapping.seen)
                    };
                    running.in_the_way = running.parties.iter().map(in_the_way).collect();
                }
                self.feed(page, rules, Event::Deadline);
            }
        }
        Ok(())
    }

    fn tell(&mut self, page: usize, peer: usize, rules: &dyn Rules, event: fn(PartyId) -> Event) {
        let Some(running) = &self.pages[page].running else { return };
        let party = running.parties.iter().position(|party| usize::from(*party) == peer);
        if let Some(party) = party {
            self.feed(page, rules, event(PartyId(party as u16)));
        }
    }

    fn feed(&mut self, page: usize, rules: &dyn Rules, event: Event) {
        if let Some(running) = &mut self.pages[page].running {
            running.todo.extend(rules.step(&mut running.machine, event));
        }
    }

    fn begin(&mut self, number: usize, to: Place, rules: &dyn Rules) {
        let page = &mut self.pages[number];
        // Whoever is late and cannot be cut off is not asked twice.
        if page.mappings.iter().any(|mapping| mapping.late) {
            return;
        }
        let parties: Vec<u8> =
            (0..PEERS as u8).filter(|peer| page.mappings[usize::from(*peer)].known).collect();
        if parties.is_empty() {
            page.place = to;
            return;
        }
        let enforcements: Vec<_> = parties
            .iter()
            .map(|peer| match self.natures[usize::from(*peer)] {
                Nature::Bare | Nature::Mortal => Enforcement::Nothing,
                Nature::Severable | Nature::Liar => Enforcement::CutOff,
                Nature::Static => Enforcement::Pin,
            })
            .collect();
        let Ok((machine, actions)) = rules.begin(&enforcements) else { return };
        let mut todo: VecDeque<Action> = actions.into_iter().collect();
        // The parties are found and marked under one lock.
        if todo.front() == Some(&Action::Mark) {
            todo.pop_front();
            page.marked = true;
        }
        page.running = Some(Running {
            machine,
            todo,
            parties,
            to,
            awaits: false,
            in_the_way: Vec::new(),
            decided: false,
        });
    }

    fn act(&mut self, number: usize, rules: &dyn Rules) -> Result<(), Broken> {
        let page = &mut self.pages[number];
        let Some(running) = &mut page.running else { return Ok(()) };
        let Some(action) = running.todo.pop_front() else { return Ok(()) };
        let parties: Vec<usize> = running.parties.iter().map(|peer| usize::from(*peer)).collect();
        match action {
            Action::Mark => page.marked = true,
            Action::Start(party) => {
                page.mappings[parties[usize::from(party.0)]].told = true;
                self.feed(number, rules, Event::Started(party));
            }
            Action::AwaitFences | Action::AwaitUnmaps => {
                if parties.iter().any(|peer| !page.mappings[*peer].told && self.alive[*peer]) {
                    return Err(Broken::WaitedBeforeAllWereTold);
                }
                running.awaits = true;
            }
            Action::CutOff(party) => {
                let Some(peer) = parties.get(usize::from(party.0)) else { return Ok(()) };
                let mapping = &mut page.mappings[*peer];
                if !running.in_the_way[usize::from(party.0)] {
                    return Err(Broken::CutOffTheHonest);
                }
                if self.natures[*peer] == Nature::Static {
                    return Err(Broken::MovedUnderPin);
                }
                (mapping.holds, mapping.in_flight) = (None, None);
            }
            Action::Move => {
                self.may_move(number)?;
                let page = &mut self.pages[number];
                let Some(running) = &mut page.running else { return Ok(()) };
                running.decided = true;
                page.place = running.to;
                self.feed(number, rules, Event::Moved);
            }
            Action::Stay => {
                running.decided = true;
                if !running.in_the_way.contains(&true) {
                    return Err(Broken::StayedForNobody);
                }
                for peer in parties {
                    let mapping = &mut page.mappings[peer];
                    mapping.late =
                        self.alive[peer] && !(mapping.confirmed && mapping.in_flight.is_none());
                }
            }
            Action::Finish => {
                if !running.decided {
                    return Err(Broken::FinishedEarly);
                }
                page.marked = false;
                for peer in parties {
                    let mapping = &mut page.mappings[peer];
                    mapping.known &= mapping.late;
                    if !mapping.late {
                        (mapping.told, mapping.confirmed, mapping.seen) = (false, false, false);
                    }
                }
                page.running = None;
            }
        }
        Ok(())
    }

    fn may_move(&self, number: usize) -> Result<(), Broken> {
        let page = &self.pages[number];
        for (peer, mapping) in page.mappings.iter().enumerate() {
            if self.natures[peer] == Nature::Static && mapping.known {
                return Err(Broken::MovedUnderPin);
            }
            // Nobody can see through a lie.
            if mapping.lied {
                continue;
            }
            if mapping.holds == Some(page.place) {
                return Err(Broken::MovedUnderAddress);
            }
            if mapping.in_flight == Some(page.place) {
                return Err(Broken::MovedUnderWork);
            }
        }
        Ok(())
    }

    /// What holds in every state: the engine alone, with nobody's help, comes to an end, and nobody sleeps then.
    pub(crate) fn check(&self, rules: &dyn Rules) -> Result<(), Broken> {
        let mut alone = self.clone();
        for page in 0..alone.pages.len() {
            // Only what just happened can have changed this page's fate, but all are looked at: it is cheap.
            let mut left = 16;
            while let Some(running) = &alone.pages[page].running {
                let step = match running.todo.is_empty() {
                    true if running.awaits && left > 0 => Step::Deadline { page },
                    false if left > 0 => Step::Act { page },
                    // A decision without an end is a different fault from none.
                    _ if running.decided => return Err(Broken::SleepsForEver),
                    _ => return Err(Broken::WaitsForEver),
                };
                left -= 1;
                alone.take(step, rules)?;
            }
            if alone.pages[page].marked {
                return Err(Broken::SleepsForEver);
            }
        }
        Ok(())
    }
}
