//! What can go wrong.

use std::{io, path::PathBuf};

/// Why nothing can be seen.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// A runtime has one recording at a time.
    #[error("somebody records this runtime already")]
    Recorded,
    /// The system starts no thread.
    #[error("no thread to watch with")]
    Thread(#[source] io::Error),
    /// A file cannot be written.
    #[error("cannot write {}", .path.display())]
    NotWritten {
        /// Which file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A picture cannot be drawn.
    #[error("cannot draw {}: {reason}", .path.display())]
    NotDrawn {
        /// Which file.
        path: PathBuf,
        /// What the drawing library answered.
        reason: String,
    },
    /// There is no folder for sockets.
    #[error(
        "XDG_RUNTIME_DIR names no folder of yours alone, so there is no place to meet other processes in"
    )]
    NoFolder,
    /// A socket cannot be made.
    #[error("no socket {}", .path.display())]
    NoSocket {
        /// Where.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The process is gone, or has let go of its runtime.
    #[error("process {process} has ended, or has let go of its runtime")]
    Gone {
        /// Its number.
        process: u32,
    },
    /// The process does not answer.
    #[error("process {process} has not answered for {waited_ms} ms; it may be stopped")]
    Silent {
        /// Its number.
        process: u32,
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// The process answers what this program does not understand.
    #[error("process {process} answers in another version of hmmap's words")]
    NotUnderstood {
        /// Its number.
        process: u32,
        /// What is wrong with the answer.
        source: serde_json::Error,
    },
}
