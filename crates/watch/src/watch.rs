//! A thread that reads a recording.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use hmmap_core::{
    NodeId, Runtime,
    events::{Event, Recording},
};

use crate::{Log, WatchError};

/// How a runtime is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatchOptions {
    /// How often the events are read, and so how well the end of work on devices is known.
    pub every: Duration,
    /// Events that are kept at most; those that come later are counted as dropped. An event takes about 80 bytes.
    pub max_events: usize,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self { every: Duration::from_millis(1), max_events: 4_000_000 }
    }
}

/// A runtime that is being watched. Does not keep the runtime alive.
#[derive(Debug)]
pub struct Watch {
    /// Dropped to say that it is enough.
    enough: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<Log>>,
}

impl Watch {
    /// Begins to keep what happens.
    ///
    /// # Errors
    /// [`WatchError::Recorded`], [`WatchError::Thread`].
    pub fn start(runtime: &Runtime, options: WatchOptions) -> Result<Self, WatchError> {
        let recording = runtime.record().ok_or(WatchError::Recorded)?;
        let host = (NodeId::HOST, "host".to_owned());
        let devices = runtime.devices();
        let devices = devices.map(|(id, summary)| (NodeId::of_device(id), summary.name.clone()));
        let nodes = std::iter::once(host).chain(devices).collect();
        let (enough, told) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("hmmap watch".to_owned())
            .spawn(move || keep(recording, nodes, options, &told))
            .map_err(WatchError::Thread)?;
        Ok(Self { enough: Some(enough), thread: Some(thread) })
    }

    /// What happened until now. Nothing more is kept.
    pub fn finish(mut self) -> Log {
        drop(self.enough.take());
        let log = self.thread.take().map(JoinHandle::join);
        // The thread runs no code but this module's.
        log.and_then(Result::ok).unwrap_or_default()
    }
}

fn keep(
    mut recording: Recording,
    nodes: Vec<(NodeId, String)>,
    options: WatchOptions,
    told: &mpsc::Receiver<()>,
) -> Log {
    let mut events: Vec<Event> = Vec::new();
    let mut overflow = 0;
    loop {
        let is_last = told.recv_timeout(options.every) == Err(RecvTimeoutError::Disconnected);
        recording.read(&mut events);
        overflow += events.len().saturating_sub(options.max_events) as u64;
        events.truncate(options.max_events);
        if is_last {
            break;
        }
    }
    let facts = recording.facts();
    let dropped_events = facts.dropped_events + overflow;
    Log { events, nodes, names: Arc::new(facts), dropped_events }
}
