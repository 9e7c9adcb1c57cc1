//! Builds StarPU's side where the feature `starpu` asks for it.

fn main() {
    println!("cargo::rerun-if-changed=src/starpu_moves.c");
    #[cfg(feature = "starpu")]
    starpu();
}

#[cfg(feature = "starpu")]
fn starpu() {
    let needs = |name| match pkg_config::probe_library(name) {
        Ok(found) => found.include_paths,
        Err(error) => {
            println!("cargo::error=install libstarpu-dev and ocl-icd-opencl-dev: {error}");
            Vec::new()
        }
    };
    let includes = ["starpu-1.3", "OpenCL"].map(needs).concat();
    cc::Build::new()
        .file("src/starpu_moves.c")
        .includes(includes)
        .define("STARPU_USE_OPENCL", None)
        .flag_if_supported("-Wno-deprecated-declarations")
        .compile("starpu_moves");
}
