//! A touch of a page that the user view does not show: the page comes home and is shown.
//!
//! The same way as a guard's ([`Inner::host_access`]), with three differences. More pages than the touched one are brought when a
//! stream is seen. Nothing is reported to the caller, since there is none: a failed kernel is told of by the next guard or
//! launch, and a page that is lost ends whoever touches it, with a signal. And whatever takes time is waited for only after another
//! thread has taken the lead.

use std::sync::{Arc, Weak};

use rustix::io::Errno;
use smallvec::SmallVec;

use super::{
    peers::{Marks, Wanted, Why},
    plan::{Request, spans},
    reach::{Next, ahead, follow},
    user_view,
    watcher::Task,
};
use crate::{
    access::Access,
    coherence::{Effect, Promise},
    directory::{FenceSet, PageSpan},
    error::Error,
    fence::FencePoint,
    home::Asked,
    host::{Faulted, HostSpan, Reason, Resolve, UserView, page_of},
    node::NodeId,
    peer::Taking,
    runtime::Inner,
    stats::Cause,
    sync::{Mutex, MutexGuard},
    units::{PAGE_BYTES, PageMask},
    vec::{Buffer, BufferState},
};

/// The fault loop's way to the runtime, which it does not keep alive.
pub(crate) struct FaultResolver {
    runtime: Weak<Inner>,
    /// The page of the last faults that no buffer has, and how many they were.
    strays: Mutex<(u64, u32)>,
}

/// So often a touch of nobody's memory is sent back before it ends with a signal.
const MOST_STRAYS: u32 = 100;

impl FaultResolver {
    pub(crate) fn new(runtime: Weak<Inner>) -> Self {
        Self { runtime, strays: Mutex::new((0, 0)) }
    }

    /// A fault on a page that no buffer has. Mostly it is over, and its vector was dropped since. A pointer into a vector that is
    /// gone comes again and again: it must neither go on nor spin for ever.
    fn stray(&self, view: &UserView, page: HostSpan) {
        let mut strays = self.strays.lock();
        let count = if strays.0 == page.offset_bytes { strays.1 + 1 } else { 1 };
        *strays = (page.offset_bytes, count);
        let answered = match self.runtime.upgrade() {
            Some(inner) if count >= MOST_STRAYS => inner.end_stray(view, page),
            None if count >= MOST_STRAYS => view.poison(page, None, Reason::Nobody),
            _ => view.wake(page),
        };
        debug_assert_eq!(answered, Ok(()));
    }
}

impl FaultResolver {
    /// Who has the memory that was touched.
    fn owner(&self, fault: Faulted) -> Option<(Arc<Inner>, Arc<Buffer>)> {
        let inner = self.runtime.upgrade()?;
        let buffer = inner.buffer_at(fault.offset_bytes)?;
        Some((inner, buffer))
    }
}

impl Resolve for FaultResolver {
    fn resolve(&self, view: &UserView, fault: Faulted, before_wait: &dyn Fn()) {
        match self.owner(fault) {
            Some((inner, buffer)) => inner.resolve(view, &buffer, fault, before_wait),
            None => self.stray(view, page_of(fault.offset_bytes)),
        }
    }

    fn give_up(&self, view: &UserView, fault: Faulted, before_wait: &dyn Fn()) {
        let Some((inner, buffer)) = self.owner(fault) else {
            return self.stray(view, page_of(fault.offset_bytes));
        };
        let state = locked(&buffer, before_wait);
        if state.is_gone {
            drop(state);
            return wake(view, fault);
        }
        let trouble = Trouble { why: Reason::Broken, late: None };
        inner.give_up(view, &buffer, state, touched(view, &buffer, fault), trouble);
    }
}

impl Inner {
    /// A touch of a page that nobody has ends with a signal, until somebody has it.
    fn end_stray(&self, view: &UserView, page: HostSpan) -> Result<(), Errno> {
        let mut placed = self.placed.lock();
        let before = placed.buffers.range(..=page.offset_bytes).next_back();
        let owner = before.and_then(|(_, buffer)| buffer.upgrade());
        if owner.is_some_and(|buffer| page.offset_bytes < buffer.span.end_bytes()) {
            // Its new owner came just now.
            return view.wake(page);
        }
        if !placed.strays.contains(&page) {
            placed.strays.push(page);
        }
        view.poison(page, None, Reason::Nobody)
    }

    /// The buffer that has this byte of the arena.
    fn buffer_at(&self, offset_bytes: u64) -> Option<Arc<Buffer>> {
        let placed = self.placed.lock();
        let (_, buffer) = placed.buffers.range(..=offset_bytes).next_back()?;
        let buffer = buffer.upgrade()?;
        (offset_bytes < buffer.span.end_bytes()).then_some(buffer)
    }

    fn resolve(
        self: &Arc<Self>,
        view: &UserView,
        buffer: &Arc<Buffer>,
        fault: Faulted,
        before_wait: &dyn Fn(),
    ) {
        let unit = view.unit_pages(buffer.span);
        let only = touched(view, buffer, fault);
        let takes = fault.write || !view.facts().write_protect;
        let access = if takes { Access::Update } else { Access::Read };
        let (mut span, mut stamp) = (None, fault.stamp);
        let mut marks = Marks::default();
        let mut trouble = Trouble { why: Reason::System, late: None };
        loop {
            let mut state = locked(buffer, before_wait);
            if is_shown(&state, only, fault.write) {
                // Somebody else's fault brought it, or the kernel dropped the entry by itself.
                return again(view, fault);
            }
            if state.is_gone || view.stamp() != stamp {
                // It may be over, and what it asked for may be another's by now. Whoever still needs it touches it again.
                drop(state);
                return wake(view, fault);
            }
            let wanted = *span.get_or_insert_with(|| follow(&mut state, only, access, unit));
            self.settle(&mut state, wanted);
            let wanted = unhindered(&state, wanted, only, access);
            let asked = state.lacking(wanted, access);
            let hindered = takes && state.is_hindered(wanted, Taking::Write(NodeId::HOST), true);
            let attempt = if asked.is_some() || hindered {
                drop(state);
                // Others' code runs there, and a stranger is waited for.
                before_wait();
                match self.clear_the_way(&mut marks, buffer, wanted, asked) {
                    Ok(()) => continue,
                    // Pinned on a device, or not granted. The vector refuses a slice for a pin, so nobody of ours is touching it.
                    Err(error) => {
                        state = buffer.state.lock();
                        Err(error)
                    }
                }
            } else {
                let request = Request::by_host(access, wanted);
                self.attempt_host_access(buffer, &mut state, request, Cause::Fault)
            };
            let result = match attempt {
                Ok(waits) if waits.is_empty() => {
                    let shown = user_view::show(view, buffer, &mut state, wanted);
                    shown.is_ok() && is_shown(&state, only, fault.write)
                }
                Ok(waits) => {
                    drop(state);
                    before_wait();
                    let Err(error) = self.wait_all_silently(&waits) else { continue };
                    state = buffer.state.lock();
                    trouble.late = Some(waits);
                    trouble.why = self.why_not(&error, &mut state, only);
                    false
                }
                Err(error) => {
                    trouble.why = self.why_not(&error, &mut state, only);
                    false
                }
            };
            if result {
                let next = ahead(&mut state, only, wanted, access, unit);
                let last_use = state.last_use;
                drop(state);
                return self.bring_ahead(view, buffer, &next, last_use, before_wait);
            }
            if wanted != only {
                // The neighbours may be the trouble.
                (span, stamp) = (Some(only), view.stamp());
                continue;
            }
            if state.is_gone {
                // Dropped while its fence was waited for.
                continue;
            }
            self.give_up(view, buffer, state, only, trouble);
            return;
        }
    }

    /// Asks another process for pages, or takes them back from peers. Whoever is late keeps the memory that it reads, and the fault goes on.
    fn clear_the_way(
        &self,
        marks: &mut Marks,
        buffer: &Arc<Buffer>,
        span: PageSpan,
        asked: Option<Asked>,
    ) -> Result<(), Error> {
        if let Some(asked) = asked {
            return self.obtain(buffer, asked);
        }
        let why = Why { cause: Cause::Fault, initiator: NodeId::HOST, tolerates_late: true };
        let taking = Taking::Write(NodeId::HOST);
        self.take_back(marks, &[Wanted { buffer: buffer.clone(), span, taking }], why)
    }

    /// A page cannot be had: its touches end with a signal, until it can.
    fn give_up(
        self: &Arc<Self>,
        view: &UserView,
        buffer: &Arc<Buffer>,
        mut state: MutexGuard<'_, BufferState>,
        page: PageSpan,
        Trouble { why, late }: Trouble,
    ) {
        let poisoned = user_view::poison(view, buffer, &mut state, page, why);
        debug_assert_eq!(poisoned, Ok(()));
        drop(state);
        if let Some(fences) = late {
            let buffer = Arc::downgrade(buffer);
            self.watcher.take(self, Task::GivenUp { buffer, pages: page, fences });
        }
    }

    /// What a signal handler is to say of a page that could not be brought.
    fn why_not(&self, error: &Error, state: &mut BufferState, only: PageSpan) -> Reason {
        // A device that refused may be lost, and the page with it.
        self.settle(state, only);
        let mut lost = only.end;
        let pages = state.directory.pages();
        state.directory.look(only, |blocks, mask, run| {
            let gone = spans(blocks, run.log.promised().lost().and(mask), pages);
            lost = gone.fold(lost, |lost, gone| lost.min(gone.first));
        });
        match error {
            _ if lost < only.end => Reason::Lost(state.spoils.of(lost)),
            Error::FenceTimedOut { fence, .. } => Reason::TooLate(*fence),
            Error::Device { device, .. } => Reason::Refused(*device),
            _ => Reason::System,
        }
    }

    /// Brings and maps pages that nobody has touched yet, and sends for more, while whoever reads a stream is busy with those
    /// before them. Whatever stands in the way is left to the fault that may come.
    fn bring_ahead(
        self: &Arc<Self>,
        view: &UserView,
        buffer: &Arc<Buffer>,
        next: &Next,
        last_use: u64,
        before_wait: &dyn Fn(),
    ) {
        let Next { stream, steps } = next;
        if stream.show.is_empty() && steps.is_empty() {
            return;
        }
        let mut show = SmallVec::<[PageSpan; 8]>::from_slice(steps);
        if steps.is_empty() {
            show.push(stream.show);
        }
        // Once to send for them, once to map what has come.
        for _ in 0..2 {
            let Some(mut state) = buffer.state.try_lock() else { return };
            let mut shown = Some(FenceSet::default());
            for part in &show {
                let waits = self.attempt_ahead(buffer, &mut state, *part, last_use);
                shown = shown.zip(waits).map(|(mut all, waits)| {
                    all.extend(waits.as_slice().iter().copied());
                    all
                });
            }
            // Under way while the others are mapped; whoever needs them waits for them.
            let _ = self.attempt_ahead(buffer, &mut state, stream.send, last_use);
            match shown {
                Some(waits) if waits.is_empty() => {
                    // All but the first page. What could not be shown will fault.
                    let second = show[0].first + view.unit_pages(buffer.span);
                    show[0].first = second.min(show[0].end);
                    for part in show.iter().filter(|part| !part.is_empty()) {
                        let _ = user_view::show(view, buffer, &mut state, *part);
                    }
                    return;
                }
                Some(waits) => {
                    drop(state);
                    before_wait();
                    if self.wait_all_silently(&waits).is_err() {
                        return;
                    }
                }
                None => return,
            }
        }
    }

    /// Sends for pages that nobody has touched yet. What has to be waited for before they can be mapped; nothing where they are better
    /// left alone.
    fn attempt_ahead(
        &self,
        buffer: &Arc<Buffer>,
        state: &mut BufferState,
        span: PageSpan,
        last_use: u64,
    ) -> Option<FenceSet> {
        // A launch since has other plans for them.
        if span.is_empty() || state.is_gone || state.held > 0 || state.last_use != last_use {
            return None;
        }
        self.settle(state, span);
        // What was never written has nothing to bring, and costs nothing as long as nobody touches it.
        let mut empty = false;
        state.directory.look(span, |_, mask, run| {
            empty |= run.log.promised().empty().overlaps(mask);
        });
        if empty {
            return None;
        }
        let request = Request::by_host(Access::Read, span);
        self.attempt_host_access(buffer, state, request, Cause::Fault).ok()
    }
}

/// Whoever waits touches it again.
fn wake(view: &UserView, fault: Faulted) {
    let woken = view.wake(page_of(fault.offset_bytes));
    debug_assert_eq!(woken, Ok(()));
}

/// Why a page cannot be had, and what was waited for in vain.
struct Trouble {
    why: Reason,
    late: Option<FenceSet>,
}

/// The buffer's state. Somebody else leads when it has to be waited for.
fn locked<'b>(buffer: &'b Buffer, before_wait: &dyn Fn()) -> MutexGuard<'b, BufferState> {
    buffer.state.try_lock().unwrap_or_else(|| {
        before_wait();
        buffer.state.lock()
    })
}

/// The page that was touched, or all that come and go with it.
fn touched(view: &UserView, buffer: &Buffer, fault: Faulted) -> PageSpan {
    let unit = view.unit_pages(buffer.span);
    let first = (fault.offset_bytes - buffer.span.offset_bytes) / PAGE_BYTES / unit * unit;
    PageSpan { first, end: (first + unit).min(buffer.pages()) }
}

/// As much of `wanted` around the touched page as waits for no work but the page's own: a fault is not held up by what is done to its neighbours.
fn unhindered(state: &BufferState, wanted: PageSpan, only: PageSpan, access: Access) -> PageSpan {
    let on = NodeId::HOST;
    let effect = if access.writes() { Effect::Write { on } } else { Effect::Read { on } };
    // A copy home of what a kernel writes ends after it; that of anything else is short.
    let holds_up = |one: &&Promise| {
        one.is_pending()
            && match one.effect {
                Effect::Write { .. } => true,
                earlier => earlier.overwrites() != Some(on) && effect.must_follow(earlier),
            }
    };
    // Waited for in any case.
    let mut own: SmallVec<[FencePoint; 4]> = SmallVec::new();
    state.directory.look(only, |_, mask, run| {
        let pending = run.log.promises().iter().filter(holds_up);
        own.extend(pending.filter(|one| one.pages.overlaps(mask)).map(Promise::fence));
    });
    let mut part = wanted;
    state.directory.look(wanted, |blocks, mask, run| {
        let others = run.log.promises().iter().filter(holds_up);
        let others = others.filter(|one| !own.contains(&one.fence()));
        let busy = others.fold(PageMask::EMPTY, |sum, one| sum.or(one.pages)).and(mask);
        for busy in spans(blocks, busy, state.directory.pages()) {
            if busy.end <= only.first {
                part.first = part.first.max(busy.end);
            } else if only.end <= busy.first {
                part.end = part.end.min(busy.first);
            }
        }
    });
    part
}

/// Maps the one entry that was touched, with the rights that its page has by the directory.
fn again(view: &UserView, fault: Faulted) {
    let entry = view.entry(fault.offset_bytes);
    let shown = view.show(entry, Access::Read);
    let shown = if fault.write { shown.and_then(|()| view.unprotect(entry)) } else { shown };
    debug_assert_eq!(shown, Ok(()));
}

fn is_shown(state: &BufferState, page: PageSpan, write: bool) -> bool {
    let mut shown = false;
    state.directory.look(page, |_, mask, run| {
        let pages = if write { run.mapped.writable } else { run.mapped.present };
        shown = pages.overlaps(mask);
    });
    shown
}
