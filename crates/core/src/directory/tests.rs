use super::*;
use crate::{coherence::Effect, node::DeviceId, units::BLOCK_BYTES};

const HOST: NodeId = NodeId::HOST;

fn device() -> NodeId {
    NodeId::of_device(DeviceId::new(0).unwrap())
}

fn write(directory: &mut Directory, first: u64, end: u64, on: NodeId) {
    directory.change(PageSpan { first, end }, |_, pages, run| {
        run.backed.insert(on);
        run.log.done(Effect::Write { on }, pages);
    });
}

#[test]
fn a_uniform_buffer_is_one_run_whatever_its_tail() {
    for pages in [1, 31, 32, 33, 48, 1000] {
        let mut directory = Directory::new(pages);
        write(&mut directory, 0, pages, HOST);
        assert_eq!(directory.run_count(), 1, "{pages} pages");
        let mut looked = 0;
        directory.look(PageSpan { first: 0, end: pages }, |_, _, _| looked += 1);
        assert_eq!(looked, 1, "{pages} pages");
    }
}

#[test]
fn runs_split_and_join_again() {
    let mut directory = Directory::new(320);
    write(&mut directory, 0, 320, HOST);
    write(&mut directory, 100, 101, device());
    assert_eq!(directory.run_count(), 3);
    write(&mut directory, 100, 101, HOST);
    // The block keeps its backing on the device, so it stays a run of its own.
    assert_eq!(directory.run_count(), 3);
    directory.change(PageSpan { first: 96, end: 128 }, |_, _, run| run.backed.remove(device()));
    directory.change(PageSpan { first: 0, end: 320 }, |_, _, run| run.backed.insert(HOST));
    assert_eq!(directory.run_count(), 1);
}

#[test]
fn residency_is_exact_to_the_page() {
    let mut directory = Directory::new(70);
    write(&mut directory, 3, 40, device());
    let runs = directory.residency(PageSpan { first: 0, end: 70 });
    let spans: Vec<_> = runs.iter().map(|run| (run.pages.clone(), run.nodes.to_vec())).collect();
    assert_eq!(spans, [(0..3, vec![]), (3..40, vec![device()]), (40..70, vec![])]);
}

#[test]
fn segments_cover_each_page_once() {
    for (first, end) in [(0, 1), (0, 32), (31, 33), (5, 7), (0, 100), (33, 96), (64, 99), (99, 100)]
    {
        let span = PageSpan { first, end };
        let mut seen = vec![0; 160];
        for (blocks, mask) in span.segments(1000) {
            for block in blocks {
                for pages in mask.spans() {
                    for page in pages {
                        seen[(u64::from(block) * PAGES_PER_BLOCK) as usize + page as usize] += 1;
                    }
                }
            }
        }
        let expected: Vec<_> =
            (0..160).map(|page| i32::from(page >= first && page < end)).collect();
        assert_eq!(seen, expected, "{first}..{end}");
    }
}

#[test]
fn one_run_per_block_costs_less_than_a_ten_thousandth() {
    let blocks = 4096;
    let mut directory = Directory::new(blocks * PAGES_PER_BLOCK);
    for block in (0..blocks).step_by(2) {
        let first = block * PAGES_PER_BLOCK;
        write(&mut directory, first, first + 1, HOST);
    }
    assert_eq!(directory.run_count() as u64, blocks);
    let buffer_bytes = blocks * BLOCK_BYTES;
    assert!((directory.footprint_bytes() as u64) * 10_000 <= buffer_bytes);
}

#[test]
fn what_is_in_flight_is_told_page_by_page_and_clipped_to_the_question() {
    use crate::{coherence::Promise, fence::TimelineId};
    let mut directory = Directory::new(40);
    let timeline = TimelineId::new(DeviceId::new(0).unwrap(), 1);
    let fence = FencePoint { timeline, value: 7 };
    let effect = Effect::Read { on: HOST };
    let span = PageSpan { first: 30, end: 36 };
    directory.change(span, |_, pages, run| run.log.promise(Promise::new(fence, effect, pages)));
    let at = |first, end| {
        let found = directory.in_flight(PageSpan { first, end });
        assert!(found.iter().all(|work| work.fence == fence && work.effect == effect));
        found.into_iter().map(|work| work.pages).collect::<Vec<_>>()
    };
    assert_eq!(at(0, 40), [30..32, 32..36]);
    assert_eq!(at(31, 33), [31..32, 32..33]);
    assert!(at(0, 30).is_empty() && at(36, 40).is_empty());
}

#[test]
fn a_later_fence_does_not_stand_for_an_earlier_one() {
    let timeline = crate::fence::TimelineId::new(DeviceId::new(0).unwrap(), 0);
    let fence = |value| crate::fence::FencePoint { timeline, value };
    let mut set = FenceSet::default();
    set.extend([fence(2), fence(1), fence(2)]);
    assert_eq!(set.as_slice(), [fence(1), fence(2)]);
}
