//! Where readings come from.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use hmmap::Hmmap;
use hmmap_watch::{Program, Reading, programs, read_from};

use crate::{args::TopArgs, demo::Demo};

/// How long another process may take to answer. It takes each vector's lock for a moment, and the system may be busy.
const DEADLINE: Duration = Duration::from_secs(2);

pub(super) enum Source {
    /// A program of this process, which runs until this is dropped.
    Demo {
        mem: Hmmap,
        begun: Instant,
        enough: Arc<AtomicBool>,
        thread: Option<JoinHandle<anyhow::Result<()>>>,
    },
    /// Another process.
    Other(Program),
}

impl Source {
    pub(super) fn find(args: &TopArgs) -> anyhow::Result<Self> {
        if args.demo {
            return Self::demo(args.device.as_deref());
        }
        let found = programs()?;
        let asked = |program: &&Program| args.pid.is_none_or(|pid| program.process == pid);
        match (found.iter().find(asked), args.pid) {
            (Some(program), _) => Ok(Self::Other(program.clone())),
            (None, Some(pid)) if found.is_empty() => {
                bail!(
                    "process {pid} lets nobody look, nor does any other; start it with HMMAP_PUBLISH=1"
                )
            }
            (None, Some(pid)) => {
                let there: Vec<_> = found.iter().map(|one| one.process.to_string()).collect();
                bail!("process {pid} lets nobody look; these do: {}", there.join(", "))
            }
            (None, None) => bail!(
                "no program of yours lets others look: start one with HMMAP_PUBLISH=1 that calls `hmmap::watch::from_environment`, or see \
                 `hmmap top --demo`"
            ),
        }
    }

    fn demo(device: Option<&str>) -> anyhow::Result<Self> {
        let mut demo = Demo::new(device)?;
        // So that there is something to see in the first reading.
        demo.round()?;
        let mem = demo.runtime().clone();
        let enough = Arc::new(AtomicBool::new(false));
        let told = enough.clone();
        let rounds = move || {
            while !told.load(Relaxed) {
                demo.round()?;
            }
            Ok(())
        };
        let thread = thread::Builder::new().name("demo".to_owned()).spawn(rounds)?;
        Ok(Self::Demo { mem, begun: Instant::now(), enough, thread: Some(thread) })
    }

    pub(super) fn read(&mut self) -> anyhow::Result<Reading> {
        match self {
            Self::Other(program) => Ok(read_from(program, DEADLINE)?),
            Self::Demo { mem, begun, thread, .. } => {
                if thread.as_ref().is_some_and(JoinHandle::is_finished)
                    && let Some(thread) = thread.take()
                    && let Ok(ended) = thread.join()
                {
                    ended.context("the demonstration has failed")?;
                }
                Ok(Reading::take(mem, begun.elapsed().as_secs_f64()))
            }
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Self::Demo { enough, thread, .. } = self {
            enough.store(true, Relaxed);
            if let Some(thread) = thread.take() {
                // What it had to say was of use while somebody looked.
                let _ = thread.join();
            }
        }
    }
}
