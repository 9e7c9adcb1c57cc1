//! The thread that answers importers. It waits for nobody: what takes long is done by the links' threads, and what does not fit into a socket is kept.

use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use parking_lot::Mutex;

use super::{
    ExportEvent, ExporterOptions, Inbox, Note, Offer,
    desk::{Desk, Output, PeerId},
    link::Link,
};
use crate::{
    socket::{self, Arrived, Credentials, Socket},
    wire::{self, Code, Message},
};

/// Messages that may wait for room in one socket.
const MAX_UNSENT: usize = 256;
/// Messages that are taken from one socket before the others have their turn.
const MAX_AT_ONCE: usize = 32;
/// Events that are kept when nobody asks for them.
const MAX_EVENTS: usize = 1000;

struct Connection {
    socket: Socket,
    credentials: Credentials,
    /// With the export whose descriptor goes along.
    unsent: VecDeque<(Vec<u8>, Option<usize>)>,
    /// Nothing reaches it any more. What it said before it went still has to be heard: it may have given something back.
    is_deaf: bool,
}

pub(super) struct Server {
    listener: Option<OwnedFd>,
    options: ExporterOptions,
    inbox: Arc<Inbox>,
    events: Arc<Mutex<Vec<ExportEvent>>>,
    desk: Desk,
    /// By export; nothing where it is forgotten.
    links: Vec<Option<Link>>,
    connections: BTreeMap<PeerId, Connection>,
    next_peer: PeerId,
}

impl Server {
    pub(super) fn new(
        listener: Option<OwnedFd>,
        options: ExporterOptions,
        inbox: Arc<Inbox>,
        events: Arc<Mutex<Vec<ExportEvent>>>,
    ) -> Self {
        let desk = Desk::new(options.quota, options.deadline);
        let (links, connections) = (Vec::new(), BTreeMap::new());
        Self { listener, options, inbox, events, desk, links, connections, next_peer: 0 }
    }

    pub(super) fn run(mut self) {
        loop {
            if !self.take_notes() {
                return self.end();
            }
            self.perform();
            let connections = self.connections.values();
            let mut fds = vec![socket::readable(&self.inbox.bell)];
            fds.extend(self.listener.iter().map(socket::readable));
            fds.extend(connections.map(|connection| match connection.unsent.is_empty() {
                true => socket::readable(&connection.socket),
                false => socket::writable(&connection.socket),
            }));
            if let Err(error) = socket::wait_for(&mut fds, self.desk.next_deadline()) {
                tracing::error!(%error, "waiting for importers failed, and their connections end");
                return self.end();
            }
            drop(fds);
            let _ = rustix::io::read(&self.inbox.bell, &mut [0; 8]);
            self.accept();
            for peer in self.connections.keys().copied().collect::<Vec<_>>() {
                self.attend(peer);
            }
            self.desk.at(Instant::now());
        }
    }

    /// False when it is over.
    fn take_notes(&mut self) -> bool {
        for note in self.inbox.take() {
            let now = Instant::now();
            match note {
                Note::Attach(socket) => self.connect(socket),
                Note::Export(offer, told) => {
                    let _ = told.send(self.export(*offer));
                }
                Note::Withdraw(name, told) => {
                    let export = self.desk.named(&name);
                    if let Some(export) = export {
                        self.desk.withdraw(export, now);
                    }
                    let _ = told.send(export.is_some());
                }
                Note::Mapped { export, block, outcome } => {
                    self.desk.mapped(export, block, outcome, now);
                }
                Note::Revoked { export, revoked } => {
                    let until = revoked.deadline();
                    let is_final = revoked.event() == hmmap_core::peer::PeerEvent::Release;
                    match &mut self.links[export] {
                        Some(link) => {
                            let block = link.revoke(revoked);
                            self.desk.revoked(export, block, until, now);
                        }
                        // Its mapping was just about to go.
                        None => revoked.confirm(),
                    }
                    if is_final {
                        self.desk.withdraw(export, now);
                    }
                }
                Note::CutOff { holder } => self.desk.gone(holder, now),
                Note::Stop => return false,
            }
        }
        true
    }

    fn export(&mut self, offer: Offer) -> bool {
        if let Some(other) = self.desk.named(&offer.name) {
            if self.links[other].as_ref().is_some_and(|link| !link.vector_is_gone()) {
                return false;
            }
            // Nobody had anything of it, or its end would have been told.
            self.desk.withdraw(other, Instant::now());
        }
        let (name, served) = (offer.name.clone(), offer.served);
        match Link::new(offer, self.links.len(), &self.inbox) {
            Ok(link) => {
                self.links.push(Some(link));
                self.desk.export(&name, served);
                true
            }
            Err(error) => {
                tracing::error!(%error, "no thread for a link");
                false
            }
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        match socket::accept(listener) {
            Ok(Some(socket)) => self.connect(socket),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "an importer could not connect"),
        }
    }

    fn connect(&mut self, socket: Socket) {
        let Ok(credentials) = socket.credentials() else { return };
        let peer = self.next_peer;
        self.next_peer += 1;
        if self.desk.connected(peer, Instant::now()) {
            let (unsent, is_deaf) = (VecDeque::new(), false);
            self.connections.insert(peer, Connection { socket, credentials, unsent, is_deaf });
        }
    }

    /// Sends what waited for room, and takes what arrived once nothing waits: who does not read is not read.
    fn attend(&mut self, peer: PeerId) {
        for _ in 0..MAX_AT_ONCE {
            self.flush(peer);
            let Some(connection) = self.connections.get(&peer) else { return };
            if !connection.unsent.is_empty() {
                return;
            }
            match connection.socket.receive() {
                Ok(Arrived::Nothing) => return,
                Ok(Arrived::Message(received)) => {
                    // Messages for an exporter have no descriptors.
                    let (sequence, message) = (received.sequence, received.message);
                    self.desk.received(peer, sequence, message, Instant::now());
                }
                Ok(Arrived::End) => self.desk.close(peer, Code::Done),
                Err(error) => {
                    tracing::warn!(%error, "an importer is not understood, and cut off");
                    self.desk.close(peer, Code::Protocol);
                }
            }
            self.perform();
        }
    }

    fn flush(&mut self, peer: PeerId) {
        let Some(connection) = self.connections.get_mut(&peer) else { return };
        while let Some((bytes, with)) = connection.unsent.front() {
            let link = with.and_then(|export| self.links[export].as_ref());
            let with = link.map(|link| link.fd.as_fd());
            match connection.socket.send(bytes, with) {
                Ok(true) => drop(connection.unsent.pop_front()),
                Ok(false) => return,
                Err(_) => {
                    connection.is_deaf = true;
                    connection.unsent.clear();
                }
            }
        }
    }

    /// Does what the desk has decided, until it has nothing more to be done.
    fn perform(&mut self) {
        loop {
            let outputs = self.desk.take_outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                self.perform_one(output);
            }
        }
    }

    fn perform_one(&mut self, output: Output) {
        match output {
            Output::Send { peer, sequence, message, with } => {
                self.send(peer, sequence, &message, with);
            }
            Output::Authorize { peer, sequence, export } => {
                let Some(connection) = self.connections.get(&peer) else { return };
                let Some(link) = &self.links[export] else { return };
                let (authorize, credentials) = (&self.options.authorize, &connection.credentials);
                let asked = catch_unwind(AssertUnwindSafe(|| authorize(credentials, &link.name)));
                let is_let_in = asked.unwrap_or(false);
                self.desk.authorized(peer, sequence, export, is_let_in);
            }
            Output::Map { export, block } => {
                if let Some(link) = &self.links[export] {
                    link.map(block);
                }
            }
            Output::GiveBack { export, block } => {
                if let Some(link) = &mut self.links[export] {
                    link.give_back(block);
                }
            }
            Output::Forget { export } => {
                if let Some(link) = self.links[export].take() {
                    link.end();
                }
            }
            Output::CutOff { export, holder, pages } => match &self.links[export] {
                Some(link) if link.is_lent && !pages.is_empty() => link.cut_off(holder, pages),
                _ => self.desk.gone(holder, Instant::now()),
            },
            Output::Lost { export, pages, .. } => {
                let name = self.links[export].as_ref().map(|link| link.name.clone());
                self.tell(ExportEvent::Lost { name: name.unwrap_or_default(), pages });
            }
            Output::Close { peer, code } => {
                self.send(peer, 0, &Message::Bye { code }, None);
                if let Some(connection) = self.connections.remove(&peer) {
                    self.tell(ExportEvent::Left { credentials: connection.credentials, code });
                }
            }
        }
    }

    fn send(&mut self, peer: PeerId, sequence: u64, message: &Message, with: Option<usize>) {
        let Some(connection) = self.connections.get_mut(&peer) else { return };
        if connection.is_deaf {
            return;
        }
        let mut bytes = Vec::new();
        if let Err(error) = wire::encode(sequence, message, &mut bytes) {
            tracing::error!(%error, ?message, "not a message");
            return;
        }
        connection.unsent.push_back((bytes, with));
        if connection.unsent.len() > MAX_UNSENT {
            connection.unsent.clear();
            return self.desk.close(peer, Code::Quota);
        }
        self.flush(peer);
    }

    fn tell(&self, event: ExportEvent) {
        let mut events = self.events.lock();
        if events.len() < MAX_EVENTS {
            events.push(event);
        }
    }

    /// Everybody is cut off; the links wait for what that takes.
    fn end(mut self) {
        for peer in self.connections.keys().copied().collect::<Vec<_>>() {
            self.desk.close(peer, Code::Done);
        }
        self.perform();
        self.inbox.close();
    }
}
