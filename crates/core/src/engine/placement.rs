//! Where a device works on what it uses: in memory of its own, or on the host's pages where they are, through its window.
//!
//! An array is bound whole to one of the two for one launch, and so are all arrays of one vector, so that no page is needed in two places. The device's own memory
//! is the rule. What the caller has said makes the exception:
//!
//! | said of all that is used | the launch works |
//! |---|---|
//! | `ReadMostly`, and it reads | on a copy of its own |
//! | `PreferredLocation` of the host | on the host's pages; what is not there comes home |
//! | `PreferredLocation` of the device | in the device's memory |
//! | `AccessedBy` the device | on the host's pages, if they are all there or empty; where they are on the device, there |
//!
//! A vector that goes back and forth between host and device stays on the host for a while ([`super::back_and_forth`]).
//! One of which a launch reads little is left there while that costs less than to bring it ([`super::scattered`]).
//! A launch for which no room can be made works on its largest vectors there too, as far as the options allow ([`WithoutRoom`]).
//!
//! Without such words, what is all in the memory of a neighbour, another driver of the same card, is used there ([`super::neighbours`]).
//!
//! Where it cannot be had (no window, said of a part alone, pages here and there), the pages move as ever, and that is counted. A prefetch names its
//! node, so it goes there, as does what is lent on a device.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    budget::{ByGroup, TooSmall},
    locked::Locked,
    plan::Request,
    working_set::{NoRoom, Use, WorkingSet},
};
use crate::{
    access::Access,
    directory::PageSpan,
    error::Error,
    hints::Hints,
    node::NodeId,
    options::WithoutRoom,
    stats::Cause,
    units::PAGES_PER_BLOCK,
    vec::{Buffer, BufferState},
};

/// What a working set uses.
pub(super) struct Uses {
    pub(super) asked: SmallVec<[Use; 6]>,
    /// The same, and what the caller wants to have moved with it; `None` when that is nothing more.
    pub(super) wider: Option<Box<SmallVec<[Use; 6]>>>,
}

/// What hints make of one vector's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// In the device's own memory.
    Device,
    /// There too, though something else was said.
    DeviceAfterAll,
    /// On the host's pages.
    Host,
}

impl<'a> WorkingSet<'_, 'a> {
    /// What the kernel uses, and where. Gates of vectors that it uses on the host's pages are closed: only fences keep the two apart there.
    /// No room can be made for those that are `windowed`; little is read of those that are `left_home`.
    pub(super) fn uses(
        &self,
        locked: &mut Locked<'_>,
        windowed: &[usize],
        left_home: &[usize],
    ) -> Uses {
        // Of most vectors nothing was said.
        let said =
            !self.names_its_node() && locked.states.iter().any(|state| !state.hints.is_empty());
        let kept_home = self.kept_home(locked);
        let is_near = !self.names_its_node() && self.inner.has_neighbours(self.open);
        let is_usual = windowed.is_empty() && left_home.is_empty() && kept_home.is_empty();
        if !said && is_usual && !is_near {
            let asked = self.uses_of(locked, |_| self.open.node, |_, span| span);
            return Uses { asked, wider: None };
        }
        let numbers = 0..locked.buffers.len();
        let node = |number: usize| {
            let node = self.node_of(locked, number);
            if is_near && node == self.open.node {
                let near = self.node_of_neighbour(locked, number);
                if let Some(near) = near {
                    return near;
                }
            }
            let stays = kept_home.contains(&number);
            let is_left = left_home.contains(&number);
            let wanted = stays || is_left || windowed.contains(&number);
            let wanted = wanted && node != NodeId::HOST;
            if !wanted || !self.reaches_on_the_host(locked, number) {
                return node;
            }
            if stays {
                self.tell_kept_home(&locked.states[number]);
            } else if is_left {
                self.tell_left_home(&locked.states[number]);
            }
            NodeId::HOST
        };
        let nodes: SmallVec<[NodeId; 6]> = numbers.map(node).collect();
        let asked = self.uses_of(locked, |number| nodes[number], |_, span| span);
        let mut widened = false;
        let wider = |state: &BufferState, span: PageSpan| {
            let wider = granules(state, span);
            widened |= wider != span;
            wider
        };
        let wider = self.uses_of(locked, |number| nodes[number], wider);
        Uses { asked, wider: widened.then(|| Box::new(wider)) }
    }

    /// Ranges of one buffer that are read and share pages become one, so no page is planned twice (a buffer that is written has only one argument: it is
    /// borrowed exclusively). What `wider` adds to a range that is written is read.
    fn uses_of(
        &self,
        locked: &Locked<'_>,
        node_of: impl Fn(usize) -> NodeId,
        mut wider: impl FnMut(&BufferState, PageSpan) -> PageSpan,
    ) -> SmallVec<[Use; 6]> {
        let mut uses: SmallVec<[Use; 6]> = SmallVec::new();
        for array in self.arrays.iter().filter(|array| !array.bytes.is_empty()) {
            let Some(number) = locked.number_of(array) else { continue };
            let (node, access) = (node_of(number), array.access);
            let mut span = PageSpan::touching(&array.bytes);
            let mut wide = span;
            if node == self.open.node && !node.is_host() {
                wide = wider(&locked.states[number], span);
            }
            let read = |span| Request { node, access: Access::Read, span, inside: span };
            if access == Access::Read {
                span = wide;
                uses.retain(|earlier| {
                    let known = earlier.request.span;
                    let shares = earlier.number == number
                        && known.first <= span.end
                        && span.first <= known.end;
                    if shares {
                        span.first = span.first.min(known.first);
                        span.end = span.end.max(known.end);
                    }
                    !shares
                });
                uses.push(Use { number, request: read(span) });
                continue;
            }
            let inside = PageSpan::inside(&array.bytes, array.vec_bytes);
            uses.push(Use { number, request: Request { node, access, span, inside } });
            for fringe in [(wide.first, span.first), (span.end, wide.end)] {
                let fringe = PageSpan { first: fringe.0, end: fringe.1 };
                if !fringe.is_empty() {
                    uses.push(Use { number, request: read(fringe) });
                }
            }
        }
        uses
    }

    /// Who asked for a prefetch, or lent a vector, has said where it is to go.
    pub(super) fn names_its_node(&self) -> bool {
        matches!(self.cause, Cause::Prefetch | Cause::Peer)
    }

    /// Where the device works on one of the vectors.
    fn node_of(&self, locked: &mut Locked<'_>, number: usize) -> NodeId {
        let (inner, open) = (self.inner, self.open);
        if open.node.is_host() || locked.states[number].hints.is_empty() {
            return open.node;
        }
        let buffer = locked.buffers[number];
        let arrays = self.arrays.iter();
        let arrays = arrays.filter(|array| !array.bytes.is_empty());
        let arrays = arrays.filter(|array| Arc::ptr_eq(array.buffer, buffer));
        let parts: SmallVec<[(PageSpan, Access); 6]> =
            arrays.clone().map(|array| (PageSpan::touching(&array.bytes), array.access)).collect();
        let mut place = wanted(&locked.states[number], open.node, &parts);
        if place == Place::Host && !self.reaches_on_the_host(locked, number) {
            place = Place::DeviceAfterAll;
        }
        match place {
            Place::Device => open.node,
            Place::DeviceAfterAll => {
                inner.counters.hints.ignored();
                open.node
            }
            Place::Host => {
                inner.counters.hints.in_place();
                NodeId::HOST
            }
        }
    }

    /// Opens the device's window on one of the vectors, if it has one. Only fences keep host and device apart there, so its gates are closed.
    fn reaches_on_the_host(&self, locked: &mut Locked<'_>, number: usize) -> bool {
        let (buffer, state) = (locked.buffers[number], &mut locked.states[number]);
        // Pages that another process grants come and go without being asked for.
        let can = self.has_window() && state.grants.is_none();
        let can = can && self.inner.bind(self.open, NodeId::HOST, buffer, state).is_ok();
        if can {
            let arrays = self.arrays.iter().filter(|array| !array.bytes.is_empty());
            let mine = arrays.filter(|array| Arc::ptr_eq(array.buffer, buffer));
            mine.for_each(|array| array.hinge.close());
        }
        can
    }

    pub(super) fn has_window(&self) -> bool {
        self.open.device.facts().capabilities.host_window.is_proved()
    }

    /// The vector that is to be worked on where it is, after `error` said that there is no room even with those that are already: the largest of the
    /// others. `None` when there is none, or when that is not allowed.
    pub(super) fn next_windowed(
        &self,
        error: &Error,
        no_room: &NoRoom,
        buffers: &[&Arc<Buffer>],
        uses: &[Use],
        windowed: &[usize],
    ) -> Option<usize> {
        let (Error::OutOfDeviceMemory { .. } | Error::OutOfShare { .. }) = error else {
            return None;
        };
        let budget = &self.open.budget;
        let all = || budget.is_too_small_for(&self.needed(buffers, uses));
        let what = budget.is_too_small_for(&no_room.asked).or_else(all);
        let is_too_large = || what.is_some();
        let allowed = match self.inner.options.without_room {
            WithoutRoom::WindowIfTooLarge => !windowed.is_empty() || is_too_large(),
            WithoutRoom::Window => true,
            WithoutRoom::Refuse => false,
        };
        if !allowed || self.names_its_node() || !self.has_window() {
            return None;
        }
        let there = uses.iter().filter(|one| one.request.node == self.open.node);
        let others = there.filter(|one| !windowed.contains(&one.number));
        let pages = |number: usize| -> u64 {
            let mine = uses.iter().filter(|one| one.number == number);
            mine.map(|one| one.request.span.count()).sum()
        };
        // Where a group is too small, no other group's vector helps.
        let short = match what {
            Some(TooSmall::Group(group)) => Some(group),
            _ => no_room.lack(self.open).beyond_its_limit(),
        };
        let helps = |number: &usize| short.is_none_or(|group| buffers[*number].group_id() == group);
        others.map(|one| one.number).filter(helps).max_by_key(|number| pages(*number))
    }

    /// Memory that these uses need on the device, were they alone there.
    fn needed(&self, buffers: &[&Arc<Buffer>], uses: &[Use]) -> ByGroup {
        let mut needed = ByGroup::default();
        for one in uses.iter().filter(|one| one.request.node == self.open.node) {
            let PageSpan { first, end } = one.request.span;
            let blocks = first / PAGES_PER_BLOCK..end.div_ceil(PAGES_PER_BLOCK);
            let buffer = buffers[one.number];
            let range = buffer.byte_range(&(blocks.start as u32..blocks.end as u32));
            needed.add(buffer.group_id(), range.end - range.start);
        }
        needed
    }
}

/// Where the caller wants a device with memory of its own to work on these parts of a vector.
fn wanted(state: &BufferState, on: NodeId, parts: &[(PageSpan, Access)]) -> Place {
    let (mut some, mut all, mut at_home) = (false, true, true);
    for (span, access) in parts {
        for (_, hints) in state.hints.runs(*span) {
            let here = in_place(hints, on, *access);
            some |= here;
            all &= here;
            at_home &= hints.preferred == Some(NodeId::HOST);
        }
    }
    match (some, all, at_home) {
        (false, ..) => Place::Device,
        (true, false, _) => Place::DeviceAfterAll,
        (true, true, true) => Place::Host,
        (true, true, false) => {
            let (mut away, mut missing) = (false, false);
            for (span, _) in parts {
                state.directory.look(*span, |_, mask, run| {
                    let promised = run.log.promised();
                    let held = mask.without(promised.empty());
                    away |= held != held.and(promised.valid_on(NodeId::HOST));
                    missing |= held != held.and(promised.valid_on(on));
                });
            }
            match (away, missing) {
                (false, _) => Place::Host,
                (true, false) => Place::Device,
                (true, true) => Place::DeviceAfterAll,
            }
        }
    }
}

/// What was said of a page has a device work on it where it is.
fn in_place(hints: Hints, on: NodeId, access: Access) -> bool {
    let duplicates = hints.read_mostly && !access.writes();
    let asked = match hints.preferred {
        Some(NodeId::HOST) => true,
        Some(node) if node == on => false,
        _ => hints.accessed_by.contains(on),
    };
    asked && !duplicates
}

/// `span` with the rest of the granules that its ends lie in, where that rest is at rest on the host.
fn granules(state: &BufferState, span: PageSpan) -> PageSpan {
    if state.hints.is_empty() || state.notice.is_some() {
        return span;
    }
    let pages = state.directory.pages();
    let size = |page| state.hints.at(page).granularity.pages();
    let first = span.first / size(span.first) * size(span.first);
    let end = span.end.next_multiple_of(size(span.end - 1)).min(pages);
    let at_rest = |part: PageSpan| {
        let mut at_rest = true;
        state.directory.look(part, |_, mask, run| {
            let here = run.log.settled().valid_on(NodeId::HOST);
            at_rest &= run.log.is_settled() && here.and(mask) == mask;
        });
        at_rest
    };
    let before = PageSpan { first, end: span.first };
    let behind = PageSpan { first: span.end, end };
    PageSpan {
        first: if at_rest(before) { before.first } else { span.first },
        end: if at_rest(behind) { behind.end } else { span.end },
    }
}
