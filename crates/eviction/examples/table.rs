//! Prints what each policy moves over the least that any could, on all workloads.

use hmmap_eviction::ratios;

fn main() {
    match ratios::rows() {
        Ok(rows) => print!("{}", ratios::table(&rows)),
        Err(error) => eprintln!("{error:?}"),
    }
}
