//! Caches over device memory, as lazy as the memory model allows.
//!
//! ```text
//! shader cache of queue 0   copy cache of queue 0   copy cache of queue 1      one each, private
//!         |  passed on by a barrier's or a signal's first scope
//!         |  forgotten by a barrier's or a wait's second scope
//!      device memory            (host memory: what the device has not yet released to the CPU)
//!         |  released by a barrier towards the CPU
//!      host memory
//! ```
//! What is written stays in the writer's cache until something makes it available; what was read once is read again from there, stale or not, until
//! something makes the new bytes visible. Nothing is ever written back or dropped by chance, so an omission always shows.

use std::collections::HashMap;

use super::line::{LINE_BYTES, Line};
use crate::uses::Uses;

/// A cache's owner: a queue's shaders or its copies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Agent {
    /// The queue, by the number of its timeline.
    pub(super) queue: u8,
    /// True for kernels, false for copies and fills.
    pub(super) runs_kernels: bool,
}

impl Agent {
    /// What of `uses` this agent does.
    const fn of(self, uses: Uses) -> Uses {
        uses.and(if self.runs_kernels { Uses::SHADER } else { Uses::TRANSFER })
    }
}

/// A line by buffer and number.
type Key = (u32, u64);

/// The bytes below the caches.
pub(super) trait Memory {
    /// A line of a buffer.
    fn fetch(&mut self, key: Key) -> &[u8; LINE_BYTES];
    /// Takes in what was written to a line, which is clean from then on.
    fn take(&mut self, key: Key, line: &mut Line);
}

/// Every cache of a device.
#[derive(Debug, Default)]
pub(super) struct Caches {
    lines: HashMap<Agent, HashMap<Key, Line>>,
}

impl Caches {
    /// Reads as an agent sees it.
    pub(super) fn read(
        &mut self,
        agent: Agent,
        memory: &mut impl Memory,
        buffer: u32,
        offset_bytes: u64,
        to: &mut [u8],
    ) {
        for (number, start, part) in pieces(offset_bytes, to.len()) {
            let key = (buffer, number);
            let line = self.lines.entry(agent).or_default().entry(key).or_insert_with(Line::empty);
            if !line.known.has_all(start, start + part.len()) {
                line.fill(memory.fetch(key));
            }
            let bytes = &line.bytes[start..start + part.len()];
            to[part].copy_from_slice(bytes);
        }
    }

    /// Writes into an agent's cache.
    pub(super) fn write(&mut self, agent: Agent, buffer: u32, offset_bytes: u64, from: &[u8]) {
        for (number, start, part) in pieces(offset_bytes, from.len()) {
            let lines = self.lines.entry(agent).or_default();
            let line = lines.entry((buffer, number)).or_insert_with(Line::empty);
            line.write(start, &from[part]);
        }
    }

    /// A first scope: what these uses wrote on the queue goes to memory.
    pub(super) fn make_available(&mut self, queue: u8, uses: Uses, memory: &mut impl Memory) {
        for (agent, lines) in &mut self.lines {
            if agent.queue == queue && !agent.of(uses).writes().is_empty() {
                let written = lines.iter_mut().filter(|(_, line)| !line.dirty.is_empty());
                written.for_each(|(key, line)| memory.take(*key, line));
            }
        }
    }

    /// A second scope: these uses on the queue see what memory holds.
    pub(super) fn make_visible(&mut self, queue: u8, uses: Uses) {
        for (agent, lines) in &mut self.lines {
            if agent.queue == queue && !agent.of(uses).is_empty() {
                lines.retain(|_, line| line.forget_clean());
            }
        }
    }

    /// A submission: what the CPU wrote to these buffers before is seen by whatever the queue does.
    pub(super) fn see_host_writes(&mut self, queue: u8, buffers: std::ops::Range<u32>) {
        for lines in self.lines.iter_mut().filter(|(agent, _)| agent.queue == queue).map(|(_, l)| l)
        {
            lines.retain(|(of, _), line| !buffers.contains(of) || line.forget_clean());
        }
    }

    /// Forgets everything of a buffer, written or not.
    pub(super) fn drop_buffer(&mut self, buffer: u32) {
        for lines in self.lines.values_mut() {
            lines.retain(|(of, _), _| *of != buffer);
        }
    }
}

/// A range cut at lines: the line, where in it the piece begins, and which part of the whole it is.
pub(super) fn pieces(
    offset_bytes: u64,
    len: usize,
) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let line = LINE_BYTES as u64;
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset_bytes + done as u64;
        let start = (at % line) as usize;
        let part = done..(done + LINE_BYTES - start).min(len);
        done = part.end;
        Some((at / line, start, part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Plain(HashMap<Key, Box<[u8; LINE_BYTES]>>);

    impl Memory for Plain {
        fn fetch(&mut self, key: Key) -> &[u8; LINE_BYTES] {
            self.0.entry(key).or_insert_with(|| Box::new([0; LINE_BYTES]))
        }

        fn take(&mut self, key: Key, line: &mut Line) {
            self.fetch(key);
            if let Some(below) = self.0.get_mut(&key) {
                line.pass_on(below.as_mut_slice());
            }
        }
    }

    const SHADER: Agent = Agent { queue: 0, runs_kernels: true };
    const COPIES: Agent = Agent { queue: 0, runs_kernels: false };

    fn seen(caches: &mut Caches, memory: &mut Plain, agent: Agent) -> u8 {
        let mut byte = [0];
        caches.read(agent, memory, 1, 5, &mut byte);
        byte[0]
    }

    #[test]
    fn a_write_needs_both_scopes_to_be_seen() {
        let (mut caches, mut memory) = (Caches::default(), Plain::default());
        assert_eq!(seen(&mut caches, &mut memory, COPIES), 0, "and it is cached now");
        caches.write(SHADER, 1, 5, &[7]);
        assert_eq!(seen(&mut caches, &mut memory, SHADER), 7, "the writer sees its own");
        caches.make_visible(0, Uses::TRANSFER_READ);
        assert_eq!(seen(&mut caches, &mut memory, COPIES), 0, "visible but not available");
        caches.make_available(0, Uses::SHADER_WRITE, &mut memory);
        assert_eq!(seen(&mut caches, &mut memory, COPIES), 0, "available but not visible");
        caches.make_visible(0, Uses::TRANSFER_READ);
        assert_eq!(seen(&mut caches, &mut memory, COPIES), 7);
    }

    #[test]
    fn scopes_reach_their_own_queue_and_stage_alone() {
        let (mut caches, mut memory) = (Caches::default(), Plain::default());
        caches.write(SHADER, 1, 5, &[7]);
        caches.make_available(1, Uses::SHADER_WRITE, &mut memory);
        caches.make_available(0, Uses::TRANSFER_WRITE, &mut memory);
        caches.make_available(0, Uses::SHADER_READ, &mut memory);
        assert_eq!(seen(&mut caches, &mut memory, COPIES), 0);
    }

    #[test]
    fn ranges_are_cut_at_lines() {
        let cut: Vec<_> = pieces(4090, 4102).collect();
        assert_eq!(cut, [(0, 4090, 0..6), (1, 0, 6..4102)]);
        assert_eq!(pieces(0, 0).count(), 0);
    }
}
