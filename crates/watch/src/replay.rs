//! Where each page is, from events alone.

use std::collections::BTreeMap;

use hmmap_core::{
    NodeId,
    directory::{NodeSet, PageSpan},
    events::{Event, VectorId, What},
};

/// Who holds each page of each vector. As the directory has it: a copy counts from when it was queued.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replay {
    vectors: BTreeMap<VectorId, Vec<NodeSet>>,
}

impl Replay {
    /// The state after one event more. An event about a vector that nobody has told of changes nothing.
    pub fn apply(&mut self, event: &Event) {
        let Some(vector) = event.what.vector() else { return };
        match event.what {
            What::Made { pages, .. } => {
                self.vectors.insert(vector, vec![NodeSet::default(); pages as usize]);
            }
            What::Dropped { .. } => drop(self.vectors.remove(&vector)),
            What::Found { pages, nodes, .. } => self.each(vector, pages, |held| *held = nodes),
            What::Copied { pages, to: on, .. } | What::Zeroed { pages, on, .. } => {
                self.each(vector, pages, |held| held.insert(on));
            }
            What::Written { pages, on, .. } => self.each(vector, pages, |held| {
                *held = NodeSet::default();
                held.insert(on);
            }),
            What::Discarded { pages, .. } => {
                self.each(vector, pages, |held| *held = NodeSet::default());
            }
            What::Evicted { pages, from, .. } => {
                self.each(vector, pages, |held| held.remove(from));
            }
            _ => {}
        }
    }

    /// Who holds each page of a vector; `None` for one that is not there.
    pub fn pages(&self, vector: VectorId) -> Option<&[NodeSet]> {
        self.vectors.get(&vector).map(Vec::as_slice)
    }

    /// How many pages a node holds.
    pub fn held_pages(&self, node: NodeId) -> u64 {
        let all = self.vectors.values().flatten();
        all.filter(|held| held.contains(node)).count() as u64
    }

    /// The vectors that are there.
    pub fn vectors(&self) -> impl Iterator<Item = VectorId> {
        self.vectors.keys().copied()
    }

    fn each(&mut self, vector: VectorId, pages: PageSpan, to: impl Fn(&mut NodeSet)) {
        let held = self.vectors.get_mut(&vector);
        let held = held.and_then(|held| held.get_mut(pages.first as usize..pages.end as usize));
        held.into_iter().flatten().for_each(to);
    }
}
