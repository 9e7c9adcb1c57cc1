//! How pages get from one device to another: directly, or by way of the host. Pure, but for the tree that it is given.
//!
//! *Possible* is what the drivers proved about their handles, and for two functions of a PCI tree what the kernel would say of packets between them.
//! *Worth it* is a prediction from the links. Devices that are no PCI functions, or are the same, have no way to predict: one copy there is
//! taken to be better than two. Who has measured both ways says so ([`Runtime::measured_route`]), and is believed over any prediction; what is not
//! possible stays so.

use std::fmt;

use crate::{
    backend::DeviceFacts,
    error::Error,
    node::DeviceId,
    p2p::{Advice, DriverView, Drivers, HandleKinds, P2p, PciAddress, Possible, Reason},
    runtime::{Inner, OpenDevice, Runtime},
};

/// How pages get from one device to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// The one that needs them copies them out of the other's memory.
    Direct {
        /// What the links should carry, or what was measured, in bytes/s; `None` where no link says.
        predicted_bytes_per_s: Option<u64>,
    },
    /// Two copies.
    ThroughHost {
        /// Why not directly.
        because: Detour,
    },
}

/// Why pages go through the host. `Display` says what would change it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Detour {
    /// By [`DeviceCopies::ThroughHost`].
    AskedFor,
    /// One of the two has no memory of its own, or gives none out, or takes none in.
    NoHandles,
    /// The drivers do not agree.
    Drivers(Reason),
    /// One is a PCI function, and the other is not.
    NotBothPci,
    /// Packets do not certainly arrive.
    NotPossible(Possible),
    /// The way through the host is predicted, or was measured, to be faster.
    NotWorthIt {
        /// Directly, in bytes/s.
        direct_bytes_per_s: u64,
        /// Through the host, in bytes/s.
        staged_bytes_per_s: u64,
    },
    /// No link says how fast it is.
    NotPredicted,
    /// Two drivers of one card say that they can, and a call of the trial failed: which said what.
    Trial(String),
    /// They say that they can, and the trial showed other bytes: their memory is not the same.
    OtherBytes,
}

/// What copies between two devices were measured to reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MeasuredRates {
    /// In one copy, in bytes/s.
    pub direct_bytes_per_s: u64,
    /// In two, through host memory, in bytes/s.
    pub staged_bytes_per_s: u64,
}

/// Whether pages may go from device to device without the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum DeviceCopies {
    /// Where it is possible and worth it.
    #[default]
    Auto,
    /// Never.
    ThroughHost,
}

impl Route {
    /// Chooses for two devices. `p2p` is asked for when both are PCI functions.
    pub fn choose(from: &DeviceFacts, to: &DeviceFacts, p2p: impl FnOnce() -> P2p) -> Self {
        let detour = |because| Self::ThroughHost { because };
        let (Some(provider), Some(peer)) = (&from.external, &to.external) else {
            return detour(Detour::NoHandles);
        };
        let same = from.summary.uuid.is_some() && from.summary.uuid == to.summary.uuid;
        // An opaque descriptor is for the same physical device, not only for the same driver.
        let understood = |view: &DriverView| {
            let kinds = if same { HandleKinds::OPAQUE_FD } else { HandleKinds::NONE };
            let kinds = kinds.or(HandleKinds::DMA_BUF);
            let (exports, imports) = (view.exports.and(kinds), view.imports.and(kinds));
            DriverView { exports, imports, ..view.clone() }
        };
        let drivers = Drivers::Asked { provider: understood(provider), peer: understood(peer) };
        if let Some(reason) = drivers.reason() {
            return detour(Detour::Drivers(reason));
        }
        let pci = |facts: &DeviceFacts| {
            let at = facts.summary.pci?;
            PciAddress::new(at.domain, at.bus, at.device, at.function)
        };
        match (pci(from), pci(to)) {
            _ if same => Self::Direct { predicted_bytes_per_s: None },
            (None, None) => Self::Direct { predicted_bytes_per_s: None },
            (Some(provider), Some(peer)) => {
                let answer = p2p().query(provider, peer, &drivers);
                if !answer.possible.is_yes() {
                    return detour(Detour::NotPossible(answer.possible));
                }
                let Some(worth) = answer.worth else { return detour(Detour::NotPredicted) };
                match (worth.advice(), worth.direct_bytes_per_s, worth.staged_bytes_per_s) {
                    (Advice::Direct, predicted_bytes_per_s, _) => {
                        Self::Direct { predicted_bytes_per_s }
                    }
                    (_, Some(direct_bytes_per_s), Some(staged_bytes_per_s)) => {
                        detour(Detour::NotWorthIt { direct_bytes_per_s, staged_bytes_per_s })
                    }
                    _ => detour(Detour::NotPredicted),
                }
            }
            _ => detour(Detour::NotBothPci),
        }
    }

    /// The route by what was measured, where both ways are open.
    #[must_use]
    pub fn by_measure(self, measured: MeasuredRates) -> Self {
        let MeasuredRates { direct_bytes_per_s, staged_bytes_per_s } = measured;
        match self {
            Self::ThroughHost {
                because:
                    Detour::AskedFor
                    | Detour::NoHandles
                    | Detour::Drivers(_)
                    | Detour::NotBothPci
                    | Detour::NotPossible(_)
                    | Detour::Trial(_)
                    | Detour::OtherBytes,
            } => self,
            _ if direct_bytes_per_s >= staged_bytes_per_s => {
                Self::Direct { predicted_bytes_per_s: Some(direct_bytes_per_s) }
            }
            _ => Self::ThroughHost {
                because: Detour::NotWorthIt { direct_bytes_per_s, staged_bytes_per_s },
            },
        }
    }

    /// True for one copy.
    pub const fn is_direct(&self) -> bool {
        matches!(self, Self::Direct { .. })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct { predicted_bytes_per_s: None } => f.write_str("directly; no prediction"),
            Self::Direct { predicted_bytes_per_s: Some(rate) } => {
                write!(f, "directly; {:.1} GB/s expected", *rate as f64 / 1e9)
            }
            Self::ThroughHost { because } => write!(f, "through the host: {because}"),
        }
    }
}

impl fmt::Display for Detour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AskedFor => f.write_str("the option `device_copies` says so"),
            Self::NoHandles => {
                f.write_str("one of the two gives no memory out, or takes none in (`hmmap info`)")
            }
            Self::Drivers(reason) => reason.fmt(f),
            Self::NotBothPci => f.write_str("one is a PCI function, and the other is not"),
            Self::NotPossible(possible) => possible.fmt(f),
            Self::NotWorthIt { direct_bytes_per_s, staged_bytes_per_s } => write!(
                f,
                "{:.1} GB/s predicted directly, {:.1} GB/s through the host",
                *direct_bytes_per_s as f64 / 1e9,
                *staged_bytes_per_s as f64 / 1e9
            ),
            Self::NotPredicted => f.write_str("no link on the way says how fast it is"),
            Self::Trial(said) => {
                write!(f, "both drivers name the same card, and trying it failed: {said}")
            }
            Self::OtherBytes => f.write_str(
                "both drivers name the same card, and one saw other bytes than the other wrote",
            ),
        }
    }
}

impl Runtime {
    /// How pages get from one device's memory to another's. Opens both.
    ///
    /// # Errors
    /// As [`Runtime::facts`].
    pub fn route(&self, from: DeviceId, to: DeviceId) -> Result<Route, Error> {
        let inner = self.inner();
        let (from, to) = (inner.open(from)?, inner.open(to)?);
        Ok(inner.route(from, to))
    }
}

impl Runtime {
    /// Goes by what was measured between two devices from now on (`hmmap topo --probe` measures), and says what that comes to. Opens both.
    ///
    /// # Errors
    /// As [`Runtime::facts`].
    pub fn measured_route(
        &self,
        from: DeviceId,
        to: DeviceId,
        measured: MeasuredRates,
    ) -> Result<Route, Error> {
        let inner = self.inner();
        let (from, to) = (inner.open(from)?, inner.open(to)?);
        let route = inner.route(from, to).by_measure(measured);
        if !matches!(route, Route::ThroughHost { because: Detour::AskedFor | Detour::NoHandles }) {
            inner.routes.write().insert((from.id, to.id), route.clone());
        }
        Ok(route)
    }
}

impl Inner {
    /// The way between two open devices; looked up once.
    pub(super) fn route(&self, from: &OpenDevice, to: &OpenDevice) -> Route {
        if self.options.device_copies == DeviceCopies::ThroughHost {
            return Route::ThroughHost { because: Detour::AskedFor };
        }
        if from.node.is_host() || to.node.is_host() {
            return Route::ThroughHost { because: Detour::NoHandles };
        }
        if let Some(known) = self.routes.read().get(&(from.id, to.id)) {
            return known.clone();
        }
        let route = Route::choose(from.device.facts(), to.device.facts(), P2p::live);
        self.routes.write().insert((from.id, to.id), route.clone());
        route
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::{self, Capabilities, Capability, DeviceKind, DeviceSummary},
        p2p::{Opaque, PciTree, Platform, SysfsFolder},
    };

    fn facts(uuid: u8, kinds: HandleKinds, bus: Option<u8>) -> DeviceFacts {
        let none = || Capability::none("not asked");
        DeviceFacts {
            summary: DeviceSummary {
                name: String::new(),
                api: "vulkan",
                driver: String::new(),
                kind: DeviceKind::DiscreteGpu,
                uuid: Some([uuid; 16]),
                pci: bus.map(|bus| backend::PciAddress { domain: 0, bus, device: 0, function: 0 }),
                memory_bytes: 1,
            },
            capabilities: Capabilities {
                host_window: none(),
                direct_copy: none(),
                sparse: none(),
                transfer_queue: none(),
                long_loops: none(),
                export: none(),
                dma_buf: none(),
            },
            shares_host_memory: false,
            external: (kinds != HandleKinds::NONE).then_some(DriverView {
                driver: [9; 16],
                opaque: Opaque::SameDriver,
                exports: kinds,
                imports: kinds,
            }),
            max_groups: [1; 3],
            rates: None,
        }
    }

    fn unasked() -> P2p {
        panic!("the tree does not matter here")
    }

    fn detour(route: Route) -> Detour {
        match route {
            Route::ThroughHost { because } => because,
            Route::Direct { .. } => panic!("{route}"),
        }
    }

    #[test]
    fn one_physical_device_needs_an_opaque_descriptor_and_two_need_a_dma_buf() {
        let opaque = |uuid| facts(uuid, HandleKinds::OPAQUE_FD, Some(uuid));
        assert!(Route::choose(&opaque(1), &opaque(1), unasked).is_direct());
        let because = detour(Route::choose(&opaque(1), &opaque(2), unasked));
        assert!(matches!(because, Detour::Drivers(Reason::NoHandleTypeInCommon { .. })));
        let none = facts(1, HandleKinds::NONE, None);
        assert_eq!(detour(Route::choose(&opaque(1), &none, unasked)), Detour::NoHandles);
        let soft = |uuid| facts(uuid, HandleKinds::DMA_BUF, None);
        assert!(Route::choose(&soft(1), &soft(2), unasked).is_direct());
        let hard = facts(2, HandleKinds::DMA_BUF, Some(3));
        assert_eq!(detour(Route::choose(&soft(1), &hard, unasked)), Detour::NotBothPci);
    }

    #[test]
    fn two_drivers_of_one_card_need_one_that_understands_the_other() {
        let of = |driver: u8, opaque, uuid| {
            let mut facts = facts(uuid, HandleKinds::OPAQUE_FD, None);
            facts.external.as_mut().unwrap().driver = [driver; 16];
            facts.external.as_mut().unwrap().opaque = opaque;
            facts
        };
        let (same, any) = (Opaque::SameDriver, Opaque::SameDevice);
        for (one, other) in [(same, any), (any, same), (any, any)] {
            assert!(Route::choose(&of(1, one, 7), &of(2, other, 7), unasked).is_direct());
            let because = detour(Route::choose(&of(1, one, 7), &of(2, other, 8), unasked));
            assert!(matches!(because, Detour::Drivers(Reason::NoHandleTypeInCommon { .. })));
        }
        let because = detour(Route::choose(&of(1, same, 7), &of(2, same, 7), unasked));
        assert!(matches!(because, Detour::Drivers(Reason::DifferentDriver { .. })), "{because}");
    }

    #[test]
    fn q6_what_was_measured_is_believed_and_what_is_impossible_stays_so() {
        let rates = |direct_bytes_per_s, staged_bytes_per_s| MeasuredRates {
            direct_bytes_per_s,
            staged_bytes_per_s,
        };
        let unpredicted = Route::Direct { predicted_bytes_per_s: None };
        let slow = unpredicted.clone().by_measure(rates(4, 5));
        let because = Detour::NotWorthIt { direct_bytes_per_s: 4, staged_bytes_per_s: 5 };
        assert_eq!(slow, Route::ThroughHost { because });
        assert_eq!(slow.by_measure(rates(6, 5)), Route::Direct { predicted_bytes_per_s: Some(6) });
        let measure = Route::ThroughHost { because: Detour::NotPredicted };
        assert!(measure.by_measure(rates(5, 5)).is_direct(), "one copy is less work");
        for because in [Detour::AskedFor, Detour::NoHandles, Detour::NotBothPci] {
            let route = Route::ThroughHost { because };
            assert_eq!(route.clone().by_measure(rates(9, 1)), route);
        }
    }

    #[test]
    fn two_functions_go_through_the_host_unless_packets_certainly_arrive() {
        let empty = || {
            let nowhere = SysfsFolder::new("/nonexistent");
            P2p::new(PciTree::read(&nowhere), Platform::live())
        };
        let card = |uuid| facts(uuid, HandleKinds::DMA_BUF, Some(uuid));
        let because = detour(Route::choose(&card(1), &card(2), empty));
        assert!(matches!(because, Detour::NotPossible(_)), "{because}");
    }
}
