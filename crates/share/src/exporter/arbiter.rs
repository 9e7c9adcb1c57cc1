//! Who of the importers holds which page of one buffer. Pure: nothing is sent and nothing waited for here.
//!
//! **Problem.** Several processes ask for pages of one buffer, and the buffer's owner wants whole blocks of it back. A page may be read by many, or be
//! written by one, and nobody gets what somebody else has not given back.
//!
//! ```text
//! ask        ->  its blocks mapped? no: Map, and wait          what others hold? Recall, and wait          else: Grant
//! revoked    ->  the owner wants a block: Recall from everybody; when nobody holds a page of it: GiveBack
//! confirmed  ->  one recall is answered: what waited for it goes on
//! gone       ->  a holder's end answers all its recalls; what it held for writing is lost
//! ```
//!
//! Asks are served in order where they overlap, so nobody starves. A holder is one open of the buffer: one process may be several.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use hmmap_core::{
    home::{Grant, Keep},
    units::PAGES_PER_BLOCK,
};
use smallvec::SmallVec;

use crate::wire::Code;

/// One open of a buffer by one importer.
pub(crate) type Holder = u64;

/// What a page is held for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Held {
    /// Nobody has it; read by these.
    By(SmallVec<[Holder; 2]>),
    /// Written by this one.
    Written(Holder),
}

/// How a block stands with the buffer's owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Block {
    /// It may be anywhere.
    Unmapped,
    /// Its pages are on the way to the host. Stale: they were wanted back meanwhile.
    Mapping { stale: bool },
    /// Its pages are on the host and stay until it is revoked.
    Mapped,
    /// The owner waits for it.
    Returning,
}

#[derive(Clone, Debug)]
struct Ask {
    holder: Holder,
    sequence: u64,
    pages: Range<u64>,
    access: Grant,
}

#[derive(Clone, Debug)]
struct Recalling {
    id: u64,
    holder: Holder,
    pages: Range<u64>,
    keep: Keep,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Bring a block's pages to the host, and say [`Arbiter::mapped`].
    Map { block: u64 },
    /// Nobody uses the block any more.
    GiveBack { block: u64 },
    /// Ask for pages; the answer is [`Arbiter::confirmed`].
    Recall { id: u64, holder: Holder, pages: Range<u64>, keep: Keep },
    /// The ask of this number is granted.
    Grant { holder: Holder, sequence: u64 },
    /// It is not.
    Refuse { holder: Holder, sequence: u64, code: Code },
}

/// The state of one buffer.
#[derive(Debug)]
pub(crate) struct Arbiter {
    pages: Vec<Held>,
    blocks: Vec<Block>,
    asks: VecDeque<Ask>,
    recalls: Vec<Recalling>,
    next_recall: u64,
    /// Nothing is granted any more.
    is_over: bool,
    actions: Vec<Action>,
}

impl Arbiter {
    pub(crate) fn new(blocks: u64) -> Self {
        let pages = (blocks * PAGES_PER_BLOCK) as usize;
        Self {
            pages: vec![Held::By(SmallVec::new()); pages],
            blocks: vec![Block::Unmapped; blocks as usize],
            asks: VecDeque::new(),
            recalls: Vec::new(),
            next_recall: 0,
            is_over: false,
            actions: Vec::new(),
        }
    }

    pub(crate) fn pages(&self) -> u64 {
        self.pages.len() as u64
    }

    /// What has become due, in order.
    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// `pages` lie within the buffer and are not empty.
    pub(crate) fn ask(&mut self, holder: Holder, sequence: u64, pages: Range<u64>, access: Grant) {
        self.asks.push_back(Ask { holder, sequence, pages, access });
        self.progress();
    }

    /// A [`Action::Map`] has come to its end.
    pub(crate) fn mapped(&mut self, block: u64, outcome: Result<(), Code>) {
        let state = &mut self.blocks[block as usize];
        match outcome {
            Ok(()) if self.is_over => {
                *state = Block::Unmapped;
                self.actions.push(Action::GiveBack { block });
                return;
            }
            Ok(()) if *state == (Block::Mapping { stale: true }) => {
                *state = Block::Mapping { stale: false };
                self.actions.push(Action::Map { block });
                return;
            }
            Ok(()) => *state = Block::Mapped,
            Err(code) => {
                *state = Block::Unmapped;
                let pages = pages_of(block);
                self.refuse(|ask| overlap(&ask.pages, &pages), code);
            }
        }
        self.progress();
    }

    /// The owner wants a block.
    pub(crate) fn revoked(&mut self, block: u64) {
        match self.blocks[block as usize] {
            Block::Mapping { .. } => {
                self.blocks[block as usize] = Block::Mapping { stale: true };
                self.actions.push(Action::GiveBack { block });
            }
            Block::Unmapped => self.actions.push(Action::GiveBack { block }),
            Block::Returning => {}
            Block::Mapped => {
                self.blocks[block as usize] = Block::Returning;
                let wanted = self.held_by_others(None, &pages_of(block), Grant::Write);
                self.recall(wanted, Keep::Nothing);
                self.give_back();
            }
        }
    }

    /// The buffer ends: everything is recalled, and whoever waits is refused.
    pub(crate) fn end(&mut self) {
        self.is_over = true;
        self.refuse(|_| true, Code::Unknown);
        for block in 0..self.blocks.len() as u64 {
            if self.blocks[block as usize] == Block::Mapped {
                self.revoked(block);
            }
        }
    }

    fn refuse(&mut self, is_meant: impl Fn(&Ask) -> bool, code: Code) {
        let asks = std::mem::take(&mut self.asks);
        for ask in asks {
            if is_meant(&ask) {
                let Ask { holder, sequence, .. } = ask;
                self.actions.push(Action::Refuse { holder, sequence, code });
            } else {
                self.asks.push_back(ask);
            }
        }
    }

    /// A holder has given up what a recall was about. False when there is no such recall.
    pub(crate) fn confirmed(&mut self, holder: Holder, recall: u64) -> bool {
        let is_meant = |one: &Recalling| one.id == recall && one.holder == holder;
        let Some(at) = self.recalls.iter().position(is_meant) else { return false };
        let Recalling { pages, keep, .. } = self.recalls.swap_remove(at);
        for page in &mut self.pages[range(&pages)] {
            match (&mut *page, keep) {
                (Held::Written(by), Keep::Reading) if *by == holder => {
                    *page = Held::By(SmallVec::from_elem(holder, 1));
                }
                (_, Keep::Reading) => {}
                (_, Keep::Nothing) => page.forget(holder),
            }
        }
        self.give_back();
        self.progress();
        true
    }

    /// A holder is no more, and its mapping with it. What it held for writing: what it made of those pages may not have come home.
    pub(crate) fn gone(&mut self, holder: Holder) -> Vec<Range<u64>> {
        let written = self.written_by(holder);
        self.pages.iter_mut().for_each(|page| page.forget(holder));
        self.recalls.retain(|one| one.holder != holder);
        self.asks.retain(|ask| ask.holder != holder);
        self.give_back();
        self.progress();
        written
    }

    /// No block is mapped, or about to be.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.blocks.iter().all(|block| *block == Block::Unmapped)
    }

    /// What it holds for writing.
    pub(crate) fn written_by(&self, holder: Holder) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let written = (0..).zip(&self.pages).filter(|(_, page)| **page == Held::Written(holder));
        for (number, _) in written {
            match runs.last_mut() {
                Some(run) if run.end == number => run.end += 1,
                _ => runs.push(number..number + 1),
            }
        }
        runs
    }

    /// How many of its asks wait.
    pub(crate) fn asks_of(&self, holder: Holder) -> usize {
        self.asks.iter().filter(|ask| ask.holder == holder).count()
    }

    /// Blocks that the owner waits for and nobody holds go back.
    fn give_back(&mut self) {
        for block in 0..self.blocks.len() as u64 {
            if self.blocks[block as usize] != Block::Returning {
                continue;
            }
            let mut pages = self.pages[range(&pages_of(block))].iter();
            if pages.all(|page| matches!(page, Held::By(holders) if holders.is_empty())) {
                self.blocks[block as usize] = Block::Unmapped;
                self.actions.push(Action::GiveBack { block });
            }
        }
    }

    /// Serves what can be served, in order where asks overlap.
    fn progress(&mut self) {
        let mut waiting: VecDeque<Ask> = VecDeque::new();
        for ask in std::mem::take(&mut self.asks) {
            let behind = waiting.iter().any(|earlier| overlap(&earlier.pages, &ask.pages));
            if behind || !self.serve(&ask) {
                waiting.push_back(ask);
            }
        }
        self.asks = waiting;
    }

    /// True when it is granted; else what it lacks is on its way.
    fn serve(&mut self, ask: &Ask) -> bool {
        let mut is_mapped = true;
        for block in ask.pages.start / PAGES_PER_BLOCK..ask.pages.end.div_ceil(PAGES_PER_BLOCK) {
            let state = &mut self.blocks[block as usize];
            if *state == Block::Unmapped {
                *state = Block::Mapping { stale: false };
                self.actions.push(Action::Map { block });
            }
            is_mapped &= *state == Block::Mapped;
        }
        if !is_mapped {
            return false;
        }
        let wanted = self.held_by_others(Some(ask.holder), &ask.pages, ask.access);
        let keep = if ask.access == Grant::Read { Keep::Reading } else { Keep::Nothing };
        let is_free = wanted.is_empty();
        self.recall(wanted, keep);
        // What is on its way back from the asker itself is not granted before it is here.
        let comes_back =
            |one: &Recalling| one.holder == ask.holder && overlap(&one.pages, &ask.pages);
        if !is_free || self.recalls.iter().any(comes_back) {
            return false;
        }
        for page in &mut self.pages[range(&ask.pages)] {
            page.give(ask.holder, ask.access);
        }
        self.actions.push(Action::Grant { holder: ask.holder, sequence: ask.sequence });
        true
    }

    /// Who holds pages in a way that `access` by `asker` does not go with.
    fn held_by_others(
        &self,
        asker: Option<Holder>,
        pages: &Range<u64>,
        access: Grant,
    ) -> BTreeMap<Holder, Vec<Range<u64>>> {
        let mut found: BTreeMap<Holder, Vec<Range<u64>>> = BTreeMap::new();
        let mut add = |holder: Holder, number: u64| {
            let runs = found.entry(holder).or_default();
            match runs.last_mut() {
                Some(run) if run.end == number => run.end += 1,
                _ => runs.push(number..number + 1),
            }
        };
        for number in pages.clone() {
            match &self.pages[number as usize] {
                Held::Written(holder) if Some(*holder) != asker => add(*holder, number),
                Held::By(holders) if access == Grant::Write => {
                    let others = holders.iter().filter(|holder| Some(**holder) != asker);
                    others.for_each(|holder| add(*holder, number));
                }
                _ => {}
            }
        }
        found
    }

    /// Recalls what is not being recalled as thoroughly already.
    fn recall(&mut self, wanted: BTreeMap<Holder, Vec<Range<u64>>>, keep: Keep) {
        for (holder, runs) in wanted {
            for pages in runs {
                let covers = |one: &Recalling| {
                    one.holder == holder
                        && (one.keep == Keep::Nothing || keep == Keep::Reading)
                        && one.pages.start <= pages.start
                        && one.pages.end >= pages.end
                };
                if self.recalls.iter().any(covers) {
                    continue;
                }
                let id = self.next_recall;
                self.next_recall += 1;
                self.recalls.push(Recalling { id, holder, pages: pages.clone(), keep });
                self.actions.push(Action::Recall { id, holder, pages, keep });
            }
        }
    }
}

impl Held {
    fn forget(&mut self, holder: Holder) {
        match self {
            Self::Written(by) if *by == holder => *self = Self::By(SmallVec::new()),
            Self::Written(_) => {}
            Self::By(holders) => holders.retain(|one| *one != holder),
        }
    }

    fn give(&mut self, holder: Holder, access: Grant) {
        match (&mut *self, access) {
            (_, Grant::Write) => *self = Self::Written(holder),
            (Self::By(holders), Grant::Read) if !holders.contains(&holder) => holders.push(holder),
            // It reads already, or writes, which is more.
            (_, Grant::Read) => {}
        }
    }
}

fn pages_of(block: u64) -> Range<u64> {
    block * PAGES_PER_BLOCK..(block + 1) * PAGES_PER_BLOCK
}

fn range(pages: &Range<u64>) -> Range<usize> {
    pages.start as usize..pages.end as usize
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests;
