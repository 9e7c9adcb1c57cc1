//! Readings of other processes.

use std::{
    fs,
    io::{ErrorKind, Read},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{Reading, WatchError, publish::folder};

/// A runtime that a process has published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// The process.
    pub process: u32,
    socket: PathBuf,
}

/// Runtimes of this user's processes that can be looked at, the newest first. Sockets that processes left behind are taken away.
///
/// # Errors
/// [`WatchError::NoFolder`], [`WatchError::NoSocket`].
pub fn programs() -> Result<Vec<Program>, WatchError> {
    let path = folder()?;
    let no_socket = |source| WatchError::NoSocket { path: path.clone(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(&path).map_err(no_socket)? {
        let socket = entry.map_err(no_socket)?.path();
        let Some(process) = process_of(&socket) else { continue };
        let made = fs::metadata(&socket).and_then(|found| found.modified()).ok();
        match UnixStream::connect(&socket) {
            Ok(_) => found.push((made, Program { process, socket })),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                let _ = fs::remove_file(&socket);
            }
            Err(_) => {}
        }
    }
    found.sort_by_key(|(made, _)| std::cmp::Reverse(*made));
    Ok(found.into_iter().map(|(_, program)| program).collect())
}

fn process_of(socket: &Path) -> Option<u32> {
    let name = socket.file_name()?.to_str()?.strip_suffix(".sock")?;
    name.split_once('-')?.0.parse().ok()
}

/// One reading, within a deadline.
///
/// # Errors
/// [`WatchError::Gone`], [`WatchError::Silent`], [`WatchError::NotUnderstood`].
pub fn read_from(program: &Program, deadline: Duration) -> Result<Reading, WatchError> {
    let process = program.process;
    let begun = Instant::now();
    let silent = || WatchError::Silent { process, waited_ms: deadline.as_millis() as u64 };
    let mut stream =
        UnixStream::connect(&program.socket).map_err(|_| WatchError::Gone { process })?;
    let mut line = Vec::new();
    let mut part = [0; 1 << 16];
    loop {
        let left = deadline.checked_sub(begun.elapsed()).filter(|left| !left.is_zero());
        let left = left.ok_or_else(silent)?;
        let _ = stream.set_read_timeout(Some(left));
        match stream.read(&mut part) {
            Ok(0) if line.is_empty() => return Err(WatchError::Gone { process }),
            Ok(0) => break,
            Ok(count) => line.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(silent());
            }
            Err(_) => return Err(WatchError::Gone { process }),
        }
    }
    serde_json::from_slice(&line).map_err(|source| WatchError::NotUnderstood { process, source })
}
