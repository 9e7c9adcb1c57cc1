//! Stands for CUDA in programs built without the feature `cuda`.

use super::Found;

/// Nothing was asked for, so nothing is missing.
pub(super) fn find(_found: &mut Found) {}
