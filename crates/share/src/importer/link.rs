//! The connection, as the threads of an importer share it: whoever asks, the one that reads, and those that bring recalled pages home.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use hmmap_core::{Recall, home::Recalled};
use parking_lot::{Condvar, Mutex};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags},
    io::Errno,
};

use super::session::{Answer, Meaning, Session};
use crate::{
    ShareError,
    socket::{self, Arrived, Received, Socket},
    wire::{self, Code, MAX_BYTES, MAX_RUNS, Message, Pages},
};

/// Answers to recalls that may wait for room in the socket: an exporter that recalls more and reads none of it is not one.
const MAX_UNSENT: usize = 1024;

pub(super) struct Link {
    socket: Socket,
    /// Rung for the reader when an answer waits for room.
    bell: OwnedFd,
    deadline: Duration,
    state: Mutex<State>,
    /// An answer has come, or the end.
    told: Condvar,
}

struct State {
    session: Session,
    answers: HashMap<u64, (Answer, Option<OwnedFd>)>,
    /// Where recalls of a buffer go.
    recalls: HashMap<u64, Recall>,
    unsent: VecDeque<(u64, Message)>,
    /// Why nothing is sent or believed any more.
    end: Option<Code>,
    /// Nobody opens anything any more.
    is_abandoned: bool,
    /// For what is sent.
    bytes: Vec<u8>,
}

impl Link {
    /// Says hello.
    pub(super) fn new(socket: Socket, deadline: Duration) -> Result<Self, ShareError> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let state = State {
            session: Session::new(),
            answers: HashMap::with_capacity(256),
            recalls: HashMap::new(),
            unsent: VecDeque::new(),
            end: None,
            is_abandoned: false,
            bytes: Vec::with_capacity(MAX_BYTES),
        };
        let (state, told) = (Mutex::new(state), Condvar::new());
        let link = Self { socket, bell, deadline, state, told };
        let _ = link.try_send(&mut link.state.lock(), 0, &Message::Hello)?;
        Ok(link)
    }

    pub(super) fn end(&self) -> Option<Code> {
        self.state.lock().end
    }

    /// Recalls of a buffer go there from now on.
    pub(super) fn serve(&self, buffer: u64, recall: Recall) {
        self.state.lock().recalls.insert(buffer, recall);
    }

    /// Asks, and waits for the answer.
    pub(super) fn ask(&self, question: &Message) -> Result<(Answer, Option<OwnedFd>), ShareError> {
        let until = Instant::now() + self.deadline;
        let mut state = self.state.lock();
        if state.end.is_some() {
            return Err(ShareError::Gone);
        }
        let sequence = state.session.question(question).ok_or(ShareError::Gone)?;
        while !self.try_send(&mut state, sequence, question)? {
            drop(state);
            socket::wait_for(&mut [socket::writable(&self.socket)], Some(until))?;
            state = self.state.lock();
            if Instant::now() >= until {
                break;
            }
        }
        loop {
            if let Some(answer) = state.answers.remove(&sequence) {
                return Ok(answer);
            }
            if state.end.is_some() {
                return Err(ShareError::Gone);
            }
            if self.told.wait_until(&mut state, until).timed_out() {
                if let Some(answer) = state.answers.remove(&sequence) {
                    return Ok(answer);
                }
                state.session.abandon(sequence);
                return Err(ShareError::Late { waited: self.deadline });
            }
        }
    }

    /// False when there is no room now.
    fn try_send(
        &self,
        state: &mut State,
        sequence: u64,
        message: &Message,
    ) -> Result<bool, ShareError> {
        wire::encode(sequence, message, &mut state.bytes)?;
        match self.socket.send(&state.bytes, None) {
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(ShareError::Gone),
            sent => Ok(sent?),
        }
    }

    /// Sends it now, or has the reader send it when there is room.
    fn post(&self, sequence: u64, message: Message) {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return;
        }
        if state.unsent.is_empty() {
            match self.try_send(&mut state, sequence, &message) {
                Ok(true) => return,
                Ok(false) => {}
                Err(_) => return self.finish(&mut state, Code::Done),
            }
        }
        state.unsent.push_back((sequence, message));
        if state.unsent.len() > MAX_UNSENT {
            return self.finish(&mut state, Code::Protocol);
        }
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// A buffer is not used here any more.
    pub(super) fn release(&self, buffer: u64, lost: &[Range<usize>]) {
        self.post(0, Message::Release { buffer, lost: runs(lost) });
        let mut state = self.state.lock();
        state.recalls.remove(&buffer);
        state.session.close(buffer);
        if state.is_abandoned && !state.session.is_used() {
            self.leave(&mut state);
        }
    }

    /// Nobody opens anything any more. True when nothing is used any more either, and the connection over.
    pub(super) fn abandon(&self) -> bool {
        let mut state = self.state.lock();
        state.is_abandoned = true;
        let is_over = !state.session.is_used();
        if is_over {
            self.leave(&mut state);
        }
        is_over
    }

    fn leave(&self, state: &mut State) {
        // What was given back last may wait still, and counts as lost if it is not said.
        while let Some((sequence, message)) = state.unsent.pop_front() {
            let _ = self.try_send(state, sequence, &message);
        }
        let _ = self.try_send(state, 0, &Message::Bye { code: Code::Done });
        self.finish(state, Code::Done);
    }

    /// Nothing is sent or believed any more, and whoever waits is told.
    fn finish(&self, state: &mut State, code: Code) {
        state.end.get_or_insert(code);
        let _ = rustix::net::shutdown(self.socket.as_fd(), rustix::net::Shutdown::Both);
        self.told.notify_all();
    }

    /// Nobody takes in anything any more.
    pub(super) fn fail(&self) {
        self.finish(&mut self.state.lock(), Code::Failed);
    }

    /// Takes in what arrives, until the end.
    pub(super) fn read(self: Arc<Self>) {
        loop {
            let room = if self.state.lock().unsent.is_empty() {
                PollFlags::IN
            } else {
                PollFlags::IN | PollFlags::OUT
            };
            let mut fds = [PollFd::new(&self.socket, room), socket::readable(&self.bell)];
            if socket::wait_for(&mut fds, None).is_err() {
                return self.finish(&mut self.state.lock(), Code::Failed);
            }
            let _ = rustix::io::read(&self.bell, &mut [0; 8]);
            self.flush();
            loop {
                let code = match self.socket.receive() {
                    Ok(Arrived::Nothing) => break,
                    Ok(Arrived::Message(received)) => match self.take_in(received) {
                        Some(code) => code,
                        None => continue,
                    },
                    Ok(Arrived::End) => Code::Done,
                    Err(error) => {
                        tracing::warn!(%error, "an exporter is not understood");
                        Code::Protocol
                    }
                };
                return self.finish(&mut self.state.lock(), code);
            }
            if self.state.lock().end.is_some() {
                return;
            }
        }
    }

    fn flush(&self) {
        let mut state = self.state.lock();
        while let Some((sequence, message)) = state.unsent.pop_front() {
            match self.try_send(&mut state, sequence, &message) {
                Ok(true) => {}
                Ok(false) => return state.unsent.push_front((sequence, message)),
                Err(_) => return self.finish(&mut state, Code::Done),
            }
        }
    }

    /// The reason, when it ends the connection.
    fn take_in(self: &Arc<Self>, received: Received) -> Option<Code> {
        let Received { sequence, message, descriptor } = received;
        let mut state = self.state.lock();
        let Ok(meaning) = state.session.received(sequence, message) else {
            tracing::warn!("an exporter said what cannot be");
            return Some(Code::Protocol);
        };
        match meaning {
            Meaning::Nothing => None,
            Meaning::Answered { sequence, answer } => {
                state.answers.insert(sequence, (answer, descriptor));
                self.told.notify_all();
                None
            }
            Meaning::Unwanted { buffer } => {
                drop(state);
                self.release(buffer, &[]);
                None
            }
            Meaning::Recall { sequence, buffer, pages, keep } => {
                let recall = state.recalls.get(&buffer).cloned();
                drop(state);
                let link = Arc::downgrade(self);
                match recall {
                    Some(recall) => {
                        let pages = pages.range();
                        let pages = pages.start as usize..pages.end as usize;
                        recall.recall(pages, keep, move |recalled| {
                            confirm(&link, sequence, &recalled);
                        });
                    }
                    // Nothing of it was ever used, or is any more.
                    None => confirm(&link, sequence, &Recalled::default()),
                }
                None
            }
            Meaning::End { code } => Some(code),
        }
    }
}

fn confirm(link: &Weak<Link>, sequence: u64, recalled: &Recalled) {
    if let Some(link) = link.upgrade() {
        let (dirty, lost) = (runs(&recalled.dirty), runs(&recalled.lost));
        link.post(sequence, Message::Confirmed { dirty, lost });
    }
}

/// As they are sent: ascending, with gaps between, and few. Where there are too many, the smallest gaps are named too.
fn runs(pages: &[Range<usize>]) -> Vec<Pages> {
    let mut sorted: Vec<Range<u64>> =
        pages.iter().map(|run| run.start as u64..run.end as u64).collect();
    sorted.retain(|run| !run.is_empty());
    sorted.sort_by_key(|run| run.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for run in sorted {
        match merged.last_mut() {
            Some(before) if run.start <= before.end => before.end = before.end.max(run.end),
            _ => merged.push(run),
        }
    }
    while merged.len() > MAX_RUNS {
        let gaps = merged.windows(2).map(|two| two[1].start - two[0].end);
        let (at, _) = gaps.enumerate().min_by_key(|(_, gap)| *gap).unwrap_or_default();
        let after = merged.remove(at + 1);
        merged[at].end = after.end;
    }
    merged.iter().map(Pages::of).collect()
}
