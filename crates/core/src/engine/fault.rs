//! A touch of a page that the user view does not show: the page comes home and is shown.
//!
//! The same way as a guard's ([`Inner::host_access`]), with three differences. More pages than the touched one are brought when a
//! stream is seen. Nothing is reported to the caller, since there is none: a failed kernel is told of by the next guard or
//! launch, and a page that is lost ends whoever touches it, with a signal. And whatever takes time is waited for only after another
//! thread has taken the lead.

use std::sync::{Arc, Weak};

use rustix::io::Errno;

use super::{plan::Request, user_view};
use crate::{
    access::Access,
    directory::PageSpan,
    host::{ENTRY_BYTES, Faulted, HostSpan, Resolve, UserView, page_of},
    runtime::Inner,
    stats::Cause,
    sync::Mutex,
    units::{PAGE_BYTES, PAGES_PER_BLOCK},
    vec::{Buffer, BufferState},
};

/// A stream brings at most so many pages with one fault.
const MOST_PAGES: u64 = 4 * PAGES_PER_BLOCK;
/// So many streams of one buffer are followed at once: one for each of a few threads.
const STREAMS: usize = 4;

/// What recent faults of a buffer say about the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Streams {
    /// The one that went on last is the last.
    streams: [Stream; STREAMS],
}

/// Faults that follow each other in order of address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Stream {
    /// The pages that the last fault brought, and those that were brought ahead of the next.
    brought: PageSpan,
    /// How many the last fault brought; 0 for none yet.
    pages: u64,
    /// The pages are taken, not only read. Readers and writers have streams of their own, so that a lone write takes a lone page.
    takes: bool,
}

impl Streams {
    /// The pages to bring for a fault on `page`: twice as many as last time when it goes on where a stream of its kind ended, else the one.
    fn follow(&mut self, page: u64, access: Access, pages: u64) -> PageSpan {
        let takes = access.writes();
        let goes_on = |stream: &Stream| {
            let PageSpan { first, end } = stream.brought;
            stream.pages > 0 && stream.takes == takes && first < page && page <= end
        };
        let place = self.streams.iter().rposition(goes_on);
        let wanted = place.map_or(1, |at| (self.streams[at].pages * 2).min(MOST_PAGES));
        let brought = PageSpan { first: page, end: (page + wanted).min(pages) };
        self.streams[place.unwrap_or(0)..].rotate_left(1);
        self.streams[STREAMS - 1] = Stream { brought, pages: wanted, takes };
        brought
    }

    /// What to bring ahead of the fault that will follow `brought`: as much again, once there is a stream.
    fn ahead(&mut self, brought: PageSpan, pages: u64) -> PageSpan {
        let stream = self.streams.iter_mut().find(|stream| stream.brought == brought);
        let Some(stream) = stream.filter(|stream| stream.pages > 1) else {
            return PageSpan::default();
        };
        let ahead = PageSpan { first: brought.end, end: (brought.end + stream.pages).min(pages) };
        stream.brought.end = ahead.end;
        ahead
    }
}

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
        let answered = if count < MOST_STRAYS { view.wake(page) } else { view.poison(page) };
        debug_assert_eq!(answered, Ok(()));
    }
}

impl Resolve for FaultResolver {
    fn resolve(&self, view: &UserView, fault: Faulted, before_wait: &dyn Fn()) {
        let found = self.runtime.upgrade().and_then(|inner| {
            let buffer = inner.buffer_at(fault.offset_bytes)?;
            Some((inner, buffer))
        });
        match found {
            Some((inner, buffer)) => inner.resolve(view, &buffer, fault, before_wait),
            None => self.stray(view, page_of(fault.offset_bytes)),
        }
    }
}

impl Inner {
    /// The buffer that has this byte of the arena.
    fn buffer_at(&self, offset_bytes: u64) -> Option<Arc<Buffer>> {
        let buffers = self.buffers.lock();
        let (_, buffer) = buffers.range(..=offset_bytes).next_back()?;
        let buffer = buffer.upgrade()?;
        (offset_bytes < buffer.span.end_bytes()).then_some(buffer)
    }

    fn resolve(
        &self,
        view: &UserView,
        buffer: &Arc<Buffer>,
        fault: Faulted,
        before_wait: &dyn Fn(),
    ) {
        let page = (fault.offset_bytes - buffer.span.offset_bytes) / PAGE_BYTES;
        let only = PageSpan { first: page, end: page + 1 };
        let takes = fault.write || !view.facts().write_protect;
        let access = if takes { Access::Update } else { Access::Read };
        let (mut span, mut stamp) = (None, fault.stamp);
        loop {
            let mut state = buffer.state.try_lock().unwrap_or_else(|| {
                before_wait();
                buffer.state.lock()
            });
            if is_shown(&state, only, fault.write) {
                // Somebody else's fault brought it, or the kernel dropped the entry by itself.
                let shown = again(view, fault);
                debug_assert_eq!(shown, Ok(()));
                return;
            }
            if state.is_gone || view.stamp() != stamp {
                // It may be over, and what it asked for may be another's by now. Whoever still needs it touches it again.
                drop(state);
                let woken = view.wake(page_of(fault.offset_bytes));
                debug_assert_eq!(woken, Ok(()));
                return;
            }
            let wanted =
                *span.get_or_insert_with(|| state.streams.follow(page, access, buffer.pages()));
            self.settle(&mut state, wanted);
            let attempt = self.attempt_host_access(
                buffer,
                &mut state,
                Request::by_host(access, wanted),
                Cause::Fault,
            );
            let result = match attempt {
                Ok(waits) if waits.is_empty() => {
                    let shown = user_view::show(view, buffer, &mut state, wanted);
                    shown.is_ok() && is_shown(&state, only, fault.write)
                }
                Ok(waits) => {
                    drop(state);
                    before_wait();
                    if self.wait_all(&waits).is_ok() {
                        continue;
                    }
                    state = buffer.state.lock();
                    false
                }
                Err(_) => false,
            };
            if result {
                let ahead = state.streams.ahead(wanted, buffer.pages());
                let last_use = state.last_use;
                drop(state);
                return self.bring_ahead(view, buffer, ahead, last_use, before_wait);
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
            let poisoned = user_view::poison(view, buffer, &mut state, only);
            debug_assert_eq!(poisoned, Ok(()));
            return;
        }
    }

    /// Brings and maps pages that nobody has touched yet, while whoever reads a stream is busy with those before them. Whatever stands in the
    /// way is left to the fault that may come.
    fn bring_ahead(
        &self,
        view: &UserView,
        buffer: &Arc<Buffer>,
        span: PageSpan,
        last_use: u64,
        before_wait: &dyn Fn(),
    ) {
        // Once to send for them, once to map what has come.
        for _ in 0..2 {
            let Some(mut state) = buffer.state.try_lock() else { return };
            // A launch since has other plans for them.
            if span.is_empty() || state.is_gone || state.held > 0 || state.last_use != last_use {
                return;
            }
            self.settle(&mut state, span);
            // What was never written has nothing to bring, and costs nothing as long as nobody touches it.
            let mut empty = false;
            state.directory.look(span, |_, mask, run| {
                empty |= run.log.promised().empty().overlaps(mask);
            });
            if empty {
                return;
            }
            let request = Request::by_host(Access::Read, span);
            match self.attempt_host_access(buffer, &mut state, request, Cause::Fault) {
                Ok(waits) if waits.is_empty() => {
                    // What could not be shown will fault.
                    let _ = user_view::show(view, buffer, &mut state, span);
                    return;
                }
                Ok(waits) => {
                    drop(state);
                    before_wait();
                    if self.wait_all(&waits).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}

/// Maps the one entry that was touched, with the rights that its page has by the directory.
fn again(view: &UserView, fault: Faulted) -> Result<(), Errno> {
    let offset_bytes = fault.offset_bytes / ENTRY_BYTES * ENTRY_BYTES;
    let entry = HostSpan { offset_bytes, len_bytes: ENTRY_BYTES };
    view.show(entry, Access::Read)?;
    if fault.write { view.unprotect(entry) } else { Ok(()) }
}

fn is_shown(state: &BufferState, page: PageSpan, write: bool) -> bool {
    let mut shown = false;
    state.directory.look(page, |_, mask, run| {
        let pages = if write { run.mapped.writable } else { run.mapped.present };
        shown = pages.overlaps(mask);
    });
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: u64 = 1000;

    #[test]
    fn a_stream_doubles_and_a_jump_begins_anew() {
        let mut streams = Streams::default();
        let mut take = |page| {
            let span = streams.follow(page, Access::Read, PAGES);
            (span.first, span.end)
        };
        assert_eq!(take(0), (0, 1));
        assert_eq!(take(1), (1, 3));
        assert_eq!(take(3), (3, 7));
        assert_eq!(take(500), (500, 501));
        assert_eq!(take(501), (501, 503));
        assert_eq!(take(7), (7, 15), "the other one goes on");
        assert_eq!(take(999), (999, 1000));
        assert_eq!(take(2), (2, 3));
    }

    #[test]
    fn what_is_brought_ahead_belongs_to_the_stream() {
        let mut streams = Streams::default();
        let first = streams.follow(0, Access::Read, PAGES);
        assert!(streams.ahead(first, PAGES).is_empty(), "one fault is no stream");
        let second = streams.follow(1, Access::Read, PAGES);
        assert_eq!(streams.ahead(second, PAGES), PageSpan { first: 3, end: 5 });
        assert_eq!(
            streams.follow(5, Access::Read, PAGES),
            PageSpan { first: 5, end: 9 },
            "behind it"
        );
        assert_eq!(streams.follow(9, Access::Update, PAGES).count(), 1, "a write is no reader");
        let mut late = Streams::default();
        let _ = late.follow(0, Access::Read, PAGES);
        let second = late.follow(1, Access::Read, PAGES);
        let _ = late.ahead(second, PAGES);
        assert_eq!(
            late.follow(3, Access::Read, PAGES),
            PageSpan { first: 3, end: 7 },
            "it had not come yet"
        );
    }

    #[test]
    fn each_of_a_few_threads_has_its_stream() {
        let mut streams = Streams::default();
        for round in 0..3 {
            for thread in 0..4 {
                let page = thread * 100 + (1 << round) - 1;
                assert_eq!(
                    streams.follow(page, Access::Read, PAGES).count(),
                    1 << round,
                    "{round} {thread}"
                );
            }
        }
    }
}
