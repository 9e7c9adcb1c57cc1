//! What `hmmap info` says of CUDA: without its driver, and with the test double in the driver's place. No NVIDIA device has a part in this.

use std::{fs, path::Path};

use assert_cmd::cargo::cargo_bin_cmd;
use hmmap_cuda_fixture::Fixture;
use serde_json::Value;

/// What the command says where the library path begins with `folder`, and with these settings of the double.
fn info(folder: Option<&Path>, settings: &[(&str, &str)]) -> Value {
    let mut command = cargo_bin_cmd!("hmmap");
    command.args(["info", "--json"]).envs(settings.iter().copied());
    if let Some(folder) = folder {
        command.env("LD_LIBRARY_PATH", folder);
    }
    serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap()
}

/// A folder in which the double has the driver's names.
fn doubled() -> &'static Path {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let bytes = fs::read(Fixture::path().unwrap()).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        // Tests beside this one may be reading it: it is put in place whole.
        let fresh = folder.join(format!("{name}.{:?}", std::thread::current().id()));
        fs::write(&fresh, &bytes).unwrap();
        fs::rename(&fresh, folder.join(name)).unwrap();
    }
    folder
}

fn cuda_devices(info: &Value) -> Vec<&Value> {
    let devices = info["machine"]["devices"].as_array().unwrap();
    devices.iter().filter(|device| device["api"] == "cuda").collect()
}

/// Why there is no CUDA, where it is named as missing.
fn why_none(info: &Value) -> Option<&str> {
    let absent = info["absent"].as_array().unwrap();
    let cuda = absent.iter().find(|missing| missing["what"] == "CUDA")?;
    assert!(cuda["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{cuda}");
    cuda["reason"].as_str()
}

#[test]
fn this_machine_has_cuda_devices_or_a_reason_why_not() {
    let info = info(None, &[]);
    let (devices, why) = (cuda_devices(&info), why_none(&info));
    assert!(devices.is_empty() == why.is_some(), "{devices:?}, {why:?}");
}

#[test]
fn a_driver_with_devices_gives_them_and_what_they_can_do() {
    let info = info(Some(doubled()), &[("HMMAP_FIXTURE_DEVICES", "2")]);
    let devices = cuda_devices(&info);
    assert_eq!((devices.len(), why_none(&info)), (2, None), "{info}");
    for device in devices {
        // It calls itself what it is, so nobody takes it for hardware.
        let name = device["name"].as_str().unwrap();
        assert!(name.contains("fixture"), "{name}");
        let capabilities = device["capabilities"].as_array().unwrap();
        assert!(capabilities.iter().any(|capability| capability["proved"] == true), "{device}");
    }
}

#[test]
fn a_driver_that_gives_no_device_says_why() {
    let folder = doubled();
    let said = |setting| why_none(&info(Some(folder), &[setting])).unwrap().to_owned();
    assert_eq!(said(("HMMAP_FIXTURE_DEVICES", "0")), "the CUDA driver has no device");
    let refused = said(("HMMAP_FIXTURE_INIT_CODE", "304"));
    assert!(refused.contains("may not use") && refused.contains("304"), "{refused}");
    let failed = said(("HMMAP_FIXTURE_INIT_CODE", "803"));
    assert!(failed.contains("803"), "{failed}");
}
