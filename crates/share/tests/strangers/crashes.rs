//! Processes that are killed at any point. Who is left works on: its own pages are as they were, what is lost is told, and nothing of the dead stays.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use hmmap_core::{Error, Lent, Runtime, SharedVec, home::HomeError};
use hmmap_share::{ExportEvent, Exporter, ExporterOptions, Importer, ImporterOptions, ShareError};

use crate::{
    BLOCK, PAGE, alone, descriptors,
    dice::Dice,
    harness::{Other, part, socket_path},
    kernels::{Add, Count},
    runtime, until,
};

const N: usize = 2 * BLOCK;
const PAGES: usize = N / PAGE;
/// What the one that is killed leaves alone.
const MINE: usize = PAGES - 4;

fn rounds() -> u64 {
    if std::env::var_os("HMMAP_DEEP").is_some() { 500 } else { 25 }
}

/// What a process holds of files that others have too: descriptors and mappings.
fn held() -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    (descriptors(), maps.lines().filter(|line| line.contains("memfd:")).count())
}

/// Writes what it is lent, by the host and by kernels, until it is killed.
fn writes_for_ever(socket: &Path) -> Result<(), ShareError> {
    let mem = runtime();
    let ones = SharedVec::from_fn(&mem, N, |_| 1_u32)?;
    let importer = Importer::connect(socket, ImporterOptions::default())?;
    let mut dice = Dice(u64::from(std::process::id()));
    loop {
        let frames = importer.open::<u32>(&mem, "frames")?;
        let mut lent = importer.open::<u32>(&mem, "lent")?;
        for step in 1..20 {
            let page = dice.below(MINE as u64) as usize;
            match dice.below(4) {
                0 => lent.store(page * PAGE, step)?,
                1 => drop(lent.load(page * PAGE)?),
                2 => drop(frames.load(page * PAGE)?),
                // The four last pages go along, and are not written.
                _ => drop(mem.launch(MINE * PAGE, Add { x: ones.read(), y: lent.update() })?),
            }
        }
    }
}

/// Pages of the vector that its owner and an importer in this process use while others come and die.
struct Left {
    frames: SharedVec<u32>,
    lent: Lent<u32>,
    exporter: Exporter,
}

#[test]
fn importers_that_are_killed_leave_their_home_as_it_is() {
    const NAME: &str = "crashes::importers_that_are_killed_leave_their_home_as_it_is";
    if let Some(socket) = part() {
        // Killed before it can be, as a rule.
        println!("{:?}", writes_for_ever(&socket));
        return;
    }
    let _alone = alone();
    let socket = socket_path(NAME);
    let (mem, other) = (runtime(), runtime());
    let frames = SharedVec::<u32>::shareable(&mem, N).unwrap();
    let lent = SharedVec::<u32>::shareable(&mem, N).unwrap().lend().unwrap();
    let mut options = ExporterOptions::default();
    options.deadline = Duration::from_millis(200);
    let exporter = Exporter::bind(&socket, options).unwrap();
    exporter.export("frames", &frames).unwrap();
    exporter.export_lent("lent", &lent).unwrap();
    let importer = Importer::connect(&socket, ImporterOptions::default()).unwrap();
    let mut honest = importer.open::<u32>(&other, "lent").unwrap();
    let mut left = Left { frames, lent, exporter };
    let mut dice = Dice(1);
    let mut before = None;
    let mut deaths = 0;
    for round in 1..=rounds() as u32 {
        let mut killed = Other::start(NAME, &socket);
        let alive = Instant::now();
        let life = Duration::from_millis(dice.below(80));
        loop {
            left.frames[(round as usize % PAGES) * PAGE] = round;
            honest.store(MINE * PAGE, round).unwrap();
            if alive.elapsed() >= life {
                break;
            }
        }
        killed.kill();
        // All of it can be had, whoever held it: each page is asked for by who is left.
        for page in 0..PAGES {
            let word = honest.load(page * PAGE).unwrap();
            assert!(page < MINE || word == if page == MINE { round } else { 0 }, "{page}: {word}");
            left.frames[page * PAGE] = round;
            honest.store(page * PAGE, if page < MINE { 0 } else { word }).unwrap();
        }
        deaths += left.tell();
        let now = held();
        let before = *before.get_or_insert(now);
        until("nothing of the dead is left", || held() <= before);
    }
    assert!(deaths > rounds() / 4, "{deaths} were killed before they had connected");
    drop((honest, importer));
    let Left { frames, lent, exporter } = left;
    let lent = lent.take_back().unwrap();
    assert_eq!(lent[MINE * PAGE], rounds() as u32);
    assert!(lent[MINE * PAGE + 1..].iter().all(|word| *word == 0));
    drop((frames, lent, exporter, mem, other));
    std::fs::remove_file(socket).unwrap();
}

impl Left {
    /// How many have left. Their kernels are given the whole vector, so any page of it may be told to be lost.
    fn tell(&self) -> u64 {
        let mut left = 0;
        for event in self.exporter.take_events() {
            match event {
                ExportEvent::Left { .. } => left += 1,
                ExportEvent::Lost { name, pages } => {
                    assert_eq!(name, "lent");
                    assert!(pages.iter().all(|run| run.end <= PAGES as u64), "{pages:?}");
                }
            }
        }
        left
    }
}

/// Serves two vectors, one of which it keeps writing, until it is killed.
fn serves_for_ever(socket: &Path) {
    let mem = runtime();
    let mut frames = SharedVec::<u32>::shareable(&mem, N).unwrap();
    let lent = SharedVec::<u32>::shareable(&mem, N).unwrap().lend().unwrap();
    let exporter = Exporter::bind(socket, ExporterOptions::default()).unwrap();
    exporter.export("frames", &frames).unwrap();
    exporter.export_lent("lent", &lent).unwrap();
    for seed in 0.. {
        mem.launch(N, Count { y: frames.write(), seed, pause_ms: 0 }).unwrap();
        frames[seed as usize % N] += 1;
        thread::sleep(Duration::from_millis(1));
    }
}

/// Uses what is served until it is gone, and says how far it came.
fn uses(mem: &Runtime, socket: &Path, dice: &mut Dice, alive: &dyn Fn() -> bool) -> u64 {
    let options = ImporterOptions { deadline: Duration::from_secs(20) };
    let Ok(importer) = Importer::connect(socket, options) else { return 0 };
    let opened = importer.open::<u32>(mem, "frames").and_then(|frames| {
        // Opened twice: one has to give way to the other.
        Ok((frames, importer.open::<u32>(mem, "lent")?, importer.open::<u32>(mem, "lent")?))
    });
    let (frames, mut one, mut two) = match opened {
        Ok(opened) => opened,
        Err(ShareError::Gone | ShareError::Refused { .. }) => return 1,
        Err(other) => panic!("{other:?}"),
    };
    let ones = SharedVec::from_fn(mem, N, |_| 1_u32).unwrap();
    let mut steps = 2;
    loop {
        let at = dice.below(N as u64) as usize;
        let step = match dice.below(6) {
            0 => frames.load(at).map(drop),
            1 => one.load(at).map(drop),
            2 => one.store(at, 1),
            3 => two.store(at, 1),
            4 => mem.launch(N, Add { x: ones.read(), y: one.update() }).map(drop),
            _ => mem.launch(N, Add { x: ones.read(), y: two.update() }).map(drop),
        };
        match step {
            Ok(()) => steps += 1,
            Err(Error::Home { source: HomeError::Gone, .. }) => break,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(!alive(), "gone, and still there");
    // What is here can be used, and the rest says why not, at once.
    for page in 0..PAGES {
        for imported in [&frames, &one, &two] {
            match imported.load(page * PAGE) {
                Ok(_) | Err(Error::Home { source: HomeError::Gone, .. }) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    assert!(ones.iter().all(|one| *one == 1));
    steps
}

#[test]
fn importers_outlive_an_exporter_that_is_killed() {
    const NAME: &str = "crashes::importers_outlive_an_exporter_that_is_killed";
    if let Some(socket) = part() {
        serves_for_ever(&socket);
        return;
    }
    let _alone = alone();
    let mem = runtime();
    let mut dice = Dice(2);
    let mut before = None;
    let mut furthest = 0;
    for round in 0..rounds() {
        let socket = socket_path(&format!("{NAME}-{round}"));
        let mut killed = Other::start(NAME, &socket);
        until("it listens", || socket.exists());
        let life = Duration::from_millis(dice.below(60));
        let (gone, mut using) = (std::sync::atomic::AtomicBool::new(false), Dice(round));
        use std::sync::atomic::Ordering::SeqCst;
        let steps = thread::scope(|scope| {
            let user = scope.spawn(|| uses(&mem, &socket, &mut using, &|| !gone.load(SeqCst)));
            thread::sleep(life);
            gone.store(true, SeqCst);
            killed.kill();
            user.join().unwrap()
        });
        furthest = furthest.max(steps);
        drop(killed);
        std::fs::remove_file(socket).unwrap();
        let now = held();
        let before = *before.get_or_insert(now);
        until("nothing of the dead is left", || held() <= before);
    }
    assert!(furthest > 3, "all were killed before anything was used");
}
