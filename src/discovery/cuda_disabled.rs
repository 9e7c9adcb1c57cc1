//! Stands for CUDA in programs built without the feature `cuda`.

use super::Found;

/// There are no options for what is not there.
#[derive(Clone, Debug, Default)]
pub(super) struct Options;

/// Nothing was asked for, so nothing is missing.
pub(super) fn find(_options: &Options, _found: &mut Found) {}
