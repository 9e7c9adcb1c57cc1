//! The wire format against its own page, against random messages, and against datagrams that were tampered with.

use hmmap_core::home::{Grant, Keep};
use hmmap_share::wire::{
    self, Code, HEADER_BYTES, MAX_BYTES, MAX_PAGES, MAX_RUNS, Message, Opened, OpenedDmaBuf, Pages,
    WireError,
};
use proptest::{collection::vec, prelude::*};

fn bytes_of(sequence: u64, message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode(sequence, message, &mut bytes).unwrap();
    bytes
}

fn pages(first: u64, count: u64) -> Pages {
    Pages { first, count }
}

/// One of each kind, in the order of their numbers.
fn one_of_each() -> Vec<Message> {
    vec![
        Message::Hello,
        Message::Open { name: "frames".to_owned() },
        Message::Opened(Opened {
            buffer: 7,
            len_bytes: 4 << 20,
            used_bytes: 3 << 20,
            page_bytes: 64 << 10,
            seals: 6,
            most: Grant::Write,
        }),
        Message::Ask { buffer: 7, pages: pages(3, 32), access: Grant::Read },
        Message::Granted,
        Message::Refused { code: Code::Quota },
        Message::Recall { buffer: 7, pages: pages(0, 1), keep: Keep::Reading, deadline_ms: 500 },
        Message::Confirmed { dirty: vec![pages(0, 2), pages(5, 1)], lost: vec![pages(9, 1)] },
        Message::Release { buffer: 7, lost: vec![pages(1, 2)] },
        Message::Bye { code: Code::Done },
        Message::OpenDmaBuf { name: "frames".to_owned() },
        Message::OpenedDmaBuf(OpenedDmaBuf {
            buffer: 8,
            len_bytes: 4 << 20,
            offset_bytes: 4096,
            used_bytes: 3 << 20,
        }),
    ]
}

/// A datagram as `docs/wire.md` says it, field by field.
fn by_hand(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"hmms".to_vec();
    bytes.extend(2_u16.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend((24 + body.len() as u32).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(0x0102_u64.to_le_bytes());
    bytes.extend(body);
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn messages_have_the_bytes_that_the_page_says() {
    let bodies = [
        vec![],
        [&6_u32.to_le_bytes()[..], b"frames"].concat(),
        words(&[7, 0, 4 << 20, 0, 3 << 20, 0, 64 << 10, 6, 1]),
        words(&[7, 0, 3, 0, 32, 0, 0]),
        vec![],
        words(&[4]),
        words(&[7, 0, 0, 0, 1, 0, 1, 500]),
        words(&[2, 1, 0, 0, 2, 0, 5, 0, 1, 0, 9, 0, 1, 0]),
        words(&[7, 0, 1, 1, 0, 2, 0]),
        words(&[0]),
        [&6_u32.to_le_bytes()[..], b"frames"].concat(),
        words(&[8, 0, 4 << 20, 0, 4096, 0, 3 << 20, 0]),
    ];
    for ((message, body), kind) in one_of_each().iter().zip(bodies).zip(1..) {
        let said = by_hand(kind, &body);
        assert_eq!(bytes_of(0x0102, message), said, "{message:?}");
        assert_eq!(wire::decode(&said), Ok((0x0102, message.clone())));
        assert_eq!(message.descriptors(), usize::from([3, 12].contains(&kind)));
    }
}

#[test]
fn whatever_is_cut_short_or_too_long_is_refused() {
    for message in one_of_each() {
        let bytes = bytes_of(9, &message);
        for len in 0..bytes.len() {
            assert!(wire::decode(&bytes[..len]).is_err(), "{len} bytes of {message:?}");
            if len >= HEADER_BYTES {
                // The header agrees with what is there, and the body is cut.
                let mut cut = bytes[..len].to_vec();
                cut[8..12].copy_from_slice(&(len as u32).to_le_bytes());
                assert!(wire::decode(&cut).is_err(), "{len} bytes of {message:?} that say so");
            }
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(wire::decode(&longer), Err(WireError::Length { .. })));
        longer[8..12].copy_from_slice(&(bytes.len() as u32 + 1).to_le_bytes());
        assert!(wire::decode(&longer).is_err(), "one byte more of {message:?}");
    }
    let len_bytes = MAX_BYTES + 1;
    assert_eq!(wire::decode(&vec![0; len_bytes]), Err(WireError::Long { len_bytes }));
}

#[test]
fn fields_out_of_bounds_are_neither_sent_nor_believed() {
    let runs = |runs: &[Pages]| Message::Confirmed { dirty: runs.to_vec(), lost: vec![] };
    let opened = Opened {
        buffer: 1,
        len_bytes: 2 << 20,
        used_bytes: 1,
        page_bytes: 64 << 10,
        seals: 0,
        most: Grant::Read,
    };
    let dma_buf = |len_bytes, offset_bytes, used_bytes| {
        Message::OpenedDmaBuf(OpenedDmaBuf { buffer: 1, len_bytes, offset_bytes, used_bytes })
    };
    let ask = |pages| Message::Ask { buffer: 1, pages, access: Grant::Read };
    let refused = [
        Message::Open { name: String::new() },
        Message::Open { name: "x".repeat(256) },
        Message::Opened(Opened { len_bytes: 0, ..opened }),
        Message::Opened(Opened { len_bytes: (2 << 20) + 1, ..opened }),
        Message::Opened(Opened { len_bytes: 1 << 63, ..opened }),
        Message::Opened(Opened { page_bytes: 4096, ..opened }),
        Message::Opened(Opened { used_bytes: (2 << 20) + 1, ..opened }),
        ask(pages(0, 0)),
        ask(pages(u64::MAX, 1)),
        ask(pages(MAX_PAGES, 1)),
        ask(pages(1, u64::MAX)),
        runs(&[pages(4, 1), pages(0, 1)]),
        runs(&[pages(0, 2), pages(1, 2)]),
        runs(&[pages(0, 2), pages(2, 1)]),
        runs(&(0..=MAX_RUNS as u64).map(|run| pages(run * 2, 1)).collect::<Vec<_>>()),
        Message::Refused { code: Code::Done },
        Message::OpenDmaBuf { name: String::new() },
        Message::OpenDmaBuf { name: "x".repeat(256) },
        dma_buf(0, 0, 0),
        dma_buf(1 << 63, 0, 0),
        dma_buf(4096, 4097, 0),
        dma_buf(4096, 1, 4096),
        dma_buf(4096, 4096, u64::MAX),
    ];
    for message in refused {
        let mut bytes = vec![1];
        let sent = wire::encode(1, &message, &mut bytes);
        assert!(matches!(sent, Err(WireError::Field { .. })), "{message:?} was sent: {sent:?}");
        assert!(bytes.is_empty());
    }
    // The same, from a sender without our checks.
    let lies = [
        by_hand(2, &words(&[0])),
        by_hand(2, &[&1_u32.to_le_bytes()[..], &[0xff]].concat()),
        by_hand(3, &words(&[7, 0, 1, 0, 1, 0, 64 << 10, 6, 1])),
        by_hand(3, &words(&[7, 0, 2 << 20, 0, 1, 0, 64 << 10, 6, 2])),
        by_hand(9, &words(&[7, 0, u32::MAX])),
        by_hand(4, &words(&[7, 0, 0, 0, 0, 0, 0])),
        by_hand(4, &words(&[7, 0, 0, 0, u32::MAX, u32::MAX, 0])),
        by_hand(6, &words(&[0])),
        by_hand(6, &words(&[9])),
        by_hand(7, &words(&[7, 0, 0, 0, 1, 0, 2, 500])),
        by_hand(8, &words(&[u32::MAX, u32::MAX])),
        by_hand(8, &words(&[2, 0, 4, 0, 1, 0, 0, 0, 1, 0])),
        by_hand(11, &words(&[0])),
        by_hand(12, &words(&[8, 0, 4096, 0, 4096, 0, 1, 0])),
        by_hand(12, &words(&[8, 0, 4096, 0, u32::MAX, u32::MAX, 1, 0])),
    ];
    for lie in lies {
        let heard = wire::decode(&lie);
        assert!(matches!(heard, Err(WireError::Field { .. })), "{lie:?} was heard as {heard:?}");
    }
    assert_eq!(wire::decode(&by_hand(13, &[])), Err(WireError::Kind { found: 13 }));
}

/// What the version before this one said, and what the next may say.
#[test]
fn other_versions_are_refused_by_their_number() {
    for found in [1, 3] {
        let mut other = by_hand(1, &[]);
        other[4] = found as u8;
        assert_eq!(wire::decode(&other), Err(WireError::Version { found }));
    }
}

fn any_runs() -> impl Strategy<Value = Vec<Pages>> {
    vec((1..1000_u64, 1..1000_u64), 0..=MAX_RUNS).prop_map(|steps| {
        let mut end = 0;
        let mut run = |(gap, count)| {
            let first = end + gap;
            end = first + count;
            pages(first, count)
        };
        steps.into_iter().map(&mut run).collect()
    })
}

proptest! {
    #[test]
    fn longest_lists_fit_and_come_back(dirty in any_runs(), lost in any_runs(), sequence: u64) {
        let message = Message::Confirmed { dirty, lost };
        let bytes = bytes_of(sequence, &message);
        prop_assert!(bytes.len() <= MAX_BYTES);
        prop_assert_eq!(wire::decode(&bytes), Ok((sequence, message)));
    }

    /// A message has one form: what is accepted is what we would have sent.
    #[test]
    fn what_is_accepted_is_what_would_be_sent(kind in 0..14_usize, changes in vec((0..80_usize, any::<u8>()), 0..4), noise in vec(any::<u8>(), 0..80)) {
        let mut bytes = one_of_each().get(kind).map_or(noise, |message| bytes_of(3, message));
        for (place, value) in changes {
            if let Some(byte) = bytes.get_mut(place) {
                *byte = value;
            }
        }
        if let Ok((sequence, message)) = wire::decode(&bytes) {
            prop_assert_eq!(bytes_of(sequence, &message), bytes);
        }
    }
}
