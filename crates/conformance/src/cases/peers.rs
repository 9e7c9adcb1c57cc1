//! Peers: whoever else holds addresses, and loses them safely. Every row of the revocation table.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use hmmap_core::{
    Error, NodeId, Options,
    peer::{MappingState, Participation, PeerError, PeerEvent, PeerMapping},
};

use super::Verdict;
use crate::{
    card::{Card, Manners, Work},
    case::{Case, CaseFailure, Context, ensure},
    mirror::Mirror,
    revocation::Row,
    rig::{PAGE, Rig, Watch},
    table::Model,
};

const GROUP: &str = crate::setup::PEERS;
/// Much longer than any case: who waits for it fails.
const NEVER: Duration = Duration::from_secs(60);
/// For cases that are about what happens then.
const SOON: Duration = Duration::from_millis(30);

pub(super) const CASES: &[Case] = &[
    Case::new(
        GROUP,
        "five_verbs",
        "mark, start everywhere, wait for fences, wait for unmaps, and only then write; who maps again sees it",
        &[],
        five_verbs,
    ),
    Case::new(
        GROUP,
        "events",
        "peers are told whether a range is written in place, moves, is discarded, or goes for good",
        &[],
        events,
    ),
    Case::new(
        GROUP,
        "late",
        "while a peer that nothing can be done about is late nothing is written; when it has given the range back, all goes on",
        &[],
        late,
    ),
    Case::new(
        GROUP,
        "late_at_a_page_fault",
        "a touch of the host cannot be refused, and waits for one deadline",
        &[],
        late_at_fault,
    ),
    Case::new(
        GROUP,
        "failed",
        "nothing is written under a peer that could not be told",
        &[],
        failed,
    ),
    Case::new(
        GROUP,
        "cut_off",
        "a late peer whose mapping can be taken without it keeps nobody waiting longer",
        &[],
        cut_off,
    ),
    Case::new(
        GROUP,
        "died",
        "neither the confirmation nor the work of a peer that ended is waited for",
        &[],
        died,
    ),
    Case::new(
        GROUP,
        "static_peers_pin",
        "what a peer has mapped that takes no part is neither moved nor discarded, and says so",
        &[],
        pinned,
    ),
];

fn rig<'c>(cx: &'c Context<'_>, deadline: Duration) -> Result<Rig<'c>, CaseFailure> {
    let rig = cx.rig_with(Options { peer_deadline: Some(deadline), ..cx.options() })?;
    // Who is revoked waits where the table knows of no wait.
    rig.watch(Watch::Data);
    Ok(rig)
}

/// A vector that the device wrote.
fn written(rig: &Rig<'_>) -> Result<Mirror, CaseFailure> {
    let mut y = rig.zeros(3 * PAGE)?;
    rig.fill(rig.device(), &mut y, .., 1.0)?;
    Ok(y)
}

fn is_late(failure: &CaseFailure) -> bool {
    matches!(failure, CaseFailure::Refused { source: Error::PeerLate { .. }, .. })
}

/// The device may write the vector again.
fn goes_on(rig: &Rig<'_>, y: &mut Mirror, value: f32) -> Verdict {
    rig.fill(rig.device(), y, .., value)?;
    rig.host_read(y, ..)
}

fn five_verbs(cx: &Context<'_>) -> Verdict {
    let rig = rig(cx, NEVER)?;
    let mut y = written(&rig)?;
    let (quick, slow) = (Card::new(Manners::Honest), Card::new(Manners::Silent));
    let first = y.vec.map_peer(slow.clone(), ..)?;
    let second = y.vec.map_peer(quick.clone(), PAGE..2 * PAGE)?;
    let stamps = [first.segments()?.stamp(), second.segments()?.stamp()];
    let work = Arc::new(Work::default());
    ensure!(first.attach(stamps[0], work.clone()), "the fence came too late");
    let (has_written, begun) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let writer = scope.spawn(|| -> Verdict {
            rig.fill(rig.device(), &mut y, .., 2.0)?;
            has_written.store(true, SeqCst);
            Ok(())
        });
        let told = slow.await_told(1);
        // Nothing was waited for yet but may be: the other one has been told, too.
        quick.await_told(1);
        cx.revoked(Row::Start);
        ensure!(first.retry(stamps[0]) && second.retry(stamps[1]), "addresses are still good");
        let beginner = scope.spawn(|| {
            let begun_with = second.begin();
            begun.store(true, SeqCst);
            begun_with
        });
        told.confirm();
        // A wait that is there cannot be seen but by what does not happen meanwhile.
        thread::sleep(SOON);
        ensure!(!has_written.load(SeqCst), "it wrote while work of the peer's was under way");
        cx.revoked(Row::Fences);
        ensure!(!begun.load(SeqCst), "somebody began while the range was taken back");
        cx.revoked(Row::Mark);
        work.end();
        join(writer.join())?;
        let begun_with = beginner.join().map_err(|_| CaseFailure::broken("it panicked".into()))?;
        ensure!(!second.retry(begun_with?), "what was begun after is not good");
        Ok(())
    })?;
    ensure!(first.state() == MappingState::Unmapped, "{first:?}");
    // The other way round: the work has ended, the confirmation is missing.
    let segments = first.segments()?;
    let has_written = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| -> Verdict {
            rig.fill(rig.device(), &mut y, .., 3.0)?;
            has_written.store(true, SeqCst);
            Ok(())
        });
        let told = slow.await_told(2);
        thread::sleep(SOON);
        ensure!(!has_written.load(SeqCst), "it wrote before the peer confirmed");
        cx.revoked(Row::Unmaps);
        told.confirm();
        join(writer.join())
    })?;
    ensure!(first.retry(segments.stamp()), "the stamp has not changed");
    let again = first.segments()?;
    ensure!(!first.retry(again.stamp()) && !again.list().is_empty(), "{again:?}");
    cx.revoked(Row::Finish);
    drop((first, second));
    ensure!(slow.seen().mapped == 0 && quick.seen().mapped == 0, "addresses were not given back");
    rig.host_read(&y, ..)
}

fn join(joined: thread::Result<Verdict>) -> Verdict {
    joined.map_err(|_| CaseFailure::broken("a thread of the case panicked".to_owned()))?
}

fn events(cx: &Context<'_>) -> Verdict {
    let rig = rig(cx, NEVER)?;
    let mut y = written(&rig)?;
    let card = Card::new(Manners::Honest);
    let mapping = y.vec.map_peer(card.clone(), ..)?;
    let told = |count: usize| card.await_told(count);
    rig.fill(rig.device(), &mut y, .., 2.0)?;
    ensure!(told(1).event() == PeerEvent::Protect, "{:?}", told(1));
    cx.revoked(Row::Protect);
    if rig.model() != Model::Unified {
        mapping.segments()?;
        rig.host_write(&mut y, .., |i| i as f32)?;
        let (event, initiator) = (told(2).event(), told(2).initiator());
        ensure!(event == PeerEvent::Migrate && initiator == NodeId::HOST, "{:?}", told(2));
        cx.revoked(Row::Migrate);
    }
    let before = card.seen().told.len();
    mapping.segments()?;
    rig.discard(&mut y, ..)?;
    ensure!(told(before + 1).event() == PeerEvent::Unmap, "{:?}", told(before + 1));
    cx.revoked(Row::Unmap);
    rig.host_read(&y, ..)?;
    let before = card.seen().told.len() - 1;
    mapping.segments()?;
    drop(y);
    ensure!(told(before + 2).event() == PeerEvent::Release, "{:?}", told(before + 2));
    let answer = mapping.segments();
    let released = matches!(&answer, Err(Error::Peer { source: PeerError::Released, .. }));
    ensure!(released, "{answer:?}");
    ensure!(card.seen().told.len() == before + 2, "told more than once of the end");
    cx.revoked(Row::Release);
    drop(mapping);
    ensure!(card.seen().mapped == 0, "addresses were not given back");
    Ok(())
}

/// A peer that does not confirm, its mapping, and what its range holds.
fn with_silent(rig: &Rig<'_>) -> Result<(Arc<Card>, PeerMapping, Mirror), CaseFailure> {
    let y = written(rig)?;
    let card = Card::new(Manners::Silent);
    let mapping = y.vec.map_peer(card.clone(), ..)?;
    Ok((card, mapping, y))
}

fn late(cx: &Context<'_>) -> Verdict {
    let rig = rig(cx, SOON)?;
    let (card, mapping, mut y) = with_silent(&rig)?;
    for _ in 0..2 {
        let refused = rig.fill(rig.device(), &mut y, .., 2.0);
        ensure!(refused.as_ref().err().is_some_and(is_late), "{refused:?}");
        ensure!(mapping.state() == MappingState::Late, "{mapping:?}");
    }
    // Reading is free, and finds what was there.
    rig.host_read(&y, ..)?;
    ensure!(card.seen().told.len() == 1, "asked again while it was late");
    card.await_told(1).confirm();
    goes_on(&rig, &mut y, 3.0)?;
    ensure!(rig.runtime.stats().late_peers == 1, "{:?}", rig.runtime.stats());
    cx.revoked(Row::Late);
    drop(mapping);
    ensure!(card.seen().mapped == 0, "addresses were not given back");
    Ok(())
}

fn late_at_fault(cx: &Context<'_>) -> Verdict {
    let rig = rig(cx, SOON)?;
    // A vector that works on the host's memory asks before it hands out a slice, and can be refused.
    let faults = rig.runtime.host_faults().is_some() && rig.model() != Model::Unified;
    cx.found_faults(faults);
    if !faults {
        // There is no such row.
        return Ok(());
    }
    let (card, mapping, mut y) = with_silent(&rig)?;
    // Plain, in every style: that is what faults.
    y.vec[5] = 7.0;
    y.oracle[5] = 7.0;
    ensure!(mapping.state() == MappingState::Late, "{mapping:?}");
    rig.host_read(&y, ..)?;
    card.await_told(1).confirm();
    goes_on(&rig, &mut y, 3.0)?;
    cx.revoked(Row::LateAtFault);
    Ok(())
}

fn failed(cx: &Context<'_>) -> Verdict {
    let rig = rig(cx, NEVER)?;
    let mut y = written(&rig)?;
    let card = Card::new(Manners::Panics);
    let mapping = y.vec.map_peer(card.clone(), ..)?;
    let refused = rig.fill(rig.device(), &mut y, .., 2.0);
    ensure!(refused.as_ref().err().is_some_and(is_late), "{refused:?}");
    rig.host_read(&y, ..)?;
    cx.revoked(Row::Failed);
    // Whoever drops its mapping has given it back.
    drop(mapping);
    goes_on(&rig, &mut y, 3.0)
}

fn cut_off(cx: &Context<'_>) -> Verdict {
    let rig = rig(cx, SOON)?;
    let mut y = written(&rig)?;
    let silent = Card { manners: Manners::Silent, can_be_cut_off: true, ..Card::default() };
    let card = Arc::new(silent);
    let mapping = y.vec.map_peer(card.clone(), ..)?;
    let work = Arc::new(Work::default());
    ensure!(mapping.attach(mapping.segments()?.stamp(), work), "the fence came too late");
    goes_on(&rig, &mut y, 2.0)?;
    let seen = card.seen();
    ensure!(seen.cut_off > 0 && seen.mapped == 0, "{seen:?}");
    ensure!(mapping.state() == MappingState::Unmapped, "{mapping:?}");
    // It is not late for ever: it may map again.
    mapping.segments()?;
    ensure!(card.seen().mapped > 0 && rig.runtime.stats().late_peers == 0, "{:?}", card.seen());
    cx.revoked(Row::CutOff);
    Ok(())
}

fn died(cx: &Context<'_>) -> Verdict {
    let rig = rig(cx, NEVER)?;
    let mut y = written(&rig)?;
    let card = Card::new(Manners::Ends);
    let mapping = y.vec.map_peer(card.clone(), ..)?;
    let work = Arc::new(Work::default());
    ensure!(mapping.attach(mapping.segments()?.stamp(), work), "the fence came too late");
    goes_on(&rig, &mut y, 2.0)?;
    ensure!(card.seen().mapped == 0, "{:?}", card.seen());
    cx.revoked(Row::Died);
    Ok(())
}

fn pinned(cx: &Context<'_>) -> Verdict {
    let rig = rig(cx, NEVER)?;
    let mut y = written(&rig)?;
    let card = Arc::new(Card { participation: Participation::Static, ..Card::default() });
    let mapping = y.vec.map_peer(card.clone(), ..)?;
    let refusals = [rig.discard(&mut y, ..)];
    for refused in refusals {
        let pinned =
            matches!(&refused, Err(CaseFailure::Refused { source: Error::Pinned { .. }, .. }));
        ensure!(pinned, "{refused:?}");
    }
    let runs = y.vec.residency(..)?;
    ensure!(runs.iter().all(|run| run.pinned), "{runs:?}");
    rig.host_read(&y, ..)?;
    ensure!(card.seen().told.is_empty(), "it was asked");
    drop(mapping);
    rig.discard(&mut y, ..)?;
    cx.revoked(Row::Pinned);
    goes_on(&rig, &mut y, 3.0)
}
