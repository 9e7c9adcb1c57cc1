//! Which blocks of a device were used when, and whom a full device asks who leaves.
//!
//! An accepted launch leaves a note of a few words: which blocks of which buffers, and what for. Nobody reads the notes while there is room, so a
//! program that fits pays for a push and nothing else. When room is short they are read out, in order, to the [`Policy`],
//! which is then asked.
//!
//! ```text
//! note, note, note ... no room -> choose: read out the notes, and the launch that lacks room -> the policy's victims
//! ```
//!
//! A **unit** is what leaves as a whole: a block, or a buffer that has memory as a whole. Policies know units by dense numbers, which a buffer
//! gets when the first note of it is read out.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Range,
    sync::{Arc, Weak},
};

use hmmap_eviction::{self as eviction, Candidate, Copies, Policy};
use range_alloc::RangeAllocator;
use smallvec::SmallVec;

use crate::{
    access::Access,
    backend::Reservation,
    directory::PageSpan,
    group::GroupId,
    options::Eviction,
    sync::{Mutex, about_to_run_user_code},
    units::{BLOCK_BYTES, PAGES_PER_BLOCK},
    vec::Buffer,
};

/// Notes that are kept while nobody reads them.
const MOST_NOTES: usize = 1024;
/// A unit that was not used on the device since it left it.
const ABSENT: u64 = u64::MAX;

/// What one launch used on its device.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) doing: Doing,
    pub(super) uses: SmallVec<[Used; 4]>,
}

/// What the blocks were used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(super) enum Doing {
    /// A kernel of ours, by the device's number.
    Kernel(u32),
    /// The caller's own work.
    Acquired,
    /// Nothing yet.
    Prefetch,
}

/// Units of one buffer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Used {
    pub(super) buffer: BufferKey,
    pub(super) units: Range<u32>,
    pub(super) access: Access,
}

impl Used {
    pub(super) fn new(
        reservation: Reservation,
        buffer: &Buffer,
        span: PageSpan,
        access: Access,
    ) -> Self {
        let key = BufferKey::new(reservation, buffer);
        let [first, end] = [span.first / PAGES_PER_BLOCK, span.end.div_ceil(PAGES_PER_BLOCK)];
        let units = if reservation.backs_whole { 0..1 } else { first as u32..end as u32 };
        Self { buffer: key, units, access }
    }

    /// Of a buffer that has memory by blocks.
    pub(super) fn of_blocks(buffer: &Buffer, bytes: &Range<u64>, access: Access) -> Self {
        let key = BufferKey { offset_bytes: buffer.span.offset_bytes, units: buffer.blocks() };
        let units = (bytes.start / BLOCK_BYTES) as u32..bytes.end.div_ceil(BLOCK_BYTES) as u32;
        Self { buffer: key, units, access }
    }
}

/// What a policy hears with a question.
pub(super) struct Told<'n> {
    /// The launch that lacks room, the first time.
    pub(super) coming: Option<Note>,
    /// Those that are known to follow it, the next one first.
    pub(super) queue: &'n [Note],
}

impl Told<'_> {
    /// What one of several questions says: that a launch is coming is said once.
    pub(super) fn next(&mut self) -> Self {
        Self { coming: self.coming.take(), queue: self.queue }
    }
}

/// A buffer as the ledger knows it: where it lies in the arena, and how many units it has. One that takes the place of another of the same size is taken
/// for it, which does no harm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(super) struct BufferKey {
    pub(super) offset_bytes: u64,
    pub(super) units: u32,
}

impl BufferKey {
    pub(super) fn new(reservation: Reservation, buffer: &Buffer) -> Self {
        let units = if reservation.backs_whole { 1 } else { buffer.blocks() };
        Self { offset_bytes: buffer.span.offset_bytes, units }
    }
}

/// A unit that can go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaver {
    pub(super) buffer: BufferKey,
    pub(super) unit: u32,
    pub(super) group: GroupId,
    pub(super) copies: Copies,
}

/// Blocks that are copied home so that they can go.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) buffer: Weak<Buffer>,
    pub(super) blocks: Range<u32>,
}

impl Leaving {
    pub(super) fn is_of(&self, buffer: &Arc<Buffer>) -> bool {
        std::ptr::eq(self.buffer.as_ptr(), Arc::as_ptr(buffer))
    }
}

/// The ledger of one device.
pub(crate) struct Ledger(Mutex<Book>);

struct Book {
    /// The device's, under the group that all are in who have no other, and those of groups with one of their own. Nothing while it is asked, or after it
    /// has panicked.
    policies: BTreeMap<GroupId, Option<Box<dyn Policy + Send>>>,
    /// Of groups that are no more: dropped where no lock is held.
    gone: Vec<Box<dyn Policy + Send>>,
    notes: VecDeque<Note>,
    /// The time of the first note, in notes.
    first: u64,
    numbers: Numbers,
    /// By number.
    used: Vec<LastUse>,
    leaving: Vec<Leaving>,
}

#[derive(Clone, Copy, Debug)]
struct LastUse {
    last: u64,
    arrived: u64,
}

/// Dense numbers for units.
struct Numbers {
    of: HashMap<BufferKey, Range<u32>>,
    free: RangeAllocator<u32>,
}

impl Numbers {
    fn new() -> Self {
        Self { of: HashMap::new(), free: RangeAllocator::new(0..u32::MAX) }
    }

    /// The first number of a buffer; `None` when all numbers are taken.
    fn first(&mut self, buffer: BufferKey) -> Option<u32> {
        if let Some(known) = self.of.get(&buffer) {
            return Some(known.start);
        }
        let numbers = self.free.allocate_range(buffer.units).ok()?;
        self.of.insert(buffer, numbers.clone());
        Some(numbers.start)
    }

    fn known(&self, buffer: BufferKey, unit: u32) -> Option<u32> {
        self.of.get(&buffer).map(|numbers| numbers.start + unit)
    }

    /// Only these buffers keep their numbers.
    fn keep(&mut self, is_kept: impl Fn(&BufferKey) -> bool) {
        let Self { of, free } = self;
        of.retain(|buffer, numbers| {
            let kept = is_kept(buffer);
            if !kept {
                free.free_range(numbers.clone());
            }
            kept
        });
    }
}

impl Ledger {
    pub(crate) fn new(eviction: &Eviction) -> Self {
        Self(Mutex::new(Book {
            policies: BTreeMap::from([(GroupId::DEFAULT, Some(eviction.policy()))]),
            gone: Vec::new(),
            notes: VecDeque::new(),
            first: 0,
            numbers: Numbers::new(),
            used: Vec::new(),
            leaving: Vec::new(),
        }))
    }

    /// A group has a policy of its own from now on.
    pub(crate) fn add_policy(&self, group: GroupId, eviction: &Eviction) {
        self.0.lock().policies.insert(group, Some(eviction.policy()));
    }

    /// A group is no more.
    pub(crate) fn forget_group(&self, group: GroupId) {
        let mut book = self.0.lock();
        let policy = book.policies.remove(&group).flatten();
        book.gone.extend(policy);
    }

    /// Has a group's policy answer; no lock is held meanwhile.
    fn ask<R>(
        &self,
        group: GroupId,
        ask: impl FnOnce(Option<&mut (dyn Policy + Send + 'static)>) -> R,
    ) -> R {
        let mut policy = self.0.lock().policies.get_mut(&group).and_then(Option::take);
        about_to_run_user_code();
        let answer = ask(policy.as_deref_mut());
        // Whoever found it out, being asked by somebody else, has nothing to put back.
        if let Some(policy) = policy {
            let mut book = self.0.lock();
            match book.policies.get_mut(&group) {
                Some(place) => *place = Some(policy),
                None => book.gone.push(policy),
            }
        }
        answer
    }

    /// Takes note of accepted work.
    pub(super) fn note(&self, doing: Doing, uses: impl Iterator<Item = Used>) {
        let mut book = self.0.lock();
        if book.notes.len() == MOST_NOTES {
            book.notes.pop_front();
            book.first += 1;
        }
        book.notes.push_back(Note { doing, uses: uses.collect() });
    }

    /// These units are not on the device any more.
    pub(super) fn gone(&self, buffer: BufferKey, units: Range<u32>) {
        let mut book = self.0.lock();
        for unit in units {
            if let Some(number) = book.numbers.known(buffer, unit)
                && let Some(used) = book.used.get_mut(number as usize)
            {
                used.arrived = ABSENT;
            }
        }
    }

    /// What was sent home to make room, since this was last asked.
    pub(super) fn take_leaving(&self) -> Vec<Leaving> {
        std::mem::take(&mut self.0.lock().leaving)
    }

    pub(super) fn leave(&self, leaving: impl IntoIterator<Item = Leaving>) {
        self.0.lock().leaving.extend(leaving);
    }

    /// Asks the policies, after telling them what happened since they were last asked and, the first time, of the launch that lacks room. The device's says who
    /// leaves; where that is somebody of a group with a policy of its own, this one says who in his place. The answer has the places of `wanted`
    /// leavers, the best first, or of all where there are fewer; and how many answers made no sense.
    pub(super) fn choose(
        &self,
        told: Told<'_>,
        leavers: &[Leaver],
        wanted: usize,
    ) -> (Vec<usize>, u64) {
        let mut book = self.0.lock();
        let launches = book.read_out(told.coming);
        let queue: Vec<_> = told.queue.iter().map(|note| book.launch(None, note)).collect();
        let mut places = Vec::with_capacity(leavers.len());
        let mut candidates = Vec::with_capacity(leavers.len());
        for (place, leaver) in leavers.iter().enumerate() {
            let Some(candidate) = book.candidate(leaver) else { continue };
            places.push((candidate.block, place));
            candidates.push(candidate);
        }
        let groups: Vec<GroupId> = book.policies.keys().copied().collect();
        let gone = std::mem::take(&mut book.gone);
        drop(book);
        about_to_run_user_code();
        drop(gone);
        for group in &groups {
            self.ask(*group, |policy| {
                let Some(policy) = policy else { return };
                policy.queued(&queue);
                launches.iter().for_each(|(now, launch)| policy.launched(*now, launch));
            });
        }
        places.sort_unstable();
        let place = |block: u32| {
            let at = places.binary_search_by_key(&block, |(known, _)| *known).ok()?;
            Some(places[at].1)
        };
        let group_of = |block| place(block).map(|at| leavers[at].group);
        let (mut victims, mut ignored) = self.name(GroupId::DEFAULT, &mut candidates, wanted);
        for group in groups.into_iter().filter(|group| !group.is_default()) {
            let of_group = |block: &u32| group_of(*block) == Some(group);
            let theirs = victims.iter().filter(|block| of_group(block)).count();
            if theirs == 0 {
                continue;
            }
            let mine = candidates.iter().filter(|one| of_group(&one.block));
            let mut mine: Vec<_> = mine.copied().collect();
            let (named, nonsense) = self.name(group, &mut mine, theirs);
            ignored += nonsense;
            let places = victims.iter_mut().filter(|block| of_group(block));
            places.zip(named).for_each(|(place, named)| *place = named);
        }
        (victims.into_iter().filter_map(place).collect(), ignored)
    }

    /// Whom a group's policy names, or, where it has panicked, who was used least recently; and how many answers made no sense.
    fn name(&self, group: GroupId, candidates: &mut [Candidate], wanted: usize) -> (Vec<u32>, u64) {
        let mut victims = Vec::new();
        let ignored = self.ask(group, |policy| match policy {
            Some(policy) => eviction::choose(policy, candidates, wanted, &mut victims),
            None => eviction::choose(&mut eviction::Lru, candidates, wanted, &mut victims),
        });
        (victims, ignored)
    }

    /// Forgets buffers that have no memory here any more, once they are most of those it knows.
    pub(super) fn forget_all_but(&self, resident: &[BufferKey]) {
        let mut book = self.0.lock();
        if book.numbers.of.len() > 2 * resident.len() + 64 {
            let resident: std::collections::HashSet<_> = resident.iter().collect();
            book.numbers.keep(|buffer| resident.contains(buffer));
        }
    }
}

impl Book {
    /// The notes as launches, with their times; the last uses are brought up to date.
    fn read_out(&mut self, coming: Option<Note>) -> Vec<(u64, eviction::Launch)> {
        self.notes.extend(coming);
        let notes = std::mem::take(&mut self.notes);
        let first = self.first;
        self.first += notes.len() as u64;
        (first..).zip(&notes).map(|(now, note)| (now, self.launch(Some(now), note))).collect()
    }

    /// A note as a launch; one that has happened is a use.
    fn launch(&mut self, happened: Option<u64>, note: &Note) -> eviction::Launch {
        let (kernel, tile) = signature(note);
        let mut launch = eviction::Launch { kernel, tile, ..eviction::Launch::default() };
        for Used { buffer, units, access } in &note.uses {
            let Some(base) = self.numbers.first(*buffer) else { continue };
            let end = (base + buffer.units) as usize;
            if self.used.len() < end {
                self.used.resize(end, LastUse { last: 0, arrived: ABSENT });
            }
            for number in base + units.start..base + units.end {
                if let Some(now) = happened {
                    let used = &mut self.used[number as usize];
                    used.last = now;
                    if used.arrived == ABSENT {
                        used.arrived = now;
                    }
                }
                if *access != Access::Write {
                    launch.reads.push(number);
                }
                if access.writes() {
                    launch.writes.push(number);
                }
            }
        }
        launch
    }

    /// A unit as policies know it; one that no note speaks of has the time of the first.
    fn candidate(&mut self, leaver: &Leaver) -> Option<Candidate> {
        let first = self.numbers.first(leaver.buffer)?;
        let block = first + leaver.unit;
        let used = self.used.get(block as usize).filter(|used| used.arrived != ABSENT);
        let LastUse { last, arrived } = used.copied().unwrap_or(LastUse { last: 0, arrived: 0 });
        let Leaver { copies, .. } = *leaver;
        Some(Candidate { block, buffer: first, copies, last_use: last, arrived })
    }
}

/// What makes a launch look like another: what it does, and with which units.
fn signature(note: &Note) -> (u32, u32) {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    let hash = BuildHasherDefault::<DefaultHasher>::default();
    (hash.hash_one(note.doing) as u32, hash.hash_one(&note.uses) as u32)
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
