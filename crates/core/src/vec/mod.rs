//! The vector that the CPU and the devices share.

mod arguments;
mod atomic;
mod buffer;
mod dma_buf;
mod gate;
mod growth;
mod hints;
mod imported;
mod lent;
mod lent_on;
mod name;
mod peers;
mod shareable;
mod shared_vec;
mod spoils;
mod volatile;

pub use arguments::{Read, Update, Write};
pub use atomic::AtomicWord;
pub use buffer::Buffer;
pub(crate) use buffer::{Binding, BufferState, Notice};
pub use dma_buf::{DeviceDmaBuf, HostDmaBuf};
use gate::Gate;
pub(crate) use gate::Hinge;
pub use hints::HintRun;
pub use imported::{Imported, Recall};
pub use lent::{Lent, Refused};
pub use lent_on::LentOn;
pub use peers::Mappable;
pub use shareable::Punch;
pub use shared_vec::SharedVec;
