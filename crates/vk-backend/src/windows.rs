//! Windows: host memory that kernels reach at a device address.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use ash::vk;
use hmmap_core::{
    backend::{DeviceError, Window, WindowId},
    host::{HostSpan, ServiceView},
};
use parking_lot::Mutex;

use crate::{
    gpu::Gpu,
    import::{Import, Purpose},
};

/// The open windows of one device.
#[derive(Debug)]
pub(crate) struct Windows {
    gpu: Arc<Gpu>,
    host: Arc<ServiceView>,
    pinned: Arc<AtomicU64>,
    table: Mutex<HashMap<WindowId, Import>>,
    next: AtomicU64,
    open: AtomicUsize,
}

impl Windows {
    pub(crate) fn new(gpu: &Arc<Gpu>, host: &Arc<ServiceView>, pinned: &Arc<AtomicU64>) -> Self {
        let (gpu, host, pinned) = (Arc::clone(gpu), Arc::clone(host), Arc::clone(pinned));
        let (next, open) = (AtomicU64::new(1), AtomicUsize::new(0));
        Self { gpu, host, pinned, table: Mutex::default(), next, open }
    }

    /// Opens a window on exactly this span.
    pub(crate) fn open(&self, span: HostSpan) -> Result<Window, DeviceError> {
        let import = Import::new(&self.gpu, &self.host, span, Purpose::Window, &self.pinned)?;
        let address = import.address();
        // Relaxed: only that numbers differ matters.
        let window = WindowId(self.next.fetch_add(1, Ordering::Relaxed));
        self.table.lock().insert(window, import);
        // Release pairs with the Acquire in `any`. A launch that uses the window comes after this call, so it sees the count.
        self.open.fetch_add(1, Ordering::Release);
        Ok(Window { window, address })
    }

    /// Closes a window whose work has ended.
    pub(crate) fn close(&self, window: WindowId) -> Result<(), DeviceError> {
        let import = self.table.lock().remove(&window);
        let import = import.ok_or(DeviceError::Misuse { what: "a window that is not open" })?;
        self.open.fetch_sub(1, Ordering::Release);
        drop(import);
        Ok(())
    }

    /// The buffer that an address lies in, and the offset in it.
    pub(crate) fn buffer_at(&self, address: u64) -> Option<(vk::Buffer, u64)> {
        self.table.lock().values().find_map(|import| {
            let within = address.checked_sub(import.address())?;
            (within < import.span().len_bytes).then(|| (import.buffer(), within))
        })
    }

    /// True when any window is open, so that kernels may write host memory.
    pub(crate) fn any(&self) -> bool {
        self.open.load(Ordering::Acquire) > 0
    }
}
