//! Ctrl-C and SIGTERM as an error that unwinds the normal way, so that everything started is
//! stopped and every temporary file goes.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From here on a first signal makes `check` fail; a second one ends the process at once.
pub(crate) fn catch() -> Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("install the handler for ctrl-C")
}

/// Fails once the user wants to stop.
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
