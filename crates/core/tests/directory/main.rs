//! The directory against an oracle that keeps everything ([`oracle`]), over random works.

#[path = "../cases/mod.rs"]
mod cases;
mod oracle;

use cases::cases;
use hmmap_core::{coherence::Effect, node::NodeId};
use oracle::{Both, DEVICES, Kind, Step, TIMELINES};
use proptest::prelude::*;

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        1 => Just(Kind::CopyIn),
        1 => Just(Kind::CopyOut),
        1 => Just(Kind::Zero),
        4 => Just(Kind::Write),
        2 => Just(Kind::Read),
    ];
    let timeline = 0..TIMELINES.len();
    // Starts and lengths that often meet block boundaries, and often do not.
    let place = prop_oneof![0..200u64, (0..7u64).prop_map(|block| block * 32)];
    let count = prop_oneof![1..4u64, 1..200u64, (1..4u64).prop_map(|blocks| blocks * 32)];
    let span = (place, count);
    prop_oneof![
        8 => (timeline.clone(), kind, span.clone()).prop_map(|(timeline, kind, (first, pages))| {
            Step::Submit { timeline, kind, first, pages }
        }),
        2 => span.clone().prop_map(|(first, pages)| Step::HostWrite { first, pages }),
        1 => span.clone().prop_map(|(first, pages)| Step::HostZero { first, pages }),
        1 => span.clone().prop_map(|(first, pages)| Step::Discard { first, pages }),
        8 => (timeline, prop::bool::weighted(0.2))
            .prop_map(|(timeline, fails)| Step::End { timeline, fails }),
        3 => span.prop_map(|(first, pages)| Step::Settle { first, pages }),
        1 => prop_oneof![9 => Just(DEVICES), 1 => 0..DEVICES].prop_map(|device| Step::Lose { device }),
    ]
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn the_directory_answers_as_if_it_had_kept_everything(
        pages in prop_oneof![1..3u64, 30..35u64, 60..70u64, 100..200u64],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut both = Both::new(pages);
        for step in &steps {
            both.take(step);
            both.check().map_err(TestCaseError::fail)?;
        }
        both.finish().map_err(TestCaseError::fail)?;
    }

    /// What `look` shows for any span is what `change` would change: each page of the span once, none outside.
    #[test]
    fn look_and_change_cover_a_span_once(
        pages in 1..200u64,
        writes in prop::collection::vec((0..200u64, 1..80u64), 0..6),
        asked in (0..200u64, 1..200u64),
    ) {
        let mut both = Both::new(pages);
        for (first, count) in writes {
            both.done(Effect::Write { on: NodeId::HOST }, both.span(first, count));
        }
        let span = both.span(asked.0, asked.1);
        let mut looked = vec![0; pages.next_multiple_of(32) as usize];
        both.directory.look(span, |blocks, mask, _| {
            for block in blocks {
                let places = mask.spans().flatten().map(|page| u64::from(block) * 32 + u64::from(page));
                places.for_each(|page| looked[page as usize] += 1);
            }
        });
        for (page, times) in looked.iter().enumerate() {
            let inside = (span.first..span.end).contains(&(page as u64));
            // The pages past the end follow the last one.
            let past = page as u64 >= pages && span.end == pages;
            prop_assert_eq!(*times, i32::from(inside || past), "page {}", page);
        }
    }
}
