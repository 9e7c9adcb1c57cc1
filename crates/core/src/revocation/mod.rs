//! Taking addresses back: five verbs in one order, as a pure function.
//!
//! **Problem.** Somebody outside the directory holds addresses of pages that are about to move or to be freed. He may be at work on them
//! this very moment, may be slow, may be dead, or may never answer. The pages may go only when nobody can use the old
//! addresses any more, and nobody may wait for ever.
//!
//! ```text
//! mark -> start everywhere -> wait for every fence -> wait for every unmap -> move or free -> finish
//! ```
//!
//! **Words.** A *party* is one mapping of one peer that stands in the way. It is *told* (start), its *fences* are the work that it had
//! submitted, it *confirms* that its mapping is gone. Who is late at the deadline is *cut off* where that can be
//! enforced; where it cannot, the pages stay. A party that takes no part in this (a static peer) is a *pin*: nothing begins.
//!
//! **How it is used.** [`Revocation::begin`] and [`Revocation::step`] take what happened and return what is to be done, in order. They
//! wait for nothing and touch nothing; deadlines are events. The engine drives them (`engine::peers`), and
//! `tests/revocation` explores every order of events, with peers that are late, lie and die.

use smallvec::{SmallVec, smallvec};

/// A party's place in its revocation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct PartyId(pub u16);

/// What can be done to a party that does not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Enforcement {
    /// Its mapping can be taken without it: an IOMMU context, another process's view of a memfd.
    CutOff,
    /// Nothing: it is code of this process that holds addresses.
    Nothing,
    /// It takes no part: its range is pinned.
    Pin,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Event {
    /// The party was told and hands out no work on the old addresses any more.
    Started(PartyId),
    /// Telling the party went wrong: whether it stopped is not known.
    Failed(PartyId),
    /// All work that the party had submitted has ended.
    FencesEnded(PartyId),
    /// The party confirms that its mapping is gone. May come as soon as it was told.
    Unmapped(PartyId),
    /// The party ended, and its mapping with it.
    Died(PartyId),
    /// Nobody is waited for any longer.
    Deadline,
    /// The pages were moved or freed.
    Moved,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Action {
    /// The stamps of all parties become odd: who begins now sleeps.
    Mark,
    /// Tell this party. Nothing is waited for.
    Start(PartyId),
    /// Wait for the fences of all parties.
    AwaitFences,
    /// Wait for the confirmations of all parties.
    AwaitUnmaps,
    /// Take the party's mapping without it.
    CutOff(PartyId),
    /// Nobody can use the old addresses: move or free the pages, then say [`Event::Moved`].
    Move,
    /// Somebody may still use the old addresses: the pages stay.
    Stay,
    /// The stamps become even again; who sleeps wakes.
    Finish,
}

/// The actions of one step.
pub type Actions = SmallVec<[Action; 4]>;

/// How it went for a party, and, as the worst of all, for the whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Outcome {
    /// It confirmed in time.
    Done,
    /// It did not, and its mapping was taken without it.
    CutOff,
    /// It did not, and nothing could be enforced.
    TimedOut,
    /// It could not even be told.
    PeerFailed,
}

/// How far a revocation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Phase {
    /// Parties are being told.
    Starting,
    /// All were told; work that was submitted before goes on.
    Fences,
    /// All work has ended; mappings remain.
    Unmaps,
    /// Nobody can use the addresses; the pages are on their way.
    Moving,
    /// Finished.
    Over(Outcome),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
struct Party {
    enforcement: Enforcement,
    started: bool,
    fences_ended: bool,
    unmapped: bool,
    /// Nothing more is waited for from it.
    given_up: Option<Outcome>,
}

impl Party {
    fn is_through_fences(&self) -> bool {
        self.given_up.is_some() || self.fences_ended
    }

    fn is_through(&self) -> bool {
        self.given_up.is_some() || (self.fences_ended && self.unmapped)
    }
}

/// A party that takes no part stands in the way; nothing was begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pinned(pub PartyId);

/// One revocation.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Revocation {
    phase: Phase,
    parties: SmallVec<[Party; 2]>,
}

impl Revocation {
    /// Begins to take the addresses of these parties back.
    ///
    /// # Errors
    /// [`Pinned`] when one of them cannot be asked.
    pub fn begin(
        parties: impl IntoIterator<Item = Enforcement>,
    ) -> Result<(Self, Actions), Pinned> {
        let new = |enforcement| Party {
            enforcement,
            started: false,
            fences_ended: false,
            unmapped: false,
            given_up: None,
        };
        let parties: SmallVec<[Party; 2]> = parties.into_iter().map(new).collect();
        if let Some(pin) = parties.iter().position(|party| party.enforcement == Enforcement::Pin) {
            return Err(Pinned(PartyId(pin as u16)));
        }
        let mut actions: Actions = smallvec![Action::Mark];
        actions.extend((0..parties.len()).map(|at| Action::Start(PartyId(at as u16))));
        let mut revocation = Self { phase: Phase::Starting, parties };
        revocation.advance(&mut actions);
        Ok((revocation, actions))
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How it went for a party: `None` while that is open.
    pub fn outcome(&self, party: PartyId) -> Option<Outcome> {
        let party = self.parties.get(usize::from(party.0))?;
        party.given_up.or(party.is_through().then_some(Outcome::Done))
    }

    /// Takes note of what happened and says what is to be done. What comes too late, twice or from nobody changes nothing.
    pub fn step(&mut self, event: Event) -> Actions {
        let mut actions = Actions::new();
        match event {
            Event::Started(party) => self.party(party, |party| party.started = true),
            Event::FencesEnded(party) => self.party(party, |party| party.fences_ended = true),
            Event::Unmapped(party) => self.party(party, |party| party.unmapped = true),
            Event::Failed(party) => self.party(party, |party| {
                party.started = true;
                party.given_up.get_or_insert(Outcome::PeerFailed);
            }),
            Event::Died(party) => self.party(party, |party| {
                party.started = true;
                // Whatever it was late with, nobody can use its addresses now.
                party.given_up = Some(Outcome::Done);
            }),
            Event::Deadline => self.give_up(&mut actions),
            Event::Moved if self.phase == Phase::Moving => {
                self.phase = Phase::Over(self.worst());
                actions.push(Action::Finish);
            }
            Event::Moved => {}
        }
        self.advance(&mut actions);
        actions
    }

    fn party(&mut self, party: PartyId, change: impl FnOnce(&mut Party)) {
        let waits = matches!(self.phase, Phase::Starting | Phase::Fences | Phase::Unmaps);
        if let Some(party) = self.parties.get_mut(usize::from(party.0)).filter(|_| waits) {
            change(party);
        }
    }

    /// At the deadline: cuts off whom it can.
    fn give_up(&mut self, actions: &mut Actions) {
        if !matches!(self.phase, Phase::Starting | Phase::Fences | Phase::Unmaps) {
            return;
        }
        for (at, party) in self.parties.iter_mut().enumerate().filter(|(_, p)| !p.is_through()) {
            party.started = true;
            party.given_up = Some(match party.enforcement {
                Enforcement::CutOff => {
                    actions.push(Action::CutOff(PartyId(at as u16)));
                    Outcome::CutOff
                }
                Enforcement::Nothing | Enforcement::Pin => Outcome::TimedOut,
            });
        }
    }

    fn advance(&mut self, actions: &mut Actions) {
        if self.phase == Phase::Starting && self.parties.iter().all(|party| party.started) {
            self.phase = Phase::Fences;
            if !self.parties.iter().all(Party::is_through_fences) {
                actions.push(Action::AwaitFences);
            }
        }
        if self.phase == Phase::Fences && self.parties.iter().all(Party::is_through_fences) {
            self.phase = Phase::Unmaps;
            if !self.parties.iter().all(Party::is_through) {
                actions.push(Action::AwaitUnmaps);
            }
        }
        if self.phase == Phase::Unmaps && self.parties.iter().all(Party::is_through) {
            let worst = self.worst();
            if worst >= Outcome::TimedOut {
                self.phase = Phase::Over(worst);
                actions.extend([Action::Stay, Action::Finish]);
            } else {
                self.phase = Phase::Moving;
                actions.push(Action::Move);
            }
        }
    }

    fn worst(&self) -> Outcome {
        let outcomes = self.parties.iter().filter_map(|party| party.given_up);
        outcomes.max().unwrap_or(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::{Action::*, *};

    const A: PartyId = PartyId(0);
    const B: PartyId = PartyId(1);

    fn begin(parties: &[Enforcement]) -> Revocation {
        Revocation::begin(parties.iter().copied()).unwrap().0
    }

    #[test]
    fn all_are_told_before_anybody_is_waited_for() {
        let (mut both, actions) =
            Revocation::begin([Enforcement::Nothing, Enforcement::CutOff]).unwrap();
        assert_eq!(actions.as_slice(), [Mark, Start(A), Start(B)]);
        assert!(both.step(Event::Started(A)).is_empty());
        assert!(both.step(Event::Unmapped(A)).is_empty());
        assert_eq!(both.step(Event::Started(B)).as_slice(), [AwaitFences]);
        assert!(both.step(Event::FencesEnded(A)).is_empty());
        assert_eq!(both.step(Event::FencesEnded(B)).as_slice(), [AwaitUnmaps]);
        assert_eq!(both.step(Event::Unmapped(B)).as_slice(), [Move]);
        assert_eq!(both.step(Event::Moved).as_slice(), [Finish]);
        assert_eq!(both.phase(), Phase::Over(Outcome::Done));
        assert!(both.step(Event::Moved).is_empty(), "once");
    }

    #[test]
    fn who_is_late_is_cut_off_where_that_can_be_enforced() {
        let mut one = begin(&[Enforcement::CutOff]);
        one.step(Event::Started(A));
        assert_eq!(one.step(Event::Deadline).as_slice(), [CutOff(A), Move]);
        assert_eq!(one.outcome(A), Some(Outcome::CutOff));
        let mut one = begin(&[Enforcement::Nothing]);
        one.step(Event::Started(A));
        one.step(Event::FencesEnded(A));
        assert_eq!(one.step(Event::Deadline).as_slice(), [Stay, Finish]);
        assert_eq!(one.phase(), Phase::Over(Outcome::TimedOut));
    }

    #[test]
    fn a_confirmation_does_not_stand_for_fences() {
        let mut one = begin(&[Enforcement::Nothing]);
        one.step(Event::Started(A));
        assert!(one.step(Event::Unmapped(A)).is_empty());
        assert_eq!(one.step(Event::FencesEnded(A)).as_slice(), [Move]);
    }

    #[test]
    fn a_death_frees_and_a_failure_does_not() {
        let mut one = begin(&[Enforcement::Nothing]);
        assert_eq!(one.step(Event::Died(A)).as_slice(), [Move]);
        let mut one = begin(&[Enforcement::Nothing]);
        assert_eq!(one.step(Event::Failed(A)).as_slice(), [Stay, Finish]);
        assert_eq!(one.phase(), Phase::Over(Outcome::PeerFailed));
    }

    #[test]
    fn a_pin_lets_nothing_begin() {
        let refused = Revocation::begin([Enforcement::Nothing, Enforcement::Pin]);
        assert_eq!(refused.unwrap_err(), Pinned(B));
    }
}
