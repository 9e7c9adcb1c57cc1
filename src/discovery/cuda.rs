//! CUDA devices, when built with the feature `cuda`.

use std::sync::Arc;

use hmmap_core::backend::Provider;
pub(super) use hmmap_cuda::Options;

use super::{Absent, Found};

/// Looks for CUDA devices.
pub(super) fn find(options: &Options, found: &mut Found) {
    let discovery = hmmap_cuda::discover(options);
    found.absent.extend(discovery.left_out.into_iter().map(|left_out| Absent {
        what: left_out.name,
        reason: left_out.reason.to_string(),
        remedy: left_out.reason.remedy().into(),
    }));
    let providers = discovery.providers.into_iter();
    found.providers.extend(providers.map(|provider| provider as Arc<dyn Provider>));
}
