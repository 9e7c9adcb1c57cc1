use hmmap_core::{Kernel, Source, kernel::Arguments};

struct Nothing;

impl Kernel for Nothing {
    fn source() -> &'static Source {
        unimplemented!() // never run: this program must not compile
    }

    fn bind<'a>(&'a self, _: &mut Arguments<'a>) {}
}

fn main() {}
