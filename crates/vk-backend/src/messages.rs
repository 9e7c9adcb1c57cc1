//! What the validation layer says.

use std::fmt;

use parking_lot::Mutex;

/// The most messages that are kept; the rest are counted.
const KEPT: usize = 64;

/// Messages of the validation layer, of every device of one discovery.
#[derive(Default)]
pub struct Messages {
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    first: Vec<String>,
    count: usize,
}

impl Messages {
    /// How many there were.
    pub fn count(&self) -> usize {
        self.said.lock().count
    }

    /// The first 64, in order.
    pub fn first(&self) -> Vec<String> {
        self.said.lock().first.clone()
    }

    pub(crate) fn add(&self, text: String) {
        tracing::warn!(text, "validation");
        let mut said = self.said.lock();
        said.count += 1;
        if said.first.len() < KEPT {
            said.first.push(text);
        }
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").field("count", &self.count()).finish_non_exhaustive()
    }
}
