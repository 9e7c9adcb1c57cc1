//! Readings for other processes of the same user.
//!
//! A socket `PROCESS-NUMBER.sock` in the folder `hmmap` of `XDG_RUNTIME_DIR`, which is the user's alone. Whoever connects gets one reading, as a line of
//! JSON, and the end of the connection. Nothing is ever read from who connects, and nobody is waited for longer than [`PATIENCE`].

use std::{
    fs,
    io::Write,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt},
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use hmmap_core::Runtime;

use crate::{Reading, WatchError};

/// How long a reader may take to take its reading.
const PATIENCE: Duration = Duration::from_millis(500);

/// A runtime that others may look at, until this is dropped. Holds the runtime.
#[derive(Debug)]
pub struct Published {
    path: PathBuf,
    enough: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Published {
    /// Lets other processes of the same user read how things stand: `hmmap top` does.
    ///
    /// # Errors
    /// [`WatchError::NoFolder`], [`WatchError::NoSocket`], [`WatchError::Thread`].
    pub fn new(runtime: &Runtime) -> Result<Self, WatchError> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Relaxed);
        let path = folder()?.join(format!("{}-{number}.sock", std::process::id()));
        let no_socket = |source| WatchError::NoSocket { path: path.clone(), source };
        // Left by a process that had this number before.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(no_socket)?;
        let enough = Arc::new(AtomicBool::new(false));
        let (told, runtime) = (enough.clone(), runtime.clone());
        let thread = thread::Builder::new()
            .name("hmmap published".to_owned())
            .spawn(move || serve(&runtime, &listener, &told))
            .map_err(WatchError::Thread)?;
        Ok(Self { path, enough, thread: Some(thread) })
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.enough.store(true, Relaxed);
        // The thread waits for somebody to come.
        let _ = UnixStream::connect(&self.path);
        let _ = fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(runtime: &Runtime, listener: &UnixListener, enough: &AtomicBool) {
    let begun = Instant::now();
    for reader in listener.incoming() {
        if enough.load(Relaxed) {
            return;
        }
        match reader {
            Ok(reader) => {
                // Whoever went or is too slow has no reading, and is not missed.
                let _ = answer(runtime, reader, begun);
            }
            Err(error) => {
                tracing::debug!(%error, "nobody came after all");
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn answer(runtime: &Runtime, mut reader: UnixStream, begun: Instant) -> std::io::Result<()> {
    reader.set_write_timeout(Some(PATIENCE))?;
    let reading = Reading::take(runtime, begun.elapsed().as_secs_f64());
    let mut line = serde_json::to_vec(&reading)?;
    line.push(b'\n');
    reader.write_all(&line)
}

/// The folder in which processes of one user meet; made when it is not there.
pub(crate) fn folder() -> Result<PathBuf, WatchError> {
    let base = std::env::var_os("XDG_RUNTIME_DIR").ok_or(WatchError::NoFolder)?;
    let base = PathBuf::from(base);
    let is_ours = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| found.uid() == rustix::process::geteuid().as_raw())
    };
    if !base.is_absolute() || !is_ours(&base) {
        return Err(WatchError::NoFolder);
    }
    let path = base.join("hmmap");
    match fs::DirBuilder::new().mode(0o700).create(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(WatchError::NoSocket { path, source })
        }
        _ if is_ours(&path) => Ok(path),
        _ => Err(WatchError::NoFolder),
    }
}
