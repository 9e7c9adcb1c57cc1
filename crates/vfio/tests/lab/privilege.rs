//! A user without rights, who was given the group and nothing else; and what such a user may not do.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use hmmap_core::{
    Error, SharedVec,
    p2p::{MapType, P2p, PciAddress},
    peer::PeerError,
};

use super::{Edu, WORDS, iova, pattern, pci_device, q7::obedient, runtime};

/// Nobody.
const USER: u32 = 65_534;
/// Says to a test that it is that user.
const PART: &str = "HMMAP_TEST_NOBODY";
/// In KiB, for the shell.
const LIMIT_KIB: u64 = 64;

/// Whether this is the process without rights.
fn is_nobody() -> bool {
    std::env::var_os(PART).is_some()
}

/// The file of a device's group.
fn group_file(device: &str) -> PathBuf {
    let link = format!("/sys/bus/pci/devices/{device}/iommu_group");
    Path::new("/dev/vfio").join(fs::read_link(link).unwrap().file_name().unwrap())
}

/// Runs a test of this program as a user without rights, who may pin this much, and gives what it printed.
fn as_nobody(test: &str, limit_kib: u64) -> String {
    let group = group_file(&pci_device("0x1234", "0x11e8"));
    // Where anybody may execute it.
    let program = std::env::temp_dir().join(format!("lab-{}", std::process::id()));
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    chown(&group, Some(USER), Some(USER)).unwrap();
    let command =
        format!("ulimit -l {limit_kib}; exec '{}' --exact {test} --nocapture", program.display());
    let ran = Command::new("/bin/sh")
        .args(["-c", &command])
        .uid(USER)
        .gid(USER)
        .env(PART, "1")
        .current_dir("/")
        .output();
    chown(&group, Some(0), Some(0)).unwrap();
    fs::remove_file(program).unwrap();
    let ran = ran.unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    assert!(said.contains("1 passed"), "{said}");
    said
}

#[test]
fn a_user_who_was_given_the_group_does_dma() {
    if Edu::find().is_none() {
        return;
    }
    let said = as_nobody("q2_edu_reads_and_writes_pages_by_iova", 8 << 10);
    let counted = said.lines().find_map(|line| line.split_once("HMMAP-COUNT: ")).unwrap();
    println!("HMMAP-COUNT: {}", counted.1);
}

#[test]
fn a_user_who_was_not_given_the_group_is_refused() {
    use hmmap_vfio::{VfioDomain, VfioError};
    if is_nobody() {
        let refused = VfioDomain::open(&[&pci_device("0x1af4", "0x1110")]);
        let Err(VfioError::NotOpened { source, path }) = refused else { panic!("{refused:?}") };
        assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied, "{path:?}");
        return;
    }
    if Edu::find().is_some() {
        as_nobody("privilege::a_user_who_was_not_given_the_group_is_refused", 64);
    }
}

/// What one user may have pinned is a limit of the kernel's, and told as one.
#[test]
fn what_may_not_be_pinned_is_refused_with_numbers_and_leaves_nothing_mapped() {
    if !is_nobody() {
        if Edu::find().is_some() {
            let test = "privilege::what_may_not_be_pinned_is_refused_with_numbers_and_leaves_nothing_mapped";
            as_nobody(test, LIMIT_KIB);
        }
        return;
    }
    let edu = Edu::find().unwrap();
    let runtime = runtime(Default::default());
    let x = SharedVec::from_fn(&runtime, WORDS, pattern).unwrap();
    let refused = x.map_peer(obedient(&edu), ..).unwrap_err();
    let Error::Peer { source: PeerError::NotMapped { reason, .. }, .. } = refused else {
        panic!("{refused}")
    };
    let (asked, limit) = (4 * WORDS, LIMIT_KIB << 10);
    assert!(reason.contains(&format!("{asked} bytes cannot be pinned")), "{reason}");
    assert!(
        reason.contains(&format!("at most {limit} may be in all, by RLIMIT_MEMLOCK")),
        "{reason}"
    );
    assert_eq!(edu.domain.mapping_count(), 0);
    assert_eq!(pinned_kib(), 0);
    // What fits in it is mapped.
    let fits = x.map_peer(obedient(&edu), ..WORDS / 8).unwrap();
    edu.read_from(iova(&fits), super::TRANSFER_BYTES);
    assert_eq!((edu.domain.mapping_count(), pinned_kib()), (1, 32));
    drop(fits);
    assert_eq!((edu.domain.mapping_count(), pinned_kib()), (0, 0));
}

/// What the kernel counts as pinned for this process.
fn pinned_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

/// Only 64 bytes of configuration space can be read without rights, so that no access control is to be seen: that is no answer, and not a no.
#[test]
fn q6_without_privilege_the_tree_gives_no_answer() {
    let address = |vendor, device| PciAddress::parse(&pci_device(vendor, device)).unwrap();
    if is_nobody() {
        let (edu, window) = (address("0x1234", "0x11e8"), address("0x1af4", "0x1110"));
        let way = P2p::live().way(window, edu).unwrap();
        assert_eq!((way.map_type, way.distance), (MapType::Unknown, 4));
        assert!(!way.unread.is_empty());
    } else if Edu::find().is_some() {
        as_nobody("privilege::q6_without_privilege_the_tree_gives_no_answer", 64);
    }
}

/// The kernel of the lab has no iommufd, so nothing here goes through it.
#[test]
fn iommufd_is_not_in_the_labs_kernel() {
    if Edu::find().is_some() {
        assert!(!Path::new("/dev/iommu").exists(), "now there is one to write the mapping for");
    }
}
