//! What must not compile: the borrow checker is what keeps the host's slices and the launches that write apart.
//!
//! Each file in `tests/compile_fail/` is a program with one mistake, and beside it what the compiler says. Compilers word their messages
//! anew now and then, so the words are compared only where they were taken down. For another compiler:
//! `TRYBUILD=overwrite cargo test -p hmmap-core --test compile_fail`, and a look at whether the reasons are still the same.

use std::{env, process::Command};

/// The compiler whose words they are.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn the_borrow_checker_keeps_host_and_kernels_apart() {
    let compiler = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = Command::new(compiler).arg("--version").output().unwrap().stdout;
    let version = String::from_utf8_lossy(&version);
    if !version.starts_with(COMPILER) && env::var_os("TRYBUILD").is_none() {
        println!("HMMAP-SKIP: the expected messages are those of {COMPILER}x, this is {version}");
        return;
    }
    let cases = trybuild::TestCases::new();
    cases.pass("tests/compile_fail/allowed.rs");
    for case in [
        "read_guard_across_a_launch_that_writes",
        "write_guard_across_a_launch_that_reads",
        "write_guard_across_a_launch_that_writes",
        "one_vector_read_and_written",
        "one_vector_written_twice",
        "acquired_for_writing_and_read",
        "update_of_a_shared_borrow",
        "vector_dropped_under_a_guard",
        "vector_grown_under_a_guard",
        "argument_outlives_its_vector",
        "element_is_not_pod",
        "element_has_padding",
        "element_is_zero_sized",
        "kernel_without_unsafe",
    ] {
        cases.compile_fail(format!("tests/compile_fail/{case}.rs"));
    }
}
