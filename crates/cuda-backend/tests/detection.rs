//! Looking for the driver, with libraries that are not one put in its place. A process loads the driver once, so each case runs
//! this program again, as a child with a library path of its own.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use hmmap_cuda::{Options, detect, discover};
use hmmap_cuda_fixture::Fixture;

/// Before the line in which a child says what it found.
const MARK: &str = "detected: ";

/// Alone, it says that looking does not panic on this machine; as a child, it is the one who looks.
#[test]
fn looking_answers_here() {
    let discovery = discover(&Options::default());
    assert_eq!(discovery.detection, detect());
    println!("{MARK}{:?}", discovery.detection);
}

/// What a process finds that has `source`, built as a library, in the driver's place.
fn found_with(case: &str, source: &str) -> Option<String> {
    let folder = library(case, source).unwrap()?;
    Some(found_in(&folder))
}

fn found_in(folder: &Path) -> String {
    found_in_with(folder, &[])
}

fn found_in_with(folder: &Path, settings: &[(&str, &str)]) -> String {
    let child = Command::new(env::current_exe().unwrap())
        .envs(settings.iter().copied())
        .args(["--exact", "looking_answers_here", "--nocapture"])
        .env("LD_LIBRARY_PATH", folder)
        .output()
        .unwrap();
    let said = String::from_utf8(child.stdout).unwrap();
    assert!(child.status.success(), "{said}{}", String::from_utf8_lossy(&child.stderr));
    // The harness writes the test's name before what the test prints, on the same line.
    let (_, found) = said.split_once(MARK).unwrap();
    found.lines().next().unwrap().to_owned()
}

/// A folder with the library, under both of the driver's names. `None`, said as a skip, where there is no C compiler.
fn library(case: &str, source: &str) -> io::Result<Option<PathBuf>> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(case);
    fs::create_dir_all(&folder)?;
    let (code, first) = (folder.join("stand-in.c"), folder.join("libcuda.so"));
    fs::write(&code, source)?;
    let mut compiler = Command::new("cc");
    match compiler.args(["-shared", "-fPIC", "-o"]).arg(&first).arg(&code).status() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("HMMAP-SKIP: no C compiler to build a stand-in for the driver with");
            Ok(None)
        }
        built => {
            assert!(built?.success());
            fs::copy(&first, folder.join("libcuda.so.1"))?;
            Ok(Some(folder))
        }
    }
}

#[test]
fn a_library_that_cannot_be_loaded_is_no_driver() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("broken");
    fs::create_dir_all(&folder).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        fs::write(folder.join(name), "not a library").unwrap();
    }
    // Behind the broken one the system may have a driver.
    let alone = found_in(Path::new("/nonexistent"));
    assert_eq!(found_in(&folder), alone);
}

#[test]
fn a_library_without_the_first_function_is_not_the_driver() {
    if let Some(found) = found_with("empty", "int unrelated;") {
        assert_eq!(found, r#"Incomplete { missing: "cuInit" }"#);
    }
}

#[test]
fn the_stub_of_the_toolkit_is_told_apart() {
    if let Some(found) = found_with("stub", "int cuInit(unsigned f) { return 34; }") {
        assert_eq!(found, "Stub");
    }
}

#[test]
fn a_driver_that_does_not_start_gives_its_code() {
    if let Some(found) = found_with("failing", "int cuInit(unsigned f) { return 803; }") {
        assert_eq!(found, r#"Failed { call: "cuInit", code: 803 }"#);
    }
    if let Some(found) = found_with("no-device", "int cuInit(unsigned f) { return 100; }") {
        assert_eq!(found, "NoDevices { version: None }");
    }
}

#[test]
fn a_driver_that_cannot_count_is_incomplete() {
    let half = "
        int cuInit(unsigned flags) { return 0; }
        int cuDriverGetVersion(int *version) { *version = 12080; return 0; }
    ";
    if let Some(found) = found_with("half", half) {
        assert_eq!(found, r#"Incomplete { missing: "cuDeviceGetCount" }"#);
    }
}

#[test]
fn a_driver_with_devices_and_without_what_is_needed_is_too_old() {
    let source = "
        int cuInit(unsigned flags) { return flags; }
        int cuDriverGetVersion(int *version) { *version = 9000; return 0; }
        int cuDeviceGetCount(int *count) { *count = 2; return 0; }
    ";
    if let Some(found) = found_with("old", source) {
        assert_eq!(found, r#"TooOld { missing: "cuDeviceGet" }"#);
    }
}

/// A folder with a copy of the fixture, under the driver's names, after a change of its bytes.
fn fixture(case: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(case);
    fs::create_dir_all(&folder).unwrap();
    let mut bytes = fs::read(Fixture::path().unwrap()).unwrap();
    change(&mut bytes);
    for name in ["libcuda.so", "libcuda.so.1"] {
        fs::write(folder.join(name), &bytes).unwrap();
    }
    folder
}

/// Gives a symbol another name, in the table of names.
fn rename(bytes: &mut [u8], symbol: &str) {
    let whole = [b"\0", symbol.as_bytes(), b"\0"].concat();
    let found: Vec<_> =
        bytes.windows(whole.len()).enumerate().filter(|(_, at)| *at == whole).collect();
    let places: Vec<_> = found.into_iter().map(|(at, _)| at + 1).collect();
    assert!(!places.is_empty(), "no {symbol} in the fixture");
    places.into_iter().for_each(|at| bytes[at] = b'x');
}

#[test]
fn a_driver_says_its_version_and_how_many_devices_it_has() {
    let folder = fixture("whole", |_| {});
    let found = found_in_with(&folder, &[("HMMAP_FIXTURE_DEVICES", "2")]);
    assert_eq!(found, "Devices { count: 2, version: DriverVersion { major: 12, minor: 8 } }");
    let none = found_in_with(&folder, &[("HMMAP_FIXTURE_DEVICES", "0")]);
    assert_eq!(none, "NoDevices { version: None }");
}

#[test]
fn a_process_that_may_not_use_the_driver_is_told_so() {
    let folder = fixture("refused", |_| {});
    for code in ["304", "800"] {
        let found = found_in_with(&folder, &[("HMMAP_FIXTURE_INIT_CODE", code)]);
        assert_eq!(found, format!(r#"NoPermission {{ call: "cuInit", code: {code} }}"#));
    }
}

#[test]
fn each_function_that_a_driver_lacks_is_named() {
    for missing in ["cuMemCreate", "cuLaunchHostFunc", "cuDeviceGetUuid_v2", "cuMemcpyDtoHAsync_v2"]
    {
        let folder = fixture(missing, |bytes| rename(bytes, missing));
        assert_eq!(found_in(&folder), format!("TooOld {{ missing: {missing:?} }}"));
    }
}

#[test]
fn a_function_that_is_not_needed_may_be_missing() {
    for missing in ["cuMemGetHandleForAddressRange", "cuMemcpyBatchAsync"] {
        let folder = fixture(missing, |bytes| rename(bytes, missing));
        assert!(found_in(&folder).starts_with("Devices { count: 1"), "{}", found_in(&folder));
    }
}
