//! `hmmap topo` on this machine and on recorded trees.

#[path = "../../core/tests/pci/spec.rs"]
mod spec;

use std::{
    fs,
    path::{Path, PathBuf},
};

use assert_cmd::cargo::cargo_bin_cmd;
use serde_json::Value;
use spec::Spec;

fn topo(arguments: &[&str]) -> String {
    let mut command = cargo_bin_cmd!("hmmap");
    let output = command.arg("topo").args(arguments).assert().success().get_output().clone();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn fresh(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("topo").join(name);
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).unwrap();
    root
}

/// A tree of `crates/core/tests/pci/trees` as a folder.
fn recorded(name: &str) -> PathBuf {
    let trees = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/pci/trees");
    let text = fs::read_to_string(trees.join(format!("{name}.tree"))).unwrap();
    let root = fresh(name);
    Spec::parse(&text).unwrap().sysfs().write(&root).unwrap();
    root
}

fn text(name: &str) -> String {
    topo(&["--root", recorded(name).to_str().unwrap()])
}

fn json(name: &str) -> Value {
    serde_json::from_str(&topo(&["--root", recorded(name).to_str().unwrap(), "--json"])).unwrap()
}

#[test]
fn q6_a_switch_is_drawn_with_its_matrix_and_reasons() {
    let text = text("one_switch");
    let tree = "pci0000:00
|- 0000:00:00.0 host bridge [8086:4668]
`- 0000:00:01.0 root port [8086:352a], 16.0 GT/s x16 (of 32.0 GT/s x16)
   `- 0000:01:00.0 switch, upper side [1000:c030], 16.0 GT/s x16
      |- 0000:02:00.0 switch, lower side [1000:c030], 16.0 GT/s x16
      |  `- 0000:03:00.0 3D controller [10de:2331], 16.0 GT/s x16
      |- 0000:02:01.0 switch, lower side [1000:c030], 16.0 GT/s x16
      |  `- 0000:04:00.0 network controller [15b3:1021], 16.0 GT/s x16
      `- 0000:02:02.0 switch, lower side [1000:c030], 16.0 GT/s x4 (of 16.0 GT/s x16)
         `- 0000:05:00.0 NVMe controller [144d:a80a], 16.0 GT/s x4
";
    assert!(text.contains(tree), "{text}");
    assert!(text.contains("processor: GenuineIntel family 0x6\nkernel: 6.12\n"), "{text}");
    let rows: Vec<_> = text.lines().filter(|line| line.contains(" bus 0 ")).collect();
    assert_eq!(rows.len(), 3, "{text}");
    assert!(rows[0].contains("bus 4 28.8|14.4") && rows[0].contains("bus 0 "), "{text}");
    assert!(rows[2].contains("bus 4 7.2|5.8"), "{text}");
    assert!(!text.contains("not readable"), "{text}");
}

#[test]
fn q6_a_tree_without_privilege_says_what_was_hidden_and_what_to_do() {
    let text = text("unprivileged");
    assert!(text.contains("? 4 ") && !text.contains(" bus 4"), "{text}");
    assert!(
        text.contains(
            "not readable:\n  the configuration of 0000:00:00.0 and 8 more beyond 64 bytes"
        ),
        "{text}"
    );
    assert!(text.contains("run as root (CAP_SYS_ADMIN)"), "{text}");
    let refused = self::text("acs_client_port_intel");
    assert!(refused.contains("ACS redirects (001d)"), "{refused}");
    assert!(refused.contains("1-2, 2-1:\n  ACS redirect: 0000:02:01.0 sends"), "{refused}");
}

#[test]
fn q6_json_has_every_function_and_pair() {
    let json = json("vmd");
    assert_eq!(
        (&json["cpu"], &json["kernel"]),
        (&"GenuineIntel family 0x6".into(), &"6.12".into())
    );
    assert_eq!(json["functions"].as_array().unwrap().len(), 8);
    let nvme = &json["functions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|f| f["address"] == "10000:e1:00.0")
        .unwrap();
    assert_eq!(
        (&nvme["parent"], &nvme["root_bus"]),
        (&"10000:e0:02.0".into(), &"pci10000:e0".into())
    );
    // Two disks, the network card, and the managing function.
    let pairs = json["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 16);
    let pair = pairs
        .iter()
        .find(|pair| pair["provider"] == "10000:e1:00.0" && pair["peer"] == "10000:e2:00.0");
    let pair = pair.unwrap();
    let found = ["possible", "map_type", "worth"].map(|key| pair[key].as_str().unwrap());
    assert_eq!(found, ["yes", "through host bridge", "direct"]);
    assert_eq!(pair["distance"], 4);
    assert!(pair["direct_bytes_per_s"].as_u64() > pair["staged_bytes_per_s"].as_u64());
    assert!(pair["because"][0].as_str().unwrap().starts_with("no common ancestor"));
    assert_eq!(json["unreadable"], Value::Array(Vec::new()));
}

#[test]
fn q6_a_probe_measures_beside_the_prediction_or_says_why_not() {
    let json: Value = serde_json::from_str(&topo(&["--probe", "--json"])).unwrap();
    let probe = &json["probe"];
    let (pairs, not) = (probe["pairs"].as_array().unwrap(), &probe["not_measured"]);
    assert!(probe["processor_copy_bytes_per_s"].as_u64().unwrap() > 0);
    assert!(!pairs.is_empty() || !not.as_array().unwrap().is_empty(), "{probe}");
    for pair in pairs {
        let within = |rate: &Value| {
            let measured = rate["measured_bytes_per_s"].as_u64().unwrap() as f64;
            assert!(measured > 0.0);
            let predicted = rate["predicted_bytes_per_s"].as_u64();
            let expected = predicted.map(|it| (measured - it as f64).abs() <= 0.3 * it as f64);
            assert_eq!(rate["is_within_tolerance"].as_bool(), expected, "{pair}");
        };
        within(&pair["staged"]);
        let is_direct = pair["route"].as_str().unwrap().starts_with("directly");
        assert_eq!(is_direct, !pair["direct"].is_null(), "{pair}");
        if is_direct {
            within(&pair["direct"]);
        }
    }
    let plain: Value = serde_json::from_str(&topo(&["--json"])).unwrap();
    assert!(plain["probe"].is_null());
}

#[test]
fn q6_nothing_there_is_said_in_words() {
    let empty = fresh("empty");
    let text = topo(&["--root", empty.to_str().unwrap()]);
    assert!(
        text.contains("0 PCI functions") && text.contains("There is no PCI function here"),
        "{text}"
    );
    assert!(text.contains("not readable:\n  no PCI: `bus/pci/devices` cannot be read"), "{text}");
}

#[test]
fn q6_this_machine_is_shown() {
    let json: Value = serde_json::from_str(&topo(&["--json"])).unwrap();
    let there = fs::read_dir("/sys/bus/pci/devices").map_or(0, Iterator::count);
    assert_eq!(json["functions"].as_array().unwrap().len(), there);
    let text = topo(&[]);
    assert!(text.starts_with(&format!("/sys: {there} PCI functions\n")), "{text}");
    for function in json["functions"].as_array().unwrap() {
        assert!(text.contains(function["address"].as_str().unwrap()), "{text}");
    }
}
