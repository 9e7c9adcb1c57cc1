//! What is measured, and how the libraries take turns at it.

use std::{
    iter,
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use fastrand::Rng;
use hmmap_bench::Settings;

use crate::library::{Array, Element, Library, Turn};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// A page of hmmap, which is what "a page" is to all libraries here.
const PAGE_BYTES: usize = 64 * KIB;
const PAGE_LEN: usize = PAGE_BYTES / size_of::<Element>();

/// The least share of the best rival's speed: none is more than 5 % faster.
const NOT_BEHIND: f64 = 1.0 / 1.05;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// Its name: stable and plain.
    pub(crate) name: &'static str,
    /// Bytes of the array.
    pub(crate) bytes: usize,
    /// The least that the best rival's time over hmmap's may be; `None`: the row is there for comparison.
    pub(crate) goal: Option<f64>,
    doing: Doing,
}

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    Up,
    UpInPlace,
    Down,
    Launch,
    Parts(Parts),
    PartsByHand(Parts),
}

/// What the host reads of what the device wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Parts {
    OneElement,
    /// Whole pages at random.
    Pages(usize),
}

const ONE_IN_A_HUNDRED: Parts = Parts::Pages(64 * MIB / PAGE_BYTES / 100);

/// Every row, in the order of measuring.
pub(crate) const CASES: &[Case] = &[
    case("up/64MiB", 64 * MIB, Some(NOT_BEHIND), Doing::Up),
    case("up/4KiB", 4 * KIB, Some(NOT_BEHIND), Doing::Up),
    case("up-in-place/64MiB", 64 * MIB, Some(NOT_BEHIND), Doing::UpInPlace),
    case("up-in-place/4KiB", 4 * KIB, Some(NOT_BEHIND), Doing::UpInPlace),
    case("down/64MiB", 64 * MIB, Some(NOT_BEHIND), Doing::Down),
    case("down/4KiB", 4 * KIB, Some(NOT_BEHIND), Doing::Down),
    case("empty-launch", size_of::<Element>(), Some(NOT_BEHIND), Doing::Launch),
    case("one-element-of/64MiB", 64 * MIB, Some(80.0), Doing::Parts(Parts::OneElement)),
    case("random-1%-of/64MiB", 64 * MIB, Some(10.0), Doing::Parts(ONE_IN_A_HUNDRED)),
    case("one-element-by-hand/64MiB", 64 * MIB, None, Doing::PartsByHand(Parts::OneElement)),
    case("random-1%-by-hand/64MiB", 64 * MIB, None, Doing::PartsByHand(ONE_IN_A_HUNDRED)),
];

const fn case(name: &'static str, bytes: usize, goal: Option<f64>, doing: Doing) -> Case {
    Case { name, bytes, goal, doing }
}

/// One library's part in a case.
pub(crate) struct Contender {
    pub(crate) library: &'static str,
    array: Box<dyn Array>,
    /// Times, in seconds; none when the library does not do this.
    pub(crate) took_s: Vec<f64>,
    /// False as soon as the library says that it has no such move.
    takes_part: bool,
}

impl Case {
    /// Measures the case: every library is checked once for right results, and then they take turns, each round beginning with another.
    pub(crate) fn measure(
        &self,
        libraries: &[Box<dyn Library>],
        settings: &Settings,
        mut each: impl FnMut(u32),
    ) -> anyhow::Result<Vec<Contender>> {
        let len = self.bytes / size_of::<Element>();
        let contender = |library: &dyn Library| {
            let name = library.name();
            let array = library.array(len).with_context(|| format!("{name}: an array"))?;
            Ok(Contender { library: name, array, took_s: Vec::new(), takes_part: true })
        };
        let mut contenders = libraries
            .iter()
            .map(|library| contender(library.as_ref()))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let data = Data::new(len);
        for contender in &mut contenders {
            contender.array.turn(Turn::Begins);
            let checked = check(contender.array.as_mut(), &data);
            contender.array.turn(Turn::Ends);
            checked.with_context(|| format!("{}: the check", contender.library))?;
        }
        for round in 0..settings.warm_ups {
            self.round(&mut contenders, round, &data)?;
        }
        contenders.iter_mut().for_each(|contender| contender.took_s.clear());
        let (started, time_limit) = (Instant::now(), settings.case_limit(CASES.len()));
        for round in 0..settings.most_runs {
            if round >= settings.least_runs && started.elapsed() > time_limit {
                break;
            }
            self.round(&mut contenders, round, &data)?;
            each(round + 1);
        }
        Ok(contenders)
    }

    /// One turn of each. Rounds begin with one library after another, and every other one goes the other way round.
    fn round(&self, contenders: &mut [Contender], round: u32, data: &Data) -> anyhow::Result<()> {
        let count = contenders.len();
        for turn in 0..count {
            let at = (round as usize + if round.is_multiple_of(2) { turn } else { count - turn })
                % count;
            let contender = &mut contenders[at];
            if !contender.takes_part {
                continue;
            }
            contender.array.turn(Turn::Begins);
            let took = self.once(contender, round, data);
            contender.array.turn(Turn::Ends);
            match took.with_context(|| format!("{}: {}", contender.library, self.name))? {
                Some(took) => contender.took_s.push(took.as_secs_f64()),
                None => contender.takes_part = false,
            }
        }
        Ok(())
    }

    /// Brings about what a turn starts from, does it, and says how long the doing alone took.
    fn once(
        &self,
        contender: &mut Contender,
        round: u32,
        data: &Data,
    ) -> anyhow::Result<Option<Duration>> {
        let by_hmmap = contender.library == crate::OURS;
        let array = contender.array.as_mut();
        let timed = |work: &mut dyn FnMut() -> anyhow::Result<()>| {
            let started = Instant::now();
            work()?;
            Ok(Some(started.elapsed()))
        };
        match self.doing {
            Doing::Up => {
                let data = data.of_round(round);
                timed(&mut || array.up(data))
            }
            Doing::UpInPlace => {
                if !array.make_in_place(data.of_round(round))? {
                    return Ok(None);
                }
                timed(&mut || array.up_in_place())
            }
            Doing::Launch => timed(&mut || array.launch()),
            Doing::Down => {
                let value = written_by_device(array, round)?;
                let mut clock = Clock::start(1);
                array.down(&mut |all| clock.seen(all, value))?;
                clock.stopped().map(Some)
            }
            Doing::Parts(parts) | Doing::PartsByHand(parts) => {
                let value = written_by_device(array, round)?;
                let parts = data.parts(parts, round);
                let mut clock = Clock::start(parts.len());
                let see: &mut dyn FnMut(&[Element]) = &mut |part| clock.seen(part, value);
                // hmmap moves the pages that are read whether it is told of them or not.
                if by_hmmap || matches!(self.doing, Doing::Parts(_)) {
                    array.parts(&parts, see)?;
                } else if !array.parts_by_hand(&parts, see)? {
                    return Ok(None);
                }
                clock.stopped().map(Some)
            }
        }
    }
}

/// Has the device write another value than in the round before.
fn written_by_device(array: &mut dyn Array, round: u32) -> anyhow::Result<Element> {
    let value = round as Element + 1.0;
    array.set_value(value)?;
    array.launch()?;
    Ok(value)
}

/// Stops when the last of the slices that were asked for is there; looks at their ends, so that they are known to be.
struct Clock {
    started: Instant,
    missing: usize,
    took: Duration,
    wrong: bool,
}

impl Clock {
    fn start(slices: usize) -> Self {
        Self { started: Instant::now(), missing: slices, took: Duration::ZERO, wrong: false }
    }

    fn seen(&mut self, slice: &[Element], value: Element) {
        self.wrong |= slice.first() != Some(&value) || slice.last() != Some(&value);
        self.took = self.started.elapsed();
        self.missing = self.missing.wrapping_sub(1);
    }

    fn stopped(&self) -> anyhow::Result<Duration> {
        ensure!(self.missing == 0, "{} slices did not come", self.missing as isize);
        ensure!(!self.wrong, "a slice holds something else than the device wrote");
        Ok(self.took)
    }
}

/// What goes up, and what is read.
struct Data {
    /// Two, taken in turns, so that a move that did not happen cannot go unseen.
    made: [Vec<Element>; 2],
}

impl Data {
    fn new(len: usize) -> Self {
        // Below 2^24, where every integer is an f32.
        let made = |seed: u32| {
            let element = |i: u32| (i.wrapping_mul(0x9E37_79B1).wrapping_add(seed) >> 8) as Element;
            (0..len as u32).map(element).collect()
        };
        Self { made: [made(0), made(0x1234_5678)] }
    }

    fn of_round(&self, round: u32) -> &[Element] {
        &self.made[round as usize % 2]
    }

    /// The same for every library in a round.
    fn parts(&self, parts: Parts, round: u32) -> Vec<Range<usize>> {
        let len = self.made[0].len();
        let mut rng = Rng::with_seed(round.into());
        match parts {
            Parts::OneElement => {
                let at = rng.usize(..len);
                iter::once(at..at + 1).collect()
            }
            Parts::Pages(count) => {
                let pages = rng.choose_multiple(0..len / PAGE_LEN, count);
                pages.into_iter().map(|page| page * PAGE_LEN..(page + 1) * PAGE_LEN).collect()
            }
        }
    }
}

/// Does everything once and compares every element.
fn check(array: &mut dyn Array, data: &Data) -> anyhow::Result<()> {
    for data in &data.made {
        array.up(data).context("up")?;
        let found = array.on_the_device().context("what the device holds")?;
        ensure!(found == *data, "the device holds something else than what went up");
    }
    if array.make_in_place(&data.made[0]).context("making in place")? {
        array.up_in_place().context("up in place")?;
        let found = array.on_the_device().context("what the device holds")?;
        ensure!(found == data.made[0], "the device holds something else than what was made");
    }
    let value = 7.0;
    array.set_value(value)?;
    array.launch().context("the kernel")?;
    let mut right = false;
    array.down(&mut |all| {
        right = all.len() == data.made[0].len() && all.iter().all(|element| *element == value);
    })?;
    ensure!(right, "what came home is not what the kernel wrote");
    check_parts(array, data)
}

/// Parts of what went up, since every element of that is another.
fn check_parts(array: &mut dyn Array, data: &Data) -> anyhow::Result<()> {
    let all = &data.made[1];
    array.up(all)?;
    let middle = all.len() / 2;
    let parts = [middle..all.len(), 0..1];
    let parts = &parts[..all.len().min(2)];
    let expected: Vec<&[Element]> = parts.iter().map(|part| &all[part.clone()]).collect();
    let mut found: Vec<Vec<Element>> = Vec::new();
    array.parts(parts, &mut |part| found.push(part.to_vec()))?;
    ensure!(found == expected, "the parts are not those that were asked for");
    found.clear();
    if array.parts_by_hand(parts, &mut |part| found.push(part.to_vec()))? {
        ensure!(found == expected, "the parts by hand are not those that were asked for");
    }
    Ok(())
}
