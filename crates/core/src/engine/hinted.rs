//! What comes of hints: whether one changes anything here, who leaves a full device first, and what is counted.

use super::{leavers::Holds, plan::spans};
use crate::{
    directory::PageSpan,
    error::Error,
    hints::{Hint, HintEffect, Hints, NoEffect, Order},
    node::NodeId,
    runtime::Inner,
    units::PageMask,
    vec::BufferState,
};

/// Who leaves a full device before whom, as far as the caller has said something. Of several pages that leave together, the last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) enum Standing {
    /// At home elsewhere, used once and in order, or read-mostly and a copy of what others have.
    First,
    /// Nothing was said.
    #[default]
    Usual,
    /// At home on the device.
    Last,
}

impl Standing {
    pub(super) const IN_ORDER: [Self; 3] = [Self::First, Self::Usual, Self::Last];

    fn of(hints: Hints, node: NodeId, holds: Holds) -> Self {
        match hints.preferred {
            Some(home) if home == node => Self::Last,
            Some(_) => Self::First,
            None if hints.order == Order::Sequential => Self::First,
            None if hints.read_mostly && holds < Holds::TheOnlyCopy => Self::First,
            None => Self::Usual,
        }
    }
}

impl BufferState {
    /// How these pages stand on a node.
    pub(super) fn standing(&self, span: PageSpan, node: NodeId, holds: Holds) -> Standing {
        if self.hints.is_empty() {
            return Standing::Usual;
        }
        let runs = self.hints.runs(span);
        let standings = runs.map(|(_, hints)| Standing::of(hints, node, holds));
        standings.max().unwrap_or_default()
    }
}

impl Inner {
    /// Whether a hint changes anything here. Opens the device that it speaks of.
    pub(crate) fn effect_of(&self, hint: Hint) -> Result<HintEffect, Error> {
        let device = hint.node().and_then(NodeId::device);
        let open = device.map(|device| self.open(device)).transpose()?;
        let reaches = open.map(|open| (open.node, &open.device.facts().capabilities.host_window));
        let why = match (hint, reaches) {
            (Hint::AccessedBy(_), None) => NoEffect::HostReachesNoDevice,
            (Hint::AccessedBy(_) | Hint::PreferredLocation(_), Some((node, _)))
                if node.is_host() =>
            {
                NoEffect::NothingMoves
            }
            (Hint::AccessedBy(_), Some((_, window))) if !window.is_proved() => NoEffect::NoWindow,
            (Hint::Random, _) if self.user_view().is_none() => NoEffect::NoFaults,
            _ => return Ok(HintEffect::Acts),
        };
        Ok(HintEffect::KeptOnly(why))
    }

    /// Read-mostly pages of which a write is about to leave one copy of several are counted.
    pub(super) fn count_collapsed(&self, state: &BufferState, span: PageSpan) {
        if state.hints.is_empty() {
            return;
        }
        let mut pages = 0;
        for (part, _) in state.hints.runs(span).filter(|(_, hints)| hints.read_mostly) {
            state.directory.look(part, |blocks, mask, run| {
                let promised = run.log.promised();
                let (mut once, mut twice) = (PageMask::EMPTY, PageMask::EMPTY);
                for (_, held) in promised.holders() {
                    (once, twice) = (once.or(*held), twice.or(once.and(*held)));
                }
                let all = state.directory.pages();
                pages += spans(blocks, twice.and(mask), all).map(PageSpan::count).sum::<u64>();
            });
        }
        if pages > 0 {
            self.counters.hints.collapsed(pages);
        }
    }

    /// Pages come to the host, which the caller wanted to have reached where they are.
    pub(super) fn count_brought(&self, state: &BufferState, page: u64) {
        let hints = state.hints.at(page);
        let at_home_elsewhere = hints.preferred.is_some_and(|node| !node.is_host());
        let duplicates = hints.read_mostly;
        if !duplicates && (at_home_elsewhere || hints.accessed_by.contains(NodeId::HOST)) {
            self.counters.hints.ignored();
        }
    }
}
