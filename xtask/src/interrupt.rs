//! An interrupt ends what this program has started, and then this program.

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::process;

/// Starts the thread that waits for an interrupt.
///
/// # Errors
///
/// The handlers cannot be installed.
pub(crate) fn watch() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot catch signals")?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            process::kill_all();
            eprintln!("interrupted by signal {signal}; what was running has been ended");
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}
