//! What an importer knows of its connection. Pure: messages in, what they mean out. What the exporter sends and was not asked for is a violation.

use std::collections::BTreeMap;

use hmmap_core::home::Keep;

use crate::wire::{Code, Message, Opened, Pages};

/// A question that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    Open,
    Ask,
    /// Nobody waits for its answer any more.
    Abandoned,
}

/// What the exporter said to a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Opened(Opened),
    Granted,
    Refused(Code),
}

/// What a message means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Meaning {
    Nothing,
    /// The question of this number is answered.
    Answered {
        sequence: u64,
        answer: Answer,
    },
    /// A buffer was opened for somebody who waits no more.
    Unwanted {
        buffer: u64,
    },
    /// Give these back, and confirm under this number.
    Recall {
        sequence: u64,
        buffer: u64,
        pages: Pages,
        keep: Keep,
    },
    /// The exporter has left, for this reason.
    End {
        code: Code,
    },
}

/// It said what cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Violation;

/// The state of a connection.
#[derive(Debug)]
pub(crate) struct Session {
    is_greeted: bool,
    next_sequence: u64,
    /// Few, and kept in place: a thread that answers a page fault adds to it.
    questions: Vec<(u64, Question)>,
    buffers: BTreeMap<u64, Buffer>,
}

/// How a buffer stands that was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Buffer {
    Open,
    /// The exporter grants nothing of it any more.
    Over,
    /// It is not used here any more.
    Closed,
}

impl Session {
    pub(crate) fn new() -> Self {
        Self {
            is_greeted: false,
            next_sequence: 0,
            questions: Vec::with_capacity(256),
            buffers: BTreeMap::new(),
        }
    }

    /// A question is about to be sent; under which number. Nothing when the exporter has said that there is nothing to ask any more.
    pub(crate) fn question(&mut self, message: &Message) -> Option<u64> {
        let question = match message {
            Message::Ask { buffer, .. } if self.buffers.get(buffer) != Some(&Buffer::Open) => {
                return None;
            }
            Message::Ask { .. } => Question::Ask,
            _ => Question::Open,
        };
        self.next_sequence += 1;
        self.questions.push((self.next_sequence, question));
        Some(self.next_sequence)
    }

    /// Nobody waits for it any more. The answer may come yet.
    pub(crate) fn abandon(&mut self, sequence: u64) {
        if let Some((_, question)) = self.questions.iter_mut().find(|(of, _)| *of == sequence) {
            *question = Question::Abandoned;
        }
    }

    /// A buffer is not used here any more.
    pub(crate) fn close(&mut self, buffer: u64) {
        if let Some(known) = self.buffers.get_mut(&buffer) {
            *known = Buffer::Closed;
        }
    }

    /// Some buffer is used here.
    pub(crate) fn is_used(&self) -> bool {
        self.buffers.values().any(|buffer| *buffer != Buffer::Closed)
    }

    /// A message with as many descriptors as it is to have.
    pub(crate) fn received(
        &mut self,
        sequence: u64,
        message: Message,
    ) -> Result<Meaning, Violation> {
        if !self.is_greeted {
            return match message {
                Message::Hello => {
                    self.is_greeted = true;
                    Ok(Meaning::Nothing)
                }
                Message::Bye { code } => Ok(Meaning::End { code }),
                _ => Err(Violation),
            };
        }
        match message {
            Message::Opened(opened) => self.answered(sequence, Answer::Opened(opened)),
            Message::Granted => self.answered(sequence, Answer::Granted),
            Message::Refused { code } => self.answered(sequence, Answer::Refused(code)),
            Message::Recall { buffer, pages, keep, .. } if self.buffers.contains_key(&buffer) => {
                Ok(Meaning::Recall { sequence, buffer, pages, keep })
            }
            Message::Release { buffer, .. } => {
                let known = self.buffers.get_mut(&buffer).ok_or(Violation)?;
                if *known == Buffer::Open {
                    *known = Buffer::Over;
                }
                Ok(Meaning::Nothing)
            }
            Message::Bye { code } => Ok(Meaning::End { code }),
            _ => Err(Violation),
        }
    }

    fn answered(&mut self, sequence: u64, answer: Answer) -> Result<Meaning, Violation> {
        let at = self.questions.iter().position(|(of, _)| *of == sequence).ok_or(Violation)?;
        let (_, question) = self.questions.swap_remove(at);
        let fits = match answer {
            Answer::Opened(_) => question != Question::Ask,
            Answer::Granted => question != Question::Open,
            Answer::Refused(_) => true,
        };
        if !fits {
            return Err(Violation);
        }
        if let Answer::Opened(opened) = answer
            && self.buffers.insert(opened.buffer, Buffer::Open).is_some()
        {
            // A number twice would make one of the two answer for the other.
            return Err(Violation);
        }
        if question == Question::Abandoned {
            return Ok(match answer {
                Answer::Opened(opened) => Meaning::Unwanted { buffer: opened.buffer },
                Answer::Granted | Answer::Refused(_) => Meaning::Nothing,
            });
        }
        Ok(Meaning::Answered { sequence, answer })
    }
}

#[cfg(test)]
mod tests;
