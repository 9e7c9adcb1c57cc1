//! Host memory: one address window per runtime, backed by one memfd.
//!
//! [`Arena`] reserves the window and deals out page spans of it; [`ServiceView`] is the mapping that the library copies
//! through, always mapped and private to the library. The **user view**, the second mapping of the same memfd whose
//! page-table entries come and go, joins them when page faults are served; nothing here depends on its absence.
//!
//! ```text
//! memfd   |..small spans (pages)..|..large spans (blocks)..|      sparse: a page costs memory once it is touched
//!             ^ ServiceView: base + offset
//! ```
//!
//! An [`HostSpan`] names bytes by their offset in the window, so that a device, a copy and a window speak of the same
//! byte without sharing pointers.

mod arena;
mod kept;
mod view;

pub use arena::{Arena, HostError, Taken};
pub(crate) use kept::Evicted;
pub use view::{HostSpan, ServiceView};
