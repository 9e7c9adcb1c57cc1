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

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixListener, thread};

    use super::*;

    /// What comes of a process that answers this.
    fn answered(answer: &'static [u8]) -> Result<Reading, WatchError> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("hmmap-answer-{}-{number}.sock", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&socket).unwrap();
        let server = thread::spawn(move || {
            let (mut reader, _) = listener.accept().unwrap();
            reader.write_all(answer).unwrap();
        });
        let read =
            read_from(&Program { process: 7, socket: socket.clone() }, Duration::from_secs(30));
        server.join().unwrap();
        fs::remove_file(socket).unwrap();
        read
    }

    #[test]
    fn an_answer_that_is_cut_short_or_none_is_an_error_that_says_so() {
        assert!(matches!(answered(b""), Err(WatchError::Gone { process: 7 })));
        for nonsense in [&b"{\"process\":"[..], b"\xff\xfe", b"{\"process\": \"seven\"}\n", b"[]"] {
            let error = answered(nonsense).unwrap_err();
            assert!(matches!(error, WatchError::NotUnderstood { process: 7, .. }), "{error}");
        }
        let socket = std::env::temp_dir().join("hmmap-nobody-listens.sock");
        let gone = read_from(&Program { process: 8, socket }, Duration::from_secs(1));
        assert!(matches!(gone, Err(WatchError::Gone { process: 8 })));
    }

    #[test]
    fn sockets_are_known_by_their_names() {
        let known = |name: &str| process_of(Path::new(name));
        assert_eq!(known("/run/user/1000/hmmap/812-3.sock"), Some(812));
        for other in ["/run/812.sock", "/run/x-1.sock", "/run/812-1", "/"] {
            assert_eq!(known(other), None, "{other}");
        }
    }
}
