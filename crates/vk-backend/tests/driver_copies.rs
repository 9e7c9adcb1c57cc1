//! Copies between the arena and device memory.

mod lab;

use hmmap_core::{
    backend::Zero,
    units::{BLOCK_BYTES, PAGE_BYTES},
};
use lab::{lab, pattern, watched};

const SLAB_BYTES: u64 = 64 << 20;

#[test]
fn bytes_survive_the_way_there_and_back() {
    let Some(lab) = lab(watched()) else { return };
    let len_bytes = 3 * BLOCK_BYTES;
    let (from, to) = (lab.span(len_bytes), lab.span(len_bytes));
    lab.write(from, pattern(7));
    let memory = lab.reserve_backed(len_bytes);
    assert_eq!(memory.address % PAGE_BYTES, 0);
    let sent = lab.submit(&[], &[lab.up(from, memory.memory, 0)], &[]).unwrap();
    let back = lab.submit(&[sent], &[lab.down(to, memory.memory, 0)], &[]).unwrap();
    lab.finish(back);
    assert_eq!(lab.read(to), lab.read(from));
    lab.device.release(memory.memory);
    lab.close();
}

#[test]
fn a_batch_of_scattered_pages_lands_where_it_was_sent() {
    let Some(lab) = lab(watched()) else { return };
    let pages = 64;
    let (from, to) = (lab.span(pages * PAGE_BYTES), lab.span(pages * PAGE_BYTES));
    lab.write(from, pattern(1));
    let memory = lab.reserve_backed(pages * PAGE_BYTES);
    // Page i goes to page 63 - i on the way up, and every other page is overwritten with zeros.
    let page = |number: u64| from.part(number * PAGE_BYTES, PAGE_BYTES);
    let ups: Vec<_> = (0..pages)
        .map(|number| lab.up(page(number), memory.memory, (pages - 1 - number) * PAGE_BYTES))
        .collect();
    let sent = lab.submit(&[], &ups, &[]).unwrap();
    let zeros: Vec<_> = (0..pages / 2)
        .map(|number| Zero {
            memory: memory.memory,
            offset_bytes: 2 * number * PAGE_BYTES,
            len_bytes: PAGE_BYTES,
        })
        .collect();
    let zeroed = lab.submit(&[sent], &[], &zeros).unwrap();
    let back = lab.submit(&[zeroed], &[lab.down(to, memory.memory, 0)], &[]).unwrap();
    lab.finish(back);
    let (sent, got) = (lab.read(from), lab.read(to));
    for number in 0..pages as usize {
        let size = PAGE_BYTES as usize;
        let there = &got[number * size..(number + 1) * size];
        if number % 2 == 0 {
            assert!(there.iter().all(|byte| *byte == 0), "page {number} is zero");
        } else {
            let source = pages as usize - 1 - number;
            assert_eq!(there, &sent[source * size..(source + 1) * size], "page {number}");
        }
    }
    lab.device.release(memory.memory);
    lab.close();
}

#[test]
fn a_copy_may_cross_slabs() {
    let Some(lab) = lab(watched()) else { return };
    // Large spans follow each other in the arena; the second begins short of a slab's end.
    let _before = lab.span(SLAB_BYTES - BLOCK_BYTES);
    let (from, to) = (lab.span(4 * BLOCK_BYTES), lab.span(4 * BLOCK_BYTES));
    assert_ne!(from.offset_bytes / SLAB_BYTES, (from.end_bytes() - 1) / SLAB_BYTES);
    lab.write(from, pattern(3));
    let memory = lab.reserve_backed(4 * BLOCK_BYTES);
    lab.move_now(&[lab.up(from, memory.memory, 0)]);
    lab.move_now(&[lab.down(to, memory.memory, 0)]);
    assert_eq!(lab.read(to), lab.read(from));
    lab.device.release(memory.memory);
    lab.close();
}

#[test]
fn released_host_pages_are_not_read_from_an_old_import() {
    let Some(lab) = lab(watched()) else { return };
    let span = lab.span(BLOCK_BYTES);
    lab.write(span, pattern(9));
    let memory = lab.reserve_backed(BLOCK_BYTES);
    lab.move_now(&[lab.up(span, memory.memory, 0)]);
    lab.device.host_released(span);
    assert_eq!(lab.vulkan.pinned_bytes(), 0);
    lab.arena.free(span, Some(span));
    let again = lab.span(BLOCK_BYTES);
    assert_eq!(again, span, "the arena deals the same span out again");
    lab.write(again, pattern(10));
    lab.move_now(&[lab.up(again, memory.memory, 0)]);
    let to = lab.span(BLOCK_BYTES);
    lab.move_now(&[lab.down(to, memory.memory, 0)]);
    assert_eq!(lab.read(to), lab.read(again));
    lab.device.release(memory.memory);
    lab.close();
}
