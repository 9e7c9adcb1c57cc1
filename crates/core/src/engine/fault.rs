//! A touch of a page that the user view does not show: the page comes home and is shown.
//!
//! The same way as a guard's ([`Inner::host_access`]), with three differences. More pages than the touched one are brought when a
//! stream is seen. Nothing is reported to the caller, since there is none: a failed kernel is told of by the next guard or
//! launch, and a page that is lost ends whoever touches it, with a signal. And whatever takes time is waited for only after another
//! thread has taken the lead.

use std::sync::{Arc, Weak};

use rustix::io::Errno;

use super::user_view;
use crate::{
    access::Access,
    directory::PageSpan,
    host::{ENTRY_BYTES, Faulted, HostSpan, Resolve, UserView, page_of},
    runtime::Inner,
    stats::Cause,
    units::{PAGE_BYTES, PAGES_PER_BLOCK},
    vec::{Buffer, BufferState},
};

/// A stream brings at most so many pages with one fault.
const MOST_PAGES: u64 = 4 * PAGES_PER_BLOCK;

/// What recent faults of a buffer say about the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stream {
    /// The page after those that the last fault brought.
    next_page: u64,
    /// How many that were.
    pages: u64,
}

impl Stream {
    /// The pages to bring for a fault on `page`: twice as many as last time when it goes on where that ended, else the one.
    fn follow(&mut self, page: u64, pages: u64) -> PageSpan {
        let goes_on = page == self.next_page && self.pages > 0;
        let wanted = if goes_on { (self.pages * 2).min(MOST_PAGES) } else { 1 };
        let end = (page + wanted).min(pages);
        *self = Self { next_page: end, pages: wanted };
        PageSpan { first: page, end }
    }
}

/// The fault loop's way to the runtime, which it does not keep alive.
pub(crate) struct FaultResolver(pub(crate) Weak<Inner>);

impl Resolve for FaultResolver {
    fn resolve(&self, view: &UserView, fault: Faulted, before_wait: &dyn Fn()) {
        let found = self.0.upgrade().and_then(|inner| {
            let buffer = inner.buffer_at(fault.offset_bytes)?;
            Some((inner, buffer))
        });
        match found {
            Some((inner, buffer)) => inner.resolve(view, &buffer, fault, before_wait),
            // A pointer into a vector that is gone: the touch must not go on, nor hang.
            None => drop(view.poison(page_of(fault.offset_bytes))),
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
        let mut span = None;
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
            let wanted = *span.get_or_insert_with(|| state.stream.follow(page, buffer.pages()));
            self.settle(&mut state, wanted);
            let attempt =
                self.attempt_host_access(buffer, &mut state, wanted, access, Cause::Fault);
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
                return;
            }
            if wanted != only {
                // The neighbours may be the trouble.
                span = Some(only);
                continue;
            }
            let poisoned = user_view::poison(view, buffer, &mut state, only);
            debug_assert_eq!(poisoned, Ok(()));
            return;
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

    #[test]
    fn a_stream_doubles_and_a_jump_begins_anew() {
        let mut stream = Stream::default();
        let mut take = |page| {
            let span = stream.follow(page, 1000);
            (span.first, span.end)
        };
        assert_eq!(take(0), (0, 1));
        assert_eq!(take(1), (1, 3));
        assert_eq!(take(3), (3, 7));
        assert_eq!(take(500), (500, 501));
        assert_eq!(take(501), (501, 503));
        assert_eq!(take(999), (999, 1000));
        assert_eq!(take(7), (7, 8));
    }
}
