//! What an importer believes, message by message.

use hmmap_core::home::Grant;

use super::*;

const FIRST: Pages = Pages { first: 0, count: 1 };

fn opened(buffer: u64) -> Opened {
    let len_bytes = 2 << 20;
    let most = Grant::Write;
    Opened { buffer, len_bytes, used_bytes: len_bytes, page_bytes: 65_536, seals: 0, most }
}

fn open() -> Message {
    Message::Open { name: "x".to_owned() }
}

fn ask(buffer: u64) -> Message {
    Message::Ask { buffer, pages: FIRST, access: Grant::Read }
}

/// A greeted session with the buffer 7 open.
fn with_a_buffer() -> Session {
    let mut session = Session::new();
    assert_eq!(session.received(0, Message::Hello), Ok(Meaning::Nothing));
    let sequence = session.question(&open()).unwrap();
    let answer = Answer::Opened(opened(7));
    let answered = session.received(sequence, Message::Opened(opened(7)));
    assert_eq!(answered, Ok(Meaning::Answered { sequence, answer }));
    session
}

#[test]
fn answers_belong_to_their_questions_in_any_order() {
    let mut session = with_a_buffer();
    let first = session.question(&ask(7)).unwrap();
    let second = session.question(&ask(7)).unwrap();
    let code = Code::Late;
    let refused = Meaning::Answered { sequence: second, answer: Answer::Refused(code) };
    assert_eq!(session.received(second, Message::Refused { code }), Ok(refused));
    let granted = Meaning::Answered { sequence: first, answer: Answer::Granted };
    assert_eq!(session.received(first, Message::Granted), Ok(granted));
    assert_eq!(session.received(first, Message::Granted), Err(Violation), "answered already");
    assert_eq!(session.question(&ask(8)), None, "it is not open");
}

#[test]
fn what_nobody_asked_is_not_believed() {
    let recall =
        |buffer| Message::Recall { buffer, pages: FIRST, keep: Keep::Nothing, deadline_ms: 1 };
    let wrong: [fn(u64) -> (u64, Message); 7] = [
        |_| (99, Message::Granted),
        |_| (0, Message::Hello),
        |_| (0, open()),
        |_| (0, Message::Confirmed { dirty: vec![], lost: vec![] }),
        |asked| (asked, Message::Opened(opened(9))),
        |_| (0, Message::Release { buffer: 8, lost: vec![] }),
        |_| (0, ask(7)),
    ];
    for wrong in wrong {
        let mut session = with_a_buffer();
        let asked = session.question(&ask(7)).unwrap();
        let (sequence, message) = wrong(asked);
        assert_eq!(session.received(sequence, message.clone()), Err(Violation), "{message:?}");
    }
    let mut session = with_a_buffer();
    assert_eq!(session.received(3, recall(8)), Err(Violation), "it is not open");
    let (buffer, pages, keep) = (7, FIRST, Keep::Nothing);
    let meant = Meaning::Recall { sequence: 3, buffer, pages, keep };
    assert_eq!(session.received(3, recall(7)), Ok(meant));
    let asked = session.question(&open()).unwrap();
    assert_eq!(session.received(asked, Message::Granted), Err(Violation), "opened, not granted");
    let asked = session.question(&open()).unwrap();
    assert_eq!(session.received(asked, Message::Opened(opened(7))), Err(Violation), "7 is open");
    assert_eq!(Session::new().received(0, Message::Granted), Err(Violation), "no hello");
}

#[test]
fn who_gave_up_waiting_is_not_told_and_nothing_stays_open_for_him() {
    let mut session = with_a_buffer();
    let asked = session.question(&ask(7)).unwrap();
    session.abandon(asked);
    assert_eq!(session.received(asked, Message::Granted), Ok(Meaning::Nothing));
    let asked = session.question(&open()).unwrap();
    session.abandon(asked);
    let unwanted = Meaning::Unwanted { buffer: 8 };
    assert_eq!(session.received(asked, Message::Opened(opened(8))), Ok(unwanted));
}

#[test]
fn a_buffer_that_is_over_is_recalled_and_not_asked_for() {
    let mut session = with_a_buffer();
    assert!(session.is_used());
    let over = Message::Release { buffer: 7, lost: vec![] };
    assert_eq!(session.received(0, over), Ok(Meaning::Nothing));
    assert_eq!(session.question(&ask(7)), None);
    let keep = Keep::Nothing;
    let recall = Message::Recall { buffer: 7, pages: FIRST, keep, deadline_ms: 1 };
    let meant = Meaning::Recall { sequence: 4, buffer: 7, pages: FIRST, keep };
    assert_eq!(session.received(4, recall), Ok(meant));
    assert!(session.is_used());
    session.close(7);
    assert!(!session.is_used());
    let end = session.received(0, Message::Bye { code: Code::Failed });
    assert_eq!(end, Ok(Meaning::End { code: Code::Failed }));
}

#[test]
fn a_dma_buf_answers_its_own_question_and_is_asked_for_nothing() {
    let dma_buf = |buffer| OpenedDmaBuf { buffer, len_bytes: 4096, offset_bytes: 0, used_bytes: 1 };
    let question = Message::OpenDmaBuf { name: "d".to_owned() };
    let mut session = with_a_buffer();
    let sequence = session.question(&question).unwrap();
    let answer = Answer::OpenedDmaBuf(dma_buf(8));
    let answered = session.received(sequence, Message::OpenedDmaBuf(dma_buf(8)));
    assert_eq!(answered, Ok(Meaning::Answered { sequence, answer }));
    assert_eq!(session.question(&ask(8)), None, "nothing of it is granted");
    session.close(7);
    assert!(session.is_used());
    session.close(8);
    assert!(!session.is_used());
    // Neither answers the other's question, nor has a number that is taken.
    let asked = session.question(&question).unwrap();
    assert_eq!(session.received(asked, Message::Opened(opened(9))), Err(Violation));
    let mut session = with_a_buffer();
    let asked = session.question(&open()).unwrap();
    assert_eq!(session.received(asked, Message::OpenedDmaBuf(dma_buf(9))), Err(Violation));
    let mut session = with_a_buffer();
    let asked = session.question(&question).unwrap();
    assert_eq!(session.received(asked, Message::OpenedDmaBuf(dma_buf(7))), Err(Violation));
    // Who gave up waiting has nothing of it.
    let mut session = with_a_buffer();
    let asked = session.question(&question).unwrap();
    session.abandon(asked);
    let unwanted = Meaning::Unwanted { buffer: 8 };
    assert_eq!(session.received(asked, Message::OpenedDmaBuf(dma_buf(8))), Ok(unwanted));
}
