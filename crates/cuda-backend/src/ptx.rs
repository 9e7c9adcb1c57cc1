//! What a PTX text says of its parameters: pure.
//!
//! An entry declares one parameter of so many bytes; its loads say what lies where. A field that is never loaded is not seen, and an address
//! looks like a `u64`.
//!
//! ```text
//! .visible .entry saxpy(
//!     .param .align 8 .b8 saxpy_param_0[56]
//! )
//! ...  ld.param.f32  %f2, [saxpy_param_0+48];
//! ```

use hmmap_core::{
    backend::DeviceError,
    kernel::{FieldKind, ParamLayout, Source},
};

/// The largest block that a field can lie in.
const MOST_BYTES: u32 = 4096;

/// A load from the parameter block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Load<'a> {
    offset_bytes: u32,
    kind: &'a str,
}

/// The type of one loaded value, as far as PTX tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    Wide,
    Word,
    Float,
    /// Four bytes of either kind.
    Bits,
}

/// Checks that the source's entry takes parameters as `layout` passes them, and says how many bytes it takes.
///
/// # Errors
/// [`DeviceError::NoShader`] without PTX, [`DeviceError::BadShader`], [`DeviceError::LayoutMismatch`].
pub(crate) fn check(source: &Source, layout: &ParamLayout) -> Result<u32, DeviceError> {
    let kernel = source.name;
    if source.ptx.is_empty() {
        return Err(DeviceError::NoShader { kernel, format: "PTX" });
    }
    let bad = |reason| DeviceError::BadShader { kernel, reason };
    let (declared, body) =
        entry(source.ptx, kernel).ok_or_else(|| bad("the PTX has no entry of its name"))?;
    if declared.matches(".param").count() > 1 {
        return Err(bad("the PTX entry takes more than one parameter"));
    }
    let bytes = size(declared).ok_or_else(|| bad("the PTX entry takes no block of bytes"))?;
    let mismatch = |offset_bytes, passed, expected| DeviceError::LayoutMismatch {
        kernel,
        format: "PTX",
        offset_bytes,
        passed,
        expected,
    };
    for load in body.lines().flat_map(loads) {
        let field = layout.fields().iter().find(|field| field.offset_bytes == load.offset_bytes);
        let passed = field.map(|field| field.kind);
        let seen = seen(load.kind).ok_or_else(|| bad("the PTX loads a type that is not passed"))?;
        if !passed.is_some_and(|passed| agrees(passed, seen)) {
            return Err(mismatch(load.offset_bytes, passed, Some(kind_of(seen))));
        }
    }
    let last = layout.fields().last();
    let end = last.map_or(0, |field| field.offset_bytes + field.kind.size_bytes());
    if end.next_multiple_of(8) != bytes {
        let passed = last.filter(|_| end > bytes).map(|field| field.kind);
        let expected = (end < bytes).then_some(FieldKind::U32);
        return Err(mismatch(end.min(bytes), passed, expected));
    }
    Ok(bytes)
}

/// The declaration of an entry's parameters, and its body.
fn entry<'a>(ptx: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let mut entries = ptx.split(".entry ").skip(1);
    let (_, rest) = entries.find_map(|text| {
        let (found, rest) = text.split_once('(')?;
        (found.trim() == name).then_some((found, rest))
    })?;
    rest.split_once(')')
}

/// The size of the one parameter.
fn size(declared: &str) -> Option<u32> {
    let (_, size) = declared.split_once('[')?;
    let (size, _) = size.split_once(']')?;
    size.trim().parse().ok().filter(|bytes| *bytes <= MOST_BYTES)
}

/// The loads of one line: a vector is as many as it has elements.
fn loads(line: &str) -> impl Iterator<Item = Load<'_>> {
    let found = line.trim().strip_prefix("ld.param.").and_then(|rest| {
        let (kind, from) = rest.split_once(char::is_whitespace)?;
        let (count, kind) = match kind.split_once('.') {
            Some(("v2", kind)) => (2, kind),
            Some(("v4", kind)) => (4, kind),
            _ => (1, kind),
        };
        let (_, place) = from.split_once('[')?;
        let (place, _) = place.split_once(']')?;
        let at = place.split_once('+').map_or(Some(0), |(_, at)| at.trim().parse::<u32>().ok())?;
        Some((count, kind, at))
    });
    let width = found.map_or(0, |(_, kind, _)| if kind.ends_with("64") { 8 } else { 4 });
    found.into_iter().flat_map(move |(count, kind, at)| {
        (0..count).map(move |nth| Load { offset_bytes: at + nth * width, kind })
    })
}

fn seen(kind: &str) -> Option<Seen> {
    Some(match kind {
        "u64" | "s64" | "b64" => Seen::Wide,
        "u32" | "s32" => Seen::Word,
        "f32" => Seen::Float,
        "b32" => Seen::Bits,
        _ => return None,
    })
}

fn agrees(passed: FieldKind, seen: Seen) -> bool {
    match passed {
        FieldKind::Address | FieldKind::U64 => seen == Seen::Wide,
        FieldKind::U32 | FieldKind::I32 => matches!(seen, Seen::Word | Seen::Bits),
        FieldKind::F32 => matches!(seen, Seen::Float | Seen::Bits),
    }
}

fn kind_of(seen: Seen) -> FieldKind {
    match seen {
        Seen::Wide => FieldKind::U64,
        Seen::Word | Seen::Bits => FieldKind::U32,
        Seen::Float => FieldKind::F32,
    }
}

#[cfg(test)]
mod tests {
    use hmmap_core::kernel::Field;

    use super::*;

    const SAXPY: Source = Source {
        name: "saxpy",
        spirv: &[],
        ptx: include_str!("../../../shaders/out/saxpy.ptx"),
        workgroup: [256, 1, 1],
        twin: None,
    };

    fn layout(last: FieldKind) -> ParamLayout {
        let wide = |at| Field { offset_bytes: at, kind: FieldKind::U64 };
        let array = |at| Field { offset_bytes: at, kind: FieldKind::Address };
        ParamLayout::new([
            array(0),
            wide(8),
            array(16),
            wide(24),
            wide(32),
            wide(40),
            Field { offset_bytes: 48, kind: last },
        ])
    }

    #[test]
    fn the_committed_text_agrees_with_the_rust_side() {
        assert_eq!(check(&SAXPY, &layout(FieldKind::F32)), Ok(56));
    }

    #[test]
    fn another_type_is_told_with_its_place() {
        let expected = Err(DeviceError::LayoutMismatch {
            kernel: "saxpy",
            format: "PTX",
            offset_bytes: 48,
            passed: Some(FieldKind::U32),
            expected: Some(FieldKind::F32),
        });
        assert_eq!(check(&SAXPY, &layout(FieldKind::U32)), expected);
    }

    #[test]
    fn another_size_is_told_with_its_place() {
        let mut fields = layout(FieldKind::F32).fields().to_vec();
        fields.push(Field { offset_bytes: 56, kind: FieldKind::U64 });
        let longer = check(&SAXPY, &ParamLayout::new(fields));
        assert!(
            matches!(longer, Err(DeviceError::LayoutMismatch { offset_bytes: 56, .. })),
            "{longer:?}"
        );
    }

    #[test]
    fn vectors_are_as_many_loads_as_they_have_elements() {
        let line = "\tld.param.v2.f32 \t{%f13, %f14}, [mandelbrot_u32_param_0+32];";
        let found: Vec<_> = loads(line).map(|load| (load.offset_bytes, load.kind)).collect();
        assert_eq!(found, [(32, "f32"), (36, "f32")]);
    }

    #[test]
    fn what_is_missing_is_said() {
        let layout = layout(FieldKind::F32);
        let none = Source { ptx: "", ..SAXPY };
        let no_code = DeviceError::NoShader { kernel: "saxpy", format: "PTX" };
        assert_eq!(check(&none, &layout), Err(no_code));
        let other = Source { name: "axpy", ..SAXPY };
        assert!(matches!(check(&other, &layout), Err(DeviceError::BadShader { .. })));
    }
}
