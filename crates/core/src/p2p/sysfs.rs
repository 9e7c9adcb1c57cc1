//! Reading a sysfs, or a folder that looks like one.
//!
//! Whoever made the folder is not trusted: names are bounded in number, files in length, links are read and never followed here,
//! and a file that is none (a pipe would keep its reader for ever) is refused.

use std::{
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

/// The beginning of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beginning {
    /// What could be read.
    pub bytes: Vec<u8>,
    /// How long the file states to be, in bytes.
    pub file_bytes: u64,
}

/// What [`PciTree::read`](super::PciTree::read) asks of a sysfs. Paths are relative to its root, with slashes. [`SysfsFolder`] is
/// the one that reads files; others are for trees that were never on a disk.
pub trait Sysfs: fmt::Debug {
    /// The names in a folder, at most `most` of them.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn names(&self, folder: &str, most: usize) -> io::Result<Vec<String>>;

    /// Where a symbolic link points, as it is written there.
    ///
    /// # Errors
    ///
    /// As the system says; `InvalidInput` for what is no link.
    fn link(&self, path: &str) -> io::Result<String>;

    /// The first bytes of a file, at most `most_bytes`.
    ///
    /// # Errors
    ///
    /// As the system says; `InvalidInput` for what is no regular file.
    fn read(&self, path: &str, most_bytes: usize) -> io::Result<Beginning>;
}

/// A sysfs at a place in the file system: `/sys`, or a recorded one.
#[derive(Clone, Debug)]
pub struct SysfsFolder {
    root: PathBuf,
}

impl SysfsFolder {
    /// The sysfs whose root is this folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl Sysfs for SysfsFolder {
    fn names(&self, folder: &str, most: usize) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.root.join(folder))?.take(most);
        // What is no text is no name of the kernel's.
        let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(io::Result::transpose).collect()
    }

    fn link(&self, path: &str) -> io::Result<String> {
        let target = fs::read_link(self.root.join(path))?.into_os_string();
        target.into_string().map_err(|_| io::ErrorKind::InvalidData.into())
    }

    fn read(&self, path: &str, most_bytes: usize) -> io::Result<Beginning> {
        // Without NONBLOCK the open of a pipe waits for a writer.
        let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits() as i32)
            .open(self.root.join(path))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut bytes = Vec::new();
        file.take(most_bytes as u64).read_to_end(&mut bytes)?;
        Ok(Beginning { bytes, file_bytes: metadata.len() })
    }
}
