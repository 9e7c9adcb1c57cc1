//! The vector that the CPU and the devices share.

mod arguments;
mod buffer;
mod gate;
mod growth;
mod imported;
mod lent;
mod peers;
mod shareable;
mod shared_vec;
mod volatile;

pub use arguments::{Read, Update, Write};
pub use buffer::Buffer;
pub(crate) use buffer::{Binding, BufferState, Notice};
use gate::Gate;
pub(crate) use gate::Hinge;
pub use imported::{Imported, Recall};
pub use lent::{Lent, Refused};
pub use shareable::Punch;
pub use shared_vec::SharedVec;
