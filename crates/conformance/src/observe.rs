//! Looks at pages before and after an access, finds their rows in the table, and compares what came of them.

use std::ops::Range;

use hmmap_core::{
    Cause, DeviceId, NodeId, SharedVec, Stats,
    coherence::Effect,
    directory::{InFlight, Residency},
    stats::Moved,
    units::PAGE_BYTES,
};

use crate::{
    case::{CaseFailure, ensure},
    rig::{Rig, Watch},
    table::{Flight, Model, Place, Row, Touch},
};

/// Bytes in an element of the vectors that are watched.
const ELEMENT_BYTES: u64 = size_of::<f32>() as u64;

/// Who touches a range of a vector, and how.
#[derive(Clone, Debug)]
pub(crate) struct Touched<'v> {
    pub(crate) vec: &'v SharedVec<f32>,
    pub(crate) elements: Range<usize>,
    pub(crate) deed: Deed,
}

/// What is done to a range, before it is known which pages of it are covered whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Deed {
    Read,
    Update,
    Write,
    Prefetch,
    Discard,
}

/// What was seen before an access.
#[derive(Debug)]
pub(crate) struct Before {
    agent: Option<DeviceId>,
    cause: Cause,
    parts: Vec<Part>,
    stats: Stats,
    waits: u64,
}

/// One vector's pages, each with its row. A page whose state is not in the table has none.
#[derive(Debug)]
struct Part {
    elements: Range<usize>,
    pages: Vec<(u64, Option<Row>)>,
}

impl Before {
    /// Looks at everything that `agent` (the host, or a device) is about to touch.
    pub(crate) fn look(
        rig: &Rig<'_>,
        agent: Option<DeviceId>,
        touched: &[Touched<'_>],
    ) -> Result<Self, CaseFailure> {
        let watched = if rig.watching() == Watch::Data { &[] } else { touched };
        let parts = watched.iter().map(|one| Part::look(rig, agent, one));
        let parts = parts.collect::<Result<_, CaseFailure>>()?;
        let cause = match (agent, touched) {
            (None, _) => Cause::Guard,
            (Some(_), [Touched { deed: Deed::Prefetch, .. }]) => Cause::Prefetch,
            (Some(_), _) => Cause::Launch,
        };
        Ok(Self { agent, cause, parts, stats: rig.runtime.stats(), waits: rig.waits() })
    }

    /// The rows that are about to be taken.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row> {
        self.parts.iter().flat_map(|part| part.pages.iter().filter_map(|(_, row)| *row))
    }

    /// True when the table has the access refused.
    pub(crate) fn is_refused(&self, model: Model) -> bool {
        self.rows().any(|row| row.expected(model).after.is_none())
    }

    /// Compares what came of the access with the table, and counts its rows as covered. `vecs` are those of `look`.
    pub(crate) fn compare(
        &self,
        rig: &Rig<'_>,
        vecs: &[&SharedVec<f32>],
    ) -> Result<(), CaseFailure> {
        let model = rig.model();
        let stats = rig.runtime.stats() - self.stats;
        let waits = rig.waits() - self.waits;
        if rig.watching() != Watch::All {
            // Others move pages and wait as well.
        } else if self.is_refused(model) {
            ensure!(stats.total() == Moved::default(), "a refused access moved something: {stats}");
        } else {
            self.compare_costs(rig, stats, waits)?;
        }
        for (part, vec) in self.parts.iter().zip(vecs) {
            part.compare(rig, self.agent, vec, self.is_refused(model))?;
        }
        let refused = self.is_refused(model);
        let taken = |row: &Row| !refused || row.expected(model).after.is_none();
        rig.context.cover(self.rows().filter(taken));
        Ok(())
    }

    fn compare_costs(&self, rig: &Rig<'_>, stats: Stats, waits: u64) -> Result<(), CaseFailure> {
        let pages = || self.parts.iter().flat_map(|part| &part.pages);
        if pages().any(|(_, row)| row.is_none()) {
            return Ok(());
        }
        let (mut wanted, mut may_wait) = (Moved::default(), false);
        for row in self.rows() {
            let expected = row.expected(rig.model());
            wanted.to_host_bytes += u64::from(expected.home) * PAGE_BYTES;
            wanted.to_device_bytes += u64::from(expected.into) * PAGE_BYTES;
            wanted.between_bytes += u64::from(expected.across) * PAGE_BYTES;
            wanted.zeroed_bytes += u64::from(expected.zero) * PAGE_BYTES;
            may_wait |= expected.waits;
        }
        let cause = self.cause;
        let got = stats[cause];
        wanted.regions = got.regions;
        let rows: Vec<_> = self.rows().map(|row| row.to_string()).collect();
        ensure!(got == wanted, "{rows:?}: moved {got:?}, the table says {wanted:?}");
        ensure!(stats.total() == got, "{rows:?}: more moved than {cause} accounts for: {stats}");
        ensure!(may_wait || waits == 0, "{rows:?}: waited {waits} times for nothing");
        if rig.is_late() {
            ensure!(waits > 0 || !may_wait, "{rows:?}: did not wait");
        }
        Ok(())
    }
}

impl Part {
    fn look(
        rig: &Rig<'_>,
        agent: Option<DeviceId>,
        touched: &Touched<'_>,
    ) -> Result<Self, CaseFailure> {
        let Touched { vec, elements, deed } = touched;
        let in_flight = vec.in_flight(elements.clone())?;
        let mut pages = Vec::new();
        for run in vec.residency(elements.clone())? {
            for page in run.pages.clone() {
                let whole = covers_whole(elements, page, vec.len());
                let touch = touch(agent, *deed, whole);
                let place = place(rig.model(), agent, &run);
                let row = place.and_then(|place| {
                    let flight = flight(rig.model(), agent, &run, at(&in_flight, page))?;
                    let row = Row { place, flight, touch };
                    let listed = place.flights(rig.model()).contains(&flight);
                    let work = at(&in_flight, page);
                    (listed && !is_held_up(&row, &work)).then_some(row)
                });
                pages.push((page, row));
            }
        }
        Ok(Self { elements: elements.clone(), pages })
    }

    fn compare(
        &self,
        rig: &Rig<'_>,
        agent: Option<DeviceId>,
        vec: &SharedVec<f32>,
        refused: bool,
    ) -> Result<(), CaseFailure> {
        let now = vec.residency(self.elements.clone())?;
        let after = now.iter().flat_map(|run| run.pages.clone().map(move |page| (page, run)));
        for ((page, row), (same_page, run)) in self.pages.iter().zip(after) {
            let Some(row) = row else { continue };
            let got = place(rig.model(), agent, run);
            let expected = row.expected(rig.model()).after.filter(|_| !refused);
            let expected = expected.unwrap_or(row.place);
            // What a stream of touches brought ahead is on the host too.
            let ahead = rig.may_bring_ahead().then(|| expected.and_on_host());
            ensure!(
                *page == same_page && got.is_some() && (got == Some(expected) || got == ahead),
                "{row}: page {page} is {run} afterwards, the table says {expected}"
            );
        }
        Ok(())
    }
}

/// True for a page that a kernel writes while the host's copy is still being read for it: who overwrites that copy waits for the reading,
/// who needs the data waits for the kernel anyway.
fn is_held_up(row: &Row, work: &[&InFlight]) -> bool {
    let overwrites = matches!(row.touch, Touch::HostWriteWhole | Touch::Discard);
    let reads_host =
        |one: &&InFlight| matches!(one.effect, Effect::Copy { from: NodeId::HOST, .. });
    overwrites && row.flight == Flight::Write && work.iter().any(reads_host)
}

/// The row's last column.
fn touch(agent: Option<DeviceId>, deed: Deed, whole: bool) -> Touch {
    match (agent, deed) {
        (None, Deed::Read | Deed::Prefetch) => Touch::HostRead,
        (None, Deed::Write) if whole => Touch::HostWriteWhole,
        (None, Deed::Write) => Touch::HostWritePart,
        (_, Deed::Discard) if whole => Touch::Discard,
        // What is left over at the ends of the range is zeroed in place.
        (None, Deed::Update) | (_, Deed::Discard) => Touch::HostUpdate,
        (Some(_), Deed::Read) => Touch::DeviceRead,
        (Some(_), Deed::Update) => Touch::DeviceUpdate,
        (Some(_), Deed::Write) if whole => Touch::DeviceWriteWhole,
        (Some(_), Deed::Write) => Touch::DeviceWritePart,
        (Some(_), Deed::Prefetch) => Touch::Prefetch,
    }
}

/// True when the elements reach from the page's first byte to its last, or to the vector's end.
fn covers_whole(elements: &Range<usize>, page: u64, len: usize) -> bool {
    let (start, end) = (elements.start as u64 * ELEMENT_BYTES, elements.end as u64 * ELEMENT_BYTES);
    let last = ((page + 1) * PAGE_BYTES).min(len as u64 * ELEMENT_BYTES);
    start <= page * PAGE_BYTES && last <= end
}

fn at(in_flight: &[InFlight], page: u64) -> Vec<&InFlight> {
    in_flight.iter().filter(|work| work.pages.contains(&page)).collect()
}

/// Where pages are, as `agent` sees it; `None` when the table does not have it.
pub(crate) fn place(model: Model, agent: Option<DeviceId>, run: &Residency) -> Option<Place> {
    let on_host = run.nodes.contains(&NodeId::HOST);
    let devices: Vec<_> = run.nodes.iter().filter_map(|node| node.device()).collect();
    if run.lost {
        return run.nodes.is_empty().then_some(Place::Lost);
    }
    let mine = agent.or(devices.first().copied());
    match (on_host, devices.as_slice()) {
        (false, []) => Some(Place::Empty),
        (true, []) => Some(Place::Host),
        _ if model == Model::Unified => None,
        (false, [only]) if Some(*only) == mine => Some(Place::Device),
        (false, [_]) => Some(Place::Other),
        (true, [only]) if Some(*only) == mine => Some(Place::HostAndDevice),
        (true, [_]) => Some(Place::HostAndOther),
        (true, [_, _]) if mine.is_some_and(|mine| devices.contains(&mine)) => {
            Some(Place::HostAndBoth)
        }
        (false, [_, _]) if mine.is_some_and(|mine| devices.contains(&mine)) => Some(Place::Both),
        _ => None,
    }
}

/// What of the work in flight on a page has to be minded; `None` when the table does not have it.
fn flight(
    model: Model,
    agent: Option<DeviceId>,
    run: &Residency,
    work: Vec<&InFlight>,
) -> Option<Flight> {
    let owners: Vec<_> = run.nodes.iter().filter_map(|node| node.device()).collect();
    let flights = work.iter().filter_map(|work| {
        let device = work.fence.timeline.device();
        let other = agent.is_some_and(|agent| agent != device);
        match (model, work.effect) {
            (Model::Unified, Effect::Write { .. }) if other => Some(Flight::OtherWrite),
            (Model::Unified, Effect::Read { .. }) if other => Some(Flight::OtherRead),
            (_, Effect::Write { .. }) => Some(Flight::Write),
            (_, Effect::Copy { to, .. }) if to.is_host() => Some(Flight::CopyHome),
            (_, Effect::Copy { .. } | Effect::Zero { .. }) => Some(Flight::CopyIn),
            // Another device's reading of a copy that is not current any more concerns nobody here.
            (Model::Migrate | Model::Direct, Effect::Read { .. })
                if other && !owners.contains(&device) =>
            {
                None
            }
            (_, Effect::Read { .. }) => Some(Flight::Read),
            // Nothing in flight: it is done at once.
            (_, Effect::Discard) => None,
        }
    });
    // The strongest first: what others wait for most.
    let order = [
        Flight::CopyHome,
        Flight::OtherWrite,
        Flight::Write,
        Flight::OtherRead,
        Flight::CopyIn,
        Flight::Read,
    ];
    let rank = |flight: &Flight| order.iter().position(|one| one == flight).unwrap_or(order.len());
    let flights: Vec<_> = flights.collect();
    let strongest = flights.iter().copied().min_by_key(rank).unwrap_or(Flight::Idle);
    // Work of two kinds of agent at once, and copies of a page that nobody is reading any more, are not rows of their own.
    let single = model == Model::Unified
        || work.iter().all(|one| one.fence.timeline.device() == work[0].fence.timeline.device());
    single.then_some(strongest)
}

/// The rows of the pages of a vector as they are, were it touched this way.
pub(crate) fn rows_now(
    rig: &Rig<'_>,
    vec: &SharedVec<f32>,
    touch: Touch,
) -> Result<Vec<Row>, CaseFailure> {
    let agent = touch.by_device().then(|| rig.device());
    let touched = Touched { vec, elements: 0..vec.len(), deed: Deed::Read };
    let before = Before::look(rig, agent, &[touched])?;
    Ok(before.rows().map(|row| Row { touch, ..row }).collect())
}
