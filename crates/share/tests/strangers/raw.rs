//! The wire without the library: whatever bytes and descriptors somebody likes to send.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use hmmap_share::wire::{self, MAX_BYTES, Message, Opened};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
        sockopt::{Timeout, set_socket_timeout},
    },
};

/// More than the kernel lets anybody send at once.
const MOST: usize = 250;

/// One end of a connection. Waits for whatever it does, ten seconds at most.
pub(crate) struct Raw {
    pub(crate) fd: OwnedFd,
}

fn socket() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

/// Listens, for a hostile exporter.
pub(crate) fn listen(path: &Path) -> OwnedFd {
    let fd = socket();
    rustix::net::bind(&fd, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&fd, 16).unwrap();
    fd
}

impl Raw {
    pub(crate) fn connect(path: &Path) -> Self {
        let fd = socket();
        rustix::net::connect(&fd, &SocketAddrUnix::new(path).unwrap()).unwrap();
        Self::of(fd)
    }

    pub(crate) fn accept(listener: &OwnedFd) -> Self {
        Self::of(rustix::net::accept_with(listener, SocketFlags::CLOEXEC).unwrap())
    }

    fn of(fd: OwnedFd) -> Self {
        set_socket_timeout(&fd, Timeout::Recv, Some(Duration::from_secs(10))).unwrap();
        Self { fd }
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8], with: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !with.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(with)));
        }
        let flags = SendFlags::NOSIGNAL;
        rustix::net::sendmsg(&self.fd, &[IoSlice::new(bytes)], &mut control, flags).map(drop)
    }

    pub(crate) fn send(&self, sequence: u64, message: &Message) -> Result<(), Errno> {
        self.send_with(sequence, message, &[])
    }

    pub(crate) fn send_with(
        &self,
        sequence: u64,
        message: &Message,
        with: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        self.send_bytes(&bytes(sequence, message), with)
    }

    /// As [`Raw::send`], if there is room.
    pub(crate) fn try_send(&self, sequence: u64, message: &Message) -> Result<(), Errno> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::send(&self.fd, &bytes(sequence, message), flags).map(drop)
    }

    /// The next message and its descriptors; nothing at the end.
    pub(crate) fn receive(&self) -> Option<(u64, Message, Vec<OwnedFd>)> {
        let mut bytes = [0; MAX_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = match rustix::net::recvmsg(&self.fd, into, &mut control, flags) {
            Ok(got) if got.bytes > 0 => got.bytes,
            Ok(_) | Err(Errno::CONNRESET) => return None,
            Err(error) => panic!("no message: {error}"),
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        let (sequence, message) = wire::decode(&bytes[..got]).unwrap();
        Some((sequence, message, descriptors))
    }

    /// The answer to a question; what comes before it and is none is passed over.
    pub(crate) fn answer(&self, sequence: u64) -> (Message, Option<OwnedFd>) {
        while let Some((of, message, mut descriptors)) = self.receive() {
            if of == sequence && !matches!(message, Message::Recall { .. }) {
                return (message, descriptors.pop());
            }
        }
        panic!("the end, and no answer");
    }

    /// Reads until the other side closes.
    pub(crate) fn read_to_the_end(&self) {
        while self.receive().is_some() {}
    }

    /// Both say hello; the caller began.
    pub(crate) fn greet(&self) {
        self.send(0, &Message::Hello).unwrap();
        assert_eq!(self.receive().unwrap().1, Message::Hello);
    }

    /// Opens a buffer, as a greeted importer.
    pub(crate) fn open(&self, name: &str) -> (Opened, OwnedFd) {
        self.send(1, &Message::Open { name: name.to_owned() }).unwrap();
        match self.answer(1) {
            (Message::Opened(opened), Some(fd)) => (opened, fd),
            other => panic!("not opened: {other:?}"),
        }
    }

    pub(crate) fn shut(&self, how: Shutdown) {
        rustix::net::shutdown(self.fd.as_fd(), how).unwrap();
    }
}

pub(crate) fn bytes(sequence: u64, message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode(sequence, message, &mut bytes).unwrap();
    bytes
}
