//! How copies are cut to pass through a staging ring. Pure.
//!
//! The ring is a few **slots** of equal length. Copies are packed, in order, into **loads** that each fill at most one slot and go one
//! way; a long copy makes several loads, many short ones share one.

use hmmap_core::{backend::Direction, host::HostSpan};

/// Slots in a ring.
pub(crate) const SLOTS: u64 = 4;

/// A copy whose device side was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found<B> {
    pub(crate) direction: Direction,
    pub(crate) host: HostSpan,
    pub(crate) buffer: B,
    /// Where in the buffer the device side begins, in bytes.
    pub(crate) offset_bytes: u64,
}

/// A part of a copy, and where in its slot it passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part<B> {
    pub(crate) copy: Found<B>,
    pub(crate) slot_offset_bytes: u64,
}

/// What passes through one slot at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Load<B> {
    pub(crate) direction: Direction,
    pub(crate) parts: Vec<Part<B>>,
    pub(crate) len_bytes: u64,
}

/// Packs copies into loads of at most `slot_bytes`.
pub(crate) fn pack<B: Copy>(copies: &[Found<B>], slot_bytes: u64) -> Vec<Load<B>> {
    let mut loads: Vec<Load<B>> = Vec::new();
    for copy in copies {
        let mut done = 0;
        while done < copy.host.len_bytes {
            let room =
                |load: &Load<B>| load.direction == copy.direction && load.len_bytes < slot_bytes;
            if !loads.last().is_some_and(room) {
                loads.push(Load { direction: copy.direction, parts: Vec::new(), len_bytes: 0 });
            }
            let Some(load) = loads.last_mut() else { return loads };
            let len_bytes = (copy.host.len_bytes - done).min(slot_bytes - load.len_bytes);
            let host = copy.host.part(done, len_bytes);
            let part = Found { host, offset_bytes: copy.offset_bytes + done, ..*copy };
            load.parts.push(Part { copy: part, slot_offset_bytes: load.len_bytes });
            load.len_bytes += len_bytes;
            done += len_bytes;
        }
    }
    loads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(direction: Direction, offset_bytes: u64, len_bytes: u64) -> Found<u32> {
        Found {
            direction,
            host: HostSpan { offset_bytes, len_bytes },
            buffer: 1,
            offset_bytes: 1000,
        }
    }

    #[test]
    fn a_long_copy_makes_several_loads_and_short_ones_share() {
        let up = Direction::HostToDevice;
        let loads = pack(&[copy(up, 0, 25), copy(up, 100, 3), copy(up, 200, 4)], 10);
        let lens: Vec<u64> = loads.iter().map(|load| load.len_bytes).collect();
        assert_eq!(lens, [10, 10, 10, 2]);
        let third: Vec<_> = loads[2]
            .parts
            .iter()
            .map(|part| {
                (part.copy.host.offset_bytes, part.copy.host.len_bytes, part.slot_offset_bytes)
            })
            .collect();
        assert_eq!(third, [(20, 5, 0), (100, 3, 5), (200, 2, 8)]);
        assert_eq!(loads[3].parts[0].copy.offset_bytes, 1002);
    }

    #[test]
    fn a_load_goes_one_way() {
        let (up, down) = (Direction::HostToDevice, Direction::DeviceToHost);
        let loads = pack(&[copy(up, 0, 2), copy(down, 50, 2), copy(up, 90, 2)], 10);
        let ways: Vec<_> = loads.iter().map(|load| load.direction).collect();
        assert_eq!(ways, [up, down, up]);
        assert!(pack(&[copy(up, 0, 0)], 10).is_empty());
    }
}
