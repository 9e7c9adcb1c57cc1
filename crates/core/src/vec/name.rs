//! What a vector is known by to whoever watches the runtime.

use std::sync::Arc;

use bytemuck::Pod;

use super::SharedVec;
use crate::events::VectorId;

impl<T: Pod> SharedVec<T> {
    /// What the vector is called in recordings and by whoever watches the runtime.
    pub fn set_name(&self, name: impl Into<Arc<str>>) {
        let name: Arc<str> = name.into();
        self.buffer.state.lock().name = Some(name.clone());
        self.runtime.inner().recorder.name(self.id(), name);
    }

    /// The vector's number in recordings: [`crate::events`].
    pub fn id(&self) -> VectorId {
        self.buffer.state.lock().number
    }
}
