//! What a PCI Express link carries.
//!
//! `payload = lanes * transfers/s * line code * packet code`. The line code is 8 of 10 bits up to 5 GT/s and 128 of 130 up to
//! 32 GT/s; from 64 GT/s on, 236 of the 256 bytes of a flit are packets. The packet code is what is left of a packet after its
//! header, sequence number and checksums: 256 of 280 bytes where packets carry 256.

use std::fmt;

/// Bytes of a memory write packet with a 64-bit address that are not payload: framing and sequence number 4, header 16, checksum 4.
const PACKET_OVERHEAD_BYTES: u64 = 24;

/// A link as it runs, or as it could at most: the same at both of its ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Link {
    speed_mts: u32,
    lanes: u8,
}

impl Link {
    /// A link of `lanes` at `speed_mts` (million transfers/s); `None` when PCI Express has no such link.
    pub const fn new(speed_mts: u32, lanes: u8) -> Option<Self> {
        let speed = matches!(speed_mts, 2500 | 5000 | 8000 | 16000 | 32000 | 64000 | 128_000);
        if speed && matches!(lanes, 1 | 2 | 4 | 8 | 12 | 16 | 32) {
            Some(Self { speed_mts, lanes })
        } else {
            None
        }
    }

    /// Reads `current_link_speed` ("16.0 GT/s PCIe", in old kernels "8 GT/s") and `current_link_width` ("16"). `None` for a
    /// link that is down or not there, which the kernel writes as "Unknown" or as a width of 0 or 255.
    pub(super) fn parse(speed: &str, width: &str) -> Option<Self> {
        let number = speed.trim().split_once(" GT/s")?.0;
        let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
        let [whole, tenths] = [whole, tenths].map(|digits| digits.parse::<u32>().ok());
        let tenths = tenths.filter(|&tenths| tenths < 10)?;
        let speed_mts = whole?.checked_mul(1000)?.checked_add(tenths * 100)?;
        Self::new(speed_mts, width.trim().parse().ok()?)
    }

    /// Million transfers/s of each lane.
    pub const fn speed_mts(self) -> u32 {
        self.speed_mts
    }

    /// Lanes in use.
    pub const fn lanes(self) -> u8 {
        self.lanes
    }

    /// The most of payload in one direction, in bytes/s, in packets of `payload_bytes` (at least 1 is taken).
    pub const fn bytes_per_s(self, payload_bytes: u32) -> u64 {
        let bits = self.speed_mts as u64 * 1_000_000 * self.lanes as u64;
        let (part, of) = match self.speed_mts {
            0..=5000 => (8, 10),
            5001..=32_000 => (128, 130),
            _ => (236, 256),
        };
        let payload = if payload_bytes == 0 { 1 } else { payload_bytes as u64 };
        bits / 8 * part / of * payload / (payload + PACKET_OVERHEAD_BYTES)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, tenths) = (self.speed_mts / 1000, self.speed_mts % 1000 / 100);
        write!(f, "{whole}.{tenths} GT/s x{}", self.lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q6_links_are_read_in_every_spelling_of_the_kernel() {
        let link = |speed, width| Link::parse(speed, width).map(|link| link.to_string());
        assert_eq!(link("16.0 GT/s PCIe\n", "16\n").as_deref(), Some("16.0 GT/s x16"));
        assert_eq!(link("2.5 GT/s PCIe", "1").as_deref(), Some("2.5 GT/s x1"));
        assert_eq!(link("8 GT/s", "4").as_deref(), Some("8.0 GT/s x4"));
        let wrong = [
            ("Unknown", "16"),
            ("Unknown speed", "16"),
            ("16.0 GT/s PCIe", "0"),
            ("16.0 GT/s PCIe", "255"),
            ("16.0 GT/s PCIe", ""),
            ("4294967296 GT/s", "1"),
            ("4294967 GT/s", "1"),
            ("-8 GT/s", "1"),
            ("8.00 GT/s", "300"),
            ("7 GT/s", "1"),
            ("", ""),
        ];
        for (speed, width) in wrong {
            assert_eq!(Link::parse(speed, width), None, "{speed} {width}");
        }
    }

    #[test]
    fn q6_a_link_carries_what_its_line_code_and_packets_leave() {
        // By hand: lanes * GT/s / 8, times the line code, times 256/280.
        let carried = [
            ((2500, 1), 228_571_428),
            ((5000, 16), 7_314_285_714),
            ((8000, 16), 14_403_516_482),
            ((16000, 16), 28_807_032_966),
            ((32000, 16), 57_614_065_933),
            ((64000, 16), 107_885_714_285),
        ];
        for ((speed, lanes), bytes_per_s) in carried {
            assert_eq!(Link::new(speed, lanes).unwrap().bytes_per_s(256), bytes_per_s);
        }
        assert_eq!(Link::new(8000, 8).unwrap().bytes_per_s(128), 6_633_198_379);
        assert_eq!(Link::new(128_000, 32).unwrap().bytes_per_s(0), 18_880_000_000);
    }
}
