//! How CUDA devices behave.

/// How CUDA devices behave. Made by [`Default`] and changed field by field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What puts memory under reservations.
    pub backing: Backing,
    /// How bytes get from and to the arena.
    pub host_copies: HostCopies,
    /// The most device memory that is used, in bytes. `None`: what the device reports.
    pub memory_limit_bytes: Option<u64>,
    /// The most host memory that stays registered, in bytes. `None`: a quarter of the machine's.
    pub max_pinned_bytes: Option<u64>,
    /// The size of each of the two staging rings, in bytes; they are made when they are first needed.
    pub staging_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backing: Backing::Blocks,
            host_copies: HostCopies::Auto,
            memory_limit_bytes: None,
            max_pinned_bytes: None,
            staging_bytes: 8 << 20,
        }
    }
}

/// What puts memory under reservations. Either way it is virtual memory under an address that stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Backing {
    /// One handle for each block of 2 MiB, so that blocks come and go one by one. Reservations below a block share blocks.
    #[default]
    Blocks,
    /// One handle for a whole reservation, which can be given out to other devices and drivers.
    Whole,
}

/// How bytes get from and to the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum HostCopies {
    /// From and to registered memory where that was proved to work, else through staging memory.
    #[default]
    Auto,
    /// From and to registered memory, or an error where that does not work.
    Registered,
    /// Through staging memory.
    Staging,
}
