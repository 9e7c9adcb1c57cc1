//! `examples/own-kernel`, a crate outside the workspace, builds and runs as a user's would, without a network.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

#[test]
fn a_crate_outside_the_workspace_brings_its_own_kernel() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = root.join("examples/own-kernel");
    // The versions of the workspace are the ones that are certainly here.
    fs::copy(root.join("Cargo.lock"), own.join("Cargo.lock")).unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--offline", "--quiet", "--manifest-path"]).arg(own.join("Cargo.toml"));
    let Output { status, stdout, stderr } = cargo.arg("--target-dir").arg(target).output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    println!("{said}");
    assert!(status.success(), "{said}\n{complained}");
    assert!(said.contains("1000000 elements clamped on embedded CPU device"), "{said}");
}
