//! What the exporter knows and decides: who is connected, what is open, what is asked and recalled. Pure: messages and times in, [`Output`]s out.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use hmmap_core::{home::Grant, units::BLOCK_BYTES};

use super::{
    Quota,
    arbiter::{Action, Arbiter, Holder},
    served::Served,
};
use crate::wire::{Code, Message, Pages};

/// A connection.
pub(crate) type PeerId = u64;

/// A buffer that is served.
#[derive(Debug)]
struct Export {
    name: String,
    served: Served,
    arbiter: Arbiter,
    /// The vector is gone, or was withdrawn.
    is_over: bool,
    /// And nobody has anything of it any more.
    is_closed: bool,
}

#[derive(Debug)]
struct Peer {
    /// Until when it has to say hello; nothing once it has.
    greets_by: Option<Instant>,
    /// Buffers that it has open, or may be about to.
    opens: usize,
    /// Their files' sizes.
    open_bytes: u64,
    asks: usize,
    recalls: BTreeMap<u64, Sent>,
}

impl Peer {
    fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.recalls.values().map(|sent| sent.deadline).chain(self.greets_by)
    }
}

/// A recall that was sent and not answered.
#[derive(Debug)]
struct Sent {
    holder: Holder,
    recall: u64,
    pages: Range<u64>,
    deadline: Instant,
}

/// What the world is to do.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Output {
    /// `with` is the export whose descriptor goes along.
    Send { peer: PeerId, sequence: u64, message: Message, with: Option<usize> },
    /// Ask the application, and say [`Desk::authorized`].
    Authorize { peer: PeerId, sequence: u64, export: usize },
    /// Bring a block to the host, and say [`Desk::mapped`].
    Map { export: usize, block: u64 },
    /// Nobody uses the block any more.
    GiveBack { export: usize, block: u64 },
    /// Take these pages out of the mappings of a holder that is not connected any more, and say [`Desk::gone`].
    CutOff { export: usize, holder: Holder, pages: Vec<Range<u64>> },
    /// What a peer had written there may not have come home.
    Lost { peer: PeerId, export: usize, pages: Vec<Range<u64>> },
    /// The connection is over, and [`Desk`] has forgotten it.
    Close { peer: PeerId, code: Code },
    /// A withdrawn buffer is nobody's any more, and its number not used again.
    Forget { export: usize },
}

/// All of an exporter's state.
#[derive(Debug)]
pub(crate) struct Desk {
    quota: Quota,
    /// How long a recall may take.
    deadline: Duration,
    exports: Vec<Export>,
    peers: BTreeMap<PeerId, Peer>,
    holders: BTreeMap<Holder, (PeerId, usize)>,
    next_holder: Holder,
    next_sequence: u64,
    outputs: Vec<Output>,
}

impl Desk {
    pub(crate) fn new(quota: Quota, deadline: Duration) -> Self {
        Self {
            quota,
            deadline,
            exports: Vec::new(),
            peers: BTreeMap::new(),
            holders: BTreeMap::new(),
            next_holder: 1,
            next_sequence: 1,
            outputs: Vec::new(),
        }
    }

    /// What is to be done, in order.
    pub(crate) fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Serves a buffer from now on, as the next number. Nothing else of this name is being served.
    pub(crate) fn export(&mut self, name: &str, served: Served) {
        let blocks = match served {
            Served::Vector(opened) => opened.len_bytes / BLOCK_BYTES,
            Served::DmaBuf(_) => 0,
        };
        let (name, arbiter) = (name.to_owned(), Arbiter::new(blocks));
        let (is_over, is_closed) = (false, false);
        self.exports.push(Export { name, served, arbiter, is_over, is_closed });
    }

    pub(crate) fn named(&self, name: &str) -> Option<usize> {
        self.exports.iter().position(|export| export.name == name && !export.is_over)
    }

    /// The buffer ends: everybody gives everything back, and nobody gets it any more.
    pub(crate) fn withdraw(&mut self, export: usize, now: Instant) {
        let Some(served) = self.exports.get_mut(export).filter(|served| !served.is_over) else {
            return;
        };
        served.is_over = true;
        served.arbiter.end();
        self.settle(export, now);
        let holders = self.holders.iter().filter(|(_, (_, of))| *of == export);
        for (&holder, &(peer, _)) in holders.filter(|(_, (peer, _))| self.peers.contains_key(peer))
        {
            let message = Message::Release { buffer: holder, lost: Vec::new() };
            self.outputs.push(Output::Send { peer, sequence: 0, message, with: None });
        }
    }

    /// Somebody has connected, and has a while to say hello. False when there are too many. Who has been there longest and has nothing open makes room: so
    /// those who are not let in keep nobody out.
    pub(crate) fn connected(&mut self, peer: PeerId, now: Instant) -> bool {
        if self.peers.len() >= self.quota.peers {
            let idle = self.peers.iter().find(|(_, known)| known.opens == 0);
            let Some((&idle, _)) = idle else { return false };
            self.close(idle, Code::Quota);
        }
        let greets_by = Some(now + self.deadline);
        let new = Peer { greets_by, opens: 0, open_bytes: 0, asks: 0, recalls: BTreeMap::new() };
        self.peers.insert(peer, new);
        true
    }

    /// A holder that was cut off reaches nothing any more.
    pub(crate) fn gone(&mut self, holder: Holder, now: Instant) {
        let Some((peer, export)) = self.holders.remove(&holder) else { return };
        let pages = self.exports[export].arbiter.gone(holder);
        if !pages.is_empty() {
            self.outputs.push(Output::Lost { peer, export, pages });
        }
        self.settle(export, now);
    }

    /// A block is on the host, or cannot be.
    pub(crate) fn mapped(
        &mut self,
        export: usize,
        block: u64,
        outcome: Result<(), Code>,
        now: Instant,
    ) {
        if !self.exports[export].is_closed {
            self.exports[export].arbiter.mapped(block, outcome);
            self.settle(export, now);
        }
    }

    /// The vector's owner wants a block.
    pub(crate) fn revoked(&mut self, export: usize, block: u64, until: Instant, now: Instant) {
        if self.exports[export].is_closed {
            return;
        }
        self.exports[export].arbiter.revoked(block);
        // What is left then is for taking pages from who is late.
        let deadline = self.deadline.min(until.saturating_duration_since(now) * 3 / 4);
        self.settle_within(export, deadline, now);
    }

    /// When the first recall is late, or the first greeting.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.peers.values().flat_map(Peer::deadlines).min()
    }

    /// Whoever is late is cut off.
    pub(crate) fn at(&mut self, now: Instant) {
        let is_late = |peer: &Peer| peer.deadlines().any(|deadline| deadline <= now);
        let late = self.peers.iter().filter(|(_, peer)| is_late(peer)).map(|(id, _)| *id);
        for peer in late.collect::<Vec<_>>() {
            self.close(peer, Code::Late);
        }
    }

    /// The connection ends, whoever ends it. Its process may live and still have mapped what it holds, so that is taken from it before anybody else gets it.
    pub(crate) fn close(&mut self, peer: PeerId, code: Code) {
        if self.peers.remove(&peer).is_none() {
            return;
        }
        for (&holder, &(of, export)) in &self.holders {
            if of == peer {
                let pages = self.exports[export].arbiter.written_by(holder);
                self.outputs.push(Output::CutOff { export, holder, pages });
            }
        }
        self.outputs.push(Output::Close { peer, code });
    }

    /// What the application says to [`Output::Authorize`].
    pub(crate) fn authorized(
        &mut self,
        peer: PeerId,
        sequence: u64,
        export: usize,
        is_let_in: bool,
    ) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if !is_let_in || self.exports[export].is_over {
            known.opens -= 1;
            known.open_bytes -= self.exports[export].served.len_bytes();
            let code = if is_let_in { Code::Unknown } else { Code::Denied };
            return self.send(peer, sequence, Message::Refused { code });
        }
        let holder = self.next_holder;
        self.next_holder += 1;
        self.holders.insert(holder, (peer, export));
        let message = self.exports[export].served.message(holder);
        self.outputs.push(Output::Send { peer, sequence, message, with: Some(export) });
    }

    /// A message of a peer's, which has as many descriptors as it is to have.
    pub(crate) fn received(&mut self, peer: PeerId, sequence: u64, message: Message, now: Instant) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        match message {
            Message::Hello if known.greets_by.is_some() => {
                known.greets_by = None;
                self.send(peer, sequence, Message::Hello);
            }
            Message::Bye { .. } => self.close(peer, Code::Done),
            _ if known.greets_by.is_some() => self.close(peer, Code::Protocol),
            Message::Open { name } => {
                self.open(peer, sequence, &name, |served| matches!(served, Served::Vector(_)));
            }
            Message::OpenDmaBuf { name } => {
                self.open(peer, sequence, &name, |served| matches!(served, Served::DmaBuf(_)));
            }
            Message::Ask { buffer, pages, access } => {
                if let Err(code) = self.ask(peer, sequence, buffer, pages, access, now) {
                    self.send(peer, sequence, Message::Refused { code });
                }
            }
            Message::Confirmed { dirty, lost } => {
                let is_kept_to = self.confirmed(peer, sequence, &dirty, &lost, now);
                if !is_kept_to {
                    self.close(peer, Code::Protocol);
                }
            }
            Message::Release { buffer, lost } => match self.holders.get(&buffer) {
                Some(&(of, export)) if of == peer => {
                    self.released(peer, buffer, export, &lost, now);
                }
                _ => self.close(peer, Code::Protocol),
            },
            Message::Hello
            | Message::Opened(_)
            | Message::OpenedDmaBuf(_)
            | Message::Granted
            | Message::Refused { .. }
            | Message::Recall { .. } => self.close(peer, Code::Protocol),
        }
    }

    fn open(&mut self, peer: PeerId, sequence: u64, name: &str, is_meant: impl Fn(Served) -> bool) {
        let Some(export) = self.named(name) else {
            return self.send(peer, sequence, Message::Refused { code: Code::Unknown });
        };
        let served = self.exports[export].served;
        if !is_meant(served) {
            return self.send(peer, sequence, Message::Refused { code: Code::Otherwise });
        }
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let open_bytes = known.open_bytes.saturating_add(served.len_bytes());
        if known.opens >= self.quota.buffers || open_bytes > self.quota.bytes {
            return self.send(peer, sequence, Message::Refused { code: Code::Quota });
        }
        known.opens += 1;
        known.open_bytes = open_bytes;
        self.outputs.push(Output::Authorize { peer, sequence, export });
    }

    fn ask(
        &mut self,
        peer: PeerId,
        sequence: u64,
        holder: Holder,
        pages: Pages,
        access: Grant,
        now: Instant,
    ) -> Result<(), Code> {
        let of_peer = self.holders.get(&holder).filter(|(of, _)| *of == peer);
        let export = of_peer.ok_or(Code::Unknown)?.1;
        let served = &mut self.exports[export];
        if served.is_over {
            return Err(Code::Unknown);
        }
        let pages = pages.range();
        if pages.end > served.arbiter.pages() {
            return Err(Code::Protocol);
        }
        if served.served.most().is_none_or(|most| access > most) {
            return Err(Code::ReadOnly);
        }
        let known = self.peers.get_mut(&peer).ok_or(Code::Unknown)?;
        if known.asks >= self.quota.asks {
            return Err(Code::Quota);
        }
        known.asks += 1;
        served.arbiter.ask(holder, sequence, pages, access);
        self.settle(export, now);
        Ok(())
    }

    /// False when nothing of the kind was asked.
    fn confirmed(
        &mut self,
        peer: PeerId,
        sequence: u64,
        dirty: &[Pages],
        lost: &[Pages],
        now: Instant,
    ) -> bool {
        let known = self.peers.get_mut(&peer);
        let Some(sent) = known.and_then(|known| known.recalls.remove(&sequence)) else {
            return false;
        };
        let inside = |run: &Pages| {
            let run = run.range();
            run.start >= sent.pages.start && run.end <= sent.pages.end
        };
        if !dirty.iter().chain(lost).all(inside) {
            return false;
        }
        // Released meanwhile, there is nothing left to give.
        let Some(&(_, export)) = self.holders.get(&sent.holder) else { return true };
        self.tell_lost(peer, export, lost);
        self.exports[export].arbiter.confirmed(sent.holder, sent.recall);
        self.settle(export, now);
        true
    }

    fn released(
        &mut self,
        peer: PeerId,
        holder: Holder,
        export: usize,
        lost: &[Pages],
        now: Instant,
    ) {
        self.holders.remove(&holder);
        if let Some(known) = self.peers.get_mut(&peer) {
            known.opens -= 1;
            known.open_bytes -= self.exports[export].served.len_bytes();
            // Asks that end with it are not answered.
            known.asks -= self.exports[export].arbiter.asks_of(holder).min(known.asks);
        }
        self.tell_lost(peer, export, lost);
        self.exports[export].arbiter.gone(holder);
        self.settle(export, now);
    }

    fn tell_lost(&mut self, peer: PeerId, export: usize, lost: &[Pages]) {
        let end = self.exports[export].arbiter.pages();
        let pages = lost.iter().map(|run| run.range()).filter(|run| run.end <= end);
        let pages: Vec<Range<u64>> = pages.collect();
        if !pages.is_empty() {
            self.outputs.push(Output::Lost { peer, export, pages });
        }
    }

    fn send(&mut self, peer: PeerId, sequence: u64, message: Message) {
        self.outputs.push(Output::Send { peer, sequence, message, with: None });
    }

    fn settle(&mut self, export: usize, now: Instant) {
        self.settle_within(export, self.deadline, now);
    }

    /// Makes outputs of what the arbiter has decided; recalls have this long.
    fn settle_within(&mut self, export: usize, within: Duration, now: Instant) {
        for action in self.exports[export].arbiter.take_actions() {
            match action {
                Action::Map { block } => self.outputs.push(Output::Map { export, block }),
                Action::GiveBack { block } => self.outputs.push(Output::GiveBack { export, block }),
                Action::Recall { id, holder, pages, keep } => {
                    let Some(&(peer, _)) = self.holders.get(&holder) else { continue };
                    // A peer that is being cut off is not asked any more.
                    let Some(known) = self.peers.get_mut(&peer) else { continue };
                    let sequence = self.next_sequence;
                    self.next_sequence += 1;
                    let sent =
                        Sent { holder, recall: id, pages: pages.clone(), deadline: now + within };
                    known.recalls.insert(sequence, sent);
                    let deadline_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
                    let pages = Pages::of(&pages);
                    let message = Message::Recall { buffer: holder, pages, keep, deadline_ms };
                    self.send(peer, sequence, message);
                }
                Action::Grant { holder, sequence } => {
                    self.answer(holder, sequence, Message::Granted);
                }
                Action::Refuse { holder, sequence, code } => {
                    self.answer(holder, sequence, Message::Refused { code });
                }
            }
        }
        let served = &mut self.exports[export];
        let is_free = served.is_over && !served.is_closed && served.arbiter.is_at_rest();
        if is_free && !self.holders.values().any(|(_, of)| *of == export) {
            served.is_closed = true;
            // It has an entry for each page.
            served.arbiter = Arbiter::new(0);
            self.outputs.push(Output::Forget { export });
        }
    }

    fn answer(&mut self, holder: Holder, sequence: u64, message: Message) {
        let Some(&(peer, _)) = self.holders.get(&holder) else { return };
        if let Some(known) = self.peers.get_mut(&peer) {
            known.asks = known.asks.saturating_sub(1);
            self.send(peer, sequence, message);
        }
    }
}

#[cfg(test)]
mod tests;
