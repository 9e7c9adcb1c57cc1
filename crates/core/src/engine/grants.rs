//! Pages of another process: granted before they are used, brought home when they are recalled ([`crate::home`]).

use std::{
    ops::Range,
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
    events::What,
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
        let granted =
            granted.unwrap_or_else(|_| Err(HomeError::Refused { reason: "it panicked".into() }));
        granted.map_err(|source| refused(span, source))?;
        let mut state = buffer.state.lock();
        let new = state.grants.as_deref_mut().and_then(|one| one.give(span, grant, recalled));
        // Current in the file, and nowhere else of ours.
        let effect = Effect::Write { on: NodeId::HOST };
        for span in new.into_iter().flatten() {
            state.directory.change(span, |_, pages, run| run.log.done(effect, pages));
            self.tell_written(&state, span, Cause::Peer);
        }
        state.host_touched = true;
        debug_assert_eq!(state.directory.check(), Ok(()));
        Ok(())
    }

    /// Does what a recall asks for, and says what came of it. Whoever waits for the answer is another process, so there is one whatever happens here: if this
    /// code or a device's panics, what was written counts as lost.
    pub(crate) fn answer_recall(
        self: &Arc<Self>,
        buffer: &Arc<Buffer>,
        recall: &Recalling,
    ) -> Recalled {
        let brought = catch_unwind(AssertUnwindSafe(|| self.bring_home(buffer, recall)));
        let recalled = brought.unwrap_or_else(|_| self.leave_behind(buffer, recall));
        if let Some(grants) = buffer.state.lock().grants.as_deref_mut() {
            grants.finish_recall(recall);
        }
        recall.over.confirm();
        recalled
    }

    /// Waits for our own work on the pages, brings them into the file, and forgets them.
    fn bring_home(self: &Arc<Self>, buffer: &Arc<Buffer>, recall: &Recalling) -> Recalled {
        let mut recalled = Recalled { dirty: recall.written(), lost: Vec::new() };
        for (span, _) in &recall.held {
            self.bring_home_span(buffer, *span, recall.keep, &mut recalled);
        }
        recalled
    }

    /// Gives pages up as they are in the file, where bringing them home came to no end.
    fn leave_behind(self: &Arc<Self>, buffer: &Arc<Buffer>, recall: &Recalling) -> Recalled {
        for (span, _) in &recall.held {
            // What panicked once may do so again; the others' work is waited for all the same.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                loop {
                    let mut state = buffer.state.lock();
                    let pending = self.pending(buffer, &mut state);
                    if pending.is_empty() {
                        let effect = Effect::Write { on: NodeId::HOST };
                        state.directory.change(*span, |_, pages, run| run.log.done(effect, pages));
                        self.tell_written(&state, *span, Cause::Peer);
                        self.forget_granted(buffer, &mut state, *span, access_by(recall.keep));
                        return;
                    }
                    drop(state);
                    let _ = self.wait_all_silently(&pending);
                }
            }));
        }
        Recalled { dirty: recall.written(), lost: recall.written() }
    }

    fn bring_home_span(
        self: &Arc<Self>,
        buffer: &Arc<Buffer>,
        span: PageSpan,
        keep: Keep,
        recalled: &mut Recalled,
    ) {
        let access = access_by(keep);
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
                    let _ = self.wait_all_silently(&waits);
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
            self.tell_written(&state, lost, Cause::Peer);
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
            let vector = state.number;
            self.recorder.note(|| What::Discarded { vector, pages: span });
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
        if state.lent_on.is_some_and(NodeId::is_host) {
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

impl Recalling {
    /// What may have been written here.
    fn written(&self) -> Vec<Range<usize>> {
        let written = self.held.iter().filter(|(_, grant)| *grant == Grant::Write);
        written.map(|(span, _)| in_pages(*span)).collect()
    }
}

/// What the home does with pages of which this stays here.
fn access_by(keep: Keep) -> Access {
    if keep == Keep::Reading { Access::Read } else { Access::Update }
}

fn in_pages(span: PageSpan) -> Range<usize> {
    span.first as usize..span.end as usize
}
