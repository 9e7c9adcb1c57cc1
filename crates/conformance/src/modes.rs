//! The modes that need no driver: the embedded CPU device's.

use std::{num::NonZero, sync::Arc};

use hmmap_core::{
    MemoryModel,
    backend::Provider,
    embedded::{Backing, EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
};

use crate::setup::Setup;

/// Every mode of the embedded CPU device.
pub fn embedded() -> Vec<Setup> {
    vec![
        Setup::new("embedded_host_node", MemoryModel::Unified, || {
            device(EmbeddedMemory::Host, Backing::Blocks)
        }),
        Setup::new("embedded_own_node_blocks", MemoryModel::Migrate, || {
            device(EmbeddedMemory::Own, Backing::Blocks)
        }),
        Setup::new("embedded_own_node_whole", MemoryModel::Migrate, || {
            device(EmbeddedMemory::Own, Backing::Whole)
        }),
    ]
}

fn device(memory: EmbeddedMemory, backing: Backing) -> Arc<dyn Provider> {
    // Two threads on any machine, so that a result does not depend on it.
    let threads = NonZero::new(2).unwrap_or(NonZero::<usize>::MIN);
    Arc::new(EmbeddedProvider::new(EmbeddedOptions {
        threads,
        memory,
        backing,
        ..EmbeddedOptions::default()
    }))
}
