//! Proves that recorded streams order what must be ordered.
//!
//! Given every submission with its stream, its semaphore waits, the fences that the engine declared, and what the host had seen end, [`prove`]
//! looks at each pair of accesses that touch the same bytes, one of them writing, whose submissions those order, directly or through others. For each it looks for a chain
//! of barriers, signals and waits, by the rules of Vulkan's memory model:
//!
//! ```text
//! access --(in the first scope of)--> barrier | signal --> barrier | wait --> ... --(in the second scope of)--> access
//!           a write is made available here                                     and visible here
//! ```
//! A pair without such a chain is a [`Hazard`]. So is a write to memory of the CPU without a barrier towards it before its fence, and a part of a
//! non-coherent buffer that is not flushed before or invalidated after. The tests remove barriers one by one and see hazards.

use std::ops::Range;

use hmmap_core::fence::FencePoint;

use crate::{
    dependencies::{Point, QueueShape},
    stream::{Command, Stream, uses_of},
    uses::Uses,
};

/// One submission as it was recorded. A slice of these is in the order of submission.
#[derive(Clone, Debug)]
pub struct Recorded<B> {
    /// The queue it went to.
    pub queue: QueueShape,
    /// The value that it signals on the queue's timeline.
    pub value: u64,
    /// The fences that the engine named.
    pub waits: Vec<FencePoint>,
    /// Per timeline, what the host had seen end: the engine relies on it without naming it.
    pub ended: Vec<Point>,
    /// The semaphore waits that were made of them: timeline and value.
    pub semaphores: Vec<(u8, u64)>,
    /// What it does.
    pub stream: Stream<B>,
}

/// What a buffer's bytes are to the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Device memory.
    ByDevice,
    /// Memory of the CPU that is coherent.
    ByHost,
    /// Memory that both see and that is not coherent.
    ByHostAfterFlush,
}

/// One access of a submission.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Touch<B> {
    /// Which submission, by its place in the slice.
    pub submission: usize,
    /// Which command of its stream.
    pub command: usize,
    /// What it does: one use.
    pub uses: Uses,
    /// Where.
    pub buffer: B,
    /// Which bytes.
    pub bytes: Range<u64>,
}

/// What is not ordered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hazard<B> {
    /// No chain leads from the first access to the second.
    Unordered(Touch<B>, Touch<B>),
    /// No barrier makes this write available to the CPU.
    HostCannotSee(Touch<B>),
    /// The CPU's writes are not flushed before this read.
    NotFlushed(Touch<B>),
    /// The CPU's caches may hide this write.
    NotInvalidated(Touch<B>),
}

/// Where device addresses lead.
pub trait Places<B> {
    /// The buffer and the offset of an address.
    fn locate(&self, address: u64) -> Option<(B, u64)>;
    /// Who sees a buffer.
    fn seen(&self, buffer: B) -> Seen;
}

/// Looks at every pair, and returns how many were proved.
///
/// # Errors
/// The first pair that nothing orders.
pub fn prove<B: Copy + PartialEq>(
    submissions: &[Recorded<B>],
    places: &impl Places<B>,
) -> Result<usize, Hazard<B>> {
    let touches: Vec<Touch<B>> = submissions
        .iter()
        .enumerate()
        .flat_map(|(number, recorded)| touches(number, recorded, places))
        .collect();
    for touch in &touches {
        check_host(&submissions[touch.submission], touch, places)?;
    }
    let ordered = declared_order(submissions);
    let mut proved = 0;
    for first in &touches {
        let mut reached = None;
        for second in touches.iter().filter(|second| ordered[second.submission][first.submission]) {
            if !conflict(first, second) {
                continue;
            }
            let reached = reached.get_or_insert_with(|| Reached::from(submissions, first));
            if !reached.covers(submissions, first, second) {
                return Err(Hazard::Unordered(first.clone(), second.clone()));
            }
            proved += 1;
        }
    }
    Ok(proved)
}

fn conflict<B: PartialEq>(first: &Touch<B>, second: &Touch<B>) -> bool {
    let overlap = first.bytes.start < second.bytes.end && second.bytes.start < first.bytes.end;
    let writes = first.uses.or(second.uses).writes();
    first.buffer == second.buffer && overlap && !writes.is_empty()
}

/// Row `j`, column `i`: submission `i` comes before `j` by the declared waits, or because the host had seen it end. A value covers every
/// value below it.
fn declared_order<B>(submissions: &[Recorded<B>]) -> Vec<Vec<bool>> {
    let mut before = vec![vec![false; submissions.len()]; submissions.len()];
    for (j, later) in submissions.iter().enumerate() {
        for (i, earlier) in submissions.iter().enumerate() {
            let named = later.waits.iter().map(|wait| (wait.timeline.queue(), wait.value));
            let waited = named.chain(later.ended.iter().copied()).any(|(timeline, value)| {
                timeline == earlier.queue.timeline && earlier.value <= value
            });
            if waited && i < j {
                let inherited = before[i].clone();
                let row = before[j].iter_mut().zip(inherited);
                row.for_each(|(known, inherited)| *known |= inherited);
                before[j][i] = true;
            }
        }
    }
    before
}

fn touches<B: Copy + PartialEq>(
    submission: usize,
    recorded: &Recorded<B>,
    places: &impl Places<B>,
) -> Vec<Touch<B>> {
    let mut found = Vec::new();
    for (command, what) in recorded.stream.commands().iter().enumerate() {
        let mut add = |uses, buffer, start: u64, len: u64| {
            let bytes = start..start + len;
            found.push(Touch { submission, command, uses, buffer, bytes });
        };
        match what {
            Command::Copy { from, to, regions } => {
                for region in recorded.stream.regions(regions) {
                    add(Uses::TRANSFER_READ, *from, region.from_bytes, region.len_bytes);
                    add(Uses::TRANSFER_WRITE, *to, region.to_bytes, region.len_bytes);
                }
            }
            Command::Fill { buffer, offset_bytes, len_bytes } => {
                add(Uses::TRANSFER_WRITE, *buffer, *offset_bytes, *len_bytes);
            }
            Command::Dispatch(number) => {
                let arrays = recorded.stream.dispatched(*number).map(|dispatch| &dispatch.arrays);
                for array in arrays.into_iter().flatten() {
                    let Some((buffer, at)) = places.locate(array.address) else { continue };
                    for uses in [Uses::SHADER_READ, Uses::SHADER_WRITE] {
                        if uses_of(array.access).contains(uses) {
                            add(uses, buffer, at, array.len_bytes);
                        }
                    }
                }
            }
            Command::Barrier(_) | Command::HostFlush(_) | Command::HostInvalidate(_) => {}
        }
    }
    found
}

/// What the CPU needs around one access.
fn check_host<B: Copy + PartialEq>(
    recorded: &Recorded<B>,
    touch: &Touch<B>,
    places: &impl Places<B>,
) -> Result<(), Hazard<B>> {
    let seen = places.seen(touch.buffer);
    let writes = !touch.uses.writes().is_empty();
    if seen == Seen::ByDevice {
        return Ok(());
    }
    let covers = |part: &crate::stream::HostPart<B>| {
        let end = part.offset_bytes + part.len_bytes;
        part.buffer == touch.buffer
            && part.offset_bytes <= touch.bytes.start
            && touch.bytes.end <= end
    };
    if !writes {
        let flushed = recorded.stream.flushes().any(covers);
        let needed = seen == Seen::ByHostAfterFlush;
        return if needed && !flushed { Err(Hazard::NotFlushed(touch.clone())) } else { Ok(()) };
    }
    let released = recorded.stream.commands().iter().skip(touch.command + 1).any(|command| {
        matches!(command, Command::Barrier(barrier)
            if barrier.from.contains(touch.uses) && barrier.to.contains(Uses::HOST_READ))
    });
    if !released {
        return Err(Hazard::HostCannotSee(touch.clone()));
    }
    if seen == Seen::ByHostAfterFlush && !recorded.stream.invalidations().any(covers) {
        return Err(Hazard::NotInvalidated(touch.clone()));
    }
    Ok(())
}

/// A point of synchronisation: where it is and what it orders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sync {
    /// A barrier, by submission and command.
    Barrier { submission: usize, command: usize },
    /// The signal at the end of a submission.
    Signal { submission: usize },
    /// The semaphore waits at the start of a submission.
    Wait { submission: usize },
}

/// The points that come after an access. `available`: its write is available there.
struct Reached {
    points: Vec<(Sync, bool)>,
}

impl Reached {
    fn from<B: Copy + PartialEq>(submissions: &[Recorded<B>], touch: &Touch<B>) -> Self {
        let mut reached = Self { points: Vec::new() };
        let queue = submissions[touch.submission].queue;
        let place = (touch.submission, touch.command);
        for (point, from) in later_points(submissions, queue, place) {
            match point {
                Sync::Barrier { .. } if !from.stages().contains(touch.uses) => {}
                Sync::Barrier { .. } => {
                    let available = touch.uses.writes().is_empty() || from.contains(touch.uses);
                    reached.add(point, available);
                }
                Sync::Signal { .. } => reached.add(point, true),
                Sync::Wait { .. } => {}
            }
        }
        let mut next = 0;
        while let Some((point, available)) = reached.points.get(next).copied() {
            next += 1;
            reached.follow(submissions, point, available);
        }
        reached
    }

    fn add(&mut self, point: Sync, available: bool) {
        let better = |(known, already): &(Sync, bool)| *known == point && (*already || !available);
        if !self.points.iter().any(better) {
            self.points.push((point, available));
        }
    }

    /// Adds the points that come after one.
    fn follow<B: Copy + PartialEq>(
        &mut self,
        submissions: &[Recorded<B>],
        point: Sync,
        available: bool,
    ) {
        let (place, second) = match point {
            Sync::Barrier { submission, command } => {
                let barrier = barrier_at(&submissions[submission], command);
                ((submission, command), barrier.1)
            }
            Sync::Wait { submission } => {
                // Before the submission's first command: what it orders is everything from there on.
                let queue = submissions[submission].queue;
                for (later, _) in points_from(submissions, queue, (submission, 0)) {
                    self.add(later, available);
                }
                return;
            }
            Sync::Signal { submission } => {
                let signal = &submissions[submission];
                for (number, waiting) in submissions.iter().enumerate() {
                    let waits = waiting.semaphores.iter().any(|(timeline, value)| {
                        *timeline == signal.queue.timeline && signal.value <= *value
                    });
                    if waits {
                        self.add(Sync::Wait { submission: number }, available);
                    }
                }
                return;
            }
        };
        let queue = submissions[place.0].queue;
        for (later, from) in later_points(submissions, queue, place) {
            match later {
                Sync::Barrier { .. } if from.stages().and(second.stages()).is_empty() => {}
                Sync::Wait { .. } => {}
                _ => self.add(later, available),
            }
        }
    }

    /// True when some point orders the first access before the second.
    fn covers<B: Copy + PartialEq>(
        &self,
        submissions: &[Recorded<B>],
        first: &Touch<B>,
        second: &Touch<B>,
    ) -> bool {
        let queue = submissions[second.submission].queue;
        let memory = !first.uses.writes().is_empty();
        let place = (second.submission, second.command);
        self.points.iter().any(|(point, available)| match *point {
            Sync::Barrier { submission, command } => {
                let to = barrier_at(&submissions[submission], command).1;
                let visible = to.contains(second.uses) && *available;
                let ordered = to.stages().contains(second.uses);
                submissions[submission].queue == queue
                    && (submission, command) < place
                    && if memory { visible } else { ordered }
            }
            Sync::Wait { submission } => {
                submissions[submission].queue == queue
                    && submission <= second.submission
                    && (*available || !memory)
            }
            Sync::Signal { .. } => false,
        })
    }
}

fn barrier_at<B: Copy + PartialEq>(recorded: &Recorded<B>, command: usize) -> (Uses, Uses) {
    match recorded.stream.commands().get(command) {
        Some(Command::Barrier(barrier)) => (barrier.from, barrier.to),
        _ => (Uses::NONE, Uses::NONE),
    }
}

/// The barriers and signals of a queue after a place, with the barriers' first scopes.
fn later_points<B: Copy + PartialEq>(
    submissions: &[Recorded<B>],
    queue: QueueShape,
    (submission, command): (usize, usize),
) -> impl Iterator<Item = (Sync, Uses)> {
    points_from(submissions, queue, (submission, command + 1))
}

/// As [`later_points`], from a place on.
fn points_from<B: Copy + PartialEq>(
    submissions: &[Recorded<B>],
    queue: QueueShape,
    place: (usize, usize),
) -> impl Iterator<Item = (Sync, Uses)> {
    let of_queue = submissions
        .iter()
        .enumerate()
        .skip(place.0)
        .filter(move |(_, recorded)| recorded.queue == queue);
    of_queue.flat_map(move |(submission, recorded)| {
        let barriers = (0..recorded.stream.commands().len())
            .filter(move |command| (submission, *command) >= place)
            .filter(|command| {
                matches!(recorded.stream.commands().get(*command), Some(Command::Barrier(_)))
            })
            .map(move |command| {
                (Sync::Barrier { submission, command }, barrier_at(recorded, command).0)
            });
        barriers.chain([(Sync::Signal { submission }, Uses::NONE)])
    })
}

#[cfg(test)]
mod tests;
