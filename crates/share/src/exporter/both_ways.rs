//! Two processes that serve each other and need both pages at once, in any order of their threads: nobody waits for ever. The arbiter is the shipped one; sockets
//! are channels, and the engines around it are no more than who waits for what:
//!
//! | thread | waits for |
//! |---|---|
//! | program | its page to come back, an answer |
//! | server, reader | nothing but the next message |
//! | link (brings a block home for others) | the program's own use of it |
//! | recall (gives a page back) | the program's own use of it, not for what it asks meanwhile |
//!
//! Built with `--cfg shuttle` alone; `cargo xtask test` does so.

use shuttle::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use super::arbiter::{Action, Arbiter};
use crate::wire::Code;
use hmmap_core::home::Grant;

const ORDERS: usize = 2000;
const ROUNDS: u32 = 2;

/// What arrives at a process, from the other or from its own threads.
enum Note {
    Ask(u64),
    Confirmed(u64),
    Mapped,
    Revoked,
    Granted(u64),
    Refused(Code),
    Recall(u64),
    Stop,
}

/// Its own page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    Here,
    GivenOut,
    Returning,
}

struct State {
    own: Own,
    /// The other's page is granted.
    has_other: bool,
    recalls: u64,
    answered: u64,
    is_used: bool,
}

struct Process {
    state: Mutex<State>,
    changed: Condvar,
}

impl Process {
    fn new() -> Arc<Self> {
        let (own, has_other) = (Own::Here, false);
        let state = State { own, has_other, recalls: 0, answered: 0, is_used: false };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn wait_until(&self, is_so: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while !is_so(&state) {
            state = self.changed.wait(state).unwrap();
        }
        state
    }

    /// Uses both pages at once, so often. Holds neither while it waits for the other.
    fn program(&self, other: &Sender<Note>, own: &Sender<Note>) {
        let (mut rounds, mut asked) = (0, 0);
        while rounds < ROUNDS {
            let mut state = self.lock();
            if !state.has_other {
                let recalls = state.recalls;
                drop(state);
                asked += 1;
                other.send(Note::Ask(asked)).unwrap();
                state = self.wait_until(|state| state.answered == asked);
                // A grant that was recalled meanwhile is not believed.
                state.has_other = state.recalls == recalls;
            }
            if state.own == Own::GivenOut {
                state.own = Own::Returning;
                drop(state);
                own.send(Note::Revoked).unwrap();
                // It may have been given out again by then.
                state = self.wait_until(|state| state.own != Own::Returning);
            }
            if state.has_other && state.own == Own::Here {
                state.is_used = true;
                drop(state);
                thread::yield_now();
                self.lock().is_used = false;
                self.changed.notify_all();
                rounds += 1;
            }
        }
    }

    fn serve(
        &self,
        notes: &Receiver<Note>,
        other: &Sender<Note>,
        link: &Sender<Note>,
        recall: &Sender<Note>,
    ) {
        let mut arbiter = Arbiter::new(1);
        while let Ok(note) = notes.recv() {
            match note {
                Note::Ask(sequence) => arbiter.ask(1, sequence, 0..1, Grant::Write),
                Note::Confirmed(id) => assert!(arbiter.confirmed(1, id)),
                Note::Mapped => arbiter.mapped(0, Ok(())),
                Note::Revoked => arbiter.revoked(0),
                Note::Granted(sequence) => {
                    self.lock().answered = sequence;
                    self.changed.notify_all();
                }
                Note::Recall(id) => {
                    // Nobody gets the page from here on.
                    let mut state = self.lock();
                    state.recalls += 1;
                    state.has_other = false;
                    drop(state);
                    recall.send(Note::Recall(id)).unwrap();
                }
                Note::Refused(code) => panic!("refused: {code:?}"),
                Note::Stop => return,
            }
            for action in arbiter.take_actions() {
                match action {
                    Action::Map { .. } => link.send(Note::Mapped).unwrap(),
                    Action::GiveBack { .. } => {
                        self.lock().own = Own::Here;
                        self.changed.notify_all();
                    }
                    Action::Recall { id, .. } => other.send(Note::Recall(id)).unwrap(),
                    Action::Grant { sequence, .. } => other.send(Note::Granted(sequence)).unwrap(),
                    Action::Refuse { code, .. } => other.send(Note::Refused(code)).unwrap(),
                }
            }
        }
    }

    /// Brings the page to where others can have it.
    fn link(&self, jobs: &Receiver<Note>, own: &Sender<Note>) {
        while let Ok(Note::Mapped) = jobs.recv() {
            let mut state = self.wait_until(|state| !state.is_used && state.own == Own::Here);
            state.own = Own::GivenOut;
            drop(state);
            own.send(Note::Mapped).unwrap();
        }
    }

    /// Gives the other's page back, once what uses it has ended.
    fn recall(&self, jobs: &Receiver<Note>, other: &Sender<Note>) {
        while let Ok(Note::Recall(id)) = jobs.recv() {
            drop(self.wait_until(|state| !state.is_used));
            other.send(Note::Confirmed(id)).unwrap();
        }
    }
}

fn both_ways() {
    let (to, notes): (Vec<_>, Vec<_>) = [channel(), channel()].into_iter().unzip();
    let (mut programs, mut others, mut stops) = (Vec::new(), Vec::new(), to.clone());
    for (at, notes) in notes.into_iter().enumerate() {
        let process = Process::new();
        let (own, other) = (to[at].clone(), to[1 - at].clone());
        let (link, link_jobs) = channel();
        let (recall, recall_jobs) = channel();
        stops.extend([link.clone(), recall.clone()]);
        let start = |run: Box<dyn FnOnce(&Process) + Send>| {
            let process = Arc::clone(&process);
            thread::spawn(move || run(&process))
        };
        let (to_other, to_own) = (other.clone(), own.clone());
        programs.push(start(Box::new(move |process| process.program(&to_other, &to_own))));
        let (to_other, to_own) = (other.clone(), own);
        others.push(start(Box::new(move |process| process.link(&link_jobs, &to_own))));
        others.push(start(Box::new(move |process| process.recall(&recall_jobs, &to_other))));
        others.push(start(Box::new(move |process| process.serve(&notes, &other, &link, &recall))));
    }
    programs.into_iter().for_each(|program| program.join().unwrap());
    stops.iter().for_each(|stop| stop.send(Note::Stop).unwrap());
    others.into_iter().for_each(|other| other.join().unwrap());
}

/// Shuttle calls it a deadlock when nobody can go on, and a livelock when nothing ends.
#[test]
fn two_that_serve_each_other_both_end() {
    shuttle::check_random(both_ways, ORDERS);
}
