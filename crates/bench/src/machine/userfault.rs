//! What userfaultfd offers to this process: by trying, since rights, kernel options and security modules all have a say.
#![allow(unsafe_code, reason = "opens a userfaultfd, to see whether that is allowed")]

use std::{fmt, fs::OpenOptions};

use rustix::mm::UserfaultfdFlags;
use serde::Serialize;

/// What userfaultfd offers to this process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "offers")]
pub enum Userfault {
    /// Faults of the program and of system calls on its behalf.
    Full {
        /// How it was had: the system call or the device file.
        by: &'static str,
    },
    /// Faults of the program alone: system calls on memory that is away fail with `EFAULT`.
    UserMode,
    /// Nothing.
    Nothing {
        /// What the system said.
        reason: String,
    },
}

impl Userfault {
    /// Tries.
    pub(crate) fn probe() -> Self {
        let open = |flags| {
            // SAFETY: the descriptor is closed at once, and no memory is registered with it.
            unsafe { rustix::mm::userfaultfd(UserfaultfdFlags::CLOEXEC | flags) }
        };
        // The kernel's name for it is USER_MODE_ONLY; rustix has no constant.
        let user_mode_only = UserfaultfdFlags::from_bits_retain(1);
        let refused = match open(UserfaultfdFlags::empty()) {
            Ok(_) => return Self::Full { by: "userfaultfd(2)" },
            Err(refused) => refused,
        };
        if OpenOptions::new().read(true).write(true).open("/dev/userfaultfd").is_ok() {
            return Self::Full { by: "/dev/userfaultfd" };
        }
        match open(user_mode_only) {
            Ok(_) => Self::UserMode,
            Err(_) => Self::Nothing { reason: refused.to_string() },
        }
    }
}

impl fmt::Display for Userfault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { by } => write!(f, "full, by {by}"),
            Self::UserMode => f.write_str(
                "user mode only (system calls on memory that is away would fail; \
                 `sysctl vm.unprivileged_userfaultfd=1` or CAP_SYS_PTRACE gives all of it)",
            ),
            Self::Nothing { reason } => write!(f, "none: {reason}"),
        }
    }
}
