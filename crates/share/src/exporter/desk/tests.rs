//! What the exporter decides, step by step: time and messages by hand.
#![allow(clippy::single_range_in_vec_init, reason = "one stretch of pages is meant")]

use hmmap_core::home::Keep;

use super::*;
use crate::wire::{Opened, OpenedDmaBuf};

const DEADLINE: Duration = Duration::from_millis(100);
const FIRST: Pages = Pages { first: 0, count: 1 };

/// A desk with one vector of two blocks, and its clock.
struct Rig {
    desk: Desk,
    now: Instant,
}

fn opened(most: Grant) -> Opened {
    let len_bytes = 2 * BLOCK_BYTES;
    Opened { buffer: 0, len_bytes, used_bytes: len_bytes, page_bytes: 65_536, seals: 0, most }
}

fn dma_buf(blocks: u64) -> Served {
    let len_bytes = blocks * BLOCK_BYTES;
    Served::DmaBuf(OpenedDmaBuf { buffer: 0, len_bytes, offset_bytes: 0, used_bytes: len_bytes })
}

impl Rig {
    fn new(quota: Quota, most: Grant) -> Self {
        let mut desk = Desk::new(quota, DEADLINE);
        desk.export("x", Served::Vector(opened(most)));
        Self { desk, now: Instant::now() }
    }

    fn connect(&mut self, peer: PeerId) -> bool {
        let is_in = self.desk.connected(peer, self.now);
        self.desk.received(peer, 0, Message::Hello, self.now);
        is_in
    }

    fn says(&mut self, peer: PeerId, sequence: u64, message: Message) -> Vec<Output> {
        self.desk.received(peer, sequence, message, self.now);
        self.desk.take_outputs()
    }

    /// Opens `x` and gives its number.
    fn opens(&mut self, peer: PeerId) -> Holder {
        let open = Message::Open { name: "x".to_owned() };
        let asked = self.says(peer, 1, open);
        assert_eq!(asked.last(), Some(&Output::Authorize { peer, sequence: 1, export: 0 }));
        self.desk.authorized(peer, 1, 0, true);
        match &self.desk.take_outputs()[..] {
            [Output::Send { message: Message::Opened(opened), with: Some(0), .. }] => opened.buffer,
            other => panic!("not opened: {other:?}"),
        }
    }

    fn asks(&mut self, peer: PeerId, sequence: u64, buffer: Holder, access: Grant) -> Vec<Output> {
        self.says(peer, sequence, Message::Ask { buffer, pages: FIRST, access })
    }

    fn mapped(&mut self, block: u64) -> Vec<Output> {
        self.desk.mapped(0, block, Ok(()), self.now);
        self.desk.take_outputs()
    }

    /// Two peers that have `x` open; the first writes its first page.
    fn with_a_writer() -> (Self, Holder, Holder) {
        let mut rig = Self::new(Quota::default(), Grant::Write);
        assert!(rig.connect(1) && rig.connect(2));
        rig.desk.take_outputs();
        let (one, two) = (rig.opens(1), rig.opens(2));
        assert_eq!(rig.asks(1, 5, one, Grant::Write), [Output::Map { export: 0, block: 0 }]);
        assert_eq!(rig.mapped(0), [send(1, 5, Message::Granted)]);
        (rig, one, two)
    }
}

fn send(peer: PeerId, sequence: u64, message: Message) -> Output {
    Output::Send { peer, sequence, message, with: None }
}

fn refused(peer: PeerId, sequence: u64, code: Code) -> [Output; 1] {
    [send(peer, sequence, Message::Refused { code })]
}

#[test]
fn what_one_has_is_recalled_for_another() {
    let (mut rig, one, two) = Rig::with_a_writer();
    let recall = |keep| Message::Recall { buffer: one, pages: FIRST, keep, deadline_ms: 100 };
    assert_eq!(rig.asks(2, 6, two, Grant::Read), [send(1, 1, recall(Keep::Reading))]);
    assert_eq!(rig.desk.next_deadline(), Some(rig.now + DEADLINE));
    let confirmed = Message::Confirmed { dirty: vec![FIRST], lost: vec![] };
    assert_eq!(rig.says(1, 1, confirmed), [send(2, 6, Message::Granted)]);
    assert_eq!(rig.desk.next_deadline(), None);
}

#[test]
fn who_is_late_is_cut_off_and_keeps_nobody_waiting_longer() {
    let (mut rig, one, two) = Rig::with_a_writer();
    rig.asks(2, 6, two, Grant::Write);
    rig.now += DEADLINE - Duration::from_millis(1);
    rig.desk.at(rig.now);
    assert_eq!(rig.desk.take_outputs(), []);
    rig.now += Duration::from_millis(1);
    rig.desk.at(rig.now);
    let cut_off = Output::CutOff { export: 0, holder: one, pages: vec![0..1] };
    let close = Output::Close { peer: 1, code: Code::Late };
    assert_eq!(rig.desk.take_outputs(), [cut_off, close]);
    // Nothing of it is believed any more, and nobody gets the page before it is taken from its mapping.
    assert_eq!(rig.says(1, 1, Message::Confirmed { dirty: vec![], lost: vec![] }), []);
    rig.desk.gone(one, rig.now);
    let lost = Output::Lost { peer: 1, export: 0, pages: vec![0..1] };
    assert_eq!(rig.desk.take_outputs(), [lost, send(2, 6, Message::Granted)]);
}

#[test]
fn the_owner_has_its_block_back_within_its_own_deadline() {
    let (mut rig, one, _) = Rig::with_a_writer();
    rig.desk.revoked(0, 0, rig.now + Duration::from_millis(40), rig.now);
    let (keep, deadline_ms) = (Keep::Nothing, 30);
    let recall = Message::Recall { buffer: one, pages: FIRST, keep, deadline_ms };
    assert_eq!(rig.desk.take_outputs(), [send(1, 1, recall)]);
    let lost = Output::Lost { peer: 1, export: 0, pages: vec![0..1] };
    let confirmed = Message::Confirmed { dirty: vec![], lost: vec![FIRST] };
    let give_back = Output::GiveBack { export: 0, block: 0 };
    assert_eq!(rig.says(1, 1, confirmed), [lost, give_back]);
}

#[test]
fn an_answer_to_no_question_ends_the_connection() {
    let pages = |first, count| Pages { first, count };
    let wrong = [
        (2, Message::Confirmed { dirty: vec![], lost: vec![] }),
        (1, Message::Confirmed { dirty: vec![pages(0, 2)], lost: vec![] }),
        (1, Message::Confirmed { dirty: vec![], lost: vec![pages(7, 1)] }),
        (1, Message::Granted),
        (1, Message::Hello),
        (1, Message::Release { buffer: 2, lost: vec![] }),
    ];
    for (sequence, message) in wrong {
        let (mut rig, _, two) = Rig::with_a_writer();
        assert_eq!(two, 2, "the other's");
        rig.asks(2, 6, two, Grant::Write);
        let outputs = rig.says(1, sequence, message.clone());
        let close = Output::Close { peer: 1, code: Code::Protocol };
        assert_eq!(outputs.last(), Some(&close), "{message:?}");
    }
}

#[test]
fn quotas_hold_and_what_is_given_back_counts_no_more() {
    let quota = Quota { peers: 2, buffers: 2, bytes: 4 * BLOCK_BYTES, asks: 1 };
    let mut rig = Rig::new(quota, Grant::Write);
    let y = Opened { len_bytes: 3 * BLOCK_BYTES, ..opened(Grant::Write) };
    rig.desk.export("y", Served::Vector(y));
    assert!(rig.connect(1));
    let open = |name: &str| Message::Open { name: name.to_owned() };
    let first = rig.opens(1);
    assert_eq!(rig.says(1, 3, open("y")), refused(1, 3, Code::Quota), "five blocks");
    let second = rig.opens(1);
    assert_eq!(rig.says(1, 4, open("x")), refused(1, 4, Code::Quota), "three buffers");
    assert_eq!(rig.asks(1, 5, first, Grant::Read).len(), 1);
    assert_eq!(rig.asks(1, 6, second, Grant::Read), refused(1, 6, Code::Quota), "two asks");
    // Its ask goes with the buffer, whose block is mapped by now.
    assert_eq!(rig.says(1, 0, Message::Release { buffer: first, lost: vec![] }), []);
    rig.opens(1);
    assert_eq!(rig.asks(1, 7, second, Grant::Read), [], "waits for the same block");
    // A refusal gives back, too.
    rig.says(1, 0, Message::Release { buffer: second, lost: vec![] });
    for _ in 0..3 {
        rig.says(1, 8, open("x"));
        rig.desk.authorized(1, 8, 0, false);
        assert_eq!(rig.desk.take_outputs(), refused(1, 8, Code::Denied));
    }
}

#[test]
fn who_has_nothing_open_makes_room_and_who_says_nothing_goes() {
    let mut rig = Rig::new(Quota { peers: 2, ..Quota::default() }, Grant::Read);
    assert!(rig.connect(1));
    rig.desk.take_outputs();
    rig.opens(1);
    assert!(rig.desk.connected(2, rig.now) && rig.desk.connected(3, rig.now));
    let close = |peer, code| Output::Close { peer, code };
    assert_eq!(rig.desk.take_outputs(), [close(2, Code::Quota)]);
    rig.now += DEADLINE;
    rig.desk.at(rig.now);
    assert_eq!(rig.desk.take_outputs(), [close(3, Code::Late)]);
    assert!(rig.connect(4));
    rig.desk.take_outputs();
    rig.opens(4);
    assert!(!rig.desk.connected(5, rig.now), "both have something open");
}

#[test]
fn a_withdrawn_buffer_is_forgotten_when_nobody_has_anything_of_it() {
    let (mut rig, one, two) = Rig::with_a_writer();
    rig.asks(2, 6, two, Grant::Read);
    rig.desk.withdraw(0, rig.now);
    let outputs = rig.desk.take_outputs();
    assert!(outputs.contains(&refused(2, 6, Code::Unknown)[0]), "{outputs:?}");
    let ends = Message::Release { buffer: two, lost: vec![] };
    assert!(outputs.contains(&send(2, 0, ends)), "{outputs:?}");
    assert_eq!(rig.desk.named("x"), None);
    let open = Message::Open { name: "x".to_owned() };
    assert_eq!(rig.says(2, 9, open), refused(2, 9, Code::Unknown));
    assert_eq!(rig.asks(2, 10, two, Grant::Read), refused(2, 10, Code::Unknown));
    assert_eq!(rig.says(2, 0, Message::Release { buffer: two, lost: vec![] }), []);
    let outputs = rig.says(1, 0, Message::Release { buffer: one, lost: vec![] });
    let give_back = Output::GiveBack { export: 0, block: 0 };
    assert_eq!(outputs, [give_back, Output::Forget { export: 0 }]);
    // Notes that were under way.
    rig.desk.revoked(0, 1, rig.now, rig.now);
    rig.desk.mapped(0, 1, Ok(()), rig.now);
    rig.desk.withdraw(0, rig.now);
    assert_eq!(rig.desk.take_outputs(), []);
    rig.desk.export("x", Served::Vector(opened(Grant::Read)));
    assert_eq!(rig.desk.named("x"), Some(1));
}

#[test]
fn a_dma_buf_is_opened_as_one_and_nothing_of_it_is_asked_for() {
    let quota = Quota { buffers: 1, ..Quota::default() };
    let mut rig = Rig::new(quota, Grant::Write);
    rig.desk.export("d", dma_buf(1));
    assert!(rig.connect(1));
    rig.desk.take_outputs();
    let vector = |name: &str| Message::Open { name: name.to_owned() };
    let whole = |name: &str| Message::OpenDmaBuf { name: name.to_owned() };
    assert_eq!(rig.says(1, 2, vector("d")), refused(1, 2, Code::Otherwise));
    assert_eq!(rig.says(1, 3, whole("x")), refused(1, 3, Code::Otherwise));
    assert_eq!(rig.says(1, 4, whole("y")), refused(1, 4, Code::Unknown));
    // The application is asked, as for a vector.
    let authorize = Output::Authorize { peer: 1, sequence: 5, export: 1 };
    assert_eq!(rig.says(1, 5, whole("d")), [authorize]);
    rig.desk.authorized(1, 5, 1, false);
    assert_eq!(rig.desk.take_outputs(), refused(1, 5, Code::Denied));
    rig.says(1, 6, whole("d"));
    rig.desk.authorized(1, 6, 1, true);
    let outputs = rig.desk.take_outputs();
    let [Output::Send { message: Message::OpenedDmaBuf(opened), with: Some(1), .. }] = outputs[..]
    else {
        panic!("not opened: {outputs:?}")
    };
    let buffer = opened.buffer;
    assert_eq!(rig.says(1, 7, whole("d")), refused(1, 7, Code::Quota), "one buffer");
    assert_eq!(rig.asks(1, 8, buffer, Grant::Read), refused(1, 8, Code::Protocol));
    // Its end is told; what was opened stays with whoever has it, and counts until it is given up.
    rig.desk.withdraw(1, rig.now);
    assert_eq!(rig.desk.take_outputs(), [send(1, 0, Message::Release { buffer, lost: vec![] })]);
    let outputs = rig.says(1, 0, Message::Release { buffer, lost: vec![] });
    assert_eq!(outputs, [Output::Forget { export: 1 }]);
    rig.opens(1);
}
