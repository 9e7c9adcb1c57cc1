//! Pages of another process: granted before they are used, brought home when they are recalled ([`crate::home`]).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{plan::Request, user_view};
use crate::{
    access::Access,
    coherence::Effect,
    directory::PageSpan,
    error::Error,
    home::{Asked, Grant, HomeError, Keep, Recalled, Recalling},
    node::NodeId,
    runtime::Inner,
    stats::Cause,
    sync::about_to_run_user_code,
    units::PAGE_BYTES,
    vec::{Buffer, BufferState},
};

/// How long a wait for a recall lasts at once.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl BufferState {
    /// What keeps `access` from pages that belong to another process.
    pub(super) fn lacking(&self, span: PageSpan, access: Access) -> Option<Asked> {
        self.grants.as_deref()?.lacking(span, access)
    }
}

impl Inner {
    /// Asks for what an access lacks. When this returns, the caller tries again. No lock is held.
    ///
    /// # Errors
    /// [`Error::Home`].
    pub(super) fn obtain(&self, buffer: &Arc<Buffer>, asked: Asked) -> Result<(), Error> {
        about_to_run_user_code();
        let refused = |span, source| Error::Home { pages: in_pages(span), source };
        let (home, span, grant, recalled) = match asked {
            Asked::Home { home, span, grant, recalled } => (home, span, grant, recalled),
            Asked::Never(span) => return Err(refused(span, HomeError::ReadOnly)),
            Asked::Wait(over) => {
                over.wait_until(Instant::now() + LOOK_EVERY);
                return Ok(());
            }
        };
        let granted = catch_unwind(AssertUnwindSafe(|| home.grant(in_pages(span), grant)));
        let granted = granted
            .unwrap_or_else(|_| Err(HomeError::Refused { reason: "it panicked".to_owned() }));
        granted.map_err(|source| refused(span, source))?;
        let mut state = buffer.state.lock();
        let new = state.grants.as_deref_mut().and_then(|one| one.give(span, grant, recalled));
        // Current in the file, and nowhere else of ours.
        let effect = Effect::Write { on: NodeId::HOST };
        for span in new.into_iter().flatten() {
            state.directory.change(span, |_, pages, run| run.log.done(effect, pages));
        }
        state.host_touched = true;
        debug_assert_eq!(state.directory.check(), Ok(()));
        Ok(())
    }

    /// Does what a recall asks for: waits for our own work on the pages, brings them into the file, and forgets them.
    pub(crate) fn bring_home(&self, buffer: &Arc<Buffer>, recall: &Recalling) -> Recalled {
        let mut recalled = Recalled::default();
        for (span, grant) in &recall.held {
            if *grant == Grant::Write {
                recalled.dirty.push(in_pages(*span));
            }
            self.bring_home_span(buffer, *span, recall.keep, &mut recalled);
        }
        if let Some(grants) = buffer.state.lock().grants.as_deref_mut() {
            grants.finish_recall(recall);
        }
        recall.over.confirm();
        self.tell_losses();
        recalled
    }

    fn bring_home_span(
        &self,
        buffer: &Arc<Buffer>,
        span: PageSpan,
        keep: Keep,
        recalled: &mut Recalled,
    ) {
        let access = if keep == Keep::Reading { Access::Read } else { Access::Update };
        loop {
            let mut state = buffer.state.lock();
            self.settle(&mut state, span);
            let request = Request::by_host(access, span);
            let lost = match self.attempt_host_access(buffer, &mut state, request, Cause::Peer) {
                Ok(waits) if waits.is_empty() => {
                    self.forget_granted(buffer, &mut state, span, access);
                    return;
                }
                Ok(waits) => {
                    drop(state);
                    // However they ended, the next round looks at what is left. A wait that was bounded begins again.
                    let _ = self.wait_all(&waits);
                    continue;
                }
                Err(Error::DataLost { bytes }) => PageSpan::touching(&bytes),
                // A device that does not copy has what it wrote to itself.
                Err(_) => span,
            };
            // The file's own bytes are what there is: the last that were brought home.
            recalled.lost.push(in_pages(lost));
            let effect = Effect::Write { on: NodeId::HOST };
            state.directory.change(lost, |_, pages, run| run.log.done(effect, pages));
        }
    }

    fn forget_granted(
        &self,
        buffer: &Buffer,
        state: &mut BufferState,
        span: PageSpan,
        access: Access,
    ) {
        let left = self
            .user_view()
            .map_or(Ok(()), |view| user_view::leave(view, buffer, state, span, access));
        // Ours to read on when the system does not take an entry away; nothing of ours writes it.
        debug_assert_eq!(left, Ok(()));
        if access.writes() {
            state.directory.change(span, |_, pages, run| run.log.done(Effect::Discard, pages));
            state.notice = None;
        }
        debug_assert_eq!(state.directory.check(), Ok(()));
    }

    /// Runs `work` on the first byte of pages of the host, which nobody takes away meanwhile: the buffer's lock is held. For short work only.
    pub(crate) fn with_host_pages<R>(
        &self,
        buffer: &Arc<Buffer>,
        request: Request,
        work: impl FnOnce(*mut u8) -> R,
    ) -> Result<R, Error> {
        debug_assert!(request.span.count() * PAGE_BYTES <= 2 * PAGE_BYTES, "the lock is held");
        let place = buffer.host_span(request.span);
        let state = buffer.state.lock();
        if state.is_lent {
            // On the host, and nowhere else, for whoever has it lent.
            return Ok(work(self.arena.view().pointer(place)));
        }
        drop(state);
        let done = self.host_access_then(buffer, request, Cause::Guard, |_| {
            work(self.arena.view().pointer(place))
        });
        self.tell_losses();
        done
    }
}

fn in_pages(span: PageSpan) -> std::ops::Range<usize> {
    span.first as usize..span.end as usize
}
