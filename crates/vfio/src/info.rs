//! What the kernel says of an IOMMU: a structure and a chain of capabilities after it, as bytes. Pure.

use std::ops::RangeInclusive;

use vfio_bindings::bindings::vfio::{
    VFIO_IOMMU_INFO_CAPS, VFIO_IOMMU_INFO_PGSIZES, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
};

/// More capabilities than any kernel has; a chain that is longer goes in a circle.
const MAX_CAPABILITIES: usize = 64;

/// Of one IOMMU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct IommuInfo {
    /// The smallest page.
    pub(crate) page_bytes: u64,
    /// The addresses that devices may use. Empty where the kernel does not say.
    pub(crate) ranges: Vec<RangeInclusive<u64>>,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    word.try_into().ok().map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at.checked_add(8)?)?;
    word.try_into().ok().map(u64::from_ne_bytes)
}

/// Reads `struct vfio_iommu_type1_info` (argsz, flags, page sizes, offset of the first capability) and what follows it. What is cut short counts as not there.
pub(crate) fn parse(bytes: &[u8]) -> IommuInfo {
    let flags = u32_at(bytes, 4).unwrap_or(0);
    let sizes = u64_at(bytes, 8).filter(|_| flags & VFIO_IOMMU_INFO_PGSIZES != 0).unwrap_or(0);
    let page_bytes = if sizes == 0 { 0x1000 } else { 1 << sizes.trailing_zeros() };
    let mut ranges = Vec::new();
    let mut next = u32_at(bytes, 16).filter(|_| flags & VFIO_IOMMU_INFO_CAPS != 0).unwrap_or(0);
    for _ in 0..MAX_CAPABILITIES {
        // Header: id and version in 16 bits each, then the next offset.
        let at = next as usize;
        let (Some(id), Some(following)) = (u32_at(bytes, at), u32_at(bytes, at + 4)) else { break };
        if at == 0 {
            break;
        }
        if id & 0xffff == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE {
            let count = u32_at(bytes, at + 8).unwrap_or(0) as usize;
            let range = |i: usize| {
                let (first, last) =
                    (u64_at(bytes, at + 16 + 16 * i)?, u64_at(bytes, at + 24 + 16 * i)?);
                (first <= last).then_some(first..=last)
            };
            ranges.extend((0..count.min(bytes.len() / 16)).filter_map(range));
        }
        next = following;
    }
    IommuInfo { page_bytes, ranges }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(parts: &[u32]) -> Vec<u8> {
        parts.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// Page sizes 4 KiB and 2 MiB; a capability that nobody knows, then two ranges.
    fn answer() -> Vec<u8> {
        let mut bytes = words(&[88, 3, 0x20_1000, 0, 24, 0]);
        bytes.extend(words(&[0x0001_0009, 40, 7, 7]));
        bytes.extend(words(&[0x0001_0001, 0, 2, 0]));
        for address in [0_u64, 0xfedf_ffff, 0xfef0_0000, 0xffff_ffff_ffff] {
            bytes.extend(address.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn ranges_are_found_behind_other_capabilities() {
        let info = parse(&answer());
        assert_eq!(info.page_bytes, 0x1000);
        assert_eq!(info.ranges, [0..=0xfedf_ffff, 0xfef0_0000..=0xffff_ffff_ffff]);
    }

    #[test]
    fn what_is_cut_short_or_goes_in_a_circle_ends() {
        let whole = answer();
        for len in 0..whole.len() {
            assert!(parse(&whole[..len]).ranges.len() < 2, "{len} bytes");
        }
        let mut circle = whole.clone();
        circle[44..48].copy_from_slice(&24_u32.to_ne_bytes());
        assert!(!parse(&circle).ranges.is_empty());
        let mut silent = whole;
        silent[4] = 1;
        assert_eq!(parse(&silent).ranges, []);
    }
}
