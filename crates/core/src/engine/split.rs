//! A launch that does not fit its device, in tiles. Pure.
//!
//! A kernel whose arguments say which of their elements each item of the grid uses can run on some items at a time. Tiles are small against
//! the device, so that copies for one overlap the work of another, and begin where blocks begin, where the elements allow it: then no
//! block is used by two. What is not split is used by every tile.

use std::ops::Range;

use super::budget::ByGroup;
use crate::{
    kernel::{BoundArguments, BoundArray, Grid},
    runtime::OpenDevice,
    units::{BLOCK_BYTES, PAGE_BYTES},
};

/// Tiles that have room on the device at once, beside what is not split. What is in flight cannot be chosen to leave, so the fewer blocks a tile has, the nearer
/// a policy comes to what it would do: STREAM triad at twice the device moves 1.25 times the least with 4, 1.07 with 8, 1.02 with 16.
const AT_ONCE: u64 = 16;
/// A tile of more hides no more.
const MOST_BYTES: u64 = 64 << 20;

/// How many items a tile has; `None` for a launch that is not to be split: it fits, or says of no argument how, or not even its smallest tile fits.
pub(super) fn items_of_a_tile(bound: &BoundArguments<'_>, open: &OpenDevice) -> Option<u64> {
    if open.node.is_host() || bound.arrays.iter().all(|array| array.item_bytes.is_none()) {
        return None;
    }
    let (split, whole): (Vec<_>, Vec<_>) =
        bound.arrays.iter().partition(|array| array.item_bytes.is_some());
    let (whole, all) = (needed(whole.iter().copied()), needed(bound.arrays.iter()));
    open.budget.is_too_small_for(&all)?;
    let groups = split.iter().map(|array| array.buffer.group_id());
    let free_bytes = open.budget.room_beside(&whole, groups)?;
    let item_bytes: Vec<u64> = split.iter().filter_map(|array| array.item_bytes).collect();
    let workgroup = match bound.grid {
        Grid::Linear(_) => bound.workgroup[0],
        Grid::Plane { .. } => bound.workgroup[1],
        // Each workgroup takes a slice of the whole.
        Grid::Groups { .. } => return None,
    };
    largest_that_serves(free_bytes, &item_bytes, bound.grid.split_items(), workgroup)
}

/// The items of each tile, of `all`.
pub(super) fn tiles(all: u64, items: u64) -> Vec<Range<u64>> {
    let count = all.div_ceil(items.max(1));
    let at = |tile: u64| tile.saturating_mul(items).min(all);
    (0..count).map(|tile| at(tile)..at(tile + 1)).collect()
}

/// Memory that arrays need on the device: whole blocks, the last of which may end with the vector.
fn needed<'a>(arrays: impl Iterator<Item = &'a BoundArray<'a>>) -> ByGroup {
    let mut needed = ByGroup::default();
    for array in arrays {
        let Range { start, end } = array.bytes;
        let blocks = (start / BLOCK_BYTES) as u32..end.div_ceil(BLOCK_BYTES) as u32;
        let range = array.buffer.byte_range(&blocks);
        needed.add(array.buffer.group_id(), range.end - range.start);
    }
    needed
}

/// As many items as leave room for several tiles, in steps that end with a block, or a page, or a workgroup, the first that is small enough.
fn largest_that_serves(
    free_bytes: u64,
    item_bytes: &[u64],
    items: u64,
    workgroup: u32,
) -> Option<u64> {
    let steps = [BLOCK_BYTES, PAGE_BYTES, 1].map(|unit| {
        let ends_with = |bytes: &u64| unit / gcd(unit, *bytes);
        let step = item_bytes.iter().map(ends_with).max().unwrap_or(1);
        lcm(step, u64::from(workgroup.max(1)))
    });
    let needs = |items: u64, aligned: bool| {
        let blocks = item_bytes
            .iter()
            .map(|bytes| items.saturating_mul(*bytes).div_ceil(BLOCK_BYTES) + u64::from(!aligned));
        blocks.sum::<u64>().saturating_mul(BLOCK_BYTES)
    };
    // No less than a block of each for the sake of that, where a few have room all the same.
    let blocks_bytes = (item_bytes.len() as u64 * BLOCK_BYTES).min(free_bytes / 4);
    let wish_bytes = (free_bytes / AT_ONCE).min(MOST_BYTES).max(blocks_bytes);
    let all_bytes: u64 = item_bytes.iter().sum();
    // Two tiles at once if any step allows it, else one.
    let tries = [2, 1].into_iter().flat_map(|at_once| {
        let steps = steps.into_iter().zip([true, false, false]);
        steps.flat_map(move |(step, aligned)| {
            let most = (wish_bytes / all_bytes.max(1) / step).max(1) * step;
            [(most, aligned, at_once), (step, aligned, at_once)]
        })
    });
    let mut serves = tries.filter(|(count, aligned, at_once)| {
        *count < items && at_once * needs(*count, *aligned) <= free_bytes
    });
    serves.next().map(|(count, ..)| count)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn lcm(a: u64, b: u64) -> u64 {
    (a / gcd(a, b)).saturating_mul(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn tiles_end_with_blocks_and_several_have_room_at_once() {
        let tile = |free, items: &[u64]| largest_that_serves(free, items, u64::MAX, 256);
        // Three arrays of floats: a block of each, then as many as leave room for sixteen tiles, and never more than 64 MiB.
        assert_eq!(tile(24 * MIB, &[4, 4, 4]), Some(512 << 10));
        assert_eq!(tile(384 * MIB, &[4, 4, 4]), Some(4 * (512 << 10)));
        assert_eq!(tile(1 << 40, &[4, 4, 4]), Some(10 * (512 << 10)));
        // So many rows of 4 kB as end with a page: a block would need 65,536.
        assert_eq!(tile(24 * MIB, &[4000]), Some(2048));
        // Not two at once, but one.
        assert_eq!(tile(6 * MIB, &[4, 4, 4]), Some(512 << 10));
        // Three bytes: whole blocks for six MiB of each, else pages, which may touch two blocks of each.
        assert_eq!(tile(12 * MIB, &[3, 3]), Some(2 << 20));
        assert_eq!(tile(16 * MIB, &[3, 3]), Some(655_360));
        assert_eq!(tile(5 * MIB, &[4, 4, 4]), None);
    }

    #[test]
    fn every_item_is_in_one_tile() {
        assert_eq!(tiles(10, 4), [0..4, 4..8, 8..10]);
        assert_eq!(tiles(8, 4), [0..4, 4..8]);
        assert_eq!(tiles(u64::MAX, u64::MAX - 1).len(), 2);
        assert_eq!((lcm(6, 4), gcd(12, 18)), (12, 6));
    }
}
