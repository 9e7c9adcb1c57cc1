//! Takes addresses back from peers before pages move, by [`crate::revocation`].
//!
//! An access that finds a mapping in its way gives its locks back, takes the mapping back here, and tries again with the pages *marked*: whoever
//! begins on them sleeps until the access has done its part and its [`Marks`] go. So nobody gets an address between the two.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use crate::{
    directory::PageSpan,
    error::Error,
    events::What,
    node::NodeId,
    peer::{
        Confirmation, PEER_DEADLINE, PeerAddress, PeerEvent, PeerFence, PeerTable, Revoked,
        SharedPeer, Stage, Taking,
    },
    revocation::{Action, Enforcement, Event, Outcome, PartyId, Phase, Revocation},
    runtime::Inner,
    stats::Cause,
    sync::{MutexGuard, about_to_run_user_code},
    vec::{Buffer, BufferState},
};

/// How often a wait for a peer's work looks whether the peer has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Pages that an access is about to take.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) span: PageSpan,
    pub(crate) taking: Taking,
}

/// On whose behalf pages are taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Why {
    pub(crate) cause: Cause,
    pub(crate) initiator: NodeId,
    /// Goes on beside peers that are late: what they still read is stale, and its memory stays. For faults, which cannot be refused.
    pub(crate) tolerates_late: bool,
}

/// Pages that are kept from being mapped until this goes.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    held: SmallVec<[(Arc<Buffer>, u64); 1]>,
    /// Revocations whose pages the holder is moving.
    moving: SmallVec<[Revocation; 1]>,
}

impl Marks {
    /// True when no page is kept from anybody.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        for mut revocation in self.moving.drain(..) {
            let actions = revocation.step(Event::Moved);
            debug_assert_eq!(actions.as_slice(), [Action::Finish]);
        }
        for (buffer, mark) in self.held.drain(..) {
            let mut state = buffer.state.lock();
            if let Some(peers) = &mut state.peers {
                peers.unmark(mark);
            }
            state.forget_empty_table();
        }
    }
}

/// A mapping that is being taken back.
struct Party {
    buffer: Arc<Buffer>,
    id: u64,
    peer: SharedPeer,
    fences: Vec<Arc<dyn PeerFence>>,
    revoked: Revoked,
    over: Arc<Confirmation>,
}

impl Party {
    /// Waits for the work that it had submitted, unless it is said to have ended meanwhile.
    fn await_fences(&self, deadline: Instant) -> bool {
        self.fences.iter().all(|fence| {
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                if fence.wait(left.min(LOOK_EVERY)) || self.revoked.confirmation.has_ended() {
                    return true;
                }
                if left <= LOOK_EVERY {
                    return false;
                }
            }
        })
    }
}

impl BufferState {
    /// True when a mapping keeps pages from being taken.
    pub(super) fn is_hindered(&self, span: PageSpan, taking: Taking, tolerates_late: bool) -> bool {
        let hindering =
            |peers: &PeerTable| peers.hindering(span, taking, tolerates_late).next().is_some();
        self.peers.as_deref().is_some_and(hindering)
    }

    /// Pages that peers reach in a node's memory.
    pub(super) fn mapped_by_peers(&self, node: NodeId) -> impl Iterator<Item = PageSpan> {
        let entries = self.peers.as_deref().map(PeerTable::entries).unwrap_or_default();
        entries.iter().filter(move |entry| entry.has_memory_on(node)).map(|entry| entry.span)
    }

    /// Most vectors have no peers, and are to look like it.
    pub(crate) fn forget_empty_table(&mut self) {
        if self.peers.as_deref().is_some_and(|peers| peers.is_empty() && !peers.is_released) {
            self.peers = None;
        }
    }
}

impl Inner {
    /// How long a peer has.
    pub(crate) fn peer_deadline(&self) -> Duration {
        self.options.peer_deadline.unwrap_or(PEER_DEADLINE)
    }

    /// Takes back what keeps these pages from being taken: starts everywhere, waits for every fence, then for every confirmation. When this returns, the
    /// caller tries again; what it looks at may have changed.
    ///
    /// # Errors
    /// [`Error::Pinned`]; [`Error::PeerLate`], and nothing of what was wanted may be moved.
    pub(super) fn take_back(
        &self,
        marks: &mut Marks,
        wanted: &[Wanted],
        why: Why,
    ) -> Result<(), Error> {
        for one in wanted {
            self.forgive(&one.buffer);
        }
        let parties = match self.find_and_mark(marks, wanted, why)? {
            Found::Parties(parties) => parties,
            Found::Busy(over) => {
                // Somebody else's revocation, which has a deadline of its own.
                over.wait_until(Instant::now() + self.peer_deadline());
                return Ok(());
            }
        };
        let started = Instant::now();
        let (revocation, phase) = drive(&parties);
        self.counters.revocations.fetch_add(parties.len() as u64, Relaxed);
        let mut first_late = None;
        for (number, party) in parties.iter().enumerate() {
            let outcome = revocation.outcome(PartyId(number as u16)).unwrap_or(Outcome::TimedOut);
            self.conclude(party, outcome);
            // The threads that answer faults keep silent: a subscriber may touch a vector.
            if !why.tolerates_late {
                let (peer, bytes) = (party.peer.name(), party.revoked.bytes());
                tracing::debug!(peer, ?bytes, ?outcome, event = ?party.revoked.event(), "taken back");
            }
            let (vector, pages) =
                (party.buffer.state.lock().number, PageSpan::touching(&party.revoked.bytes()));
            let (cause, by, late) = (why.cause, why.initiator, outcome >= Outcome::TimedOut);
            self.recorder.note(|| What::TakenBack { vector, pages, cause, by, late });
            if late {
                self.counters.late_peers.fetch_add(1, Relaxed);
                first_late.get_or_insert_with(|| Error::PeerLate {
                    peer: party.peer.name().to_owned(),
                    bytes: party.revoked.bytes(),
                    waited: started.elapsed(),
                });
            }
        }
        if phase == Phase::Moving {
            marks.moving.push(revocation);
        }
        first_late.filter(|_| !why.tolerates_late).map_or(Ok(()), Err)
    }

    /// Finds the mappings in the way and marks their pages, under one lock: whoever maps later sleeps.
    fn find_and_mark(
        &self,
        marks: &mut Marks,
        wanted: &[Wanted],
        why: Why,
    ) -> Result<Found, Error> {
        let mut buffers: SmallVec<[&Arc<Buffer>; 2]> =
            wanted.iter().map(|one| &one.buffer).collect();
        buffers.sort_unstable_by_key(|buffer| Arc::as_ptr(buffer));
        buffers.dedup_by_key(|buffer| Arc::as_ptr(buffer));
        let mut states: SmallVec<[MutexGuard<'_, BufferState>; 2]> =
            buffers.iter().map(|buffer| buffer.state.lock()).collect();
        let place = |one: &Wanted| buffers.iter().position(|b| Arc::ptr_eq(b, &one.buffer));
        for one in wanted {
            let Some(peers) = place(one).and_then(|at| states[at].peers.as_deref()) else {
                continue;
            };
            for entry in peers.hindering(one.span, one.taking, why.tolerates_late) {
                let (peer, bytes) = (entry.peer.name().to_owned(), entry.bytes.clone());
                match entry.stage {
                    _ if entry.is_static() => return Err(Error::Pinned { peer, bytes }),
                    Stage::Late { since } => {
                        let waited = since.elapsed() + self.peer_deadline();
                        return Err(Error::PeerLate { peer, bytes, waited });
                    }
                    Stage::Revoking => return Ok(Found::Busy(entry.over.clone())),
                    Stage::Unmapped | Stage::Mapped => {}
                }
            }
        }
        let deadline = Instant::now() + self.peer_deadline();
        let mut parties = Vec::new();
        for one in wanted {
            let Some(at) = place(one) else { continue };
            let Some(peers) = states[at].peers.as_deref_mut() else { continue };
            let hindering = peers.hindering(one.span, one.taking, why.tolerates_late);
            let ids: SmallVec<[u64; 2]> = hindering.map(|entry| entry.id).collect();
            if ids.is_empty() {
                continue;
            }
            marks.held.push((one.buffer.clone(), peers.mark(one.span)));
            for id in ids {
                let Some(entry) = peers.entry(id) else { continue };
                let event = match one.taking {
                    Taking::Discard => PeerEvent::Unmap,
                    Taking::Return => PeerEvent::Protect,
                    Taking::Write(on) if entry.is_on(on) => PeerEvent::Protect,
                    Taking::Write(_) | Taking::Free(_) => PeerEvent::Migrate,
                };
                entry.start();
                let revoked = entry.revoked(event, why.cause, why.initiator, deadline);
                parties.push(Party {
                    buffer: one.buffer.clone(),
                    id,
                    peer: entry.peer.clone(),
                    fences: entry.fences.clone(),
                    revoked,
                    over: entry.over.clone(),
                });
            }
        }
        Ok(Found::Parties(parties))
    }

    /// Records how it went for one mapping.
    fn conclude(&self, party: &Party, outcome: Outcome) {
        let mut addresses = Vec::new();
        let mut state = party.buffer.state.lock();
        if let Some(entry) = state.peers.as_deref_mut().and_then(|peers| peers.entry(party.id)) {
            if outcome >= Outcome::TimedOut {
                entry.stage = Stage::Late { since: party.revoked.deadline };
            } else {
                addresses = entry.give_up();
            }
        }
        drop(state);
        match outcome {
            Outcome::CutOff => give_back(&addresses, |address| party.peer.cut_off(address)),
            _ => unmap(&party.peer, &addresses),
        }
        party.over.confirm();
    }

    /// Whoever was late and has given everything back since is in nobody's way any more.
    pub(crate) fn forgive(&self, buffer: &Arc<Buffer>) {
        let late: SmallVec<[_; 2]> = match buffer.state.lock().peers.as_deref() {
            None => return,
            Some(peers) => peers
                .entries()
                .iter()
                .filter(|entry| entry.is_late() && entry.confirmation.is_given())
                .map(|entry| {
                    let ended = entry.confirmation.has_ended();
                    let fences = if ended { Vec::new() } else { entry.fences.clone() };
                    (entry.id, entry.peer.clone(), fences)
                })
                .collect(),
        };
        for (id, peer, fences) in late {
            about_to_run_user_code();
            if !fences.iter().all(|fence| fence.wait(Duration::ZERO)) {
                continue;
            }
            let mut state = buffer.state.lock();
            let entry = state.peers.as_deref_mut().and_then(|peers| peers.entry(id));
            let late = entry.filter(|entry| entry.is_late());
            let addresses = late.map(crate::peer::Entry::give_up).unwrap_or_default();
            drop(state);
            unmap(&peer, &addresses);
        }
    }

    /// The vector is gone: tells its peers, without waiting for them. True when none can use an address any more.
    pub(super) fn release_peers(&self, buffer: &Arc<Buffer>) -> bool {
        let deadline = Instant::now() + self.peer_deadline();
        let mut told: SmallVec<[_; 1]> = SmallVec::new();
        {
            let mut state = buffer.state.lock();
            let Some(peers) = state.peers.as_deref_mut() else { return true };
            let first = !std::mem::replace(&mut peers.is_released, true);
            for entry in peers.entries_mut().filter(|entry| first && !entry.is_static()) {
                // Whoever is late, or is being asked, has its answer to give already.
                if entry.stage == Stage::Mapped {
                    entry.start();
                    entry.stage = Stage::Late { since: deadline };
                }
                let revoked =
                    entry.revoked(PeerEvent::Release, Cause::Peer, NodeId::HOST, deadline);
                told.push((entry.peer.clone(), revoked));
            }
        }
        for (peer, revoked) in told {
            let _ = tell(&peer, revoked);
        }
        self.forgive(buffer);
        !buffer.state.lock().peers.as_deref().is_some_and(PeerTable::any_out)
    }
}

/// What [`Inner::find_and_mark`] found.
enum Found {
    Parties(Vec<Party>),
    /// One of them is being taken back by somebody else.
    Busy(Arc<Confirmation>),
}

/// Goes through one revocation up to the moment at which the pages may move, or are to stay.
fn drive(parties: &[Party]) -> (Revocation, Phase) {
    about_to_run_user_code();
    let enforcements = parties.iter().map(|party| match party.peer.enforcement() {
        Enforcement::CutOff => Enforcement::CutOff,
        Enforcement::Nothing | Enforcement::Pin => Enforcement::Nothing,
    });
    let Ok((mut revocation, actions)) = Revocation::begin(enforcements) else {
        unreachable!("pins were refused before")
    };
    let mut todo: VecDeque<Action> = actions.into_iter().collect();
    while let Some(action) = todo.pop_front() {
        match action {
            Action::Start(id) => {
                let party = &parties[usize::from(id.0)];
                let told = tell(&party.peer, party.revoked.clone());
                let event = if told { Event::Started(id) } else { Event::Failed(id) };
                todo.extend(revocation.step(event));
            }
            Action::AwaitFences => {
                wait(parties, &mut revocation, &mut todo, Event::FencesEnded, Party::await_fences);
            }
            Action::AwaitUnmaps => {
                wait(parties, &mut revocation, &mut todo, Event::Unmapped, |party, deadline| {
                    party.revoked.confirmation.wait_until(deadline)
                });
            }
            // Found and marked under one lock; cut off when it is concluded; moved by the caller; finished when its marks go.
            Action::Mark | Action::CutOff(_) | Action::Move | Action::Stay | Action::Finish => {}
        }
    }
    let phase = revocation.phase();
    (revocation, phase)
}

/// Waits for each party in turn; the deadline is one for all.
fn wait(
    parties: &[Party],
    revocation: &mut Revocation,
    todo: &mut VecDeque<Action>,
    event: fn(PartyId) -> Event,
    has_ended: impl Fn(&Party, Instant) -> bool,
) {
    about_to_run_user_code();
    let mut in_time = true;
    for (number, party) in parties.iter().enumerate() {
        let id = PartyId(number as u16);
        if revocation.outcome(id).is_some() {
            continue;
        }
        let has_ended = has_ended(party, party.revoked.deadline);
        if party.revoked.confirmation.has_ended() {
            todo.extend(revocation.step(Event::Died(id)));
        } else if has_ended {
            todo.extend(revocation.step(event(id)));
        } else {
            in_time = false;
        }
    }
    if !in_time {
        todo.extend(revocation.step(Event::Deadline));
    }
}

/// Calls the peer; false when it panicked.
pub(super) fn tell(peer: &SharedPeer, revoked: Revoked) -> bool {
    about_to_run_user_code();
    catch_unwind(AssertUnwindSafe(|| peer.revoke(revoked))).is_ok()
}

/// Gives back what the peer made of addresses.
pub(crate) fn unmap(peer: &SharedPeer, addresses: &[PeerAddress]) {
    give_back(addresses, |address| peer.unmap(address));
}

fn give_back(addresses: &[PeerAddress], how: impl Fn(PeerAddress)) {
    if !addresses.is_empty() {
        about_to_run_user_code();
    }
    for address in addresses {
        // Its panic hook has said so; there is nobody to tell.
        let _ = catch_unwind(AssertUnwindSafe(|| how(*address)));
    }
}
