//! Bringing pages to a device ahead of the launch that needs them.

use std::slice;

use super::{ledger::Doing, wait::Fence, working_set::WorkingSet};
use crate::{error::Error, kernel::BoundArray, node::DeviceId, runtime::Runtime, stats::Cause};

impl Runtime {
    /// Brings what one array covers to a device, to be read there. The fence is that of the copies: what was on its way already has
    /// its own.
    pub(crate) fn prefetch(
        &self,
        device: DeviceId,
        array: &BoundArray<'_>,
    ) -> Result<Fence, Error> {
        let inner = self.inner();
        let open = inner.open(device)?;
        let arrays = slice::from_ref(array);
        let set =
            WorkingSet { inner, open, arrays, cause: Cause::Prefetch, doing: Doing::Prefetch };
        let copies = set.bring(|_, brought| Ok(brought.copies));
        inner.tell_losses();
        Ok(Fence::new(self.clone(), copies?))
    }
}
