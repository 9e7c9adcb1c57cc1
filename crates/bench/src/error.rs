//! Why a case could not be measured.

/// Why a case could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The library refused.
    #[error(transparent)]
    Hmmap(#[from] hmmap::Error),
    /// Vectors could not be shared with another process.
    #[error("sharing with another process")]
    Share(#[from] hmmap::share::ShareError),
    /// The other process, or the way to it.
    #[error("the other process")]
    OtherProcess(#[from] std::io::Error),
    /// The system refused memory.
    #[error("the system refused {bytes} bytes of memory")]
    Memory {
        /// How much was asked for.
        bytes: u64,
        /// What it said.
        source: rustix::io::Errno,
    },
    /// Vulkan, called by hand, refused.
    #[cfg(feature = "vulkan")]
    #[error("the limit by hand-written Vulkan")]
    Raw(#[from] crate::raw::RawError),
    /// No device fits what was asked for.
    #[error("no device is called `{asked}`; there are: {there}")]
    NoSuchDevice {
        /// The number or part of a name.
        asked: String,
        /// The devices that there are.
        there: String,
    },
    /// The case does not apply here. Not a failure.
    #[error("{0}")]
    DoesNotApply(String),
    /// What was measured did not do what the case is about.
    #[error("the measured run did something else: {what}: {found}, not {expected}")]
    Unexpected {
        /// Which quantity.
        what: &'static str,
        /// What it should have been.
        expected: u64,
        /// What it was.
        found: u64,
    },
    /// A plot could not be drawn.
    #[error("could not draw the plot: {0}")]
    Plot(String),
    /// The thread that stands for the machine's limit ended.
    #[error("the helper thread of the limit ended")]
    LimitEnded,
}
