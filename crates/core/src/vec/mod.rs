//! The vector that the CPU and the devices share.

mod arguments;
mod buffer;
mod growth;
mod shared_vec;

pub use arguments::{Read, Update, Write};
pub use buffer::Buffer;
pub(crate) use buffer::{Binding, BufferState, Notice};
pub use shared_vec::SharedVec;
