//! What a module's capabilities ask of a device. Pure.

use spirv::Capability;

use crate::features::Features;

/// The features that a capability needs; `None` when it is one that kernels here cannot use.
pub(super) fn needs(capability: u32) -> Option<Features> {
    Some(match Capability::from_u32(capability)? {
        Capability::Shader | Capability::Matrix => Features::NONE,
        Capability::PhysicalStorageBufferAddresses => Features::ADDRESS,
        Capability::Int64 => Features::INT64,
        Capability::Int16 => Features::INT16,
        Capability::Int8 => Features::INT8,
        Capability::Float64 => Features::FLOAT64,
        Capability::Float16 => Features::FLOAT16,
        Capability::StorageBuffer8BitAccess => Features::STORAGE8,
        Capability::StorageBuffer16BitAccess => Features::STORAGE16,
        Capability::Int64Atomics => Features::ATOMIC_INT64,
        Capability::VulkanMemoryModel => Features::MEMORY_MODEL,
        Capability::VulkanMemoryModelDeviceScope => Features::MEMORY_MODEL_DEVICE,
        Capability::AtomicFloat32AddEXT => Features::FLOAT_ATOMIC_ADD,
        Capability::GroupNonUniform => Features::SUBGROUP_BASIC,
        Capability::GroupNonUniformVote => Features::SUBGROUP_VOTE,
        Capability::GroupNonUniformArithmetic => Features::SUBGROUP_ARITHMETIC,
        Capability::GroupNonUniformBallot => Features::SUBGROUP_BALLOT,
        Capability::GroupNonUniformShuffle => Features::SUBGROUP_SHUFFLE,
        Capability::GroupNonUniformShuffleRelative => Features::SUBGROUP_SHUFFLE_RELATIVE,
        Capability::GroupNonUniformClustered => Features::SUBGROUP_CLUSTERED,
        Capability::GroupNonUniformQuad => Features::SUBGROUP_QUAD,
        _ => return None,
    })
}
