//! Builds StarPU's side where the feature `starpu` asks for it.

fn main() {
    println!("cargo::rerun-if-changed=src/starpu_moves.c");
    #[cfg(feature = "starpu")]
    starpu();
}

#[cfg(feature = "starpu")]
const NEEDS: [&str; 2] = ["starpu-1.3", "OpenCL"];

#[cfg(feature = "starpu")]
fn starpu() {
    let mut build = cc::Build::new();
    build.file("src/starpu_moves.c").define("STARPU_USE_OPENCL", None);
    build.flag_if_supported("-Wno-deprecated-declarations");
    for name in NEEDS {
        match pkg_config::Config::new().cargo_metadata(false).probe(name) {
            Ok(found) => build.includes(found.include_paths),
            Err(error) => {
                println!("cargo::error=install libstarpu-dev and ocl-icd-opencl-dev: {error}");
                return;
            }
        };
    }
    build.compile("starpu_moves");
    // After what needs them: some linkers look once.
    for name in NEEDS {
        if let Err(error) = pkg_config::probe_library(name) {
            println!("cargo::error={name}: {error}");
        }
    }
}
