//! CUDA devices, when built with the feature `cuda`.

use super::{Absent, Found};

/// Looks for CUDA devices.
pub(super) fn find(found: &mut Found) {
    let discovery = hmmap_cuda::discover();
    found.absent.push(Absent {
        what: "CUDA".into(),
        reason: discovery.reason,
        remedy: discovery.remedy.into(),
    });
    found.providers.extend(discovery.providers);
}
