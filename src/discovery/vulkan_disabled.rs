//! Stands for Vulkan in programs built without the feature `vulkan`.

use super::{Absent, Found};

/// There are no options for what is not there.
#[derive(Clone, Debug, Default)]
pub(super) struct Options;

/// Says that there is none, and why.
pub(super) fn find(_options: &Options, found: &mut Found) {
    found.absent.push(Absent {
        what: "Vulkan".into(),
        reason: "this program was built without hmmap's feature `vulkan`".into(),
        remedy: "build it with that feature".into(),
    });
}
