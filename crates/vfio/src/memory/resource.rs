//! A window by way of its file in sysfs, of a device that no driver has: memory on a card that does nothing by itself.
//!
//! The kernel maps such a file for whoever may open it, unless a driver has the device: then it refuses, or the two would share a window. Nobody is told of a driver that takes
//! the device later, so this is for devices that are left alone.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use hmmap_core::p2p::PciAddress;
use rustix::fs::{FlockOperation, flock};

use super::{BarMemory, MappedWindow, long_enough};
use crate::{
    claim::Owner,
    error::{VfioError, WindowFault},
};

const DEVICES: &str = "/sys/bus/pci/devices";
/// Base address registers of a function.
const WINDOWS: u32 = 6;
/// Of the kernel's flags for a resource: I/O ports, memory.
const PORTS: u64 = 0x100;
const MEMORY: u64 = 0x200;

impl BarMemory {
    /// A window of a device (`0000:04:00.0`) that no driver has, by way of sysfs, as memory for vectors. Takes root. For a device that `vfio-pci` has, and for those that do
    /// DMA themselves: [`crate::VfioDevice::memory`], which says what is written to it for a trial.
    ///
    /// # Errors
    /// [`VfioError::NoWindow`] when it is none of memory, is too short, keeps nothing, or is in use; [`VfioError::NotOpened`].
    pub fn of_resource(device: &str, index: u32) -> Result<Arc<Self>, VfioError> {
        in_folder(Path::new(DEVICES), device, index)
    }
}

fn in_folder(devices: &Path, device: &str, index: u32) -> Result<Arc<BarMemory>, VfioError> {
    let folder = devices.join(device);
    let no_window = |why| VfioError::NoWindow { device: device.to_owned(), index, why };
    let pci = PciAddress::parse(device)
        .ok_or_else(|| not_opened(folder.clone())(io::ErrorKind::InvalidInput.into()))?;
    let file = folder.join("resource");
    let text = std::fs::read_to_string(&file).map_err(not_opened(file))?;
    let len_bytes = length(&text, index).map_err(no_window)?;
    long_enough(device, index, len_bytes)?;
    if folder.join("driver").exists() {
        return Err(no_window(WindowFault::InUse));
    }
    let window = open(folder.join(format!("resource{index}")))?;
    flock(&window, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| no_window(WindowFault::InUse))?;
    // It is not to be touched before it answers.
    let enable = folder.join("enable");
    std::fs::write(&enable, "1").map_err(not_opened(enable))?;
    let locked = OwnedFd::from(window);
    let keeps = locked.try_clone().map_err(not_opened(folder))?;
    let window = MappedWindow::map(locked.as_fd(), 0, len_bytes, Owner::Locked(keeps))
        .map_err(|_| no_window(WindowFault::NotMappable))?;
    BarMemory::over(window, device, index, Some(pci))
}

fn not_opened(path: PathBuf) -> impl FnOnce(io::Error) -> VfioError {
    move |source| VfioError::NotOpened { path, source }
}

fn open(path: PathBuf) -> Result<File, VfioError> {
    OpenOptions::new().read(true).write(true).open(&path).map_err(not_opened(path))
}

/// How long a window is, by the `resource` file: a line for each, of its first and last address and its flags.
fn length(text: &str, index: u32) -> Result<u64, WindowFault> {
    let line = text.lines().nth(index as usize).filter(|_| index < WINDOWS);
    let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
    let numbers: Option<Vec<u64>> =
        line.and_then(|line| line.split_whitespace().map(number).collect());
    let Some([first, last, flags]) = numbers.as_deref() else { return Err(WindowFault::None) };
    match flags & (PORTS | MEMORY) {
        0 => Err(WindowFault::None),
        MEMORY => last.checked_sub(*first).and_then(|n| n.checked_add(1)).ok_or(WindowFault::None),
        _ => Err(WindowFault::IoPorts),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NAME: &str = "0000:04:00.0";
    const WINDOW_BYTES: u64 = 1 << 20;
    const RESOURCE: &str = "\
0x00000000c0000000 0x00000000c00000ff 0x0000000000040200
0x000000000000c000 0x000000000000c03f 0x0000000000040101
0x0000004000000000 0x00000040000fffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
";

    struct Folder(PathBuf);

    impl Folder {
        fn fresh(name: &str) -> Self {
            let devices = std::env::temp_dir().join(format!("hmmap-{name}-{}", std::process::id()));
            let folder = devices.join(NAME);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("resource"), RESOURCE).unwrap();
            fs::write(folder.join("enable"), "0").unwrap();
            File::create(folder.join("resource2")).unwrap().set_len(WINDOW_BYTES).unwrap();
            Self(devices)
        }

        fn why(&self, index: u32) -> WindowFault {
            match in_folder(&self.0, NAME, index) {
                Err(VfioError::NoWindow { why, .. }) => why,
                other => panic!("{other:?}"),
            }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_resource_is_memory_or_is_refused_with_its_reason() {
        let folder = Folder::fresh("resource");
        let short = WindowFault::TooShort { len_bytes: 256, least_bytes: 196_608 };
        assert_eq!(folder.why(0), short);
        assert_eq!(folder.why(1), WindowFault::IoPorts);
        for index in [3, 4, 6, u32::MAX] {
            assert_eq!(folder.why(index), WindowFault::None, "{index}");
        }
        let window = in_folder(&folder.0, NAME, 2).unwrap();
        assert_eq!(window.summary.memory_bytes, WINDOW_BYTES - 65_536);
        assert_eq!(window.summary.pci.unwrap().to_string(), NAME);
        assert_eq!(fs::read_to_string(folder.0.join(NAME).join("enable")).unwrap(), "1");
        assert_eq!(folder.why(2), WindowFault::InUse, "locked");
        drop(window);
        drop(in_folder(&folder.0, NAME, 2).unwrap());
        fs::write(folder.0.join(NAME).join("driver"), "").unwrap();
        assert_eq!(folder.why(2), WindowFault::InUse, "a driver has it");
    }

    #[test]
    fn what_is_no_device_is_not_opened() {
        let folder = Folder::fresh("no-device");
        for name in ["0000:05:00.0", "..", "", "a\0b"] {
            let refused = in_folder(&folder.0, name, 2);
            assert!(matches!(refused, Err(VfioError::NotOpened { .. })), "{name}: {refused:?}");
        }
        for odd in ["", "0x1 0x2", "zero one two", "0x2 0x1 0x200", "0x0 0xffffffffffffffff 0x200"]
        {
            assert_eq!(length(odd, 0), Err(WindowFault::None), "{odd}");
        }
    }
}
