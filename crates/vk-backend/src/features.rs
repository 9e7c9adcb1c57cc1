//! Features of a device that kernels and memory may need.

use std::fmt;

/// A set of device features, by their names in Vulkan.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Features(u32);

macro_rules! features {
    ($($constant:ident = $bit:literal, $name:literal;)*) => {
        impl Features {
            $(
                #[doc = concat!("`", $name, "`")]
                pub const $constant: Self = Self(1 << $bit);
            )*
            const NAMES: &'static [(Self, &'static str)] = &[$((Self::$constant, $name)),*];
        }
    };
}

features! {
    INT64 = 0, "shaderInt64";
    TIMELINE = 1, "timelineSemaphore";
    ADDRESS = 2, "bufferDeviceAddress";
    FLOAT64 = 3, "shaderFloat64";
    INT16 = 4, "shaderInt16";
    INT8 = 5, "shaderInt8";
    FLOAT16 = 6, "shaderFloat16";
    STORAGE8 = 7, "storageBuffer8BitAccess";
    STORAGE16 = 8, "storageBuffer16BitAccess";
    ATOMIC_INT64 = 9, "shaderBufferInt64Atomics";
    SHARED_ATOMIC_INT64 = 10, "shaderSharedInt64Atomics";
    MEMORY_MODEL = 11, "vulkanMemoryModel";
    MEMORY_MODEL_DEVICE = 12, "vulkanMemoryModelDeviceScope";
    SCALAR_LAYOUT = 13, "scalarBlockLayout";
    FLOAT_ATOMIC_ADD = 14, "shaderBufferFloat32AtomicAdd";
    FLOAT_ATOMICS = 15, "shaderBufferFloat32Atomics";
    SPARSE = 16, "sparseBinding";
    SPARSE_RESIDENCY = 17, "sparseResidencyBuffer";
    HOST_IMPORT = 18, "VK_EXT_external_memory_host";
    SUBGROUP_BASIC = 19, "subgroup operations: basic";
    SUBGROUP_VOTE = 20, "subgroup operations: vote";
    SUBGROUP_ARITHMETIC = 21, "subgroup operations: arithmetic";
    SUBGROUP_BALLOT = 22, "subgroup operations: ballot";
    SUBGROUP_SHUFFLE = 23, "subgroup operations: shuffle";
    SUBGROUP_SHUFFLE_RELATIVE = 24, "subgroup operations: relative shuffle";
    SUBGROUP_CLUSTERED = 25, "subgroup operations: clustered";
    SUBGROUP_QUAD = 26, "subgroup operations: quad";
    MEMORY_FD = 27, "VK_KHR_external_memory_fd";
    DMA_BUF = 28, "VK_EXT_external_memory_dma_buf";
    SYNC_FD = 29, "VK_KHR_external_semaphore_fd: sync files";
}

impl Features {
    /// None.
    pub const NONE: Self = Self(0);
    /// What every device must have.
    pub const REQUIRED: Self = Self::INT64.with(Self::TIMELINE).with(Self::ADDRESS);

    /// Both sets.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// True when every feature of `other` is in the set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The name of the first feature of `wanted` that is not in the set.
    pub fn first_missing(self, wanted: Self) -> Option<&'static str> {
        let missing =
            |(feature, _): &&(Self, &str)| wanted.contains(*feature) && !self.contains(*feature);
        Self::NAMES.iter().find(missing).map(|(_, name)| *name)
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = Self::NAMES.iter().filter(|(feature, _)| self.contains(*feature));
        f.debug_set().entries(set.map(|(_, name)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_missing_feature_is_named() {
        let has = Features::REQUIRED.with(Features::INT8);
        assert_eq!(has.first_missing(Features::REQUIRED), None);
        let wanted = Features::INT8.with(Features::FLOAT64);
        assert_eq!(has.first_missing(wanted), Some("shaderFloat64"));
        assert_eq!(format!("{:?}", Features::INT8), r#"{"shaderInt8"}"#);
    }
}
