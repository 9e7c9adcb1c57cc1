//! The invariants that every state is held to.

use hmmap_core::{
    coherence::{self, Effect},
    node::NodeId,
    units::PageMask,
};

use crate::{
    ghost::Fate,
    world::{DEVICES, Health, PAGES, World, own_node},
};

/// Which invariant a state breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    /// One writer or many readers: two accesses to one copy, one of which overwrites it, can run at once.
    Unordered { earlier: Effect, later: Effect },
    /// A borrowed slice changes under its guard.
    GuardOverwritten,
    /// No stale read: someone found other bytes than the last write before it made.
    StaleRead { node: NodeId, page: usize },
    /// Valid implies current: a copy counts that does not hold what the last completed write made.
    ValidIsStale { node: NodeId, page: usize },
    /// No lost write: a page counts as never written, and was.
    WrittenIsEmpty { page: usize },
    /// A page is given up as lost while a good copy of it is there.
    LostForNothing { node: NodeId, page: usize },
    /// A copy was given up that was the last one nothing in flight could spoil.
    LastCopyGivenUp { node: NodeId, page: usize },
    /// Memory was freed while work in flight touches it.
    FreedInUse { node: NodeId },
    /// Work failed and nobody was told.
    FailureNotReported,
    /// Work is in flight and none of it can ever end.
    Stuck,
    /// Everything has ended and was looked at, and the log still counts something as in flight.
    NeverSettles,
    /// The directory's own checker.
    Checker(coherence::Violation),
}

impl Broken {
    /// The invariant's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unordered { .. } => "unordered",
            Self::GuardOverwritten => "guard overwritten",
            Self::StaleRead { .. } => "stale read",
            Self::ValidIsStale { .. } => "valid is stale",
            Self::WrittenIsEmpty { .. } => "written is empty",
            Self::LostForNothing { .. } => "lost for nothing",
            Self::LastCopyGivenUp { .. } => "last copy given up",
            Self::FreedInUse { .. } => "freed in use",
            Self::FailureNotReported => "failure not reported",
            Self::Stuck => "stuck",
            Self::NeverSettles => "never settles",
            Self::Checker(coherence::Violation::ValidUnbacked { .. }) => "valid unbacked",
            Self::Checker(coherence::Violation::LostAndValid { .. }) => "lost and valid",
            Self::Checker(coherence::Violation::WriterNotAlone { .. }) => "writer not alone",
            Self::Checker(coherence::Violation::MappedStale { .. }) => "mapped stale",
            Self::Checker(coherence::Violation::MappedWritable { .. }) => "mapped writable",
        }
    }
}

pub(crate) fn judge(world: &World) -> Result<(), Broken> {
    world.check().map_err(Broken::Checker)?;
    let can_end = |at: usize| {
        let work = &world.in_flight[at];
        let first = !world.in_flight[..at].iter().any(|w| w.point.timeline == work.point.timeline);
        first && work.waits.is_empty()
    };
    if !world.in_flight.is_empty() && !(0..world.in_flight.len()).any(can_end) {
        return Err(Broken::Stuck);
    }
    let waits_for_nothing = world.log.promises().iter().all(|promise| !promise.is_pending());
    if waits_for_nothing && !world.log.is_settled() {
        return Err(Broken::NeverSettles);
    }
    (0..PAGES).try_for_each(|page| judge_at_rest(world, page))
}

/// A page that nothing is in flight on is what the directory says.
fn judge_at_rest(world: &World, page: usize) -> Result<(), Broken> {
    let bit = PageMask::from_bits(1 << page);
    let in_log = world.log.promises().iter().any(|promise| promise.pages.overlaps(bit));
    let items = world.in_flight.iter().flat_map(|work| &work.items);
    if in_log || items.into_iter().any(|item| item.pages.overlaps(bit)) {
        return Ok(());
    }
    let history = &world.histories[page];
    let (newest, fate) = history.expected(history.last());
    debug_assert_eq!(fate, Fate::Done, "nothing is in flight on the page");
    let state = world.log.settled();
    let is_lost = state.lost().overlaps(bit);
    let nodes = std::iter::once((NodeId::HOST, Health::Alive))
        .chain((0..DEVICES).map(|device| (own_node(device), world.health[device])));
    for (node, _) in nodes.filter(|(_, health)| *health != Health::Lost) {
        let current = world.copy(node, page) == newest;
        let valid = state.valid_on(node).overlaps(bit);
        if valid && !current {
            return Err(Broken::ValidIsStale { node, page });
        }
        if is_lost && current && !history.is_discarded() {
            return Err(Broken::LostForNothing { node, page });
        }
    }
    if state.empty().overlaps(bit) && newest != history.zeros() {
        return Err(Broken::WrittenIsEmpty { page });
    }
    Ok(())
}
