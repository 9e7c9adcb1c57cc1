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

    /// Takes a message in, unless it is about the layer's own settings.
    pub(crate) fn hear(&self, id: &str, text: &str) {
        if id.to_ascii_lowercase().contains("setting") {
            return;
        }
        tracing::warn!(id, text, "validation");
        let mut said = self.said.lock();
        said.count += 1;
        if said.first.len() < KEPT {
            said.first.push(format!("{id}: {text}"));
        }
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").field("count", &self.count()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_layer_says_of_itself_is_no_message() {
        let messages = Messages::default();
        messages.hear("WARNING-Setting-Limit-Adjusted", "adjusting settings");
        assert_eq!(messages.count(), 0);
        for number in 0..100 {
            messages.hear("VUID-vkQueueSubmit-x", &number.to_string());
        }
        assert_eq!((messages.count(), messages.first().len()), (100, KEPT));
        assert_eq!(messages.first()[1], "VUID-vkQueueSubmit-x: 1");
    }
}
