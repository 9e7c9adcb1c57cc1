//! What configuration space says: the kind of a PCI Express function, how large its packets are, and its access control (ACS).
//!
//! The first 64 bytes are open to everybody. The capabilities behind them are read with `CAP_SYS_ADMIN` only; the kernel ends
//! the file early for everybody else. A short read therefore means *unknown*, never *absent*: a reader that takes a missing
//! capability for a missing redirection says yes to a path that does not exist.
//!
//! The bytes are the device's: no offset in them is believed, and both lists are walked for a bounded number of steps.

/// The header that everybody may read.
const HEADER_BYTES: usize = 64;
/// Configuration space of a conventional PCI function.
pub(super) const CONVENTIONAL_BYTES: usize = 256;
/// Configuration space of a PCI Express function.
pub(super) const EXTENDED_BYTES: usize = 4096;

/// The most capabilities that fit: each takes a word of what is behind the header.
const MOST_CAPABILITIES: usize = (CONVENTIONAL_BYTES - HEADER_BYTES) / 4;
/// The most extended capabilities that fit; the kernel gives up after as many.
const MOST_EXTENDED: usize = (EXTENDED_BYTES - CONVENTIONAL_BYTES) / 8;

const STATUS_HAS_CAPABILITIES: u16 = 0x10;
const CAPABILITY_PCIE: u8 = 0x10;
const EXTENDED_ACS: u32 = 0x0d;

/// Access control services: whether a bridge sends packets between its children up to the host bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Acs {
    /// Not to be read without privilege.
    Unknown,
    /// The function has none, so it redirects nothing.
    Absent,
    /// The function has it.
    Present {
        /// What it could do.
        capability: u16,
        /// What is switched on.
        control: u16,
    },
}

impl Acs {
    /// Request redirect, completion redirect, egress control: with any of them a packet may go up instead of across.
    pub const REDIRECT: u16 = 0x2c;

    /// Whether packets between peers are sent up; `None` where it could not be read.
    pub const fn redirects(self) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Absent => Some(false),
            Self::Present { control, .. } => Some(control & Self::REDIRECT != 0),
        }
    }
}

/// What a function is in PCI Express.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum PcieKind {
    /// Not to be read without privilege.
    Unknown,
    /// A conventional function, or one of a host bridge.
    Conventional,
    /// A device, also a legacy one.
    Endpoint,
    /// The upper end of a link at the root.
    RootPort,
    /// The upper side of a switch.
    SwitchUpstream,
    /// A lower side of a switch.
    SwitchDownstream,
    /// A bridge to or from conventional PCI.
    Bridge,
    /// Integrated into the root complex.
    Integrated,
}

/// What was read of one function's configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ConfigFacts {
    /// What the function is.
    pub kind: PcieKind,
    /// The most payload of one packet, in bytes.
    pub max_payload_bytes: Option<u32>,
    /// Access control.
    pub acs: Acs,
    /// How much of the space could be read, in bytes.
    pub read_bytes: u16,
}

impl ConfigFacts {
    /// Reads `bytes`, the beginning of a space of `space_bytes` (as the file states its size).
    pub fn parse(bytes: &[u8], space_bytes: u64) -> Self {
        let bytes = &bytes[..bytes.len().min(EXTENDED_BYTES)];
        let pcie = pcie_capability(bytes);
        Self {
            kind: kind(bytes, pcie),
            max_payload_bytes: match pcie {
                Ok(Some(at)) => word(bytes, at + 8).map(|control| 128 << (control >> 5 & 7)),
                _ => None,
            },
            acs: acs(bytes, space_bytes).unwrap_or(Acs::Unknown),
            read_bytes: bytes.len() as u16,
        }
    }

    /// True when nothing was kept from this reader.
    pub const fn is_whole(&self) -> bool {
        !matches!(self.acs, Acs::Unknown) && !matches!(self.kind, PcieKind::Unknown)
    }
}

/// Configuration space that was cut off, or of a device that does not answer (every bit set).
#[derive(Clone, Copy, Debug)]
struct CutOff;

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes([two[0], two[1]]))
}

fn double_word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(word(bytes, at)?) | u32::from(word(bytes, at + 2)?) << 16)
}

fn answers(bytes: &[u8]) -> bool {
    word(bytes, 0).is_some_and(|vendor| vendor != 0xffff)
}

/// Where the PCI Express capability is, `None` where there is none.
fn pcie_capability(bytes: &[u8]) -> Result<Option<usize>, CutOff> {
    if bytes.len() < HEADER_BYTES || !answers(bytes) {
        return Err(CutOff);
    }
    if word(bytes, 6).ok_or(CutOff)? & STATUS_HAS_CAPABILITIES == 0 {
        return Ok(None);
    }
    // Bridges to CardBus, header type 2, have the pointer elsewhere.
    let first = if bytes[0x0e] & 0x7f == 2 { 0x14 } else { 0x34 };
    let mut at = usize::from(bytes[first] & !3);
    for _ in 0..MOST_CAPABILITIES {
        if at < HEADER_BYTES {
            return Ok(None);
        }
        let [id, next] = word(bytes, at).ok_or(CutOff)?.to_le_bytes();
        match id {
            CAPABILITY_PCIE => return Ok(Some(at)),
            0xff => return Ok(None),
            _ => at = usize::from(next & !3),
        }
    }
    Ok(None)
}

fn kind(bytes: &[u8], pcie: Result<Option<usize>, CutOff>) -> PcieKind {
    let at = match pcie {
        Ok(Some(at)) => at,
        Ok(None) => return PcieKind::Conventional,
        Err(CutOff) => return PcieKind::Unknown,
    };
    match word(bytes, at + 2).map(|flags| flags >> 4 & 0xf) {
        Some(0 | 1) => PcieKind::Endpoint,
        Some(4) => PcieKind::RootPort,
        Some(5) => PcieKind::SwitchUpstream,
        Some(6) => PcieKind::SwitchDownstream,
        Some(7 | 8) => PcieKind::Bridge,
        Some(9 | 10) => PcieKind::Integrated,
        Some(_) => PcieKind::Conventional,
        None => PcieKind::Unknown,
    }
}

fn acs(bytes: &[u8], space_bytes: u64) -> Result<Acs, CutOff> {
    let space = space_bytes.clamp(CONVENTIONAL_BYTES as u64, EXTENDED_BYTES as u64);
    if (bytes.len() as u64) < space || !answers(bytes) {
        return Err(CutOff);
    }
    let mut at = CONVENTIONAL_BYTES;
    for _ in 0..MOST_EXTENDED {
        // A space without extended capabilities ends here, or begins with an empty one.
        let Some(header) = double_word(bytes, at).filter(|&header| header != 0) else {
            return Ok(Acs::Absent);
        };
        if header & 0xffff == EXTENDED_ACS {
            let [capability, control] = [at + 4, at + 6].map(|at| word(bytes, at).ok_or(CutOff));
            return Ok(Acs::Present { capability: capability?, control: control? });
        }
        at = (header >> 20 & 0xffc) as usize;
        if at < CONVENTIONAL_BYTES {
            return Ok(Acs::Absent);
        }
    }
    Ok(Acs::Absent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        bytes[0] = 0x86;
        bytes[1] = 0x80;
        bytes[6] = 0x10;
        bytes[0x34] = 0x50;
        // Power management, then PCI Express: a root port with packets of 512 bytes.
        bytes[0x50..0x52].copy_from_slice(&[0x01, 0x60]);
        bytes[0x60..0x64].copy_from_slice(&[0x10, 0, 0x42, 0]);
        bytes[0x68] = 0x40;
        if length == EXTENDED_BYTES {
            // Error reporting, then ACS.
            bytes[0x100..0x104].copy_from_slice(&[0x01, 0, 0x02, 0x20]);
            bytes[0x200..0x208].copy_from_slice(&[0x0d, 0, 0x01, 0, 0x5f, 0, 0x1d, 0]);
        }
        bytes
    }

    fn parse(bytes: &[u8]) -> ConfigFacts {
        ConfigFacts::parse(bytes, bytes.len() as u64)
    }

    #[test]
    fn q6_a_whole_space_tells_kind_packets_and_acs() {
        let facts = parse(&space(EXTENDED_BYTES));
        assert_eq!((facts.kind, facts.max_payload_bytes), (PcieKind::RootPort, Some(512)));
        assert_eq!(facts.acs, Acs::Present { capability: 0x5f, control: 0x1d });
        assert_eq!((facts.acs.redirects(), facts.is_whole()), (Some(true), true));
        let mut quiet = space(EXTENDED_BYTES);
        for (control, redirects) in [(0x53, false), (0x04, true), (0x08, true), (0x20, true)] {
            quiet[0x206] = control;
            assert_eq!(parse(&quiet).acs.redirects(), Some(redirects), "{control:#x}");
        }
    }

    #[test]
    fn q6_what_could_not_be_read_is_unknown_and_never_absent() {
        let whole = space(EXTENDED_BYTES);
        for length in (0..EXTENDED_BYTES).step_by(16) {
            let facts = ConfigFacts::parse(&whole[..length], EXTENDED_BYTES as u64);
            assert_eq!(facts.acs, Acs::Unknown, "{length} bytes");
        }
        // A file of 64 bytes that states no more is what a copy by an unprivileged reader is.
        let header = parse(&whole[..HEADER_BYTES]);
        assert_eq!((header.acs, header.kind), (Acs::Unknown, PcieKind::Unknown));
        assert!(!header.is_whole());
        // Whole, and conventional: known to have none.
        assert_eq!(parse(&whole[..CONVENTIONAL_BYTES]).acs, Acs::Absent);
        // A device that has gone answers with ones.
        let gone = parse(&[0xff; EXTENDED_BYTES]);
        assert_eq!((gone.acs, gone.kind), (Acs::Unknown, PcieKind::Unknown));
        let mut bare = whole[..HEADER_BYTES].to_vec();
        bare[6] = 0;
        assert_eq!(parse(&bare).kind, PcieKind::Conventional, "the header says so itself");
    }

    #[test]
    fn q6_lists_that_lead_round_or_out_end() {
        let mut round = space(EXTENDED_BYTES);
        round[0x51] = 0x50;
        round[0x100..0x104].copy_from_slice(&[0x01, 0, 0x02, 0x10]);
        assert_eq!((parse(&round).kind, parse(&round).acs), (PcieKind::Conventional, Acs::Absent));
        let mut out = space(EXTENDED_BYTES);
        out[0x102..0x104].copy_from_slice(&[0xc2, 0xff]);
        out[0xffc..].copy_from_slice(&[0x0d, 0, 0x01, 0]);
        assert_eq!(parse(&out).acs, Acs::Unknown, "the control word lies outside");
        out[0x60..0x64].copy_from_slice(&[0x01, 0xfc, 0, 0]);
        out[0xfc] = CAPABILITY_PCIE;
        out.truncate(0xfd);
        assert_eq!(parse(&out).kind, PcieKind::Unknown);
    }
}
