//! Addresses as a peer uses them: cut and joined to its limits. Pure.

use std::fmt;

use crate::node::DeviceId;

/// What an address is an address of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum AddressKind {
    /// Memory of this process, as any of its threads reaches it.
    Process,
    /// Memory as this device's kernels reach it.
    Device(DeviceId),
    /// Whatever the peer's own mapping gave: a bus address, an IOVA.
    Bus,
}

impl fmt::Display for AddressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => f.write_str("process"),
            Self::Device(device) => write!(f, "{device}"),
            Self::Bus => f.write_str("bus"),
        }
    }
}

/// Neighbouring addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct BusSegment {
    /// The first.
    pub addr: u64,
    /// How many bytes.
    pub len_bytes: u64,
    /// What the addresses are.
    pub kind: AddressKind,
}

/// Which addresses a peer can use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct AddressLimits {
    /// How many bits an address may have, 1 to 64.
    pub address_bits: u32,
    /// The longest segment, in bytes.
    pub max_segment_bytes: u64,
    /// What each segment's first address is a multiple of, in bytes; a power of two.
    pub alignment_bytes: u64,
}

impl Default for AddressLimits {
    /// None.
    fn default() -> Self {
        Self { address_bits: 64, max_segment_bytes: u64::MAX, alignment_bytes: 1 }
    }
}

/// Addresses that a peer cannot use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressFault {
    /// Beyond its reach.
    #[error("{addr:#x} and the {len_bytes} bytes from there do not fit {address_bits} bits")]
    TooWide {
        /// The first address.
        addr: u64,
        /// The segment's length.
        len_bytes: u64,
        /// What the peer can use.
        address_bits: u32,
    },
    /// Not aligned.
    #[error("{addr:#x} is no multiple of {alignment_bytes}; choose a range that begins at one")]
    Misaligned {
        /// The address.
        addr: u64,
        /// What the peer asks for.
        alignment_bytes: u64,
    },
    /// The limits themselves make no sense.
    #[error("its limits cannot be met by any segment")]
    Limits,
}

/// Joins neighbours and cuts what is too long. What comes out covers the same bytes in the same order.
pub(crate) fn split(
    parts: impl IntoIterator<Item = BusSegment>,
    limits: AddressLimits,
) -> Result<Vec<BusSegment>, AddressFault> {
    let AddressLimits { address_bits, max_segment_bytes, alignment_bytes } = limits;
    if !alignment_bytes.is_power_of_two() || !(1..=64).contains(&address_bits) {
        return Err(AddressFault::Limits);
    }
    // A cut in the middle has to leave the rest aligned.
    let longest_bytes = max_segment_bytes / alignment_bytes * alignment_bytes;
    if longest_bytes == 0 {
        return Err(AddressFault::Limits);
    }
    let mut joined: Vec<BusSegment> = Vec::new();
    for part in parts.into_iter().filter(|part| part.len_bytes > 0) {
        match joined.last_mut() {
            Some(last)
                if last.kind == part.kind
                    && last.addr.checked_add(last.len_bytes) == Some(part.addr) =>
            {
                last.len_bytes += part.len_bytes;
            }
            _ => joined.push(part),
        }
    }
    let mut cut = Vec::with_capacity(joined.len());
    for BusSegment { addr, len_bytes, kind } in joined {
        let highest = u64::MAX >> (64 - address_bits);
        if addr.checked_add(len_bytes - 1).is_none_or(|last| last > highest) {
            return Err(AddressFault::TooWide { addr, len_bytes, address_bits });
        }
        if !addr.is_multiple_of(alignment_bytes) {
            return Err(AddressFault::Misaligned { addr, alignment_bytes });
        }
        let mut done = 0;
        while done < len_bytes {
            let next = longest_bytes.min(len_bytes - done);
            cut.push(BusSegment { addr: addr + done, len_bytes: next, kind });
            done += next;
        }
    }
    Ok(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(addr: u64, len_bytes: u64) -> BusSegment {
        BusSegment { addr, len_bytes, kind: AddressKind::Process }
    }

    fn limits(address_bits: u32, max_segment_bytes: u64, alignment_bytes: u64) -> AddressLimits {
        AddressLimits { address_bits, max_segment_bytes, alignment_bytes }
    }

    #[test]
    fn neighbours_are_joined_and_what_is_too_long_is_cut() {
        let parts = [part(0x1000, 0x1000), part(0x2000, 0x1000), part(0x9000, 0x10)];
        let found = split(parts, AddressLimits::default()).unwrap();
        assert_eq!(found, [part(0x1000, 0x2000), part(0x9000, 0x10)]);
        let found = split(parts, limits(64, 0x1800, 0x1000)).unwrap();
        assert_eq!(found, [part(0x1000, 0x1000), part(0x2000, 0x1000), part(0x9000, 0x10)]);
    }

    #[test]
    fn other_kinds_are_not_joined() {
        let bus = BusSegment { kind: AddressKind::Bus, ..part(0x2000, 0x1000) };
        assert_eq!(split([part(0x1000, 0x1000), bus], AddressLimits::default()).unwrap().len(), 2);
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_numbers() {
        let wide = split([part(0xf_f000, 0x1000)], limits(19, u64::MAX, 1));
        let fault = AddressFault::TooWide { addr: 0xf_f000, len_bytes: 0x1000, address_bits: 19 };
        assert_eq!(wide, Err(fault));
        assert!(split([part(0xf_f000, 0x1000)], limits(20, u64::MAX, 1)).is_ok());
        let odd = split([part(0x1010, 0x10)], limits(64, u64::MAX, 0x20));
        assert_eq!(odd, Err(AddressFault::Misaligned { addr: 0x1010, alignment_bytes: 0x20 }));
        assert_eq!(split([part(0, 1)], limits(64, 0x10, 0x20)), Err(AddressFault::Limits));
        assert_eq!(split([part(0, 1)], limits(64, 1, 3)), Err(AddressFault::Limits));
        assert!(split([part(u64::MAX, 1)], AddressLimits::default()).is_ok());
        assert!(split([part(u64::MAX, 2)], AddressLimits::default()).is_err());
    }
}
