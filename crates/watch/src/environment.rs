//! What `hmmap trace -- PROGRAM` asks of the program, by environment variables.

use std::{env, ffi::OsStr, path::PathBuf};

use hmmap_core::Runtime;

use crate::{HeatMap, Published, Watch, WatchError, WatchOptions};

/// Where a trace is to be written.
pub const TRACE_VARIABLE: &str = "HMMAP_TRACE";
/// Where the trace is to be drawn.
pub const TIMELINE_VARIABLE: &str = "HMMAP_TIMELINE";
/// Where a heat map is to be drawn.
pub const HEAT_MAP_VARIABLE: &str = "HMMAP_HEATMAP";
/// Set to anything: the runtime is published for `hmmap top`.
const PUBLISH_VARIABLE: &str = "HMMAP_PUBLISH";

/// What was asked for. When this is dropped, or [`Observed::finish`] is called, the files are written.
#[derive(Debug)]
pub struct Observed {
    watch: Option<Watch>,
    trace: Option<PathBuf>,
    timeline: Option<PathBuf>,
    heat_map: Option<PathBuf>,
    _published: Option<Published>,
}

/// Does what the environment asks for: `HMMAP_TRACE=FILE` writes a trace, `HMMAP_TIMELINE=FILE.svg` draws it, `HMMAP_HEATMAP=FILE.svg` draws where the pages were, `HMMAP_PUBLISH=1` lets
/// `hmmap top` look. Without any of them nothing is done. For a program to call once, behind the making of its runtime:
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mem = hmmap_core::Runtime::new(Vec::new(), hmmap_core::Options::default())?;
/// let observed = hmmap_watch::from_environment(&mem)?;
/// // ... the program ...
/// observed.finish()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`WatchError::Recorded`], [`WatchError::Thread`]; what [`Published::new`] answers.
pub fn from_environment(runtime: &Runtime) -> Result<Observed, WatchError> {
    let file =
        |variable| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let (trace, timeline) = (file(TRACE_VARIABLE), file(TIMELINE_VARIABLE));
    let heat_map = file(HEAT_MAP_VARIABLE);
    let is_asked = [&trace, &timeline, &heat_map].into_iter().any(Option::is_some);
    let watch = is_asked.then(|| Watch::start(runtime, WatchOptions::default())).transpose()?;
    let publish = env::var_os(PUBLISH_VARIABLE);
    let publish = publish.is_some_and(|value| !value.is_empty() && value != OsStr::new("0"));
    let published = publish.then(|| Published::new(runtime)).transpose()?;
    Ok(Observed { watch, trace, timeline, heat_map, _published: published })
}

impl Observed {
    /// Writes what was asked for.
    ///
    /// # Errors
    /// [`WatchError::NotWritten`], [`WatchError::NotDrawn`].
    pub fn finish(mut self) -> Result<(), WatchError> {
        self.write()
    }

    fn write(&mut self) -> Result<(), WatchError> {
        let Some(watch) = self.watch.take() else { return Ok(()) };
        let log = watch.finish();
        if let Some(path) = &self.trace {
            log.save_trace(path)?;
        }
        if let Some(path) = &self.timeline {
            log.draw_timeline(path)?;
        }
        match &self.heat_map {
            Some(path) => log.draw_heat_map(path, HeatMap::default()),
            None => Ok(()),
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if let Err(error) = self.write() {
            tracing::warn!(%error, "what was asked for by the environment was not written");
        }
    }
}
