//! An owner that writes, moves and discards at random, and two processes that read and write at random. Each page is written whole, so nobody may see one
//! that is half of one writing and half of another, or one that is older than what he saw before.

use std::{path::Path, thread};

use hmmap_core::{DeviceId, Imported, SharedVec};
use hmmap_share::{ExportEvent, Exporter, ExporterOptions, Importer, ImporterOptions};

use crate::{
    BLOCK, PAGE, alone,
    dice::Dice,
    harness::{Other, hear, part, say, socket_path},
    kernels::Count,
    runtime,
};

const N: usize = 2 * BLOCK;
const PAGES: usize = N / PAGE;

fn steps() -> u32 {
    if std::env::var_os("HMMAP_DEEP").is_some() { 30_000 } else { 600 }
}

/// A page that was written whole: its first word's number and so on. Nothing for one that was discarded.
fn stamp(page: usize, words: &[u32]) -> Option<u32> {
    if words.iter().all(|word| *word == 0) {
        return None;
    }
    let stamps = (page * PAGE..).zip(words).map(|(at, word)| word.wrapping_sub(at as u32));
    let first = words[0].wrapping_sub((page * PAGE) as u32);
    assert!(stamps.into_iter().all(|stamp| stamp == first), "page {page} is torn");
    Some(first)
}

fn written(page: usize, stamp: u32) -> Vec<u32> {
    (page * PAGE..(page + 1) * PAGE).map(|at| stamp.wrapping_add(at as u32)).collect()
}

/// Reads a page, and sees nothing older than before.
fn looks(at: &Imported<u32>, page: usize, seen: &mut [u32]) {
    let mut words = vec![0; PAGE];
    at.copy_to(page * PAGE, &mut words).unwrap();
    if let Some(stamp) = stamp(page, &words) {
        assert!(stamp >= seen[page], "page {page} is of {stamp}, after {}", seen[page]);
        seen[page] = stamp;
    }
}

/// One of the two: it writes every other page of what is lent, and reads the rest.
fn uses(socket: &Path) {
    let mem = runtime();
    let importer = Importer::connect(socket, ImporterOptions::default()).unwrap();
    let frames = importer.open::<u32>(&mem, "frames").unwrap();
    let mut lent = importer.open::<u32>(&mem, "lent").unwrap();
    say("open");
    let mut mine = String::new();
    std::io::stdin().read_line(&mut mine).unwrap();
    let mine: usize = mine.trim().parse().unwrap();
    let mut dice = Dice(mine as u64);
    let (mut of_frames, mut of_lent) = ([0; PAGES], [0; PAGES]);
    for step in 1..=steps() {
        let page = dice.below(PAGES as u64) as usize;
        match dice.below(3) {
            0 => looks(&frames, page, &mut of_frames),
            1 => looks(&lent, page, &mut of_lent),
            _ => {
                let own = page / 2 * 2 + mine;
                let before = of_lent[own];
                looks(&lent, own, &mut of_lent);
                assert_eq!(of_lent[own], before, "nobody else writes it");
                if step % 2 == 0 {
                    lent.copy_from(own * PAGE, &written(own, step)).unwrap();
                } else {
                    // On the device alone, until somebody asks for it.
                    let y = lent.write().range(own * PAGE..(own + 1) * PAGE);
                    let seed = step + (own * PAGE) as u32;
                    mem.launch(PAGE, Count { y, seed, pause_ms: 0 }).unwrap();
                }
                of_lent[own] = step;
            }
        }
    }
    say("through");
    hear("end");
    // What is its own is as it left it, and comes home with the end.
    (0..PAGES).skip(mine).step_by(2).for_each(|page| {
        let before = of_lent[page];
        looks(&lent, page, &mut of_lent);
        assert_eq!(of_lent[page], before);
    });
}

/// The last step in which each page of what is lent was written by one of the two.
fn last_written(mine: usize) -> [u32; PAGES] {
    let (mut dice, mut last) = (Dice(mine as u64), [0; PAGES]);
    for step in 1..=steps() {
        let page = dice.below(PAGES as u64) as usize;
        if dice.below(3) == 2 {
            last[page / 2 * 2 + mine] = step;
        }
    }
    last
}

#[test]
fn pages_are_whole_and_never_old() {
    const NAME: &str = "soak::pages_are_whole_and_never_old";
    if let Some(socket) = part() {
        return uses(&socket);
    }
    let _alone = alone();
    let socket = socket_path(NAME);
    let mem = runtime();
    let device = DeviceId::new(0).unwrap();
    let mut frames = SharedVec::<u32>::shareable(&mem, N).unwrap();
    let lent = SharedVec::<u32>::shareable(&mem, N).unwrap().lend().unwrap();
    let exporter = Exporter::bind(&socket, ExporterOptions::default()).unwrap();
    exporter.export("frames", &frames).unwrap();
    exporter.export_lent("lent", &lent).unwrap();
    let mut others: Vec<_> = (0..2).map(|_| Other::start(NAME, &socket)).collect();
    for (number, other) in others.iter_mut().enumerate() {
        other.expect("open");
        other.tell(&number.to_string());
    }
    let mut dice = Dice(7);
    let mut expected = [0; PAGES];
    let mut stamp_now = 0;
    thread::scope(|scope| {
        let through = scope.spawn(|| others.iter_mut().for_each(|other| other.expect("through")));
        while !through.is_finished() {
            stamp_now += 1;
            let page = dice.below(PAGES as u64) as usize;
            let range = page * PAGE..(page + 1) * PAGE;
            match dice.below(6) {
                0 => {
                    let count = Count { y: frames.write(), seed: stamp_now, pause_ms: 0 };
                    mem.launch(N, count).unwrap();
                    expected = [stamp_now; PAGES];
                }
                1 | 2 => {
                    // Not the host's slices: nobody sees when they end, so a reader may see them half written.
                    let seed = stamp_now + range.start as u32;
                    let count = Count { y: frames.write().range(range), seed, pause_ms: 0 };
                    mem.launch(PAGE, count).unwrap();
                    expected[page] = stamp_now;
                }
                3 => drop(frames.prefetch(range, device).unwrap()),
                4 => {
                    frames.discard(range).unwrap();
                    expected[page] = 0;
                }
                _ => assert_eq!(
                    stamp(page, frames.host(range).unwrap()).unwrap_or(0),
                    expected[page]
                ),
            }
        }
        through.join().unwrap();
    });
    for (page, expected) in expected.iter().enumerate() {
        let words = frames.host(page * PAGE..(page + 1) * PAGE).unwrap();
        assert_eq!(stamp(page, words).unwrap_or(0), *expected);
    }
    for mut other in others {
        other.tell("end");
        other.join();
    }
    let lost = |event: &ExportEvent| matches!(event, ExportEvent::Lost { .. });
    assert!(!exporter.take_events().iter().any(lost), "nothing was lost");
    let lent = lent.take_back().unwrap();
    let last = [last_written(0), last_written(1)];
    for page in 0..PAGES {
        let words = &lent[page * PAGE..(page + 1) * PAGE];
        assert_eq!(stamp(page, words).unwrap_or(0), last[page % 2][page], "page {page}");
    }
    std::fs::remove_file(socket).unwrap();
}
