//! Copies between the arena and device memory.

mod lab;

use std::sync::Arc;

use hmmap_core::{
    MemoryModel, Options, Runtime, SharedVec,
    backend::{Provider, Zero},
    units::{BLOCK_BYTES, PAGE_BYTES},
};
use lab::{in_every_mode, lab, pattern, watched};

const SLAB_BYTES: u64 = 64 << 20;

#[test]
fn bytes_survive_the_way_there_and_back() {
    in_every_mode(|lab| {
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
    });
}

#[test]
fn a_batch_of_scattered_pages_lands_where_it_was_sent() {
    in_every_mode(|lab| {
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
    });
}

#[test]
fn a_copy_may_cross_slabs() {
    in_every_mode(|lab| {
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
    });
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

#[test]
fn a_copy_on_into_the_next_slab_joins_the_two_without_losing_bytes() {
    let Some(lab) = lab(watched()) else { return };
    let _before = lab.span(SLAB_BYTES - BLOCK_BYTES);
    let (across, after) = (lab.span(2 * BLOCK_BYTES), lab.span(BLOCK_BYTES));
    lab.write(across, pattern(5));
    lab.write(after, pattern(6));
    let memory = lab.reserve_backed(4 * BLOCK_BYTES);
    // The second slab alone, then both as one, in the same batch and after the first import went.
    lab.move_now(&[lab.up(after, memory.memory, 0)]);
    assert_eq!(lab.vulkan.pinned_bytes(), SLAB_BYTES);
    let ups =
        [lab.up(after, memory.memory, BLOCK_BYTES), lab.up(across, memory.memory, 2 * BLOCK_BYTES)];
    lab.move_now(&ups);
    let to = lab.span(BLOCK_BYTES);
    for (offset_blocks, from) in [(0, after), (1, after), (2, across.part(0, BLOCK_BYTES))] {
        lab.move_now(&[lab.down(to, memory.memory, offset_blocks * BLOCK_BYTES)]);
        assert_eq!(lab.read(to), lab.read(from), "block {offset_blocks}");
    }
    assert_eq!(lab.vulkan.pinned_bytes(), 2 * SLAB_BYTES, "what there was is not pinned twice");
    lab.device.host_released(after);
    assert_eq!(lab.vulkan.pinned_bytes(), 0, "an import goes as a whole");
    lab.device.release(memory.memory);
    lab.close();
}

#[test]
fn bytes_survive_a_ring_smaller_than_the_copy() {
    let options = hmmap_vulkan::Options {
        host_copies: hmmap_vulkan::HostCopies::Staging,
        staging_bytes: 4 * PAGE_BYTES,
        ..watched()
    };
    let Some(lab) = lab(options) else { return };
    let len_bytes = 37 * PAGE_BYTES;
    let (from, to) = (lab.span(len_bytes), lab.span(len_bytes));
    lab.write(from, pattern(5));
    let memory = lab.reserve_backed(len_bytes);
    // Up in one piece, down in scattered pages and both ways in one batch.
    let sent = lab.submit(&[], &[lab.up(from, memory.memory, 0)], &[]).unwrap();
    let page = |number: u64| (to.part(number * PAGE_BYTES, PAGE_BYTES), number * PAGE_BYTES);
    let downs: Vec<_> = (0..37)
        .map(|number| page(number * 5 % 37))
        .map(|(host, offset)| lab.down(host, memory.memory, offset))
        .collect();
    lab.finish(lab.submit(&[sent], &downs, &[]).unwrap());
    assert_eq!(lab.read(to), lab.read(from));
    lab.device.release(memory.memory);
    lab.close();
}

#[test]
fn a_launch_waits_for_a_staged_copy_and_all_behind_it_stay_in_order() {
    let options =
        hmmap_vulkan::Options { host_copies: hmmap_vulkan::HostCopies::Staging, ..watched() };
    let Some(lab) = lab(options) else { return };
    let len_bytes = 16 * BLOCK_BYTES;
    let n = len_bytes / 4;
    let (x, y) = (lab.span(len_bytes), lab.span(len_bytes));
    let (dx, dy) = (lab.reserve_backed(len_bytes), lab.reserve_backed(len_bytes));
    lab.write(x, |at| 1.0f32.to_ne_bytes()[(at % 4) as usize]);
    for round in 1..4u32 {
        lab.write(y, |_| 0);
        // Launches are submitted while the copies that they wait for are still under way.
        let sent =
            lab.submit(&[], &[lab.up(x, dx.memory, 0), lab.up(y, dy.memory, 0)], &[]).unwrap();
        let mut last = lab.saxpy(1.0, dx.address, dy.address, n, &[sent]).unwrap();
        let independent = lab.saxpy(0.0, dx.address, dx.address, 0, &[]).unwrap();
        assert!(independent.value > last.value);
        for _ in 0..round {
            last = lab.saxpy(1.0, dx.address, dy.address, n, &[last]).unwrap();
        }
        let back = lab.submit(&[last], &[lab.down(y, dy.memory, 0)], &[]).unwrap();
        lab.finish(back);
        lab.finish(independent);
        assert!(lab::floats(&lab.read(y)).iter().all(|value| *value == (round + 1) as f32));
    }
    lab.device.release(dx.memory);
    lab.device.release(dy.memory);
    lab.close();
}

#[test]
fn more_slabs_than_may_be_pinned_go_by_hand() {
    let options = hmmap_vulkan::Options { max_pinned_bytes: Some(SLAB_BYTES), ..watched() };
    let Some(lab) = lab(options) else { return };
    let spans: Vec<_> = (0..3).map(|_| lab.span(SLAB_BYTES)).collect();
    let memory = lab.reserve_backed(3 * PAGE_BYTES);
    let pages: Vec<_> = spans.iter().map(|span| span.part(0, PAGE_BYTES)).collect();
    for (seed, page) in pages.iter().enumerate() {
        lab.write(*page, pattern(seed as u8));
    }
    let ups: Vec<_> =
        (0..).zip(&pages).map(|(i, page)| lab.up(*page, memory.memory, i * PAGE_BYTES)).collect();
    lab.move_now(&ups);
    assert_eq!(lab.vulkan.pinned_bytes(), 0, "nothing was imported for it");
    for (i, page) in (0..).zip(&pages) {
        let to = lab.span(PAGE_BYTES);
        lab.move_now(&[lab.down(to, memory.memory, i * PAGE_BYTES)]);
        assert_eq!(lab.read(to), lab.read(*page));
        lab.move_now(&[lab.up(*page, memory.memory, i * PAGE_BYTES)]);
        assert!(lab.vulkan.pinned_bytes() <= 2 * SLAB_BYTES);
    }
    lab.device.release(memory.memory);
    lab.close();
}

#[test]
fn an_import_outlives_the_vector_that_it_was_made_for_and_goes_with_its_memory() {
    let Some(lab) = lab(watched()) else { return };
    lab.close();
    let discovery = hmmap_vulkan::discover(&watched()).unwrap();
    let provider = Arc::clone(&discovery.providers[0]);
    let options = Options { memory_model: MemoryModel::Migrate, ..Options::default() };
    let mem = Runtime::new(vec![provider.clone() as Arc<dyn Provider>], options).unwrap();
    let id = mem.default_device().unwrap();
    if !mem.facts(id).unwrap().capabilities.direct_copy.is_proved() {
        return lab::skip("host memory cannot be imported");
    }
    let moved = || {
        let vec = SharedVec::from_fn(&mem, 100_000, |i| i as u32).unwrap();
        vec.prefetch(.., id).unwrap().wait().unwrap();
    };
    let vulkan = provider.device().unwrap();
    for _ in 0..3 {
        moved();
        assert_eq!(vulkan.pinned_bytes(), SLAB_BYTES, "kept for the next vector");
    }
    // The memory may not go back to the system while a device has it pinned.
    mem.trim();
    assert_eq!(vulkan.pinned_bytes(), 0);
    moved();
    assert_eq!(vulkan.pinned_bytes(), SLAB_BYTES);
}
