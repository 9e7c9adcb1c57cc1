//! Datagrams with descriptors over Unix SEQPACKET sockets. Nothing here waits but [`wait_for`], which has a deadline.
//!
//! A datagram arrives whole or not at all, so what a stranger sends can be cut short by nobody but himself. Descriptors arrive close-on-exec, and those that
//! nobody takes are closed with the [`Received`] that has them.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
        SocketType,
    },
};

use crate::wire::{self, MAX_BYTES, Message, WireError};

/// More than any message has: a datagram with so many was not sent by us, and the kernel closes the rest.
const MAX_DESCRIPTORS: usize = 4;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Who is at the other end, as the kernel knew when it connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// Its process.
    pub process: i32,
    /// Its user.
    pub user: u32,
    /// Its group.
    pub group: u32,
}

/// A message that arrived.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) sequence: u64,
    pub(crate) message: Message,
    pub(crate) descriptor: Option<OwnedFd>,
}

/// What a look at a socket gave.
#[derive(Debug)]
pub(crate) enum Arrived {
    Message(Received),
    /// Nothing yet.
    Nothing,
    /// The other end is closed.
    End,
}

/// Why the other end is not believed, or not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("{found} descriptors came with a message that has {expected}")]
    Descriptors { found: usize, expected: usize },
    #[error("the system refused")]
    System(#[from] Errno),
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A socket that others connect to.
pub(crate) fn listen(path: &Path) -> Result<OwnedFd, Errno> {
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
    rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&fd, 64)?;
    Ok(fd)
}

/// The next one who connects, if there is one.
pub(crate) fn accept(listener: &OwnedFd) -> Result<Option<Socket>, Errno> {
    match rustix::net::accept_with(listener, FLAGS) {
        Ok(fd) => Ok(Some(Socket { fd })),
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Socket {
    pub(crate) fn connect(path: &Path) -> Result<Self, Errno> {
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
        rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Self { fd })
    }

    /// Of a descriptor that was handed to us: has to be a connected SEQPACKET socket.
    pub(crate) fn of(fd: OwnedFd) -> Result<Self, Errno> {
        if rustix::net::sockopt::socket_type(&fd)? != SocketType::SEQPACKET {
            return Err(Errno::PROTOTYPE);
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd })
    }

    pub(crate) fn credentials(&self) -> Result<Credentials, Errno> {
        let known = rustix::net::sockopt::socket_peercred(&self.fd)?;
        Ok(Credentials {
            process: known.pid.as_raw_nonzero().get(),
            user: known.uid.as_raw(),
            group: known.gid.as_raw(),
        })
    }

    /// Sends a datagram, with a descriptor or without. False when there is no room now.
    pub(crate) fn send(&self, bytes: &[u8], with: Option<BorrowedFd<'_>>) -> Result<bool, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [with.unwrap_or(self.fd.as_fd())];
        if with.is_some() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match rustix::net::sendmsg(&self.fd, &[IoSlice::new(bytes)], &mut control, flags) {
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next message, if one is there.
    pub(crate) fn receive(&self) -> Result<Arrived, Broken> {
        let mut bytes = [0; MAX_BYTES + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = loop {
            let into = &mut [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.fd, into, &mut control, flags) {
                Ok(got) => break got,
                // It went without having read everything, which is said once. What it sent before comes next.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => return Ok(Arrived::Nothing),
                Err(error) => return Err(error.into()),
            }
        };
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if got.bytes == 0 {
            return Ok(Arrived::End);
        }
        if got.flags.contains(ReturnFlags::TRUNC) {
            return Err(WireError::Long { len_bytes: got.bytes }.into());
        }
        let (sequence, message) = wire::decode(&bytes[..got.bytes])?;
        let (found, expected) = (descriptors.len(), message.descriptors());
        // More than fit were cut off by the kernel.
        if found != expected || got.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Broken::Descriptors { found, expected });
        }
        Ok(Arrived::Message(Received { sequence, message, descriptor: descriptors.pop() }))
    }
}

/// Waits until something can be done with these, or the time has come.
pub(crate) fn wait_for(fds: &mut [PollFd<'_>], until: Option<Instant>) -> Result<(), Errno> {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(fds, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// For [`wait_for`]: something to receive.
pub(crate) fn readable<'fd>(fd: &'fd impl AsFd) -> PollFd<'fd> {
    PollFd::new(fd, PollFlags::IN)
}

/// For [`wait_for`]: room to send, or something to receive.
pub(crate) fn writable<'fd>(fd: &'fd impl AsFd) -> PollFd<'fd> {
    PollFd::new(fd, PollFlags::OUT)
}
