//! Finds the CUDA devices of this machine.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use hmmap_core::{
    backend::{Device, DeviceError, DeviceSummary, OpenContext, Provider},
    units::BLOCK_BYTES,
};
use parking_lot::Mutex;

use crate::{
    context::Context,
    detection::{Detection, detect},
    device::CudaDevice,
    driver::{Api, Driver},
    options::Options,
    physical::Physical,
    probe,
};

/// What looking for CUDA devices came to.
#[derive(Clone, Debug)]
pub struct Discovery {
    /// The devices that can be opened.
    pub providers: Vec<Arc<CudaProvider>>,
    /// What was found of the driver.
    pub detection: Detection,
    /// Those that cannot be opened, with the reason; and why there is none, where the driver is the reason.
    pub left_out: Vec<LeftOut>,
}

/// Something that was looked for and cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeftOut {
    /// The device's name, or `CUDA`.
    pub name: String,
    /// Why.
    pub reason: LeftOutReason,
}

/// Why a device, or all of them, cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LeftOutReason {
    /// The driver is not there, or not usable.
    #[error("{0}")]
    Driver(Detection),
    /// The device has no virtual memory management, by which memory gets an address that stays.
    #[error("the device has no virtual memory management")]
    NoVirtualMemory,
    /// Memory comes in pieces that are larger than a block.
    #[error(
        "device memory comes in pieces of {granularity_bytes} bytes, a block has {block_bytes}"
    )]
    Granularity {
        /// The smallest piece, in bytes.
        granularity_bytes: u64,
        /// A block, in bytes.
        block_bytes: u64,
    },
    /// The driver did not say what the device is.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl LeftOutReason {
    /// What would change it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Driver(detection) => detection.remedy(),
            Self::NoVirtualMemory | Self::Granularity { .. } => {
                "the NVIDIA driver brings a Vulkan driver for the same cards, which is used"
            }
            Self::Device(_) => "see `nvidia-smi`, and whether driver and kernel module match",
        }
    }
}

/// Looks for CUDA devices. Loads the driver's library, and never panics. Nothing is opened.
pub fn discover(options: &Options) -> Discovery {
    let detection = detect();
    let none = |detection| {
        let reason = LeftOutReason::Driver(detection);
        let left_out = vec![LeftOut { name: "CUDA".to_owned(), reason }];
        Discovery { providers: Vec::new(), detection, left_out }
    };
    let Detection::Devices { count, .. } = detection else { return none(detection) };
    let api = match load() {
        Ok(api) => api,
        Err(detection) => return none(detection),
    };
    let (mut providers, mut left_out) = (Vec::new(), Vec::new());
    for ordinal in 0..count.cast_signed() {
        match usable(Physical::query(&api, ordinal)) {
            Ok(physical) => {
                providers.push(Arc::new(CudaProvider::new(api, physical, None, options.clone())));
            }
            Err((name, reason)) => {
                let name = name.unwrap_or_else(|| format!("CUDA device {ordinal}"));
                left_out.push(LeftOut { name, reason });
            }
        }
    }
    Discovery { providers, detection, left_out }
}

/// The driver's functions.
pub(crate) fn load() -> Result<Api, Detection> {
    let driver = Driver::load().ok_or(Detection::Absent)?;
    Api::look_up(driver).map_err(Detection::from)
}

/// The device, if it has what is needed.
pub(crate) fn usable(
    queried: Result<Physical, DeviceError>,
) -> Result<Physical, (Option<String>, LeftOutReason)> {
    let physical = queried.map_err(|error| (None, error.into()))?;
    let name = || Some(physical.summary.name.clone());
    if !physical.has_virtual_memory {
        return Err((name(), LeftOutReason::NoVirtualMemory));
    }
    let granularity_bytes = physical.granularity_bytes;
    if granularity_bytes == 0 || !BLOCK_BYTES.is_multiple_of(granularity_bytes) {
        let reason = LeftOutReason::Granularity { granularity_bytes, block_bytes: BLOCK_BYTES };
        return Err((name(), reason));
    }
    Ok(physical)
}

/// A CUDA device that could be opened.
pub struct CudaProvider {
    api: Api,
    physical: Physical,
    summary: DeviceSummary,
    /// A context of the program's own, where it lent one.
    lent: Option<u64>,
    options: Options,
    last: Mutex<Weak<CudaDevice>>,
}

impl CudaProvider {
    pub(crate) fn new(api: Api, physical: Physical, lent: Option<u64>, options: Options) -> Self {
        let mut summary = physical.summary.clone();
        if let Some(limit) = options.memory_limit_bytes {
            summary.memory_bytes = summary.memory_bytes.min(limit);
        }
        Self { api, physical, summary, lent, options, last: Mutex::default() }
    }

    /// The device that was opened last, while it is open.
    pub fn device(&self) -> Option<Arc<CudaDevice>> {
        self.last.lock().upgrade()
    }
}

impl Provider for CudaProvider {
    fn summary(&self) -> &DeviceSummary {
        &self.summary
    }

    fn open(&self, opening: OpenContext) -> Result<Arc<dyn Device>, DeviceError> {
        let device = self.physical.device;
        let context = match self.lent {
            Some(raw) => Context::around(self.api, raw, device, crate::context::Owner::Program),
            None => Context::primary(self.api, device)?,
        };
        let context = Arc::new(context);
        let facts = probe::facts(&context, &self.physical, &self.options)?;
        let batches = probe::batches(&context, &self.physical, &self.options, &facts)?;
        let found = (facts, batches);
        let opened = CudaDevice::open(&context, &self.physical, found, &self.options, &opening)?;
        let device = Arc::new(opened);
        *self.last.lock() = Arc::downgrade(&device);
        Ok(device)
    }
}

impl fmt::Debug for CudaProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaProvider").field("summary", &self.summary).finish_non_exhaustive()
    }
}
