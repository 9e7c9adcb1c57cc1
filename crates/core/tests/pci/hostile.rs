//! A sysfs that was tampered with, out of any bytes: reading it must end, and its answers must hold together.
//!
//! The first byte chooses a tree (or says that the rest is one, as text); then come changes to the files of its sysfs, each a place, a
//! kind, a length and so many bytes. Used by the tests beside this file over a corpus, and by a fuzzer in `fuzz/`.

use hmmap_core::p2p::{
    Acs, Cpu, Drivers, KernelVersion, MAX_FUNCTIONS, P2p, PciFunction, PciTree, Platform, Possible,
};

use super::spec::{Entry, Memory, Spec};

const TREES: [&str; 6] = [
    include_str!("trees/cascaded_switches.tree"),
    include_str!("trees/acs_common_amd.tree"),
    include_str!("trees/sriov.tree"),
    include_str!("trees/vmd.tree"),
    include_str!("trees/not_pci.tree"),
    include_str!("trees/no_00_0_root_port.tree"),
];
/// Pairs are as many as the square.
const MOST_PAIRED: usize = 24;

/// Reads what the bytes stand for, and panics if the answers do not hold together.
pub(crate) fn play(bytes: &[u8]) {
    let Some((&choice, rest)) = bytes.split_first() else { return };
    let text = TREES.get(usize::from(choice)).copied();
    let (text, edits) = match text {
        Some(text) => (text, rest),
        None => (std::str::from_utf8(rest).unwrap_or(""), &[][..]),
    };
    let Ok(spec) = Spec::parse(text) else { return };
    let mut memory = spec.sysfs();
    tamper(&mut memory, edits);
    check(&memory);
}

fn tamper(memory: &mut Memory, mut edits: &[u8]) {
    while let [at, kind, length, rest @ ..] = edits {
        let (bytes, after) = rest.split_at(rest.len().min(usize::from(*length)));
        edits = after;
        let paths: Vec<&String> = memory.0.keys().collect();
        let Some(path) = paths.get(usize::from(*at) % paths.len().max(1)).map(ToString::to_string)
        else {
            return;
        };
        let text = || String::from_utf8_lossy(bytes).into_owned();
        let other = usize::from(bytes.first().copied().unwrap_or(0)) % paths.len();
        let other = memory.0[paths[other]].clone();
        match kind % 7 {
            0 => drop(memory.0.insert(path, Entry::File(bytes.to_vec(), None))),
            1 => drop(memory.0.insert(path, Entry::Link(text()))),
            2 => drop(memory.0.insert(path, other)),
            3 => drop(memory.0.remove(&path)),
            // A second name for it, and a new function.
            4 => {
                let entry = memory.0[&path].clone();
                memory.0.insert(format!("bus/pci/devices/{}", text()), entry);
            }
            // Another file beside it: a link to a physical function, for one.
            5 => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                let (name, target) = text().split_once(' ').map_or_else(
                    || ("physfn".to_owned(), format!("../{}", text())),
                    |(name, target)| (name.to_owned(), target.to_owned()),
                );
                memory.0.insert(format!("{folder}/{name}"), Entry::Link(target));
            }
            // Bytes inside of a file, from a place on.
            _ => {
                if let (Some(Entry::File(file, _)), [low, high, new @ ..]) =
                    (memory.0.get_mut(&path), bytes)
                {
                    let from = usize::from(u16::from_le_bytes([*low, *high])) % file.len().max(1);
                    for (old, new) in file[from..].iter_mut().zip(new) {
                        *old = *new;
                    }
                }
            }
        }
    }
}

fn check(memory: &Memory) {
    let tree = PciTree::read(memory);
    let text = |path: &str| match memory.0.get(path) {
        Some(Entry::File(bytes, _)) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    };
    let (cpu, kernel) = (Cpu::parse(&text("cpuinfo")), KernelVersion::parse(&text("osrelease")));
    let functions = tree.functions();
    assert!(functions.is_sorted_by(|a, b| a.address < b.address), "{functions:?}");
    assert!(functions.len() <= MAX_FUNCTIONS);
    for problem in tree.problems() {
        assert!(problem.to_string().len() < 1000);
    }
    for path in memory.0.keys() {
        let owner = tree.owner(memory, path);
        assert!(owner.is_none_or(|owner| tree.function(owner).is_some()), "{path}");
    }
    let p2p = P2p::new(tree, Platform { cpu, kernel });
    let functions: Vec<_> = p2p.tree().functions().iter().take(MOST_PAIRED).cloned().collect();
    for function in &functions {
        way_up(&p2p, function);
        for other in &functions {
            pair(&p2p, function, other);
        }
    }
    let pairs = functions.iter().zip(functions.iter().rev());
    let pairs: Vec<_> = pairs.map(|(a, b)| (a.address, b.address)).collect();
    assert!(p2p.worth_together(&pairs).iter().all(Option::is_some));
    let clients: Vec<_> = functions.iter().map(|function| Some(function.address)).collect();
    if let Some(first) = functions.first() {
        let _ = p2p.distance_many(first.address, &clients);
    }
}

fn way_up(p2p: &P2p, function: &PciFunction) {
    let path = p2p.tree().path(function.address);
    assert_eq!(path[0], function);
    assert!(path.iter().all(|above| above.root == function.root), "{path:?}");
    let mut names: Vec<_> = path.iter().map(|above| above.address).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), path.len(), "a way up leads round: {path:?}");
}

fn pair(p2p: &P2p, provider: &PciFunction, peer: &PciFunction) {
    let (a, b) = (provider.address, peer.address);
    let (there, back) = (p2p.way(a, b).unwrap(), p2p.way(b, a).unwrap());
    assert_eq!((there.distance, there.common), (back.distance, back.common));
    let answer = p2p.query(a, b, &Drivers::NotAsked);
    let said = format!("{} {}", answer.possible, answer.worth.as_ref().unwrap());
    assert!(!said.is_empty());
    if let Possible::Yes { .. } = answer.possible {
        let ends = [provider, peer].map(|end| p2p.tree().path(end.address)).concat();
        let own = ends.iter().filter(|end| end.address == a || end.address == b);
        for end in own {
            assert_ne!(end.config.acs, Acs::Unknown, "yes to what was not read: {answer:?}");
        }
    } else {
        assert!(!answer.possible.because().is_empty(), "no reason: {answer:?}");
    }
}
