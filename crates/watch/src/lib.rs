//! What a runtime of hmmap does, for people to see.
//!
//! ```text
//! Runtime::record -> Watch, a thread that reads -> Log -> write_trace: opens in Perfetto
//!                                                      -> draw_timeline: the same as a picture
//!                                                      -> draw_heat_map: where each page was, over time
//!                                                      -> moved: sums
//! Runtime::stats, vectors, nodes -> Published, a socket -> hmmap top, in another process
//! ```
//!
//! Nothing here is on the path of a launch or of a fault. A [`Watch`] looks once a millisecond; a [`Published`] does nothing until somebody asks.
//!
//! **From outside.** [`from_environment`] does what `hmmap trace -- PROGRAM` and `hmmap top` ask for, for programs that call it once. The library
//! itself reads no environment variables.
#![deny(unsafe_code)]

mod environment;
mod error;
mod heat;
mod log;
mod publish;
mod reading;
mod replay;
mod subscribe;
mod timeline;
mod trace;
mod watch;

pub use environment::{
    HEAT_MAP_VARIABLE, Observed, TIMELINE_VARIABLE, TRACE_VARIABLE, from_environment,
};
pub use error::WatchError;
pub use heat::HeatMap;
pub use log::Log;
pub use publish::Published;
pub use reading::{MovedReading, NodeReading, Reading, VectorReading};
pub use replay::Replay;
pub use subscribe::{Program, programs, read_from};
pub use watch::{Watch, WatchOptions};
