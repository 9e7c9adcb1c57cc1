//! Bringing pages to a node ahead of whoever needs them there.

use smallvec::SmallVec;

use super::{
    ledger::Doing,
    plan::{Request, plan},
    settle::bytes_of,
    wait::Fence,
    working_set::WorkingSet,
};
use crate::{
    access::Access,
    directory::{FenceSet, PageSpan},
    error::Error,
    kernel::{Argument, BoundArray},
    node::NodeId,
    runtime::{Inner, Runtime},
    stats::Cause,
};

impl Runtime {
    /// Brings several vectors, or ranges of them, to a node in one go: [`SharedVec::prefetch`](crate::SharedVec::prefetch). The arguments are made by
    /// `.into()` from what [`SharedVec::read`](crate::SharedVec::read) and its likes return; whatever they are, the prefetch only reads.
    ///
    /// # Errors
    /// As there. To a device it is all or nothing; to the host, what came before the one that failed is on its way.
    pub fn prefetch<'a>(
        &self,
        node: impl Into<NodeId>,
        arguments: impl IntoIterator<Item = Argument<'a>>,
    ) -> Result<Fence, Error> {
        const NAME: &str = "prefetch";
        let (inner, node) = (self.inner(), node.into());
        let bound: Result<SmallVec<[BoundArray<'a>; 6]>, _> =
            arguments.into_iter().map(Argument::bind).collect();
        let mut bound = bound.map_err(|source| Error::Arguments { kernel: NAME, source })?;
        let foreign = bound.iter().position(|array| array.buffer.runtime_id != inner.id);
        if let Some(argument) = foreign {
            return Err(Error::ForeignVector { kernel: NAME, argument });
        }
        bound.iter_mut().for_each(|array| array.access = Access::Read);
        let copies = match node.device() {
            None => inner.prefetch_home(&bound),
            Some(device) => {
                let open = inner.open(device)?;
                let set = WorkingSet {
                    inner,
                    open,
                    arrays: &bound,
                    cause: Cause::Prefetch,
                    doing: Doing::Prefetch,
                    queue: &[],
                };
                set.bring(|_, brought| {
                    let mut copies = FenceSet::default();
                    copies.extend(brought.copies);
                    Ok(copies)
                })
            }
        };
        inner.tell_losses();
        let copies = copies?;
        for array in &bound {
            let span = PageSpan::touching(&array.bytes);
            array.buffer.state.lock().hints.sent(span, node);
        }
        Ok(Fence::new(self.clone(), copies.as_slice().iter().copied()))
    }
}

impl Inner {
    /// Sends for what the host does not have, without waiting for it. What was never written has nothing to bring.
    fn prefetch_home(&self, arrays: &[BoundArray<'_>]) -> Result<FenceSet, Error> {
        let mut copies = FenceSet::default();
        for array in arrays {
            let span = PageSpan::touching(&array.bytes);
            loop {
                let mut state = array.buffer.state.lock();
                if let Some(asked) = state.lacking(span, Access::Read) {
                    drop(state);
                    self.obtain(array.buffer, asked)?;
                    continue;
                }
                self.settle(&mut state, span);
                self.take_notice(&mut state, span)?;
                let request = Request::by_host(Access::Read, span);
                let needed = plan(&state.directory, request);
                if let Some(lost) = needed.lost {
                    return Err(Error::DataLost { bytes: bytes_of(lost) });
                }
                let steps: SmallVec<[_; 4]> = needed.steps.iter().map(|step| (0, *step)).collect();
                let buffers = [array.buffer];
                let fences = self.copy_home(&steps, Cause::Prefetch, &buffers, &mut *state)?;
                if plan(&state.directory, request).steps.is_empty() {
                    copies.extend(fences.as_slice().iter().copied());
                    break;
                }
                // Another device's work comes first, and devices do not wait for each other.
                drop(state);
                self.wait_all(&fences)?;
            }
        }
        Ok(copies)
    }
}
