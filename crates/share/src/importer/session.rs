//! What an importer knows of its connection. Pure: messages in, what they mean out. What the exporter sends and was not asked for is a violation.

use std::collections::BTreeMap;

use hmmap_core::home::Keep;

use crate::wire::{Code, Message, Opened, OpenedDmaBuf, Pages};

/// A question that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    Open,
    OpenDmaBuf,
    Ask,
    /// Nobody waits for its answer any more.
    Abandoned,
}

/// What the exporter said to a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Opened(Opened),
    OpenedDmaBuf(OpenedDmaBuf),
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
            Message::OpenDmaBuf { .. } => Question::OpenDmaBuf,
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
            Message::OpenedDmaBuf(opened) => self.answered(sequence, Answer::OpenedDmaBuf(opened)),
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
        let asked = match answer {
            Answer::Opened(_) => Some(Question::Open),
            Answer::OpenedDmaBuf(_) => Some(Question::OpenDmaBuf),
            Answer::Granted => Some(Question::Ask),
            Answer::Refused(_) => None,
        };
        let is_abandoned = question == Question::Abandoned;
        if !is_abandoned && asked.is_some_and(|asked| asked != question) {
            return Err(Violation);
        }
        let opened = match answer {
            // Nothing of a dma-buf is granted.
            Answer::OpenedDmaBuf(opened) => Some((opened.buffer, Buffer::Over)),
            Answer::Opened(opened) => Some((opened.buffer, Buffer::Open)),
            Answer::Granted | Answer::Refused(_) => None,
        };
        if let Some((buffer, state)) = opened
            && self.buffers.insert(buffer, state).is_some()
        {
            // A number twice would make one of the two answer for the other.
            return Err(Violation);
        }
        if is_abandoned {
            let unwanted = opened.map(|(buffer, _)| Meaning::Unwanted { buffer });
            return Ok(unwanted.unwrap_or(Meaning::Nothing));
        }
        Ok(Meaning::Answered { sequence, answer })
    }
}

#[cfg(test)]
mod tests;
