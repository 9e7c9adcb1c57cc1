//! Real folders: what only a file system can do to a reader, and the machine that the tests run on.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use hmmap_core::p2p::{Acs, P2p, PciTree, Problem, SysfsFolder};

use crate::{at, spec};

/// An empty folder of this name, for one test.
pub(crate) fn fresh(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pci").join(name);
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).unwrap();
    root
}

/// A switch in a folder, and the folder of one of its functions.
fn one_switch(name: &str) -> (PathBuf, PathBuf) {
    let root = fresh(name);
    spec("one_switch").sysfs().write(&root).unwrap();
    let function = fs::canonicalize(root.join("bus/pci/devices/0000:03:00.0")).unwrap();
    (root, function)
}

fn read(root: &Path) -> PciTree {
    PciTree::read(&SysfsFolder::new(root))
}

#[test]
fn q6_a_file_that_is_none_or_has_no_end_is_named_and_the_rest_is_read() {
    let (root, function) = one_switch("not_files");
    // A pipe, whose open waits for a writer; a link that leads out; and a file of a TiB.
    fs::remove_file(function.join("config")).unwrap();
    assert!(Command::new("mkfifo").arg(function.join("config")).status().unwrap().success());
    fs::remove_file(function.join("vendor")).unwrap();
    symlink("/proc/self/mem", function.join("vendor")).unwrap();
    let long = fs::File::create(function.join("class")).unwrap();
    long.set_len(1 << 40).unwrap();
    let tree = read(&root);
    let broken = tree.function(at("0000:03:00.0")).unwrap();
    assert_eq!((broken.id, broken.class, broken.config.acs), (None, None, Acs::Unknown));
    let files: Vec<_> = tree
        .problems()
        .iter()
        .filter_map(|problem| match problem {
            Problem::Attribute { file, kind, .. } => Some((*file, format!("{kind:?}"))),
            _ => None,
        })
        .collect();
    let kinds = ["FilesystemLoop", "InvalidData", "InvalidInput"].map(str::to_owned);
    let expected: Vec<_> = ["vendor", "class", "config"].into_iter().zip(kinds).collect();
    assert_eq!(files, expected);
    assert_eq!(tree.functions().len(), 9);
    assert!(tree.function(at("0000:04:00.0")).unwrap().id.is_some());
}

#[test]
fn q6_links_that_lead_elsewhere_have_no_place() {
    let (root, _) = one_switch("places");
    let devices = root.join("bus/pci/devices");
    let aim = |name: &str, target: &str| {
        let _ = fs::remove_file(devices.join(name));
        symlink(target, devices.join(name)).unwrap();
    };
    aim("0000:0a:00.0", "0000:0a:00.0");
    aim("0000:0b:00.0", "../../../devices/pci0000:00/../../../../etc/0000:0b:00.0");
    aim("0000:0c:00.0", "/devices/pci0000:00/0000:0c:00.0");
    aim("0000:0d:00.0", "../../../devices/pci0000:00/0000:03:00.0");
    aim("0000:0e:00.0", "../../../devices/0000:0e:00.0");
    aim("0000:0f:00.0", "../../../devices/pci0000:00/0000:99:00.0/0000:0f:00.0");
    // Below a function that is there, and is somewhere else.
    aim("0000:10:00.0", "../../../devices/pci0000:00/0000:03:00.0/0000:10:00.0");
    aim("not a function", "..");
    aim(
        "0000:12:00.0",
        "../../../devices/pci0000:00/0000:00:01.0/0000:00:01.0/0000:01:00.0/0000:12:00.0",
    );
    fs::create_dir(devices.join("0000:11:00.0")).unwrap();
    let tree = read(&root);
    assert_eq!(tree.functions().len(), 9, "the switch is whole");
    let named = tree.problems().iter().filter(|problem| matches!(problem, Problem::Place { .. }));
    assert_eq!(named.count(), 9, "{:?}", tree.problems());
    let name = Problem::Name { name: "not a function".into() };
    assert!(tree.problems().contains(&name), "{:?}", tree.problems());
}

#[test]
fn q6_a_virtual_function_of_nobody_is_named() {
    let (root, function) = one_switch("virtual");
    // Of itself in effect: its physical function is the port above it, which would lead round.
    symlink("../../0000:02:00.0", function.join("physfn")).unwrap();
    let tree = read(&root);
    assert!(tree.problems().contains(&Problem::Physical { address: at("0000:03:00.0") }));
    assert_eq!(tree.path(at("0000:03:00.0")).len(), 4);
    assert_eq!(tree.function(at("0000:03:00.0")).unwrap().physical, None);
}

#[test]
fn q6_a_device_that_has_gone_is_told_from_one_that_is_hidden() {
    let (root, function) = one_switch("gone");
    fs::write(function.join("config"), [0xff; 4096]).unwrap();
    let sibling = fs::canonicalize(root.join("bus/pci/devices/0000:04:00.0/config")).unwrap();
    fs::File::options().write(true).open(sibling).unwrap().set_len(64).unwrap();
    let tree = read(&root);
    let gone = Problem::NoAnswer { address: at("0000:03:00.0") };
    let hidden = Problem::CutOff { address: at("0000:04:00.0"), read_bytes: 64 };
    assert_eq!(tree.problems(), [gone, hidden]);
    assert_eq!(tree.function(at("0000:03:00.0")).unwrap().config.acs, Acs::Unknown);
}

#[test]
fn q6_a_folder_without_pci_says_so() {
    let tree = read(&fresh("empty"));
    assert_eq!(tree.problems(), [Problem::NoPci { kind: ErrorKind::NotFound }]);
    assert!(tree.functions().is_empty());
    assert!(tree.path(at("0000:00:00.0")).is_empty());
}

#[test]
fn q6_this_machine_is_read_whole() {
    let Ok(entries) = fs::read_dir("/sys/bus/pci/devices") else {
        println!("HMMAP-SKIP: no PCI on this machine");
        return;
    };
    let names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let p2p = P2p::live();
    assert_eq!(p2p.tree().functions().len(), names.len(), "{:?}", p2p.tree().problems());
    for name in names {
        let real = fs::canonicalize(format!("/sys/bus/pci/devices/{name}")).unwrap();
        let above = real.iter().filter(|part| part.to_str().is_some_and(|part| part.contains('.')));
        let function = p2p.tree().function(at(&name)).unwrap();
        if function.physical.is_none() && !real.to_string_lossy().contains("pci1000") {
            assert_eq!(p2p.tree().path(function.address).len(), above.count(), "{name}");
        }
    }
    assert!(p2p.platform().cpu.is_some() && p2p.platform().kernel.is_some());
}
