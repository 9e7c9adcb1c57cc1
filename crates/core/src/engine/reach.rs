//! How much a touch brings: what the faults before it say, and what the caller has said about the range.
//!
//! | said | the touch brings |
//! |---|---|
//! | nothing | the dense part of the block, or what a stream or a constant step has come to |
//! | `Sequential` | what a stream has come to; the first touch begins one |
//! | `Random` | what was touched |
//! | `PreferredLocation` of a device | what was touched: the rest is at home there |
//! | `PreferredLocation` of the host | the block |
//! | `Granularity` | at least the part of that size around what was touched |
//!
//! What was never written is not brought for its neighbours' sake: there is nothing to bring, and it is to cost nothing as long as nobody touches it.

use smallvec::SmallVec;

use super::look_ahead::{Ahead, Reach, dense};
use crate::{
    access::Access,
    directory::PageSpan,
    hints::{Hints, Order},
    node::NodeId,
    units::PAGES_PER_BLOCK,
    vec::BufferState,
};

/// Hints that lie farther away than this make no difference to a touch.
const FARTHEST_BLOCKS: u64 = 32;

/// Where a touch of a page may reach.
fn reach(state: &BufferState, only: PageSpan, unit: u64) -> Reach {
    let pages = state.directory.pages();
    let all = PageSpan { first: 0, end: pages };
    if state.hints.is_empty() {
        return Reach { within: all, unit, order: Order::Normal };
    }
    let order = state.hints.at(only.first).order;
    let far = FARTHEST_BLOCKS * PAGES_PER_BLOCK.max(unit);
    let first = only.first.saturating_sub(far);
    let near = PageSpan { first, end: (only.end + far).min(pages) };
    let alike = state.hints.alike(only.first, near, |hints| hints.order == order);
    // What one entry covers is not torn.
    let end = alike.end.next_multiple_of(unit).min(pages);
    Reach { within: PageSpan { first: alike.first / unit * unit, end }, unit, order }
}

/// What to bring for a fault on a page.
pub(super) fn follow(
    state: &mut BufferState,
    only: PageSpan,
    access: Access,
    unit: u64,
) -> PageSpan {
    let reach = reach(state, only, unit);
    let hints = state.hints.at(only.first);
    let lone = lone(state, only, access, &reach, hints);
    if is_away(hints) && reach.order != Order::Sequential {
        return lone;
    }
    state.streams.follow(only.first, access, lone, reach)
}

/// The caller has said that the page is at home on a device.
fn is_away(hints: Hints) -> bool {
    hints.preferred.is_some_and(|node| !node.is_host())
}

/// What to do ahead of the fault that will follow.
#[derive(Default)]
pub(super) struct Next {
    pub(super) stream: Ahead,
    /// Pages to bring, and to map but for the first, where there is no stream but a constant step.
    pub(super) steps: SmallVec<[PageSpan; 4]>,
}

/// What to do ahead of the fault that will follow the one on `only`, which brought `brought`.
pub(super) fn ahead(
    state: &mut BufferState,
    only: PageSpan,
    brought: PageSpan,
    access: Access,
    unit: u64,
) -> Next {
    let reach = reach(state, only, unit);
    let stream = state.streams.ahead(brought, reach);
    let at_home = !is_away(state.hints.at(only.first));
    let may_step = unit == 1 && at_home && reach.order != Order::Random && access == Access::Read;
    if !may_step || !stream.show.is_empty() {
        return Next { stream, ..Next::default() };
    }
    let steps = state.strides.follow(only.first).pages(reach.within).collect();
    Next { stream, steps }
}

/// What to bring for a fault that goes on with no stream.
fn lone(
    state: &BufferState,
    only: PageSpan,
    access: Access,
    reach: &Reach,
    hints: Hints,
) -> PageSpan {
    let mut part = only;
    let is_small = reach.unit == 1 && !access.writes();
    match hints.preferred {
        _ if !is_small || reach.order == Order::Random => {}
        Some(NodeId::HOST) => part = unless_empty(state, only, aligned(only, PAGES_PER_BLOCK)),
        Some(_) => {}
        None => part = unless_empty(state, only, dense_part(state, only)),
    }
    let granule = hints.granularity.pages();
    if granule > 1 {
        let granule = unless_empty(state, only, aligned(only, granule));
        part = PageSpan { first: part.first.min(granule.first), end: part.end.max(granule.end) };
    }
    let Reach { within, .. } = *reach;
    PageSpan { first: part.first.max(within.first), end: part.end.min(within.end) }
}

/// The part of so many pages around the touched ones; it may go past the end of the vector.
fn aligned(only: PageSpan, pages: u64) -> PageSpan {
    let end = only.end.next_multiple_of(pages);
    PageSpan { first: only.first / pages * pages, end }
}

/// `part`, to the end of the vector, unless some of it was never written or is lost.
fn unless_empty(state: &BufferState, only: PageSpan, part: PageSpan) -> PageSpan {
    let part = PageSpan { first: part.first, end: part.end.min(state.directory.pages()) };
    let mut has_nothing = false;
    state.directory.look(part, |_, mask, run| {
        let promised = run.log.promised();
        has_nothing |= promised.empty().or(promised.lost()).overlaps(mask);
    });
    if has_nothing { only } else { part }
}

/// The dense part of the block around a page.
fn dense_part(state: &BufferState, only: PageSpan) -> PageSpan {
    let base = only.first / PAGES_PER_BLOCK * PAGES_PER_BLOCK;
    let mut part = only;
    state.directory.look(only, |_, _, run| {
        let (touched, promised) = (run.mapped.present, run.log.promised());
        let here = (state.directory.pages() - base).min(PAGES_PER_BLOCK) as u32;
        let valid = promised.valid_on(NodeId::HOST);
        let pages = dense(touched, valid, (only.first - base) as u32, here);
        part = PageSpan { first: base + u64::from(pages.start), end: base + u64::from(pages.end) };
    });
    part
}
