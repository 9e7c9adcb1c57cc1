//! How Vulkan devices are found and how they behave.

use std::path::PathBuf;

/// How Vulkan devices are found and how they behave. Made by [`Default`] and changed field by field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The loader to use, `None` for the system's (`libvulkan.so.1`); then [`Options::loader_fallback`] is tried.
    pub loader: Option<PathBuf>,
    /// A loader to use when the system has none.
    pub loader_fallback: Option<PathBuf>,
    /// Whether the Khronos validation layer watches.
    pub validation: Validation,
    /// What puts memory under reservations.
    pub backing: Backing,
    /// How bytes get from and to the arena.
    pub host_copies: HostCopies,
    /// The most device memory that is used, in bytes. `None`: what the device reports. Drivers overcommit, so this is what counts.
    pub memory_limit_bytes: Option<u64>,
    /// The most host memory that stays imported, in bytes. `None`: a quarter of the machine's.
    pub max_pinned_bytes: Option<u64>,
    /// The size of the staging ring, in bytes; it is made when it is first needed.
    pub staging_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            loader: None,
            loader_fallback: None,
            validation: Validation::Off,
            backing: Backing::Auto,
            host_copies: HostCopies::Auto,
            memory_limit_bytes: None,
            max_pinned_bytes: None,
            staging_bytes: 16 << 20,
        }
    }
}

/// Whether the Khronos validation layer watches. Its messages are kept: see [`crate::Messages`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Validation {
    /// No.
    #[default]
    Off,
    /// Yes, with synchronisation validation.
    On,
    /// Yes, and shaders are instrumented so that accesses outside of buffers are found.
    GpuAssisted,
}

/// What puts memory under reservations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Backing {
    /// Sparse binding for a block and more where it was proved to work, else [`Backing::Committed`].
    #[default]
    Auto,
    /// Sparse binding, or an error where it does not work.
    Sparse,
    /// A part of a plain buffer, whole.
    Committed,
}

/// How bytes get from and to the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum HostCopies {
    /// By import of host memory where that was proved to work, else through staging memory.
    #[default]
    Auto,
    /// By import of host memory, or an error where that does not work.
    Import,
    /// Through staging memory.
    Staging,
}
