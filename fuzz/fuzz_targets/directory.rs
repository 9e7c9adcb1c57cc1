//! Works on pages that the input chooses: the directory must answer as an oracle that keeps everything.
#![no_main]

#[path = "../../crates/core/tests/directory/oracle.rs"]
mod oracle;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use oracle::{Both, DEVICES, Kind, Step, TIMELINES};

/// The most pages: seven blocks, the last one short.
const MOST_PAGES: u64 = 200;
/// More steps find nothing that fewer do not, and cost the square.
const MOST_STEPS: usize = 100;

#[derive(Debug)]
struct Play {
    pages: u64,
    steps: Vec<Step>,
}

impl Arbitrary<'_> for Play {
    fn arbitrary(input: &mut Unstructured<'_>) -> Result<Self> {
        let pages = input.int_in_range(1..=MOST_PAGES)?;
        let mut steps = Vec::new();
        while !input.is_empty() && steps.len() < MOST_STEPS {
            steps.push(step(input)?);
        }
        Ok(Self { pages, steps })
    }
}

fn step(input: &mut Unstructured<'_>) -> Result<Step> {
    let choice = input.int_in_range(0..=12)?;
    if choice == 12 {
        return Ok(Step::Lose { device: input.choose_index(DEVICES)? });
    }
    if choice >= 9 {
        let timeline = input.choose_index(TIMELINES.len())?;
        return Ok(Step::End { timeline, fails: input.ratio(1, 5)? });
    }
    let (first, pages) = (input.int_in_range(0..=MOST_PAGES)?, input.int_in_range(1..=MOST_PAGES)?);
    Ok(match choice {
        5 => Step::HostWrite { first, pages },
        6 => Step::HostZero { first, pages },
        7 => Step::Discard { first, pages },
        8 => Step::Settle { first, pages },
        kind => {
            let kinds = [Kind::CopyIn, Kind::CopyOut, Kind::Zero, Kind::Write, Kind::Read];
            let timeline = input.choose_index(TIMELINES.len())?;
            Step::Submit { timeline, kind: kinds[kind as usize], first, pages }
        }
    })
}

fuzz_target!(|play: Play| {
    let mut both = Both::new(play.pages);
    for (number, step) in play.steps.iter().enumerate() {
        both.take(step);
        if let Err(wrong) = both.check() {
            panic!("after step {number}: {wrong}");
        }
    }
    if let Err(wrong) = both.finish() {
        panic!("at the end: {wrong}");
    }
});
