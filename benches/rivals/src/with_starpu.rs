//! The moves through StarPU. It has no Vulkan: it runs on an OpenCL device, which is another driver, whatever the processor.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    ptr, thread,
    time::Duration,
};

use anyhow::ensure;

use crate::library::{Array, Device, Element, Library, See, Turn};

unsafe extern "C" {
    fn rival_open(device: *mut c_char, driver: *mut c_char, text_bytes: usize) -> c_int;
    fn rival_version(major: *mut c_int, minor: *mut c_int, release: *mut c_int);
    fn rival_pause();
    fn rival_resume();
    fn rival_array(len: u32, handle: *mut *mut c_void, host: *mut *mut Element) -> c_int;
    fn rival_acquire(handle: *mut c_void, overwrite: c_int) -> c_int;
    fn rival_release(handle: *mut c_void);
    fn rival_fetch(handle: *mut c_void) -> c_int;
    fn rival_is_fetched(handle: *mut c_void) -> c_int;
    fn rival_fill(handle: *mut c_void, value: Element) -> c_int;
    fn rival_keep(handle: *mut c_void) -> c_int;
    fn rival_drop(handle: *mut c_void, host: *mut Element);
}

/// StarPU with one OpenCL worker.
pub(crate) struct WithStarpu {
    version: String,
    named: Device,
}

impl WithStarpu {
    /// Starts it. It lives as long as the process.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let mut texts = [[0u8; 256]; 2];
        let [device, driver] = &mut texts;
        // SAFETY: both texts have room for the 256 bytes that are offered, and the other side ends them with a zero.
        let failed =
            unsafe { rival_open(device.as_mut_ptr().cast(), driver.as_mut_ptr().cast(), 256) };
        ensure!(failed == 0, "StarPU did not start on an OpenCL device (step {failed})");
        let (mut major, mut minor, mut release) = (0, 0, 0);
        // SAFETY: three numbers to write to.
        unsafe { rival_version(&mut major, &mut minor, &mut release) };
        let text = |bytes: &[u8]| {
            CStr::from_bytes_until_nul(bytes).unwrap_or_default().to_string_lossy().into_owned()
        };
        let named = Device { name: text(&texts[0]), driver: text(&texts[1]) };
        Ok(Self { version: format!("{major}.{minor}.{release}"), named })
    }
}

impl Library for WithStarpu {
    fn name(&self) -> &'static str {
        "starpu"
    }

    fn version(&self) -> Option<String> {
        Some(self.version.clone())
    }

    fn device(&self) -> &Device {
        &self.named
    }

    fn array(&self, len: usize) -> anyhow::Result<Box<dyn Array>> {
        let (mut handle, mut host) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: StarPU is running; two pointers to write to.
        done(unsafe { rival_array(u32::try_from(len)?, &mut handle, &mut host) })?;
        Ok(Box::new(StarpuArray { handle, host, len, value: 0.0 }))
    }
}

struct StarpuArray {
    handle: *mut c_void,
    host: *mut Element,
    len: usize,
    value: Element,
}

impl StarpuArray {
    /// Takes the vector to read, looks, and gives it back.
    fn look(&self, see: See<'_>) -> anyhow::Result<()> {
        // SAFETY: the handle is a vector that StarPU knows.
        done(unsafe { rival_acquire(self.handle, 0) })?;
        // SAFETY: the vector's memory at home holds `len` elements, zeroed when made, and StarPU leaves it alone until the release.
        see(unsafe { std::slice::from_raw_parts(self.host, self.len) });
        // SAFETY: acquired above.
        unsafe { rival_release(self.handle) };
        Ok(())
    }
}

impl Array for StarpuArray {
    fn turn(&mut self, turn: Turn) {
        match turn {
            Turn::Begins => {
                // SAFETY: StarPU is running, and paused between turns.
                unsafe { rival_resume() };
                // The worker wakes up on its own time.
                thread::sleep(Duration::from_millis(1));
            }
            // SAFETY: no task is left: each was waited for.
            Turn::Ends => unsafe { rival_pause() },
        }
    }

    fn up(&mut self, data: &[Element]) -> anyhow::Result<()> {
        self.make_in_place(data)?;
        self.up_in_place()
    }

    fn make_in_place(&mut self, data: &[Element]) -> anyhow::Result<bool> {
        ensure!(data.len() == self.len, "{} elements for {}", data.len(), self.len);
        // SAFETY: as in `look`.
        done(unsafe { rival_acquire(self.handle, 1) })?;
        // SAFETY: as in `look`; acquired to be overwritten.
        unsafe { std::slice::from_raw_parts_mut(self.host, self.len) }.copy_from_slice(data);
        // SAFETY: acquired above.
        unsafe { rival_release(self.handle) };
        Ok(true)
    }

    fn up_in_place(&mut self) -> anyhow::Result<()> {
        // SAFETY: as in `look`.
        done(unsafe { rival_fetch(self.handle) })
    }

    fn set_value(&mut self, value: Element) -> anyhow::Result<()> {
        self.value = value;
        Ok(())
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        // SAFETY: as in `look`; the kernel stays within the vector's length.
        done(unsafe { rival_fill(self.handle, self.value) })
    }

    fn down(&mut self, see: See<'_>) -> anyhow::Result<()> {
        self.look(see)
    }

    fn on_the_device(&mut self) -> anyhow::Result<Vec<Element>> {
        // SAFETY: as in `look`.
        let there = unsafe { rival_is_fetched(self.handle) };
        ensure!(there == 1, "the vector is not on the device");
        // The host has a copy that is as good, until the device writes.
        // SAFETY: as in `look`; the kernel stays within the vector's length.
        done(unsafe { rival_keep(self.handle) })?;
        let mut found = Vec::new();
        self.look(&mut |all| found = all.to_vec())?;
        Ok(found)
    }
}

impl Drop for StarpuArray {
    fn drop(&mut self) {
        // SAFETY: made by `rival_array`, nothing is acquired, and nobody uses it after this.
        unsafe {
            rival_resume();
            rival_drop(self.handle, self.host);
            rival_pause();
        }
    }
}

/// StarPU's way to say that something went wrong.
fn done(answer: c_int) -> anyhow::Result<()> {
    ensure!(answer == 0, "StarPU answered {answer}");
    Ok(())
}
