//! The kernel wants a device back: it is unplugged, or its driver is to change.
//!
//! **Problem.** The kernel takes nothing from a program by force: it asks, by an eventfd (VFIO's *request* interrupt), and waits until device and windows are closed. Until then
//! the device can do all that it could. A program that does not hear of it holds up whoever unplugs; one that just closes leaves mappings in the IOMMU behind.
//!
//! ```text
//! asked   the domain is over: everything is unmapped from its devices, its peers have ended (nobody waits for them), and map nothing any more
//! told    the application: bring home what is only in the device's windows, stop its driver
//! left    windows that are nodes ([`crate::BarMemory`]) leave the device: what is only there is lost, and reported as lost
//! closed  by the application, which drops device and register windows; then the kernel goes on
//! ```

use std::{
    fmt,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{Builder, JoinHandle},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::{Errno, read, write},
};

use crate::{
    VfioDomain, call,
    error::{VfioError, failed},
};

/// A watch for a device that the kernel wants back: [`crate::VfioDevice::watch_unplug`]. Dropping it ends the watch, and waits for what the application is being told.
pub struct UnplugWatch {
    stop: Arc<OwnedFd>,
    is_asked: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UnplugWatch {
    pub(crate) fn start(
        device: &impl AsFd,
        name: &str,
        domain: &Arc<VfioDomain>,
        told: impl FnOnce() + Send + 'static,
    ) -> Result<Self, VfioError> {
        let bell = || eventfd(0, EventfdFlags::CLOEXEC).map_err(failed("eventfd"));
        let (asked, stop) = (bell()?, Arc::new(bell()?));
        call::watch_requests(device.as_fd(), asked.as_raw_fd())
            .map_err(failed("VFIO_DEVICE_SET_IRQS"))?;
        let is_asked = Arc::new(AtomicBool::new(false));
        let (stops, flag) = (stop.clone(), is_asked.clone());
        let (domain, name) = (domain.clone(), name.to_owned());
        // It has no descriptor of the device, which the kernel would wait for.
        let watch = move || {
            if !waits_for(&asked, &stops) {
                return;
            }
            tracing::warn!(device = name, "the kernel wants the device back");
            domain.end();
            flag.store(true, SeqCst);
            let told = catch_unwind(AssertUnwindSafe(told));
            domain.leave_windows(&name);
            if told.is_err() {
                tracing::error!(device = name, "who was told of an unplugged device panicked");
            }
        };
        let thread = Builder::new().name("hmmap unplug".to_owned()).spawn(watch);
        let no_thread = |error: std::io::Error| {
            let source = Errno::from_io_error(&error).unwrap_or(Errno::AGAIN);
            VfioError::Call { what: "pthread_create", source }
        };
        Ok(Self { stop, is_asked, thread: Some(thread.map_err(no_thread)?) })
    }

    /// The kernel has asked, and the domain is over.
    pub fn is_asked(&self) -> bool {
        self.is_asked.load(SeqCst)
    }
}

/// Waits until the kernel asks. False when nobody watches any more.
fn waits_for(asked: &OwnedFd, stop: &OwnedFd) -> bool {
    loop {
        let mut fds = [PollFd::new(asked, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return false,
        }
        if fds[1].revents().contains(PollFlags::IN) {
            return false;
        }
        if fds[0].revents().contains(PollFlags::IN) {
            let _ = read(asked, &mut [0; 8]);
            return true;
        }
    }
}

impl Drop for UnplugWatch {
    fn drop(&mut self) {
        let _ = write(&*self.stop, &1_u64.to_ne_bytes());
        let is_own = |thread: &JoinHandle<()>| thread.thread().id() == std::thread::current().id();
        // Dropped by what it tells, it cannot wait for itself.
        if let Some(thread) = self.thread.take().filter(|thread| !is_own(thread)) {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for UnplugWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnplugWatch").field("is_asked", &self.is_asked()).finish_non_exhaustive()
    }
}
