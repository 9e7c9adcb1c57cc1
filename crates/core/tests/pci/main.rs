//! Where PCI functions sit and what follows from it: trees against a committed table, random ones against an oracle, and folders that
//! somebody tampered with.

#[path = "../cases/mod.rs"]
mod cases;
mod folders;
mod hostile;
mod oracle;
mod random;
mod spec;

use std::{collections::BTreeSet, fs, path::PathBuf};

use hmmap_core::p2p::{
    Advice, Answer, Cpu, DriverView, Drivers, HandleKinds, KernelVersion, MapType, NoDistance,
    Opaque, P2p, PciAddress, PciTree, Platform, Possible, Reason,
};
use spec::Spec;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/pci")
}

fn tree_names() -> BTreeSet<String> {
    let entries = fs::read_dir(folder().join("trees")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| name.strip_suffix(".tree").unwrap().to_owned()).collect()
}

fn spec(name: &str) -> Spec {
    let text = fs::read_to_string(folder().join(format!("trees/{name}.tree"))).unwrap();
    assert!(text.starts_with("# Constructed") || text.starts_with("# Recorded"), "{name}");
    Spec::parse(&text).unwrap_or_else(|wrong| panic!("{name}: {wrong}"))
}

fn platform(spec: &Spec) -> Platform {
    let cpu = spec.cpu.as_ref().map(|(vendor, family)| Cpu {
        vendor: vendor.trim_start_matches('-').to_owned(),
        family: *family,
    });
    let kernel = spec.kernel.as_deref();
    Platform { cpu, kernel: kernel.map(|release| KernelVersion::parse(release).unwrap()) }
}

fn in_memory(spec: &Spec) -> P2p {
    P2p::new(PciTree::read(&spec.sysfs()), platform(spec))
}

fn at(name: &str) -> PciAddress {
    PciAddress::parse(name).unwrap_or_else(|| panic!("{name} is no address"))
}

fn asked(p2p: &P2p, provider: &str, peer: &str) -> Answer {
    p2p.query(at(provider), at(peer), &Drivers::NotAsked)
}

fn map_word(map_type: MapType) -> String {
    map_type.to_string().replace(' ', "-")
}

#[test]
fn q6_every_tree_gets_what_the_table_says() {
    let table = fs::read_to_string(folder().join("expected.txt")).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let named: BTreeSet<_> = rows.iter().map(|row| row[0].to_owned()).collect();
    assert_eq!(named, tree_names(), "every tree has a row, and every row a tree");
    let mut wrong = Vec::new();
    for tree in named {
        let root = folders::fresh(&tree);
        spec(&tree).sysfs().write(&root).unwrap();
        let p2p = P2p::recorded(&root);
        assert_eq!(p2p.platform(), &platform(&spec(&tree)), "{tree}");
        for row in rows.iter().filter(|row| row[0] == tree) {
            let found = found(&p2p, row[1], row[2]);
            if found != row[3..] {
                wrong.push(format!("{row:?}\n   found {found:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the table has of a pair, in its words.
fn found(p2p: &P2p, provider: &str, client: &str) -> Vec<String> {
    let way = p2p.way(at(provider), at(client)).unwrap();
    let Answer { possible, worth } = asked(p2p, provider, client);
    match (&possible, way.map_type) {
        (Possible::Yes { map_type, distance, because }, _) => {
            assert_eq!((*map_type, *distance), (way.map_type, way.distance));
            assert_eq!(because.is_empty(), way.map_type == MapType::BusAddress, "{because:?}");
        }
        (Possible::No { because }, MapType::NotSupported) => assert!(!because.is_empty()),
        (Possible::Unknown { distance, because }, MapType::Unknown) => {
            assert_eq!((*distance, because.is_empty()), (way.distance, false));
        }
        (possible, map_type) => panic!("{map_type} cannot be: {possible}"),
    }
    let worth = worth.unwrap();
    let rate = |rate: Option<u64>| rate.map_or("-".into(), |rate| (rate / 1_000_000).to_string());
    let advice = match worth.advice() {
        Advice::Direct => "direct",
        Advice::ThroughHost => "host",
        Advice::Measure => "measure",
    };
    let mut direct = worth.direct_bytes_per_s;
    if provider == client {
        direct = None;
    }
    let staged = worth.staged_bytes_per_s.filter(|_| provider != client);
    vec![
        map_word(way.map_type),
        way.distance.to_string(),
        rate(direct),
        rate(staged),
        advice.into(),
    ]
}

#[test]
fn q6_the_oracle_agrees_on_every_pair_of_every_tree() {
    for tree in tree_names() {
        for spec in [spec(&tree), spec(&tree).reading(64), spec(&tree).reading(256)] {
            random::agree(&spec, &in_memory(&spec))
                .unwrap_or_else(|wrong| panic!("{tree}: {wrong}"));
        }
    }
}

#[test]
fn q6_without_privilege_the_answer_is_never_yes() {
    let mut unknown = 0;
    for tree in tree_names() {
        let (whole, cut) = (in_memory(&spec(&tree)), in_memory(&spec(&tree).reading(64)));
        let names: Vec<_> = cut.tree().functions().iter().map(|f| f.address).collect();
        assert!(cut.tree().problems().len() >= names.len() && !names.is_empty(), "{tree}");
        for &a in &names {
            for &b in &names {
                let answer = cut.query(a, b, &Drivers::NotAsked).possible;
                assert!(!answer.is_yes(), "{tree} {a} {b}: {answer}");
                // A no is not made of not knowing.
                if let Possible::No { .. } = answer {
                    let with = whole.query(a, b, &Drivers::NotAsked).possible;
                    assert!(!with.is_yes(), "{tree} {a} {b}: {answer}, and with privilege {with}");
                } else {
                    unknown += 1;
                    assert!(answer.to_string().contains("root"), "{answer}");
                }
            }
        }
    }
    assert!(unknown > 100);
}

#[test]
fn q6_each_no_has_its_reason_and_says_what_would_change_it() {
    let p2p = |tree: &str| in_memory(&spec(tree));
    let because = |tree: &str, a, b| asked(&p2p(tree), a, b).possible.because().to_vec();
    let two = ("0000:01:00.0", "0000:02:00.0");

    let reasons = because("two_ports_unlisted", two.0, two.1);
    let [Reason::NoCommonAncestor { roots }, Reason::HostBridgeNotListed { root, first, .. }] =
        &reasons[..]
    else {
        panic!("{reasons:?}")
    };
    assert_eq!((roots[0], roots[1], first.unwrap().0), (*root, *root, at("0000:00:00.0")));
    let said = reasons[1].to_string();
    assert!(said.contains("8086:6f00") && said.contains("GenuineIntel family 0x6"), "{said}");

    // Redirected, and forwarded all the same: possible, and the reason says who makes it longer.
    let answer = asked(&p2p("acs_common_amd"), "0000:03:00.0", "0000:04:00.0").possible;
    assert!(answer.is_yes());
    assert_eq!(answer.because(), [Reason::AcsRedirect { at: vec![at("0000:01:00.0")] }]);
    assert!(answer.to_string().contains("pci=disable_acs_redir=0000:01:00.0"), "{answer}");
    // Redirected, and dropped.
    let reasons = because("acs_client_port_intel", "0000:03:00.0", "0000:04:00.0");
    assert_eq!(reasons[0], Reason::AcsRedirect { at: vec![at("0000:02:01.0")] });
    assert!(matches!(reasons[1], Reason::HostBridgeNotListed { .. }), "{reasons:?}");

    // Only one of two host bridges is the obstacle, and it is named.
    let reasons = because("two_hosts_one_listed", "0000:01:00.0", "0000:81:00.0");
    assert!(reasons[1].to_string().contains("pci0000:80"), "{reasons:?}");

    let reasons = because("unprivileged", "0000:03:00.0", "0000:04:00.0");
    assert!(
        reasons.iter().any(|reason| matches!(
            reason, Reason::UnknownWithoutPrivilege { functions } if functions.len() == 5
        )),
        "{reasons:?}"
    );
    let reasons = because("no_00_0_unread", two.0, two.1);
    assert!(reasons.iter().any(|reason| matches!(
        reason, Reason::UnknownWithoutPrivilege { functions } if functions[..] == [at("0000:00:01.0")]
    )), "{reasons:?}");
    let reasons = because("two_ports_cpu_not_known", two.0, two.1);
    assert!(reasons.contains(&Reason::CpuNotKnown), "{reasons:?}");

    let absent = asked(&p2p("one_switch"), "0000:03:00.0", "0009:00:00.0");
    assert_eq!(absent.possible.because(), [Reason::NotPci { address: at("0009:00:00.0") }]);
    assert_eq!(absent.worth, None);
}

#[test]
fn q6_drivers_can_refuse_what_pci_allows_and_never_the_other_way_round() {
    let view = |driver: u8, exports, imports| DriverView {
        driver: [driver; 16],
        opaque: Opaque::SameDriver,
        exports,
        imports,
    };
    let (fd, dma_buf) = (HandleKinds::OPAQUE_FD, HandleKinds::DMA_BUF);
    let ask = |tree: &str, provider: DriverView, peer: DriverView| {
        let drivers = Drivers::Asked { provider, peer };
        let answer = in_memory(&spec(tree)).query(at("0000:03:00.0"), at("0000:04:00.0"), &drivers);
        answer.possible
    };
    let both = fd.or(dma_buf);
    let yes = [
        (view(1, fd, HandleKinds::NONE), view(1, HandleKinds::NONE, fd)),
        (view(1, both, both), view(2, both, both)),
        (view(1, dma_buf, fd), view(2, fd, dma_buf)),
    ];
    for (provider, peer) in yes {
        assert!(
            ask("one_switch", provider.clone(), peer.clone()).is_yes(),
            "{provider:?} {peer:?}"
        );
        assert!(!ask("acs_common_intel", provider, peer).is_yes());
    }
    let different = ask("one_switch", view(1, fd, fd), view(2, both, both));
    assert_eq!(different.because(), [Reason::DifferentDriver { common: fd }]);
    let none = ask("one_switch", view(1, fd, both), view(1, both, dma_buf));
    assert_eq!(none.because(), [Reason::NoHandleTypeInCommon { exports: fd, imports: dma_buf }]);
    assert!(none.to_string().contains("exports opaque fd, the peer's imports dma-buf"), "{none}");
    let refuse = Drivers::Refuse { query: "cuDeviceCanAccessPeer" };
    let p2p = in_memory(&spec("unprivileged"));
    let refused = p2p.query(at("0000:03:00.0"), at("0000:04:00.0"), &refuse).possible;
    assert!(matches!(&refused, Possible::No { because } if because.len() == 3), "{refused:?}");
    assert!(refused.to_string().contains("cuDeviceCanAccessPeer"));
}

#[test]
fn q6_the_distance_to_many_is_the_sum_or_the_first_that_cannot() {
    let p2p = in_memory(&spec("not_pci"));
    let sysfs = spec("not_pci").sysfs();
    let owner = |path: &str| p2p.tree().owner(&sysfs, path);
    let (gpu, disk) = (at("0000:02:00.0"), at("0000:01:00.0"));
    assert_eq!(owner("class/block/nvme0n1"), Some(disk), "a disk belongs to its controller");
    assert_eq!(owner("class/block/loop0"), None);
    assert_eq!(owner("bus/pci/devices/0000:01:00.0"), Some(disk));
    let clients = [owner("class/block/nvme0n1"), Some(gpu), Some(disk)];
    assert_eq!(p2p.distance_many(gpu, &clients), Ok(8));
    assert_eq!(p2p.distance_many(gpu, &[]), Err(NoDistance::NoClients));
    let with_loop = [Some(gpu), owner("class/block/loop0")];
    assert_eq!(p2p.distance_many(gpu, &with_loop), Err(NoDistance::NotPci { client: 1 }));
    assert_eq!(
        p2p.distance_many(at("0000:09:00.0"), &clients),
        Err(NoDistance::NotPci { client: 0 })
    );

    let p2p = in_memory(&spec("sriov"));
    let [nic, virtual_one, gpu] =
        ["0000:01:00.0", "0000:02:00.2", "0000:03:00.0"].map(at).map(Some);
    let provider = nic.unwrap();
    assert_eq!(p2p.distance_many(provider, &[nic, virtual_one]), Ok(2));
    let refused = Err(NoDistance::NotSupported { client: 1 });
    assert_eq!(p2p.distance_many(provider, &[nic, gpu, virtual_one]), refused);
    let p2p = in_memory(&spec("sriov").reading(64));
    assert_eq!(p2p.distance_many(provider, &[nic]), Err(NoDistance::Unknown { client: 0 }));
}

#[test]
fn q6_transfers_at_the_same_time_share_what_they_share() {
    let p2p = in_memory(&spec("slow_uplink"));
    let [a, b, far] = ["0000:03:00.0", "0000:04:00.0", "0000:05:00.0"].map(at);
    let together = |pairs: &[(PciAddress, PciAddress)]| {
        let worth = p2p.worth_together(pairs);
        worth.into_iter().map(|one| one.unwrap().direct_bytes_per_s.unwrap()).collect::<Vec<_>>()
    };
    let alone = together(&[(a, far)])[0];
    assert_eq!(
        alone,
        p2p.query(a, far, &Drivers::NotAsked).worth.unwrap().direct_bytes_per_s.unwrap()
    );
    // One uplink, one direction: half each. The other direction is free.
    assert_eq!(together(&[(a, far), (b, far)]), [alone / 2, alone / 2]);
    assert_eq!(together(&[(a, far), (far, b)]), [alone, alone]);
    // What stays inside the switch takes none of the uplink, but of the links that it uses.
    let inside = together(&[(a, b)])[0];
    assert_eq!(together(&[(a, b), (b, far)]), [inside, alone]);
    assert_eq!(together(&[(a, b), (a, b)]), [inside / 2, inside / 2]);
    let narrowest = p2p.query(a, far, &Drivers::NotAsked).worth.unwrap().narrowest.unwrap();
    assert_eq!((narrowest.below, narrowest.shared_by), (at("0000:01:00.0"), 2));
    assert_eq!(p2p.worth_together(&[(a, at("0009:00:00.0")), (a, b)])[0], None);
}

#[test]
fn q6_a_link_that_sleeps_is_told_from_one_that_is_slow() {
    let worth = |tree: &str, b| asked(&in_memory(&spec(tree)), "0000:01:00.0", b).worth.unwrap();
    let idle = worth("idle_link", "0000:02:00.0");
    assert!(idle.direct_at_best_bytes_per_s > idle.direct_bytes_per_s);
    assert!(idle.to_string().contains("idle devices slow theirs down"), "{idle}");
    let awake = worth("two_ports_amd", "0000:02:00.0");
    assert_eq!(awake.direct_at_best_bytes_per_s, awake.direct_bytes_per_s);
    assert!(!awake.to_string().contains("idle"), "{awake}");
    assert_eq!(idle.direct_at_best_bytes_per_s, awake.direct_bytes_per_s);
}

#[test]
fn q6_the_corpus_of_the_fuzzer_reads_to_an_end() {
    let mut played = 0;
    let mut entries: Vec<_> =
        fs::read_dir(folder().join("corpus")).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let input = fs::read(entry.path()).unwrap();
        let name = entry.file_name();
        let end = std::panic::catch_unwind(|| hostile::play(&input));
        assert!(end.is_ok(), "{name:?}");
        played += 1;
    }
    for tree in tree_names() {
        let text = fs::read(folder().join(format!("trees/{tree}.tree"))).unwrap();
        hostile::play(&[&[0xff], &text[..]].concat());
    }
    assert!(played >= 10, "only {played} inputs");
}
