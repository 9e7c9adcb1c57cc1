//! Which page has which hints: ranges, split by what is set and joined where neighbours are equal.

use std::ops::Range;

use rangemap::RangeMap;

use super::{CommonHints, Hints};
use crate::{directory::PageSpan, node::NodeId};

/// The hints of one vector's pages. What was never spoken of takes no memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct HintMap {
    /// Pages about which something was said, in order.
    ranges: Option<Box<RangeMap<u64, Hints>>>,
    /// Some of it may make a difference to the library.
    acts: bool,
}

impl HintMap {
    /// True when nothing was ever said that makes a difference, or all was taken back.
    pub(crate) fn is_empty(&self) -> bool {
        !self.acts
    }

    /// The hints of one page.
    pub(crate) fn at(&self, page: u64) -> Hints {
        self.ranges.as_ref().and_then(|ranges| ranges.get(&page)).copied().unwrap_or_default()
    }

    /// Changes the hints of these pages. Costs by the ranges in `span` that differ, however long they are.
    pub(crate) fn change(&mut self, span: PageSpan, change: impl Fn(&mut Hints)) {
        if span.is_empty() {
            return;
        }
        self.acts = true;
        self.write(span, change);
    }

    /// Pages were sent to a node, which is kept to be read back.
    pub(crate) fn sent(&mut self, span: PageSpan, node: NodeId) {
        if !span.is_empty() {
            self.write(span, |hints| hints.last_prefetch = Some(node));
        }
    }

    fn write(&mut self, span: PageSpan, change: impl Fn(&mut Hints)) {
        let changed: Vec<(PageSpan, Hints)> = self.runs(span).collect();
        let ranges = self.ranges.get_or_insert_default();
        for (part, mut hints) in changed {
            change(&mut hints);
            if hints == Hints::default() {
                ranges.remove(part.first..part.end);
            } else {
                ranges.insert(part.first..part.end, hints);
            }
        }
        if ranges.is_empty() {
            (self.ranges, self.acts) = (None, false);
        }
    }

    /// `span` in stretches of equal hints, in order; what nothing was said about is among them.
    pub(crate) fn runs(&self, span: PageSpan) -> impl Iterator<Item = (PageSpan, Hints)> {
        // The map must not be asked about an empty range.
        let ranges = self.ranges.iter().filter(move |_| !span.is_empty());
        let said = ranges.flat_map(move |ranges| ranges.overlapping(span.first..span.end));
        let clipped = move |(range, hints): (&Range<u64>, &Hints)| {
            let (first, end) = (range.start.max(span.first), range.end.min(span.end));
            (PageSpan { first, end }, *hints)
        };
        let mut said = said.map(clipped).peekable();
        let mut at = span.first;
        std::iter::from_fn(move || {
            if at == span.end {
                return None;
            }
            let next = match said.next_if(|(part, _)| part.first == at) {
                Some(next) => next,
                None => {
                    let end = said.peek().map_or(span.end, |(part, _)| part.first);
                    (PageSpan { first: at, end }, Hints::default())
                }
            };
            at = next.0.end;
            Some(next)
        })
    }

    /// What all these pages have in common.
    pub(crate) fn common(&self, span: PageSpan) -> CommonHints {
        let mut runs = self.runs(span).map(|(_, hints)| hints);
        let first = runs.next().unwrap_or_default();
        runs.fold(first.into(), CommonHints::and)
    }

    /// The pages around `page` of which the same is true, within `limit`, which has it in it.
    pub(crate) fn alike(
        &self,
        page: u64,
        limit: PageSpan,
        same: impl Fn(Hints) -> bool,
    ) -> PageSpan {
        let mut alike = limit;
        for (part, hints) in self.runs(limit) {
            if same(hints) {
                continue;
            }
            if part.end <= page {
                alike.first = part.end;
            } else if page < part.first {
                alike.end = alike.end.min(part.first);
            }
        }
        alike
    }

    /// Memory that it takes beside its own place, in bytes, about.
    pub(crate) fn heap_bytes(&self) -> usize {
        let entry = size_of::<(Range<u64>, Hints)>();
        self.ranges
            .as_ref()
            .map_or(0, |ranges| size_of::<RangeMap<u64, Hints>>() + ranges.iter().count() * entry)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        hints::{Common, Granularity, Hint, Order, cases::cases},
        node::DeviceId,
    };

    const PAGES: u64 = 24;

    fn hint() -> impl Strategy<Value = Hint> {
        let node = |index: usize| match index.checked_sub(1).and_then(DeviceId::new) {
            Some(device) => NodeId::of_device(device),
            None => NodeId::HOST,
        };
        let size = |power: u32| Granularity::of_bytes((64 << 10) << power).unwrap();
        prop_oneof![
            Just(Hint::ReadMostly),
            Just(Hint::NotReadMostly),
            (0..3usize).prop_map(move |index| Hint::PreferredLocation(node(index))),
            Just(Hint::NoPreferredLocation),
            (0..3usize).prop_map(move |index| Hint::AccessedBy(node(index))),
            (0..3usize).prop_map(move |index| Hint::NotAccessedBy(node(index))),
            Just(Hint::Sequential),
            Just(Hint::Random),
            Just(Hint::NormalOrder),
            Just(Hint::Pin),
            Just(Hint::Unpin),
            (0..6u32).prop_map(move |power| Hint::Granularity(size(power))),
        ]
    }

    fn span() -> impl Strategy<Value = PageSpan> {
        (0..=PAGES, 0..=PAGES).prop_map(|(a, b)| PageSpan { first: a.min(b), end: a.max(b) })
    }

    proptest! {
        #![proptest_config(cases(256))]

        /// Whatever is said of whatever ranges in whatever order: a page has what an array with a place for each page has.
        #[test]
        fn says_of_each_page_what_a_flat_array_does(said in prop::collection::vec((span(), hint()), 0..40), asked in span()) {
            let mut map = HintMap::default();
            let mut flat = [Hints::default(); PAGES as usize];
            for (span, hint) in &said {
                map.change(*span, |hints| hints.take(*hint));
                flat[span.first as usize..span.end as usize].iter_mut().for_each(|hints| hints.take(*hint));
            }
            for page in 0..PAGES {
                prop_assert_eq!(map.at(page), flat[page as usize]);
            }
            let part = &flat[asked.first as usize..asked.end as usize];
            // Runs are in order, cover what was asked for, and are as few as can be.
            let runs: Vec<_> = map.runs(asked).collect();
            let spread: Vec<_> = runs.iter().flat_map(|(part, hints)| (part.first..part.end).map(move |_| *hints)).collect();
            prop_assert_eq!(&spread[..], part);
            prop_assert!(runs.windows(2).all(|pair| pair[0].0.end == pair[1].0.first && pair[0].1 != pair[1].1), "{:?}", runs);
            prop_assert_eq!(map.is_empty(), flat.iter().all(|hints| *hints == Hints::default()));
            // The common value of each kind.
            let of = |same: &dyn Fn(&Hints, &Hints) -> bool| part.iter().all(|one| same(one, &part[0]));
            let common = map.common(asked);
            let first = part.first().copied().unwrap_or_default();
            prop_assert_eq!(common.order, if of(&|a, b| a.order == b.order) { Common::All(first.order) } else { Common::Mixed });
            prop_assert_eq!(common.preferred, if of(&|a, b| a.preferred == b.preferred) { Common::All(first.preferred) } else { Common::Mixed });
            prop_assert_eq!(common.pinned.value(), of(&|a, b| a.pinned == b.pinned).then_some(first.pinned));
            prop_assert_eq!(common.read_mostly.value(), of(&|a, b| a.read_mostly == b.read_mostly).then_some(first.read_mostly));
            prop_assert_eq!(common.granularity.value(), of(&|a, b| a.granularity == b.granularity).then_some(first.granularity));
            for node in first.accessed_by.iter() {
                let by_all = part.iter().all(|hints| hints.accessed_by.contains(node));
                prop_assert_eq!(common.accessed_by.contains(node), by_all);
            }
        }

        /// The part around a page of which the same is true is as large as it can be, and no larger.
        #[test]
        fn alike_is_the_largest_part_around_a_page(said in prop::collection::vec((span(), hint()), 0..20), limit in span(), at in 0..PAGES) {
            prop_assume!(limit.first < limit.end);
            let page = limit.first + at % (limit.end - limit.first);
            let mut map = HintMap::default();
            for (span, hint) in said {
                map.change(span, |hints| hints.take(hint));
            }
            let order = map.at(page).order;
            let part = map.alike(page, limit, |hints| hints.order == order);
            prop_assert!(part.first <= page && page < part.end && limit.first <= part.first && part.end <= limit.end);
            prop_assert!((part.first..part.end).all(|page| map.at(page).order == order));
            prop_assert!(part.first == limit.first || map.at(part.first - 1).order != order);
            prop_assert!(part.end == limit.end || map.at(part.end).order != order);
        }
    }

    #[test]
    fn a_hint_on_a_terabyte_is_one_range() {
        let mut map = HintMap::default();
        let all = PageSpan { first: 0, end: 1 << 24 };
        map.change(all, |hints| hints.take(Hint::Sequential));
        map.change(PageSpan { first: 5, end: 6 }, |hints| hints.take(Hint::Random));
        assert_eq!(map.runs(all).count(), 3);
        assert_eq!(map.common(all).order, Common::Mixed);
        map.change(all, |hints| hints.take(Hint::Random));
        assert_eq!(
            map.runs(all).collect::<Vec<_>>(),
            [(all, Hints { order: Order::Random, ..Hints::default() })]
        );
        map.change(all, |hints| hints.take(Hint::NormalOrder));
        assert!(map.is_empty() && map.heap_bytes() == 0);
    }
}
