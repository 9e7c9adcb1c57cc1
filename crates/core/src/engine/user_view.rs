//! What the user view shows: mapped when the host may touch a page, taken away before somebody else writes it.
//!
//! Pages that one huge entry covers come and go together. So each function here does its work on the whole units that a span touches, and a unit is
//! shown only as far as each of its pages may be.

use rustix::io::Errno;
use smallvec::SmallVec;

use super::plan::spans;
use crate::{
    access::Access,
    coherence::Effect,
    directory::{Mapped, PageSpan, Run},
    host::{Reason, UserView},
    node::NodeId,
    peer::PeerTable,
    units::PageMask,
    vec::{Buffer, BufferState},
};

/// Stretches of pages and what is to become of their entries.
type Stretches = SmallVec<[PageSpan; 2]>;

/// Maps pages whose copy on the host is current, for writing where nobody else holds or reads them; wakes whoever waits for
/// them.
pub(super) fn show(
    view: &UserView,
    buffer: &Buffer,
    state: &mut BufferState,
    span: PageSpan,
) -> Result<(), Errno> {
    if state.peers.is_none() && state.grants.is_none() {
        return show_alike(view, buffer, state, span, Access::Update);
    }
    // What a peer reads in place is for reading only, and so is what was granted for that.
    let span = units(view, buffer, span);
    let watched = state.peers.as_deref().into_iter().flat_map(PeerTable::watched);
    let granted = state.grants.as_deref().map(|grants| grants.only_read(span));
    let only_read = watched.chain(granted.into_iter().flatten());
    for (part, is_watched) in cut(span, only_read.map(|part| units(view, buffer, part))) {
        let most = if is_watched { Access::Read } else { Access::Update };
        show_alike(view, buffer, state, part, most)?;
    }
    Ok(())
}

/// The units that a span touches, to the end of the buffer at most.
fn units(view: &UserView, buffer: &Buffer, span: PageSpan) -> PageSpan {
    let unit = view.unit_pages(buffer.span);
    let end = span.end.next_multiple_of(unit).min(buffer.pages());
    if span.is_empty() { span } else { PageSpan { first: span.first / unit * unit, end } }
}

/// `span` in parts that lie in one of `others`, or in none.
fn cut(span: PageSpan, others: impl Iterator<Item = PageSpan>) -> SmallVec<[(PageSpan, bool); 4]> {
    let mut parts = SmallVec::from_iter([(span, false)]);
    for other in others {
        let split = |(part, inside): (PageSpan, bool)| {
            let first = other.first.clamp(part.first, part.end);
            let end = other.end.clamp(first, part.end);
            [
                (PageSpan { first: part.first, end: first }, inside),
                (PageSpan { first, end }, true),
                (PageSpan { first: end, end: part.end }, inside),
            ]
        };
        parts = parts.into_iter().flat_map(split).filter(|(part, _)| !part.is_empty()).collect();
    }
    parts
}

/// Maps pages for `most` at most.
fn show_alike(
    view: &UserView,
    buffer: &Buffer,
    state: &mut BufferState,
    span: PageSpan,
    most: Access,
) -> Result<(), Errno> {
    let (span, unit) = (units(view, buffer, span), view.unit_pages(buffer.span));
    let rights = |view: &UserView, run: &Run| {
        let Rights { read, write } = rights(view, run).of_whole_units(unit);
        match most.writes() {
            true => Rights { read, write },
            false if view.facts().write_protect => Rights { read, write: PageMask::EMPTY },
            false => Rights { read: PageMask::EMPTY, write: PageMask::EMPTY },
        }
    };
    let pages = state.directory.pages();
    let (mut readable, mut writable, mut upgraded) =
        (Stretches::new(), Stretches::new(), Stretches::new());
    state.directory.look(span, |blocks, mask, run| {
        let Rights { read, write } = rights(view, run);
        let (read, write) = (read.and(mask), write.and(mask));
        let new = read.without(run.mapped.present);
        readable.extend(spans(blocks.clone(), new.without(write), pages));
        writable.extend(spans(blocks.clone(), new.and(write), pages));
        let upgrade = run.mapped.present.and(write).without(run.mapped.writable);
        upgraded.extend(spans(blocks, upgrade, pages));
    });
    for pages in &readable {
        view.show(buffer.host_span(*pages), Access::Read)?;
    }
    for pages in &writable {
        view.show(buffer.host_span(*pages), Access::Update)?;
    }
    for pages in &upgraded {
        view.unprotect(buffer.host_span(*pages))?;
    }
    state.directory.change(span, |_, mask, run| {
        let Rights { read, write } = rights(view, run);
        run.mapped.present = run.mapped.present.or(read.and(mask));
        run.mapped.writable = run.mapped.writable.or(write.and(mask));
    });
    // An empty page that was read has memory now.
    state.host_touched = true;
    debug_assert_eq!(state.directory.check(), Ok(()));
    Ok(())
}

/// What the host may do with the pages of a block without asking.
struct Rights {
    read: PageMask,
    write: PageMask,
}

impl Rights {
    /// Where one entry covers a whole block, what may be done with all of it.
    fn of_whole_units(self, unit: u64) -> Self {
        let whole = |pages: PageMask| {
            if unit == 1 || pages == PageMask::FULL { pages } else { PageMask::EMPTY }
        };
        Self { read: whole(self.read), write: whole(self.write) }
    }
}

fn rights(view: &UserView, run: &Run) -> Rights {
    let (on, promised) = (NodeId::HOST, run.log.promised());
    // What would have to wait for work in flight.
    let held_up = |effect: Effect| {
        let pending = run.log.promises().iter().filter(|one| one.is_pending());
        pending
            .filter(|one| effect.must_follow(one.effect))
            .fold(PageMask::EMPTY, |sum, one| sum.or(one.pages))
    };
    let read = promised.valid_on(on).without(held_up(Effect::Read { on }));
    let others = promised.holders().iter().filter(|(node, _)| *node != on);
    let shared = others.fold(PageMask::EMPTY, |sum, (_, held)| sum.or(*held));
    let write = read.without(shared).without(held_up(Effect::Write { on }));
    // Without protection whatever can be read can be written, so what is shared is not shown at all.
    Rights { read: if view.facts().write_protect { read } else { write }, write }
}

/// Makes room for work that another node is about to do: pages that it writes leave the view, and of those that it reads
/// the host hears before it writes again.
pub(super) fn leave(
    view: &UserView,
    buffer: &Buffer,
    state: &mut BufferState,
    span: PageSpan,
    access: Access,
) -> Result<(), Errno> {
    // Most vectors that go from launch to launch are not looked at in between.
    if state.directory.uniform().is_some_and(|run| run.mapped.is_empty()) {
        return Ok(());
    }
    let span = units(view, buffer, span);
    let revokes = access.writes() || !view.facts().write_protect;
    let concerned = |mapped: Mapped| match revokes {
        true => mapped.present.or(mapped.poisoned),
        false => mapped.writable,
    };
    let pages = state.directory.pages();
    let mut gone = Stretches::new();
    let mut poisoned = false;
    state.directory.look(span, |blocks, mask, run| {
        poisoned |= revokes && run.mapped.poisoned.overlaps(mask);
        gone.extend(spans(blocks, concerned(run.mapped).and(mask), pages));
    });
    if gone.is_empty() {
        return Ok(());
    }
    for pages in &gone {
        let pages = buffer.host_span(*pages);
        match (revokes, poisoned) {
            (true, true) => view.cure(pages)?,
            (true, false) => view.revoke(pages)?,
            (false, _) => view.protect(pages)?,
        }
    }
    state.directory.change(span, |_, mask, run| {
        run.mapped.writable = run.mapped.writable.without(mask);
        if revokes {
            run.mapped.present = run.mapped.present.without(mask);
            run.mapped.poisoned = run.mapped.poisoned.without(mask);
        }
    });
    Ok(())
}

/// Takes everything away, for the next buffer to have the place. An error where a part of it is not ours any more, since somebody has unmapped it.
pub(super) fn leave_for_good(
    view: &UserView,
    buffer: &Buffer,
    state: &mut BufferState,
) -> Result<(), Errno> {
    // Most that are dropped were never looked at.
    if buffer.all().is_empty() || state.directory.uniform().is_some_and(|run| run.mapped.is_empty())
    {
        return Ok(());
    }
    cure(view, buffer, state, buffer.all())?;
    // Of the whole, and not of what is mapped: what cannot be mapped is what is looked for.
    view.revoke(buffer.span)?;
    state.directory.change(buffer.all(), |_, _, run| run.mapped = Mapped::default());
    Ok(())
}

/// A page cannot be had: a touch ends with a signal, until somebody makes it good.
pub(super) fn poison(
    view: &UserView,
    buffer: &Buffer,
    state: &mut BufferState,
    span: PageSpan,
    why: Reason,
) -> Result<(), Errno> {
    let span = units(view, buffer, span);
    view.poison(buffer.host_span(span), Some(buffer.span), why)?;
    state.directory.change(span, |_, mask, run| {
        run.mapped.present = run.mapped.present.without(mask);
        run.mapped.writable = run.mapped.writable.without(mask);
        run.mapped.poisoned = run.mapped.poisoned.or(mask);
    });
    Ok(())
}

/// The pages can be had again: a touch is a fault from now on. Those that are not poisoned stay as they are.
pub(super) fn cure(
    view: &UserView,
    buffer: &Buffer,
    state: &mut BufferState,
    span: PageSpan,
) -> Result<(), Errno> {
    let (span, pages) = (units(view, buffer, span), state.directory.pages());
    let mut poisoned = Stretches::new();
    state.directory.look(span, |blocks, mask, run| {
        poisoned.extend(spans(blocks, run.mapped.poisoned.and(mask), pages));
    });
    for pages in poisoned {
        view.cure(buffer.host_span(pages))?;
        state.directory.change(pages, |_, mask, run| {
            run.mapped.poisoned = run.mapped.poisoned.without(mask);
        });
    }
    Ok(())
}

/// True when a touch of some of these pages ends with a signal.
pub(super) fn is_poisoned(state: &BufferState, span: PageSpan) -> bool {
    let mut poisoned = false;
    state.directory.look(span, |_, mask, run| poisoned |= run.mapped.poisoned.overlaps(mask));
    poisoned
}
