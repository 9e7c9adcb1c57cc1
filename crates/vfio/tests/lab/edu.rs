//! QEMU's `edu`: a PCI device with one engine that copies up to 4 KiB between memory and a buffer of its own, 100 ms after it was told to.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use hmmap_core::peer::PeerFence;
use hmmap_vfio::{RegisterWindow, UnplugWatch, VfioDevice, VfioDomain, VfioError};

/// One transfer. QEMU before 8 ends the machine at a transfer of its whole buffer.
pub(crate) const TRANSFER_BYTES: u64 = 2048;
/// It has this many address bits unless QEMU is told otherwise.
pub(crate) const ADDRESS_BITS: u32 = 28;

const BUFFER: u64 = 0x4_0000;
const SOURCE: u64 = 0x80;
const TARGET: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;
const START: u32 = 1;
const TO_MEMORY: u32 = 2;

/// The device, driven from here.
pub(crate) struct Edu {
    pub(crate) domain: Arc<VfioDomain>,
    device: VfioDevice,
    registers: RegisterWindow,
}

impl Edu {
    /// `None`, and a line that says so, outside of the lab.
    pub(crate) fn find() -> Option<Self> {
        if std::env::var_os("HMMAP_LAB").is_none() {
            println!("HMMAP-SKIP: not in the lab's machine (cargo xtask lab)");
            return None;
        }
        let name = pci_device("0x1234", "0x11e8");
        let domain = VfioDomain::open(&[&name]).unwrap();
        let device = domain.device(&name).unwrap();
        device.enable_dma().unwrap();
        let registers = device.window(0).unwrap();
        assert_eq!(registers.read_u32(0).unwrap() & 0xffff, 0x00ed, "no edu");
        Some(Self { domain, device, registers })
    }

    /// Again, after a reset.
    pub(crate) fn enable_dma(&self) {
        self.device.enable_dma().unwrap();
    }

    /// From memory into its buffer. Returns when it is done.
    pub(crate) fn read_from(&self, iova: u64, len_bytes: u64) {
        self.start_read_from(iova, len_bytes);
        self.finish();
    }

    /// From its buffer to memory. Returns when it is done.
    pub(crate) fn write_to(&self, iova: u64, len_bytes: u64) {
        self.start_write_to(iova, len_bytes);
        self.finish();
    }

    /// From memory into its buffer, some time after this returned.
    pub(crate) fn start_read_from(&self, iova: u64, len_bytes: u64) {
        self.start(iova, BUFFER, len_bytes, START);
    }

    /// From its buffer to memory, some time after this returned.
    pub(crate) fn start_write_to(&self, iova: u64, len_bytes: u64) {
        self.start(BUFFER, iova, len_bytes, START | TO_MEMORY);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.registers.read_u32(COMMAND).unwrap() & START != 0
    }

    pub(crate) fn watch_unplug(&self, told: impl FnOnce() + Send + 'static) -> UnplugWatch {
        self.device.watch_unplug(told).unwrap()
    }

    pub(crate) fn window_of(&self, index: u32) -> Result<RegisterWindow, VfioError> {
        self.device.window(index)
    }

    pub(crate) fn finish(&self) {
        let begun = Instant::now();
        while self.is_busy() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the transfer does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn start(&self, source: u64, target: u64, len_bytes: u64, command: u32) {
        assert!(!self.is_busy() && len_bytes <= TRANSFER_BYTES);
        self.registers.write_u64(SOURCE, source).unwrap();
        self.registers.write_u64(TARGET, target).unwrap();
        self.registers.write_u64(COUNT, len_bytes).unwrap();
        self.registers.write_u32(COMMAND, command).unwrap();
    }
}

/// All that it was told to do.
impl PeerFence for Edu {
    fn wait(&self, timeout: Duration) -> bool {
        let begun = Instant::now();
        while self.is_busy() {
            if begun.elapsed() >= timeout {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

/// The name of the only device with these numbers, as sysfs writes them.
pub(crate) fn pci_device(vendor: &str, device: &str) -> String {
    let all = Path::new("/sys/bus/pci/devices").read_dir().unwrap().flatten();
    let is = |path: &Path, file: &str, value: &str| {
        std::fs::read_to_string(path.join(file)).is_ok_and(|text| text.trim() == value)
    };
    let found = all
        .map(|entry| entry.path())
        .find(|path| is(path, "vendor", vendor) && is(path, "device", device));
    found.unwrap().file_name().unwrap().to_str().unwrap().to_owned()
}

/// The kernel's log from here on.
pub(crate) struct KernelLog(File);

impl KernelLog {
    pub(crate) fn from_now() -> Self {
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let mut log =
            OpenOptions::new().read(true).custom_flags(nonblocking).open("/dev/kmsg").unwrap();
        log.seek(SeekFrom::End(0)).unwrap();
        Self(log)
    }

    /// How many faults were seen of a transfer that has to be blocked. It is done again while the kernel leaves its records out (ten in five seconds are told).
    pub(crate) fn faults_of(&mut self, transfer: impl Fn()) -> usize {
        for _ in 0..10 {
            transfer();
            match self.iommu_faults().len() {
                0 => std::thread::sleep(Duration::from_secs(1)),
                seen => return seen,
            }
        }
        panic!("the IOMMU saw no fault");
    }

    /// The records since, or since the last call, that tell of a transfer which the IOMMU blocked. The kernel leaves records out when there are many.
    pub(crate) fn iommu_faults(&mut self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(len) => {
                    let text = String::from_utf8_lossy(&record[..len]).into_owned();
                    if text.contains("DMAR: [DMA") {
                        faults.push(text);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return faults,
                // Overwritten before it was read.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => panic!("/dev/kmsg: {error}"),
            }
        }
    }
}
