//! Wrong orders. Each is the shipped rules with one thing amiss.

use hmmap_core::revocation::{Action, Actions, Enforcement, Event, PartyId, Pinned, Revocation};

use crate::{rules::Rules, world::Broken};

/// A wrong order, and what it breaks.
pub(crate) struct Mutant {
    pub(crate) name: &'static str,
    pub(crate) breaks: Broken,
    pub(crate) rules: &'static dyn Rules,
}

const PARTIES: [PartyId; 2] = [PartyId(0), PartyId(1)];

/// What is done instead of the shipped step.
struct Instead(fn(&mut Revocation, Event) -> Actions);

impl Rules for Instead {
    fn step(&self, revocation: &mut Revocation, event: Event) -> Actions {
        (self.0)(revocation, event)
    }
}

/// What is done instead of the shipped actions, at the beginning and later.
struct Actionwise(fn(Actions) -> Actions);

impl Rules for Actionwise {
    fn begin(&self, parties: &[Enforcement]) -> Result<(Revocation, Actions), Pinned> {
        let (revocation, actions) = Revocation::begin(parties.iter().copied())?;
        Ok((revocation, (self.0)(actions)))
    }

    fn step(&self, revocation: &mut Revocation, event: Event) -> Actions {
        (self.0)(revocation.step(event))
    }
}

struct AsksPins;

impl Rules for AsksPins {
    fn begin(&self, parties: &[Enforcement]) -> Result<(Revocation, Actions), Pinned> {
        let asked = parties.iter().map(|one| match one {
            Enforcement::Pin => Enforcement::CutOff,
            other => *other,
        });
        Revocation::begin(asked)
    }
}

struct TellsOne;

impl Rules for TellsOne {
    fn begin(&self, parties: &[Enforcement]) -> Result<(Revocation, Actions), Pinned> {
        let (mut revocation, mut actions) = Revocation::begin(parties.iter().copied())?;
        actions.retain(|action| *action != Action::Start(PartyId(1)));
        revocation.step(Event::Started(PartyId(1)));
        Ok((revocation, actions))
    }
}

/// The step, then further events where it says `at`.
fn then(
    revocation: &mut Revocation,
    event: Event,
    at: Action,
    more: fn(PartyId) -> Event,
) -> Actions {
    let mut actions = revocation.step(event);
    if let Some(place) = actions.iter().position(|action| *action == at) {
        actions.remove(place);
        PARTIES.iter().for_each(|party| actions.extend(revocation.step(more(*party))));
    }
    actions
}

pub(crate) const ALL: [Mutant; 18] = [
    Mutant {
        name: "teardown before fences",
        breaks: Broken::MovedUnderWork,
        rules: &Instead(|revocation, event| {
            then(revocation, event, Action::AwaitFences, Event::FencesEnded)
        }),
    },
    Mutant {
        name: "copy before unmap",
        breaks: Broken::MovedUnderAddress,
        rules: &Instead(|revocation, event| {
            then(revocation, event, Action::AwaitUnmaps, Event::Unmapped)
        }),
    },
    Mutant {
        name: "stamp after start",
        breaks: Broken::MovedUnderAddress,
        rules: &Actionwise(|mut actions| {
            if actions.first() == Some(&Action::Mark) {
                actions.rotate_left(1);
            }
            actions
        }),
    },
    Mutant {
        name: "no stamp",
        breaks: Broken::MovedUnderAddress,
        rules: &Actionwise(|mut actions| {
            actions.retain(|action| *action != Action::Mark);
            actions
        }),
    },
    Mutant {
        name: "wait before all are started",
        breaks: Broken::WaitedBeforeAllWereTold,
        rules: &Actionwise(|mut actions| {
            if let Some(first) =
                actions.iter().position(|action| *action == Action::Start(PartyId(0)))
            {
                actions.insert(first + 1, Action::AwaitFences);
            }
            actions
        }),
    },
    Mutant {
        name: "only the first is told",
        breaks: Broken::WaitedBeforeAllWereTold,
        rules: &TellsOne,
    },
    Mutant {
        name: "finish before move",
        breaks: Broken::FinishedEarly,
        rules: &Actionwise(|mut actions| {
            if let Some(place) = actions.iter().position(|action| *action == Action::Move) {
                actions.insert(place, Action::Finish);
            }
            actions
        }),
    },
    Mutant {
        name: "no finish when the pages stay",
        breaks: Broken::SleepsForEver,
        rules: &Actionwise(|mut actions| {
            if actions.contains(&Action::Stay) {
                actions.retain(|action| *action != Action::Finish);
            }
            actions
        }),
    },
    Mutant {
        name: "no finish after the move",
        breaks: Broken::SleepsForEver,
        rules: &Instead(|revocation, event| {
            let mut actions = revocation.step(event);
            actions.retain(|action| event != Event::Moved || *action != Action::Finish);
            actions
        }),
    },
    Mutant {
        name: "no deadline",
        breaks: Broken::WaitsForEver,
        rules: &Instead(|revocation, event| match event {
            Event::Deadline => Actions::new(),
            event => revocation.step(event),
        }),
    },
    Mutant {
        name: "who is late counts as gone",
        breaks: Broken::MovedUnderAddress,
        rules: &Instead(|revocation, event| match event {
            Event::Deadline => {
                PARTIES.iter().flat_map(|party| revocation.step(Event::Died(*party))).collect()
            }
            event => revocation.step(event),
        }),
    },
    Mutant { name: "a pin is asked, and cut off", breaks: Broken::MovedUnderPin, rules: &AsksPins },
    Mutant {
        name: "the dead are waited for",
        breaks: Broken::StayedForNobody,
        rules: &Instead(|revocation, event| match event {
            Event::Died(_) => Actions::new(),
            event => revocation.step(event),
        }),
    },
    Mutant {
        name: "cut off in words only",
        breaks: Broken::MovedUnderAddress,
        rules: &Actionwise(|mut actions| {
            actions.retain(|action| !matches!(action, Action::CutOff(_)));
            actions
        }),
    },
    Mutant {
        name: "one confirmation counts for all",
        breaks: Broken::MovedUnderAddress,
        rules: &Instead(|revocation, event| match event {
            Event::Unmapped(_) => {
                PARTIES.iter().flat_map(|party| revocation.step(Event::Unmapped(*party))).collect()
            }
            event => revocation.step(event),
        }),
    },
    Mutant {
        name: "one party's fences count for all",
        breaks: Broken::MovedUnderWork,
        rules: &Instead(|revocation, event| match event {
            Event::FencesEnded(_) => PARTIES
                .iter()
                .flat_map(|party| revocation.step(Event::FencesEnded(*party)))
                .collect(),
            event => revocation.step(event),
        }),
    },
    Mutant {
        name: "frees what was to stay",
        breaks: Broken::MovedUnderAddress,
        rules: &Actionwise(|mut actions| {
            if let Some(place) = actions.iter().position(|action| *action == Action::Stay) {
                actions[place] = Action::Move;
            }
            actions
        }),
    },
    Mutant {
        name: "cuts off who has answered",
        breaks: Broken::CutOffTheHonest,
        rules: &Instead(|revocation, event| {
            let mut actions = revocation.step(event);
            if event == Event::Deadline {
                PARTIES.iter().for_each(|party| actions.insert(0, Action::CutOff(*party)));
            }
            actions
        }),
    },
];
