//! The arbiter against a model of everybody around it: importers that believe what they are told, sockets that keep order, an owner that wants blocks
//! back at any time, a thread that maps.

use std::collections::VecDeque;

use proptest::{collection::vec, prelude::*};

use super::*;

const HOLDERS: u64 = 3;
const BLOCKS: u64 = 2;

/// On the way to a holder.
#[derive(Debug)]
enum Down {
    Granted { sequence: u64 },
    Refused { sequence: u64 },
    Recall { id: u64, pages: Range<u64>, keep: Keep },
}

/// On the way to the arbiter.
#[derive(Debug)]
enum Up {
    Ask { sequence: u64, pages: Range<u64>, access: Grant },
    Confirmed { id: u64 },
}

#[derive(Debug, Default)]
struct Importer {
    asked: Vec<(u64, Range<u64>, Grant)>,
    believes: BTreeMap<u64, Grant>,
    down: VecDeque<Down>,
    up: VecDeque<Up>,
    is_dead: bool,
}

/// A block as its owner knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Owned {
    #[default]
    Free,
    /// Somebody was told to map it.
    Wanted,
    Mapped,
    Revoking,
}

/// What the owner's threads have to say.
#[derive(Clone, Copy, Debug)]
enum Noted {
    Mapped(u64),
    Revoked(u64),
}

#[derive(Debug)]
struct World {
    arbiter: Arbiter,
    importers: Vec<Importer>,
    blocks: [Owned; BLOCKS as usize],
    /// Mapped, and the thread that did it has not said so yet.
    unsaid: Vec<u64>,
    notes: VecDeque<Noted>,
    next_sequence: u64,
}

/// One thing happens.
#[derive(Clone, Debug)]
enum Step {
    Ask { holder: u64, first: u64, count: u64, writes: bool },
    Down { holder: u64 },
    Up { holder: u64 },
    Map { block: u64 },
    Say,
    Note,
    Revoke { block: u64 },
    Die { holder: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pages = BLOCKS * PAGES_PER_BLOCK;
    // Around the border of the blocks, so that ranges meet.
    let first = pages / 2 - 4..pages / 2 + 3;
    let step = prop_oneof![
        6 => (0..HOLDERS, first, 1..4_u64, any::<bool>())
            .prop_map(|(holder, first, count, writes)| Step::Ask { holder, first, count, writes }),
        10 => (0..HOLDERS).prop_map(|holder| Step::Down { holder }),
        10 => (0..HOLDERS).prop_map(|holder| Step::Up { holder }),
        4 => (0..BLOCKS).prop_map(|block| Step::Map { block }),
        4 => Just(Step::Say),
        6 => Just(Step::Note),
        2 => (0..BLOCKS).prop_map(|block| Step::Revoke { block }),
        1 => (0..HOLDERS).prop_map(|holder| Step::Die { holder }),
    ];
    vec(step, 0..200)
}

impl World {
    fn new() -> Self {
        Self {
            arbiter: Arbiter::new(BLOCKS),
            importers: (0..HOLDERS).map(|_| Importer::default()).collect(),
            blocks: [Owned::Free; BLOCKS as usize],
            unsaid: Vec::new(),
            notes: VecDeque::new(),
            next_sequence: 0,
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Ask { holder, first, count, writes } => {
                let importer = &mut self.importers[holder as usize];
                if importer.is_dead {
                    return;
                }
                self.next_sequence += 1;
                let (sequence, pages) = (self.next_sequence, first..first + count);
                let access = if writes { Grant::Write } else { Grant::Read };
                importer.asked.push((sequence, pages.clone(), access));
                importer.up.push_back(Up::Ask { sequence, pages, access });
            }
            Step::Down { holder } => self.down(holder),
            Step::Up { holder } => match self.importers[holder as usize].up.pop_front() {
                Some(Up::Ask { sequence, pages, access }) => {
                    self.arbiter.ask(holder, sequence, pages, access);
                }
                Some(Up::Confirmed { id }) => assert!(self.arbiter.confirmed(holder, id)),
                None => {}
            },
            Step::Map { block } => {
                if self.blocks[block as usize] == Owned::Wanted {
                    self.blocks[block as usize] = Owned::Mapped;
                    self.unsaid.push(block);
                }
            }
            Step::Say => {
                if let Some(block) = self.unsaid.pop() {
                    self.notes.push_back(Noted::Mapped(block));
                }
            }
            Step::Note => match self.notes.pop_front() {
                Some(Noted::Mapped(block)) => self.arbiter.mapped(block, Ok(())),
                Some(Noted::Revoked(block)) => self.arbiter.revoked(block),
                None => {}
            },
            Step::Revoke { block } => {
                if self.blocks[block as usize] == Owned::Mapped {
                    self.blocks[block as usize] = Owned::Revoking;
                    self.notes.push_back(Noted::Revoked(block));
                }
            }
            Step::Die { holder } => {
                let importer = &mut self.importers[holder as usize];
                if !importer.is_dead {
                    *importer = Importer { is_dead: true, ..Importer::default() };
                    self.arbiter.gone(holder);
                }
            }
        }
        self.perform();
        self.check();
    }

    fn down(&mut self, holder: u64) {
        let importer = &mut self.importers[holder as usize];
        match importer.down.pop_front() {
            Some(Down::Granted { sequence }) => {
                let at = importer.asked.iter().position(|(of, _, _)| *of == sequence).unwrap();
                let (_, pages, access) = importer.asked.swap_remove(at);
                for page in pages {
                    let held = importer.believes.entry(page).or_insert(access);
                    *held = access.max(*held);
                }
            }
            Some(Down::Refused { sequence }) => {
                importer.asked.retain(|(of, _, _)| *of != sequence);
            }
            Some(Down::Recall { id, pages, keep }) => {
                for page in pages {
                    match keep {
                        Keep::Nothing => drop(importer.believes.remove(&page)),
                        Keep::Reading => {
                            importer.believes.entry(page).and_modify(|held| *held = Grant::Read);
                        }
                    }
                }
                importer.up.push_back(Up::Confirmed { id });
            }
            None => {}
        }
    }

    fn perform(&mut self) {
        for action in self.arbiter.take_actions() {
            match action {
                Action::Map { block } => {
                    let owned = &mut self.blocks[block as usize];
                    // The owner is still busy taking it back at times; who maps waits for that.
                    assert!(matches!(owned, Owned::Free), "{block} is {owned:?}");
                    *owned = Owned::Wanted;
                }
                Action::GiveBack { block } => {
                    assert_eq!(self.blocks[block as usize], Owned::Revoking);
                    let of_block =
                        |importer: &Importer| importer.believes.range(pages_of(block)).count();
                    assert!(self.importers.iter().all(|one| of_block(one) == 0), "still held");
                    self.blocks[block as usize] = Owned::Free;
                }
                Action::Recall { id, holder, pages, keep } => {
                    let recall = Down::Recall { id, pages, keep };
                    self.importers[holder as usize].down.push_back(recall);
                }
                Action::Grant { holder, sequence } => {
                    self.importers[holder as usize].down.push_back(Down::Granted { sequence });
                }
                Action::Refuse { holder, sequence, .. } => {
                    self.importers[holder as usize].down.push_back(Down::Refused { sequence });
                }
            }
        }
    }

    /// Who may write a page is alone with it, and what is held is mapped.
    fn check(&self) {
        for page in 0..BLOCKS * PAGES_PER_BLOCK {
            let held = self.importers.iter().filter_map(|one| one.believes.get(&page));
            let held: Vec<_> = held.collect();
            let has_writer = held.iter().any(|access| **access == Grant::Write);
            assert!(!has_writer || held.len() == 1, "page {page} is held for {held:?}");
            let block = self.blocks[(page / PAGES_PER_BLOCK) as usize];
            let is_there = matches!(block, Owned::Mapped | Owned::Revoking);
            assert!(held.is_empty() || is_there, "page {page} is held, and its block {block:?}");
        }
    }

    /// Lets everything that is under way come to its end.
    fn drain(&mut self) {
        for _ in 0..2000 {
            for holder in 0..HOLDERS {
                self.take(&Step::Down { holder });
                self.take(&Step::Up { holder });
            }
            (0..BLOCKS).for_each(|block| self.take(&Step::Map { block }));
            self.take(&Step::Say);
            self.take(&Step::Note);
        }
    }
}

proptest! {
    /// In any order of things nobody has what another has, and everybody is answered in the end.
    #[test]
    fn pages_are_never_had_twice_and_every_ask_is_answered(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.drain();
        for importer in &world.importers {
            prop_assert!(importer.asked.is_empty(), "not answered: {:?}", importer.asked);
        }
        let kept = &world.arbiter.recalls;
        prop_assert!(kept.is_empty(), "recalls that nobody will answer: {kept:?}");
        prop_assert!(world.blocks.iter().all(|block| *block != Owned::Revoking), "{:?}", world.blocks);
    }
}

/// Several readers keep a page when one more reads, and lose it when one writes.
#[test]
fn readers_are_many_and_a_writer_is_alone() {
    let mut arbiter = Arbiter::new(1);
    arbiter.ask(1, 10, 0..2, Grant::Read);
    assert_eq!(arbiter.take_actions(), [Action::Map { block: 0 }]);
    arbiter.mapped(0, Ok(()));
    arbiter.ask(2, 20, 1..2, Grant::Read);
    let granted = |holder, sequence| Action::Grant { holder, sequence };
    assert_eq!(arbiter.take_actions(), [granted(1, 10), granted(2, 20)]);
    arbiter.ask(2, 21, 0..2, Grant::Write);
    let (pages, keep) = (0..2, Keep::Nothing);
    assert_eq!(arbiter.take_actions(), [Action::Recall { id: 0, holder: 1, pages, keep }]);
    assert!(!arbiter.confirmed(2, 0), "it was another's to confirm");
    assert!(arbiter.confirmed(1, 0) && !arbiter.confirmed(1, 0));
    assert_eq!(arbiter.take_actions(), [granted(2, 21)]);
    arbiter.ask(1, 11, 1..2, Grant::Read);
    let (pages, keep) = (1..2, Keep::Reading);
    assert_eq!(arbiter.take_actions(), [Action::Recall { id: 1, holder: 2, pages, keep }]);
    assert!(arbiter.confirmed(2, 1));
    assert_eq!(arbiter.take_actions(), [granted(1, 11)]);
    let written = arbiter.gone(2);
    assert_eq!(written, std::slice::from_ref(&(0..1)), "the other one it only reads");
}

/// A block that cannot be had is refused to whoever waits for it, and can be asked for again.
#[test]
fn what_cannot_be_mapped_is_refused() {
    let mut arbiter = Arbiter::new(2);
    arbiter.ask(1, 1, 0..33, Grant::Read);
    arbiter.ask(1, 2, 40..41, Grant::Read);
    assert_eq!(arbiter.take_actions(), [Action::Map { block: 0 }, Action::Map { block: 1 }]);
    arbiter.mapped(1, Ok(()));
    assert_eq!(arbiter.take_actions(), [Action::Grant { holder: 1, sequence: 2 }]);
    arbiter.mapped(0, Err(Code::Failed));
    let refused = Action::Refuse { holder: 1, sequence: 1, code: Code::Failed };
    assert_eq!(arbiter.take_actions(), [refused]);
    arbiter.ask(1, 3, 0..1, Grant::Read);
    assert_eq!(arbiter.take_actions(), [Action::Map { block: 0 }]);
}

/// A page is granted again after it has come back, even to the one that it comes back from, and even when nobody else wants it any more.
#[test]
fn what_is_on_its_way_back_is_not_granted_before_it_is_here() {
    let mut arbiter = Arbiter::new(1);
    arbiter.ask(1, 10, 0..1, Grant::Write);
    arbiter.mapped(0, Ok(()));
    arbiter.ask(2, 20, 0..1, Grant::Read);
    arbiter.gone(2);
    arbiter.take_actions();
    arbiter.ask(1, 11, 0..1, Grant::Write);
    assert_eq!(arbiter.take_actions(), []);
    assert!(arbiter.confirmed(1, 0));
    assert_eq!(arbiter.take_actions(), [Action::Grant { holder: 1, sequence: 11 }]);
}

/// Who asks later waits, if it would keep the earlier one waiting.
#[test]
fn a_writer_is_not_starved_by_readers() {
    let mut arbiter = Arbiter::new(1);
    arbiter.ask(1, 10, 0..2, Grant::Read);
    arbiter.mapped(0, Ok(()));
    arbiter.ask(2, 20, 0..2, Grant::Write);
    arbiter.take_actions();
    arbiter.ask(3, 30, 1..3, Grant::Read);
    assert_eq!(arbiter.take_actions(), []);
    arbiter.ask(3, 31, 2..3, Grant::Read);
    assert_eq!(arbiter.take_actions(), [], "in the order of the one that waits");
    assert!(arbiter.confirmed(1, 0));
    assert_eq!(arbiter.take_actions()[0], Action::Grant { holder: 2, sequence: 20 });
}

/// At the end everybody is refused or gives back, and what is on its way goes back too.
#[test]
fn nothing_is_granted_after_the_end() {
    let mut arbiter = Arbiter::new(3);
    arbiter.ask(1, 1, 0..1, Grant::Read);
    arbiter.mapped(0, Ok(()));
    arbiter.ask(1, 2, 32..33, Grant::Read);
    arbiter.take_actions();
    arbiter.end();
    let refused = Action::Refuse { holder: 1, sequence: 2, code: Code::Unknown };
    let recall = Action::Recall { id: 0, holder: 1, pages: 0..1, keep: Keep::Nothing };
    assert_eq!(arbiter.take_actions(), [refused, recall]);
    arbiter.mapped(1, Ok(()));
    assert_eq!(arbiter.take_actions(), [Action::GiveBack { block: 1 }]);
    assert!(arbiter.confirmed(1, 0));
    assert_eq!(arbiter.take_actions(), [Action::GiveBack { block: 0 }]);
}
