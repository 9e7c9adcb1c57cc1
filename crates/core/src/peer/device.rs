//! A device of the runtime as a peer: it reaches pages where they are instead of bringing them to its own memory.
//!
//! **Problem.** Two devices work on one vector and it is not to move: the owner's memory, or the host's, is made reachable at an address of the other
//! device. That device's work is submitted by the application, so nobody knows of it but by fences.
//!
//! ```text
//! map       own memory: the address as it is;  another device's: export, import;  the host's: a window
//! work      segments -> enter -> still good? -> submit (the application's) -> attach its fence -> leave
//! revoke    told: confirmed when nobody is inside; then fences, as for any peer
//! ```
//!
//! **Rules.** Addresses are used inside of [`DevicePeer::work`] alone. Who has entered and finds the stamp unchanged is seen by every later
//! revocation, which is not confirmed before he has left; who enters later finds it changed. If the range was taken back between the addresses and the
//! fence, he stays inside until that work has ended: its fence came too late for the revocation to know of it.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{
    AddressKind, Peer, PeerAddress, PeerFence, PeerMapping, PeerMemory, Place, Reach, Revoked,
    Segments, Source,
};
use crate::{
    backend::{Device, DeviceError, MemoryId, WindowId},
    error::Error,
    fence::FencePoint,
    node::{DeviceId, NodeId},
    p2p::HandleKinds,
    runtime::Runtime,
};

/// How often work that has to end is looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A device that reaches other nodes' memory in place. Made by [`Runtime::device_peer`]; clones of the `Arc` are the same peer.
pub struct DevicePeer {
    name: String,
    id: DeviceId,
    node: NodeId,
    device: Arc<dyn Device>,
    hand: Mutex<Hand>,
}

/// What changes about it.
#[derive(Debug, Default)]
struct Hand {
    /// How many are between their addresses and their fence.
    inside: usize,
    /// Revocations that wait for them.
    told: Vec<Revoked>,
    mapped: HashMap<u64, Mapped>,
    last_token: u64,
}

/// What is behind one address.
#[derive(Clone, Copy, Debug)]
enum Mapped {
    Imported(MemoryId),
    Window(WindowId),
}

/// The address of memory that needs no mapping.
const OWN: u64 = 0;

/// Work of a device's, as a peer's fence.
struct DeviceFence {
    device: Arc<dyn Device>,
    point: FencePoint,
}

impl PeerFence for DeviceFence {
    fn wait(&self, timeout: Duration) -> bool {
        self.device.wait(self.point, timeout).has_ended()
    }
}

/// Somebody between addresses and fence.
struct Inside<'p>(&'p DevicePeer);

impl<'p> Inside<'p> {
    fn enter(peer: &'p DevicePeer) -> Self {
        peer.hand.lock().inside += 1;
        Self(peer)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut hand = self.0.hand.lock();
        hand.inside -= 1;
        let told = if hand.inside == 0 { std::mem::take(&mut hand.told) } else { Vec::new() };
        drop(hand);
        told.iter().for_each(Revoked::confirm);
    }
}

impl Runtime {
    /// A device as a peer: ranges that it maps stay where they are, and it gets device addresses of its own for them. Opens the device.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`], or what the device answered when it was opened.
    pub fn device_peer(&self, device: DeviceId) -> Result<Arc<DevicePeer>, Error> {
        let open = self.inner().open(device)?;
        let name = format!("{device} ({})", open.device.facts().summary.name);
        let (node, device) = (open.node, Arc::clone(&open.device));
        Ok(Arc::new(DevicePeer { name, id: open.id, node, device, hand: Mutex::default() }))
    }
}

impl DevicePeer {
    /// The device.
    pub fn device(&self) -> DeviceId {
        self.id
    }

    /// Work of the device as a fence for [`PeerMapping::attach`].
    pub fn fence(&self, point: FencePoint) -> Arc<dyn PeerFence> {
        Arc::new(DeviceFence { device: Arc::clone(&self.device), point })
    }

    /// Submits work on the addresses of a mapping. `submit` hands work to the device and returns its fence; the addresses are good for that work.
    /// When the range is taken back meanwhile, this waits until the work has ended.
    ///
    /// `submit` must not ask the library for pages (a launch, a guard, a touch of a vector): that may need room, and would wait for this very range until the deadline
    /// for peers.
    ///
    /// # Errors
    /// As [`PeerMapping::segments`], and what `submit` answers.
    pub fn work<E: From<Error>>(
        &self,
        mapping: &PeerMapping,
        submit: impl FnOnce(&Segments) -> Result<FencePoint, E>,
    ) -> Result<FencePoint, E> {
        let (segments, _inside) = loop {
            // Not from inside: who sleeps in here because of a revocation must not be what that revocation waits for.
            let segments = mapping.segments()?;
            let inside = Inside::enter(self);
            if !mapping.retry(segments.stamp()) {
                break (segments, inside);
            }
        };
        let point = submit(&segments)?;
        let fence = self.fence(point);
        if !mapping.attach(segments.stamp(), Arc::clone(&fence)) {
            while !fence.wait(LOOK_EVERY) {}
        }
        Ok(point)
    }

    fn keep(&self, address: u64, what: Mapped) -> PeerAddress {
        let mut hand = self.hand.lock();
        hand.last_token += 1;
        let token = hand.last_token;
        hand.mapped.insert(token, what);
        PeerAddress { address, kind: AddressKind::Device(self.id), token }
    }

    fn try_map(&self, memory: PeerMemory<'_>) -> Result<PeerAddress, DeviceError> {
        match memory.source {
            _ if memory.node == self.node && !self.node.is_host() => {
                Ok(PeerAddress { address: memory.address, kind: memory.kind, token: OWN })
            }
            Source::Host { pages, offset_bytes } => {
                let window = self.device.open_window(pages)?;
                Ok(self.keep(window.address + offset_bytes, Mapped::Window(window.window)))
            }
            Source::Device { .. } => {
                let imports = self.imports();
                let imported = self.device.import(&memory.export(imports)?)?;
                Ok(self.keep(imported.address, Mapped::Imported(imported.memory)))
            }
        }
    }

    fn imports(&self) -> HandleKinds {
        let view = self.device.facts().external.as_ref();
        view.map_or(HandleKinds::NONE, |view| view.imports)
    }
}

impl Peer for DevicePeer {
    fn name(&self) -> &str {
        &self.name
    }

    fn reach(&self, place: &Place<'_>) -> Reach {
        let facts = self.device.facts();
        let no = |reason: String| Reach::No { reason };
        match place.device {
            _ if place.node == self.node && !self.node.is_host() => Reach::Hops(0),
            None if facts.capabilities.host_window.is_proved() => Reach::Hops(2),
            None => {
                no(format!("kernels that reach host memory: {}", facts.capabilities.host_window))
            }
            Some((_, theirs)) => {
                let common = place.exports.and(self.imports());
                let understood = facts.summary.uuid == theirs.summary.uuid
                    && facts.external.as_ref().is_some_and(|own| {
                        theirs.external.as_ref().is_some_and(|view| own.understands(view))
                    });
                if common.is_empty() {
                    let (exports, imports) = (place.exports, self.imports());
                    no(format!("its memory is given out as {exports}, and taken in as {imports}"))
                } else if !common.contains(HandleKinds::DMA_BUF) && !understood {
                    no(format!("another driver or device, and {common} only"))
                } else {
                    Reach::Hops(1)
                }
            }
        }
    }

    fn map(&self, memory: PeerMemory<'_>) -> Result<PeerAddress, String> {
        self.try_map(memory).map_err(|error| error.to_string())
    }

    fn unmap(&self, address: PeerAddress) {
        let mapped = self.hand.lock().mapped.remove(&address.token);
        match mapped {
            Some(Mapped::Imported(memory)) => self.device.release(memory),
            Some(Mapped::Window(window)) => self.device.close_window(window),
            None => debug_assert_eq!(address.token, OWN, "given back twice"),
        }
    }

    fn revoke(&self, revoked: Revoked) {
        let mut hand = self.hand.lock();
        if hand.inside > 0 {
            hand.told.push(revoked);
            return;
        }
        drop(hand);
        revoked.confirm();
    }
}

impl fmt::Debug for DevicePeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevicePeer").field("name", &self.name).finish_non_exhaustive()
    }
}
