//! Datagrams out of any bytes: reading one must end with a message or a refusal, and a message must have one form.
//!
//! The first byte chooses: a message that is sent for real, to which the rest are edits (place, value, two bytes each), with the length in its header
//! mended or not; else the rest is the datagram. Used by the test beside this folder over a corpus, and by a fuzzer in `fuzz/`.

use hmmap_core::home::{Grant, Keep};
use hmmap_share::wire::{
    self, Code, HEADER_BYTES, MAX_BYTES, Message, Opened, OpenedDmaBuf, Pages,
};

fn sent() -> [Message; 12] {
    let pages = |first, count| Pages { first, count };
    [
        Message::Hello,
        Message::Open { name: "frames".to_owned() },
        Message::Opened(Opened {
            buffer: 7,
            len_bytes: 4 << 20,
            used_bytes: 1 << 20,
            page_bytes: 64 << 10,
            seals: 6,
            most: Grant::Write,
        }),
        Message::Ask { buffer: 7, pages: pages(3, 32), access: Grant::Read },
        Message::Granted,
        Message::Refused { code: Code::Quota },
        Message::Recall { buffer: 7, pages: pages(0, 1), keep: Keep::Reading, deadline_ms: 500 },
        Message::Confirmed { dirty: vec![pages(0, 2), pages(5, 1)], lost: vec![pages(9, 1)] },
        Message::Release { buffer: 7, lost: vec![] },
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

/// Reads what the bytes stand for, and panics if the answer does not hold together. True when it is a message.
pub(crate) fn play(bytes: &[u8]) -> bool {
    let Some((&choice, rest)) = bytes.split_first() else { return false };
    let messages = sent();
    let Some(message) = messages.get(usize::from(choice & 0x7f)) else { return check(rest) };
    let mut datagram = Vec::new();
    wire::encode(u64::from(choice), message, &mut datagram).expect("it is sent for real");
    for edit in rest.chunks_exact(4) {
        let [at, value] = [0, 2].map(|i| u16::from_le_bytes([edit[i], edit[i + 1]]));
        match usize::from(at) {
            at if at < datagram.len() => datagram[at] = value as u8,
            // Beyond the end: longer, up to more than may be sent.
            at => datagram.resize(at.min(MAX_BYTES + 1), value as u8),
        }
    }
    if choice & 0x80 != 0 && datagram.len() >= HEADER_BYTES {
        let len_bytes = datagram.len() as u32;
        datagram[8..12].copy_from_slice(&len_bytes.to_le_bytes());
    }
    check(&datagram)
}

fn check(datagram: &[u8]) -> bool {
    match wire::decode(datagram) {
        Ok((sequence, message)) => {
            let mut again = Vec::new();
            wire::encode(sequence, &message, &mut again).expect("what is read can be sent");
            assert_eq!(again, datagram, "two forms of {message:?}");
            assert!(message.descriptors() <= 1);
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}
