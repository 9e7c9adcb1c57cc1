//! Memory that somebody else has too: lent vectors, and imports of another's file. The other side is played over the same file, by reads and writes of it: that is
//! what another process can do, and needs no address.

use std::{
    fs::File,
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use hmmap::kernels::{Fill, Saxpy};
use hmmap_core::{
    Access, Imported, Lent, SharedVec,
    home::{ForeignMemory, Grant, Home, HomeError, Keep, Recalled},
    host::Sharing,
    peer::PeerEvent,
};

use super::Verdict;
use crate::{
    card::{Card, Manners},
    case::{Case, CaseFailure, Context, ensure},
    mirror::Mirror,
    rig::{BLOCK, PAGE, Rig, Watch},
};

const GROUP: &str = "shared";
/// Much longer than any case: who waits for it fails.
const NEVER: Duration = Duration::from_secs(60);
/// A block and a bit.
const N: usize = BLOCK + 3 * PAGE + 5;

pub(super) const CASES: &[Case] = &[
    Case::new(
        GROUP,
        "lent",
        "what kernels wrote is in the file of a lent vector, and kernels see what others wrote there once it was taken back",
        &[],
        lent,
    ),
    Case::new(
        GROUP,
        "imported",
        "kernels work on memory of another's, whose pages are asked for, and come home with a recall",
        &[],
        imported,
    ),
];

/// A shareable vector that the device wrote.
fn shareable(rig: &Rig<'_>, value: f32) -> Result<Mirror, CaseFailure> {
    let vec = SharedVec::shareable(&rig.runtime, N)?;
    let mut y = Mirror { vec, oracle: vec![0.0; N] };
    rig.fill(rig.device(), &mut y, .., value)?;
    Ok(y)
}

fn lend(vec: SharedVec<f32>) -> Result<(Lent<f32>, File), CaseFailure> {
    let lent = vec.lend().map_err(hmmap_core::Error::from)?;
    let fd = lent.share_memory(Sharing::Write)?.fd.try_clone_to_owned();
    Ok((lent, File::from(fd.map_err(system)?)))
}

fn system(error: std::io::Error) -> CaseFailure {
    CaseFailure::broken(error.to_string())
}

fn word(file: &File, at: usize) -> Result<f32, CaseFailure> {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, at as u64 * 4).map_err(system)?;
    Ok(f32::from_ne_bytes(bytes))
}

fn write(file: &File, at: usize, value: f32) -> Verdict {
    file.write_all_at(&value.to_ne_bytes(), at as u64 * 4).map_err(system)
}

fn lent(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    rig.watch(Watch::Data);
    let Mirror { vec, mut oracle } = shareable(&rig, 3.0)?;
    let (lent, file) = lend(vec)?;
    for at in [0, PAGE, BLOCK, N - 1] {
        ensure!(word(&file, at)? == 3.0, "element {at} is {}", word(&file, at)?);
    }
    let card = Card::new(Manners::Honest);
    let mapping = lent.map_peer(card.clone(), .., Access::Update)?;
    ensure!(!mapping.segments()?.list().is_empty(), "{mapping:?}");
    write(&file, BLOCK + 1, 7.0)?;
    ensure!(lent.load(BLOCK + 1)? == 7.0, "the owner does not see what others write");
    lent.store(2, 8.0)?;
    ensure!(word(&file, 2)? == 8.0, "others do not see what the owner writes");
    (oracle[BLOCK + 1], oracle[2]) = (7.0, 8.0);
    let vec = lent.take_back().map_err(hmmap_core::Error::from)?;
    ensure!(card.await_told(1).event() == PeerEvent::Protect, "{:?}", card.await_told(1));
    ensure!(mapping.segments().is_err(), "it may still write");
    let mut y = Mirror { vec, oracle };
    // What was written behind the library's back is what a kernel finds.
    let x = rig.filled(N, |i| (i % 100) as f32)?;
    rig.saxpy(rig.device(), 2.0, (&x, ..), (&mut y, ..))?;
    rig.host_read(&y, ..)?;
    drop(mapping);
    rig.host_write(&mut y, PAGE.., |i| i as f32)?;
    rig.fill(rig.device(), &mut y, ..PAGE, 1.0)?;
    rig.host_read(&y, ..)
}

/// Grants everything, and counts.
#[derive(Default)]
struct Granting(AtomicU32);

impl Home for Granting {
    fn grant(&self, _pages: Range<usize>, _access: Grant) -> Result<(), HomeError> {
        self.0.fetch_add(1, SeqCst);
        Ok(())
    }

    fn closed(&self, _recalled: &Recalled) {}
}

fn recall(imported: &Imported<f32>) -> Result<Recalled, CaseFailure> {
    let (told, done) = mpsc::channel();
    imported.recall().recall(0..usize::MAX, Keep::Nothing, move |recalled| {
        let _ = told.send(recalled);
    });
    let late = |_| CaseFailure::broken("a recall does not come to an end".to_owned());
    done.recv_timeout(NEVER).map_err(late)
}

fn imported(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    rig.watch(Watch::Data);
    let Mirror { vec, .. } = shareable(&rig, 3.0)?;
    let (lent, file) = lend(vec)?;
    let memory = lent.share_memory(Sharing::Write)?;
    let fd = memory.fd.try_clone_to_owned().map_err(system)?;
    let foreign = ForeignMemory { fd, len_bytes: memory.len_bytes, most: Grant::Write };
    let home = Arc::new(Granting::default());
    let mut imported = rig.runtime.import::<f32>(foreign, N, home.clone())?;
    ensure!(home.0.load(SeqCst) == 0, "pages were asked for before anybody wanted them");
    let x = rig.filled(N, |i| (i % 100) as f32)?;
    let (on, n) = (rig.device(), N);
    let mut expected = 3.0;
    for round in 1..=3u16 {
        let kernel = Saxpy { a: 1.0, x: x.vec.read(), y: imported.update() };
        rig.runtime.launch_on(on, n, kernel)?;
        let recalled = recall(&imported)?;
        ensure!(recalled.lost.is_empty() && !recalled.dirty.is_empty(), "{recalled:?}");
        ensure!(home.0.load(SeqCst) >= u32::from(round), "nobody asked after the last recall");
        let at = BLOCK + 42;
        expected += x.oracle[at];
        let found = [word(&file, at)?, lent.load(at)?];
        ensure!(found == [expected; 2], "{found:?} came home, {expected} were computed");
        // The home writes in between; the next kernel works on that.
        expected = f32::from(round) * 1000.0;
        lent.store(at, expected)?;
    }
    // A kernel that writes only; and the host reads it without a recall.
    let out = imported.write();
    rig.runtime.launch_on(on, n, Fill { out, value: 9.0 })?;
    ensure!(imported.load(N - 1)? == 9.0 && imported.load(0)? == 9.0, "it reads something else");
    drop(imported);
    ensure!(word(&file, N - 1)? == 9.0, "the end brings home what was written");
    Ok(())
}
